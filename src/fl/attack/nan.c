/* nan.c - a message whose first number is not one: what a crash or a malicious client
 * sends, and what a server must refuse at the door. */
#include "fl/attack/attack.h"

enum { VALUE = ATTACK_COMMON };

static const param params[] = {
    ATTACK_PARAMS,
    [VALUE] = {"value", 0, 0, 1, "what is written over the first number", "nan|infinity"},
    {NULL, 0, 0, 0, NULL, NULL},
};

static void corrupt(const attack_view *v, uint8_t *message, size_t n)
{
    static const uint8_t bad[2][4] = {{0, 0, 0xc0, 0x7f}, {0, 0, 0x80, 0x7f}};
    if (n >= 4)
        memcpy(message, bad[v->p[VALUE] > 0.5], 4);
}

const attack attack_nan = {
    .name = "nan",
    .summary = "a number that is none",
    .source = "-",
    .flags = ATTACK_BYTES,
    .params = params,
    .corrupt = corrupt,
};
