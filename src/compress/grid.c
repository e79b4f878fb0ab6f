/* grid.c - see grid.h.
 *
 * Scales of a group: a ladder of ranges around the group's own; for each the codes are
 * rounded and the weighted least-squares scale (and offset) for those codes is solved,
 * twice; the best is kept.  That is the idea of the published k-quant encoders (I.
 * Kawrakow, llama.cpp, 2023).  Beyond them: the integers sc and mn of a group are searched
 * around their rounded values by re-rounding its codes, and then d and dmin of the whole
 * block are solved by weighted least squares over all codes, alternately, as long as the
 * error falls. */
#include "compress/grid.h"

#include <math.h>

enum { LADDER = 9, REFITS = 3 };

static const grid table[] = {
    {DTYPE_Q4_0, 32, 32, 16, 8, NULL, false, 0, 0},
    {DTYPE_Q4_1, 32, 32, 16, 0, NULL, true, 0, 0},
    {DTYPE_Q5_0, 32, 32, 32, 16, NULL, false, 0, 0},
    {DTYPE_Q5_1, 32, 32, 32, 0, NULL, true, 0, 0},
    {DTYPE_IQ4_NL, 32, 32, 16, 0, iq4_table, false, 0, 0},
    {DTYPE_Q2_K, 256, 16, 4, 0, NULL, true, 0, 15},
    {DTYPE_Q3_K, 256, 16, 8, 4, NULL, false, -32, 31},
    {DTYPE_Q4_K, 256, 32, 16, 0, NULL, true, 0, 63},
    {DTYPE_Q5_K, 256, 32, 32, 0, NULL, true, 0, 63},
    {DTYPE_Q6_K, 256, 16, 64, 32, NULL, false, -128, 127},
    {DTYPE_IQ4_XS, 256, 32, 16, 0, iq4_table, false, -32, 31},
};

const grid *grid_of(dtype t)
{
    for (size_t i = 0; i < countof(table); i++)
        if (table[i].type == t)
            return &table[i];
    return NULL;
}

/* ---- codes ------------------------------------------------------------------------- */

static float level(const grid *g, int code)
{
    return g->table ? (float)g->table[code] : (float)(code - g->zero);
}

static float inverse(float s) { return s != 0 ? 1.0f / s : 0.0f; }

/* Halfway points of iq4_table, the one table there is. */
static const float middle[15] = {-115.5f, -93.5f, -74,   -57,   -42, -28.5f, -16, -4.5f,
                                 7,       19,     31.5f, 45.5f, 61,  79,     101};

static inline float table_level(float v)
{
    int at = (v > middle[7]) * 8;
    at += (v > middle[at + 3]) * 4;
    at += (v > middle[at + 1]) * 2;
    at += v > middle[at];
    return (float)iq4_table[at];
}

/* Code nearest to v in units of the scale; NaN gives some code. */
static inline int nearest(const grid *g, float v)
{
    if (g->table) {
        int at = 0;
        for (int j = 0; j < 15; j++)
            at += v > middle[j];
        return at;
    }
    float top = (float)(g->levels - 1);
    v += (float)g->zero;
    v = v < top ? v : top;
    v = v > 0 ? v : 0;
    return (int)(v + 0.5f);
}

/* ---- one group --------------------------------------------------------------------- */

typedef struct {
    float s, m; /* scale, offset */
} affine;

typedef struct {
    const grid *g;
    const float *x, *w;
    size_t n;
} group;

enum { LANES = 8 }; /* sums run side by side, so that a compiler may use vectors */

/* Levels nearest to x under f, eight at once. */
static inline void levels8(const group *q, const float *x, affine f, float inv, float *l)
{
    float zero = (float)q->g->zero, top = (float)(q->g->levels - 1);
    if (q->g->table) {
        for (int i = 0; i < LANES; i++)
            l[i] = table_level((x[i] - f.m) * inv);
        return;
    }
    for (int i = 0; i < LANES; i++) {
        float v = (x[i] - f.m) * inv + zero;
        v = v < top ? v : top;
        v = v > 0 ? v : 0;
        l[i] = (float)(int)(v + 0.5f) - zero;
    }
}

static inline float sum8(const float *v)
{
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

/* Weighted error of the nearest codes under f. */
static float error_of(const group *q, affine f)
{
    float inv = inverse(f.s), e[LANES] = {0};
    for (size_t at = 0; at < q->n; at += LANES) {
        const float *x = q->x + at, *w = q->w + at;
        float l[LANES];
        levels8(q, x, f, inv, l);
        for (int i = 0; i < LANES; i++) {
            float d = f.s * l[i] + f.m - x[i];
            e[i] += w[i] * d * d;
        }
    }
    return sum8(e);
}

/* Least squares for the codes that `from` gives. */
static affine solve(const group *q, affine from, bool any_min)
{
    float inv = inverse(from.s);
    float vw[LANES] = {0}, vl[LANES] = {0}, vll[LANES] = {0}, vx[LANES] = {0},
          vxl[LANES] = {0};
    for (size_t at = 0; at < q->n; at += LANES) {
        const float *x = q->x + at, *w = q->w + at;
        float l[LANES];
        levels8(q, x, from, inv, l);
        for (int i = 0; i < LANES; i++) {
            float wl = w[i] * l[i];
            vw[i] += w[i];
            vl[i] += wl;
            vll[i] += wl * l[i];
            vx[i] += w[i] * x[i];
            vxl[i] += wl * x[i];
        }
    }
    float sw = sum8(vw), sl = sum8(vl), sll = sum8(vll), sx = sum8(vx), sxl = sum8(vxl);
    if (!(sll > 0))
        return from;
    if (!q->g->has_min)
        return (affine){sxl / sll, 0};
    float det = sw * sll - sl * sl;
    if (!(det > 1e-6f * sw * sll))
        return from;
    affine f = {(sw * sxl - sx * sl) / det, (sll * sx - sl * sxl) / det};
    return f.m > 0 && !any_min ? (affine){sxl / sll, 0} : f;
}

typedef struct {
    affine f;
    float error;
} choice;

static void consider(const group *q, affine f, bool any_min, choice *best)
{
    for (int pass = 0; pass < 2; pass++) {
        f = solve(q, f, any_min);
        float e = error_of(q, f);
        if (e < best->error)
            *best = (choice){f, e};
    }
}

static affine fit_with_min(const group *q, bool any_min)
{
    float lo = q->x[0], hi = q->x[0], n = (float)(q->g->levels - 1);
    for (size_t i = 1; i < q->n; i++) {
        lo = q->x[i] < lo ? q->x[i] : lo;
        hi = q->x[i] > hi ? q->x[i] : hi;
    }
    if (!any_min && lo > 0)
        lo = 0;
    if (!(hi - lo > 1e-30f))
        return (affine){0, any_min || lo < 0 ? lo : 0};
    choice best = {{(hi - lo) / n, lo}, 0};
    best.error = error_of(q, best.f);
    for (int step = -LADDER; step <= LADDER + 6; step++)
        consider(q, (affine){(hi - lo) / (n + 0.1f * n / 5 * (float)step), lo}, any_min,
                 &best);
    return best.f;
}

/* Scales that put the group's extreme near either end of the levels. */
static affine fit_scale(const group *q)
{
    float e = 0, low = level(q->g, 0), high = level(q->g, q->g->levels - 1);
    for (size_t i = 0; i < q->n; i++)
        if (fabsf(q->x[i]) > fabsf(e))
            e = q->x[i];
    if (!(fabsf(e) > 1e-30f))
        return (affine){0, 0};
    choice best = {{e / low, 0}, 0};
    best.error = error_of(q, best.f);
    for (int step = -LADDER; step <= LADDER; step++) {
        float wide = 1 + 0.05f * (float)step;
        consider(q, (affine){e / (low * wide), 0}, false, &best);
        consider(q, (affine){e / (high * wide), 0}, false, &best);
    }
    return best.f;
}

/* ---- a block ----------------------------------------------------------------------- */

static size_t groups_of(const grid *g) { return g->block / g->group; }

/* scale and offset of group i as they will be read. */
static void read_back(const grid *g, grid_block *b)
{
    float d = f16_to_f32(b->c.d), dmin = f16_to_f32(b->c.dmin);
    for (size_t i = 0; i < groups_of(g); i++) {
        bool plain = g->sc_high == 0;
        b->scale[i] = plain ? d : d * (float)b->c.sc[i];
        b->offset[i] = !g->has_min ? 0 : plain ? dmin : -dmin * (float)b->c.mn[i];
    }
}

static int clamp(float v, int lo, int hi)
{
    return v <= (float)lo ? lo : v >= (float)hi ? hi : (int)lrintf(v);
}

/* The best integers for one group near those that f asks for. */
static void best_integers(const grid *g, const group *q, affine f, grid_block *b, size_t at)
{
    float d = f16_to_f32(b->c.d), dmin = f16_to_f32(b->c.dmin), least = INFINITY;
    int sc0 = clamp(f.s * inverse(d), g->sc_low, g->sc_high);
    int mn0 = g->has_min ? clamp(-f.m * inverse(dmin), 0, g->sc_high) : 0;
    int spread = g->has_min ? 1 : 0;
    b->c.sc[at] = (int16_t)sc0;
    b->c.mn[at] = (int16_t)mn0;
    for (int sc = sc0 - 1; sc <= sc0 + 1; sc++)
        for (int mn = mn0 - spread; mn <= mn0 + spread; mn++) {
            if (sc < g->sc_low || sc > g->sc_high || mn < 0 || mn > g->sc_high)
                continue;
            float e = error_of(q, (affine){d * (float)sc, -dmin * (float)mn});
            if (e < least) {
                least = e;
                b->c.sc[at] = (int16_t)sc;
                b->c.mn[at] = (int16_t)mn;
            }
        }
}

static void choose_d(const grid *g, const affine *f, grid_block *b)
{
    float most_s = 0, most_m = 0;
    for (size_t i = 0; i < groups_of(g); i++) {
        most_s = fabsf(f[i].s) > fabsf(most_s) ? f[i].s : most_s;
        most_m = -f[i].m > most_m ? -f[i].m : most_m;
    }
    /* Where sc is signed its range reaches further below zero. */
    b->c.d = f32_to_f16(most_s / (float)(g->sc_low < 0 ? g->sc_low : g->sc_high));
    b->c.dmin = f32_to_f16(most_m / (float)g->sc_high);
}

static float block_error(const grid *g, const grid_block *b, const float *x, const float *w)
{
    float e = 0;
    for (size_t i = 0; i < groups_of(g); i++) {
        group q = {g, x + i * g->group, w + i * g->group, g->group};
        e += error_of(&q, (affine){b->scale[i], b->offset[i]});
    }
    return e;
}

void grid_codes(const grid *g, grid_block *b, const float *x, float *q)
{
    for (size_t i = 0; i < g->block; i++) {
        size_t at = i / g->group;
        int code = nearest(g, (x[i] - b->offset[at]) * inverse(b->scale[at]));
        b->c.l[i] = (uint8_t)code;
        if (q)
            q[i] = b->scale[at] * level(g, code) + b->offset[at];
    }
}

/* Sums for d and dmin of x ~ d a - dmin c, a = sc level, c = mn (1 and minus one where
 * there are no integers). */
typedef struct {
    double aa, ac, cc, xa, xc;
} normal;

static normal normal_sums(const grid *g, const float *x, const float *w,
                          const grid_block *b)
{
    normal s = {0};
    for (size_t i = 0; i < g->block; i++) {
        size_t at = i / g->group;
        bool plain = g->sc_high == 0;
        double a = (double)level(g, b->c.l[i]) * (plain ? 1 : b->c.sc[at]);
        double c = !g->has_min ? 0 : plain ? -1 : b->c.mn[at];
        double v = (double)x[i], u = (double)w[i];
        s.aa += u * a * a;
        s.ac += u * a * c;
        s.cc += u * c * c;
        s.xa += u * v * a;
        s.xc += u * v * c;
    }
    return s;
}

static bool solve_d(const grid *g, const float *x, const float *w, grid_block *b)
{
    normal s = normal_sums(g, x, w, b);
    double det = s.aa * s.cc - s.ac * s.ac;
    if (!(s.aa > 0))
        return false;
    double d = s.xa / s.aa, dmin = 0;
    if (g->has_min && det > 1e-12 * s.aa * s.cc) {
        d = (s.cc * s.xa - s.ac * s.xc) / det;
        dmin = (s.ac * s.xa - s.aa * s.xc) / det;
    }
    if (!isfinite(d) || !isfinite(dmin) || (g->sc_high && dmin < 0))
        return false;
    b->c.d = f32_to_f16((float)d);
    b->c.dmin = f32_to_f16((float)dmin);
    read_back(g, b);
    return true;
}

bool grid_refit(const grid *g, const float *x, const float *w, grid_block *b)
{
    return solve_d(g, x, w, b);
}

static void fit_block(const grid *g, const float *x, const float *w, grid_block *b)
{
    affine f[QK / 16];
    for (size_t i = 0; i < groups_of(g); i++) {
        group q = {g, x + i * g->group, w + i * g->group, g->group};
        f[i] = g->has_min ? fit_with_min(&q, g->sc_high == 0) : fit_scale(&q);
    }
    if (g->sc_high == 0) {
        b->c.d = f32_to_f16(f[0].s);
        b->c.dmin = f32_to_f16(f[0].m);
    } else {
        choose_d(g, f, b);
        for (size_t i = 0; i < groups_of(g); i++) {
            group q = {g, x + i * g->group, w + i * g->group, g->group};
            best_integers(g, &q, f[i], b, i);
        }
    }
    read_back(g, b);
}

/* d and dmin for the codes, integers for the new d, codes again. */
static void refine(const grid *g, const float *x, const float *w, grid_block *b)
{
    float least = block_error(g, b, x, w);
    grid_block now = *b;
    for (int pass = 0; pass < REFITS; pass++) {
        affine f[QK / 16];
        for (size_t i = 0; i < groups_of(g); i++)
            f[i] = (affine){now.scale[i], now.offset[i]};
        grid_codes(g, &now, x, NULL);
        if (!solve_d(g, x, w, &now))
            return;
        for (size_t i = 0; g->sc_high && i < groups_of(g); i++) {
            group q = {g, x + i * g->group, w + i * g->group, g->group};
            best_integers(g, &q, f[i], &now, i);
        }
        read_back(g, &now);
        float e = block_error(g, &now, x, w);
        if (!(e < least))
            return;
        least = e;
        *b = now;
    }
}

void grid_fit(const grid *g, const float *x, const float *w, grid_block *b)
{
    float ones[QK];
    if (!w) {
        for (size_t i = 0; i < g->block; i++)
            ones[i] = 1;
        w = ones;
    }
    memset(b, 0, sizeof(*b));
    fit_block(g, x, w, b);
    refine(g, x, w, b);
}

float grid_round(const grid *g, const grid_block *b, size_t i, float x, uint8_t *code)
{
    size_t at = i / g->group;
    int c = nearest(g, (x - b->offset[at]) * inverse(b->scale[at]));
    *code = (uint8_t)c;
    return b->scale[at] * level(g, c) + b->offset[at];
}

void grid_put(const grid *g, const grid_block *b, void *block)
{
    dtype_put_of(g->type)(&b->c, block);
}
