/* thin_body.h - the kernels of thin.h over a few register operations; compiled once per
 * instruction set by x86/thin_avx2.c and x86/thin_avx512.c, which define:
 *
 *     V of W floats; v_set v_load v_store v_fma(a,b,c) = a b + c; v_sum(v)
 *     v_load_part(p,n), v_store_part(p,v,n)   the first n < W floats; 0 in the others
 *     ROWS: rows of x whose sums with two rows of w fit the registers (2 ROWS + 3)
 *
 * Rows of x come in groups of at most ROWS, and each group size is a function of its own,
 * so that every sum has its register.  Within a pair of rows of w the groups follow each
 * other: the pair is in the first-level cache by then. */
#include "kern/thin.h"

#define INLINE static inline __attribute__((always_inline))

INLINE V get(const float *p, size_t n) { return n >= W ? v_load(p) : v_load_part(p, n); }
INLINE void put(float *p, V v, size_t n)
{
    if (n >= W)
        v_store(p, v);
    else
        v_store_part(p, v, n);
}

/* One variable per sum: compilers keep variables in registers but store an array of them
 * in every step.  Conditions on the constants m and two fold away. */
#if ROWS == 10
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)
#define SIZES(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10)
#else
#define EACH(X) X(0) X(1) X(2) X(3) X(4)
#define SIZES(X) X(1) X(2) X(3) X(4) X(5)
#endif

/* y[r][0..two] = b + x[r] . w[0..two], r < m. */
INLINE void dots(size_t m, bool two, float *y, size_t ldy, const float *x, const float *w,
                 const float *b, size_t k)
{
#define DECLARE(r) V p##r = v_set(0), q##r = v_set(0);
#define STEP(r)                                    \
    if (r < m) {                                   \
        V a = get(x + r * k + i, k - i);           \
        p##r = v_fma(a, w0, p##r);                 \
        q##r = two ? v_fma(a, w1, q##r) : q##r;    \
    }
#define STORE(r)                                   \
    if (r < m) {                                   \
        y[r * ldy] = b[0] + v_sum(p##r);           \
        if (two)                                   \
            y[r * ldy + 1] = b[1] + v_sum(q##r);   \
    }
    EACH(DECLARE)
    size_t i = 0;
    for (; i + W <= k; i += W) {
        V w0 = v_load(w + i), w1 = v_load(w + (two ? k : 0) + i);
        EACH(STEP)
    }
    if (i < k) {
        V w0 = v_load_part(w + i, k - i), w1 = v_load_part(w + (two ? k : 0) + i, k - i);
        EACH(STEP)
    }
    EACH(STORE)
#undef DECLARE
#undef STEP
#undef STORE
}

/* w[j] += sum over r of d[r][j] x[r], j < 1 + two, r < m. */
INLINE void outer(size_t m, bool two, float *w, const float *d, size_t ldd, const float *x,
                  size_t k)
{
#define DECLARE(r)                                 \
    V p##r = v_set(r < m ? d[r * ldd] : 0.0f),     \
      q##r = v_set(r < m && two ? d[r * ldd + 1] : 0.0f);
#define STEP(r)                                    \
    if (r < m) {                                   \
        V a = get(x + r * k + i, k - i);           \
        w0 = v_fma(p##r, a, w0);                   \
        w1 = two ? v_fma(q##r, a, w1) : w1;        \
    }
    float *w_next = w + (two ? k : 0);
    EACH(DECLARE)
    for (size_t i = 0; i < k; i += W) {
        V w0 = get(w + i, k - i), w1 = get(w_next + i, k - i);
        EACH(STEP)
        put(w + i, w0, k - i);
        if (two)
            put(w_next + i, w1, k - i);
    }
#undef DECLARE
#undef STEP
}

/* dx[r][i..i+W] = sum over o of d[r][o] w[o][i..], r < m. */
INLINE void columns(size_t m, float *dx, const float *d, const float *w, size_t n, size_t k,
                    size_t i)
{
#define DECLARE(r) V p##r = v_set(0);
#define STEP(r) p##r = r < m ? v_fma(v_set(d[(r < m ? r : 0) * n + o]), a, p##r) : p##r;
#define STORE(r)                                   \
    if (r < m)                                     \
        put(dx + r * k + i, p##r, k - i);
    EACH(DECLARE)
    for (size_t o = 0; o < n; o++) {
        V a = get(w + o * k + i, k - i);
        EACH(STEP)
    }
    EACH(STORE)
#undef DECLARE
#undef STEP
#undef STORE
}

/* One function for each group size, and for two rows of w (pair) or the last one. */
#define CASE(m)                                  \
    case m:                                      \
        if (pair)                                \
            dots(m, true, y, ldy, x, w, b, k);      \
        else                                     \
            dots(m, false, y, ldy, x, w, b, k);      \
        return;
static void dots_of(size_t m, bool pair, float *y, size_t ldy, const float *x,
                    const float *w, const float *b, size_t k)
{
    switch (m) {
        SIZES(CASE)
    }
}
#undef CASE

#define CASE(m)                              \
    case m:                                  \
        if (pair)                            \
            outer(m, true, w, d, ldd, x, k);    \
        else                                 \
            outer(m, false, w, d, ldd, x, k);    \
        return;
static void outer_of(size_t m, bool pair, float *w, const float *d, size_t ldd,
                     const float *x, size_t k)
{
    switch (m) {
        SIZES(CASE)
    }
}
#undef CASE

#define CASE(m)                                  \
    case m:                                      \
        for (size_t i = 0; i < k; i += W)        \
            columns(m, dx, d, w, n, k, i);       \
        return;
static void columns_of(size_t m, float *dx, const float *d, const float *w, size_t n,
                       size_t k)
{
    switch (m) {
        SIZES(CASE)
    }
}
#undef CASE

static void forward(float *y, const float *x, const float *w, const float *b, size_t m,
                    size_t n, size_t k)
{
    for (size_t o = 0; o < n; o += 2)
        for (size_t r = 0; r < m; r += ROWS)
            dots_of(size_min(ROWS, m - r), o + 1 < n, y + r * n + o, n, x + r * k,
                    w + o * k, b + o, k);
}

static void back(float *dx, const float *d, const float *w, size_t m, size_t n, size_t k)
{
    for (size_t r = 0; r < m; r += ROWS)
        columns_of(size_min(ROWS, m - r), dx + r * k, d + r * n, w, n, k);
}

static void update(float *w, float *b, const float *d, const float *x, size_t m, size_t n,
                   size_t k)
{
    for (size_t o = 0; o < n; o += 2)
        for (size_t r = 0; r < m; r += ROWS)
            outer_of(size_min(ROWS, m - r), o + 1 < n, w + o * k, d + r * n + o, n,
                     x + r * k, k);
    for (size_t r = 0; r < m; r++)
        for (size_t o = 0; o < n; o++)
            b[o] += d[r * n + o];
}
