/* backdoor.c - model replacement: attackers train on rows that carry a trigger and the
 * label 0, beside clean ones, and scale the result so that it survives the mean; boost
 * 0 takes clients / attackers of the round. */
#include "fl/attack/attack.h"

enum { BOOST = ATTACK_COMMON };

static const param params[] = {
    ATTACK_PARAMS,
    [BOOST] = {"boost", 0, 0, 1e6, "times the update; 0: enough to replace the mean", NULL},
    {NULL, 0, 0, 0, NULL, NULL},
};

static void forge(const attack_view *v, float *out)
{
    double all = (double)(v->honest.n + v->hostile);
    float boost = (float)(v->p[BOOST] > 0 ? v->p[BOOST] : all / (double)v->hostile);
    for (size_t i = 0; i < v->honest.d; i++)
        out[i] = boost * v->own[i];
}

const attack attack_backdoor = {
    .name = "backdoor",
    .summary = "a planted trigger, scaled to replace the model",
    .source = "Bagdasaryan et al., AISTATS 2020, arXiv 1807.00459",
    .flags = ATTACK_TRIGGER,
    .params = params,
    .forge = forge,
};
