/* nn_golden.h - reads test/golden/nn.bin, written by test/golden/nn_golden.py. */
#ifndef TEST_NN_GOLDEN_H
#define TEST_NN_GOLDEN_H

#include "os/os.h"
#include "test.h"

static os_map golden_map;

static inline bool golden_open(test *t)
{
    om_err err = {0};
    if (!golden_map.p)
        CHECK_OK(t, os_map_open(OM_SOURCE_DIR "/test/golden/nn.bin", &golden_map, &err),
                 err);
    return golden_map.p != NULL;
}

/* The floats recorded as "name/field"; fails the test when there are not n of them. */
static inline const uint8_t *golden(test *t, const char *name, const char *field, size_t n)
{
    char want[96];
    cursor c = cursor_of(golden_map.p, golden_map.n);
    snprintf(want, sizeof(want), "%s/%s", name, field);
    while (c.ok && c.pos < c.n) {
        str s = {NULL, cursor_u32(&c)};
        s.p = (const char *)cursor_take(&c, s.n);
        size_t count = cursor_u32(&c);
        const uint8_t *data = cursor_take(&c, count * sizeof(float));
        if (data && s.p && str_is(s, want)) {
            CHECK_INT(t, count, n);
            return count == n ? data : NULL;
        }
    }
    test_fail(t, __FILE__, __LINE__, "nn.bin has no record '%s'", want);
    return NULL;
}

/* Largest error of got against the record, relative to the largest number in it. */
static inline void golden_check(test *t, const char *name, const char *field,
                                const float *got, size_t n, double tolerance)
{
    double worst = 0, largest = 1e-30;
    const uint8_t *p = golden(t, name, field, n);
    cursor c = cursor_of(p, p ? n * sizeof(float) : 0);
    for (size_t i = 0; i < n; i++) {
        double want = (double)cursor_f32(&c);
        worst = fmax(worst, fabs(want - (double)got[i]));
        largest = fmax(largest, fabs(want));
    }
    t->checks++;
    if (!(worst <= tolerance * largest))
        test_fail(t, __FILE__, __LINE__, "%s/%s off by %.3g of %.3g", name, field, worst,
                  largest);
}

static inline void golden_copy(test *t, const char *name, const char *field, float *to,
                               size_t n)
{
    const uint8_t *p = golden(t, name, field, n);
    cursor c = cursor_of(p, p ? n * sizeof(float) : 0);
    for (size_t i = 0; i < n; i++)
        to[i] = cursor_f32(&c);
}

#endif
