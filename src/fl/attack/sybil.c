/* sybil.c - one attacker under many identities: all send the update the first of them
 * trained on wrong labels, so that nothing is nearer to it than its copies. */
#include "fl/attack/attack.h"

static const param params[] = {ATTACK_PARAMS, {NULL, 0, 0, 0, NULL, NULL}};

static void forge(const attack_view *v, float *out)
{
    memcpy(out, v->first, v->honest.d * sizeof(float));
}

const attack attack_sybil = {
    .name = "sybil",
    .summary = "one poisoned update under many names",
    .source = "Fung, Yoon, Beschastnikh, RAID 2020, arXiv 1808.04866",
    .flags = ATTACK_LABELS,
    .params = params,
    .forge = forge,
};
