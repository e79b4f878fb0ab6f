/* label_flip.c - attackers train honestly on data whose label c has become classes - 1
 * - c. */
#include "fl/attack/attack.h"

static const param params[] = {ATTACK_PARAMS, {NULL, 0, 0, 0, NULL, NULL}};

static void forge(const attack_view *v, float *out)
{
    memcpy(out, v->own, v->honest.d * sizeof(float));
}

const attack attack_label_flip = {
    .name = "label_flip",
    .summary = "trained on wrong labels",
    .source = "Tolpegin et al., ESORICS 2020, arXiv 2007.08432",
    .flags = ATTACK_LABELS,
    .params = params,
    .forge = forge,
};
