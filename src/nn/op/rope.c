/* rope.c - rotary position embedding (Su et al. 2021).
 *
 * Pair i of a head is turned by the angle pos * f_i, f_i = base^(-2 i / n_rot); a pair is
 * (i, i + n_rot/2) in the NeoX layout and (2i, 2i + 1) in GGUF's llama layout.  Numbers
 * past n_rot are copied.  The backward turns the other way.
 *
 * Frequencies may be divided by given factors (Llama 3, LongRoPE), scaled as a whole
 * (linear interpolation, Chen et al. 2023) or by YaRN (Peng et al. 2023, eqs. 19 to 24):
 * pairs that turn often keep their frequency, slow ones are divided by the factor.
 *
 * cos and sin are made once per row, in double, and used by every head and layer. */
#include "nn/op.h"
#include "nn/plan.h"

#include <math.h>

static const double tau = 6.283185307179586476925;

typedef struct {
    nn_tensor *x, *y, *table; /* table (rows, n_rot): cos, then sin of each pair */
    nn_rope_args a;
} rope;

typedef struct {
    const rope *s;
    const int32_t *pos;
    const double *freq; /* (n_rot / 2) */
    const float *from;
    float *to;
    float mscale, sign;
    bool add;
} job;

/* The pair that makes `turns` turns over the original context. */
static double yarn_pair(const nn_rope_args *a, double turns)
{
    return a->n_rot * log(a->yarn_ctx_orig / (turns * tau)) / (2.0 * log((double)a->base));
}

/* How much of pair i keeps its frequency: 1 fast, 0 slow. */
static double yarn_kept(const nn_rope_args *a, uint32_t i)
{
    double fast = a->yarn_beta_fast != 0.0f ? (double)a->yarn_beta_fast : 32.0;
    double slow = a->yarn_beta_slow != 0.0f ? (double)a->yarn_beta_slow : 1.0;
    double low = fmax(floor(yarn_pair(a, fast)), 0.0);
    double high = fmin(ceil(yarn_pair(a, slow)), a->n_rot - 1.0);
    double ramp = (i - low) / fmax(high - low, 0.001);
    return 1.0 - fmin(fmax(ramp, 0.0), 1.0);
}

static void frequencies(const nn_rope_args *a, double *freq)
{
    double scale = a->scale != 0.0f ? (double)a->scale : 1.0;
    for (uint32_t i = 0; i < a->n_rot / 2; i++) {
        double f = pow((double)a->base, -2.0 * i / a->n_rot) * scale;
        if (a->factors)
            f /= (double)a->factors[i];
        if (a->yarn_factor > 1.0f) {
            double kept = yarn_kept(a, i);
            f = f * kept + f / (double)a->yarn_factor * (1.0 - kept);
        }
        freq[i] = f;
    }
}

static float magnitude(const nn_rope_args *a)
{
    if (!(a->yarn_factor > 1.0f))
        return 1.0f;
    return a->yarn_mscale != 0.0f ? a->yarn_mscale : 1.0f + 0.1f * logf(a->yarn_factor);
}

/* ---- the table ------------------------------------------------------------------------
 */

static void fill(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    uint32_t half = j->s->a.n_rot / 2;
    (void)worker;
    for (size_t r = beg; r < end; r++) {
        float *cs = op_row(j->s->table, r);
        for (uint32_t i = 0; i < half; i++) {
            double angle = j->pos[r] * j->freq[i];
            cs[i] = (float)cos(angle) * j->mscale;
            cs[half + i] = (float)sin(angle) * j->mscale;
        }
    }
}

/* Field by field: padding is nobody's. */
static bool same_turns(const nn_rope_args *a, const nn_rope_args *b)
{
    return a->n_rot == b->n_rot && a->base == b->base && a->scale == b->scale &&
           a->factors == b->factors && a->yarn_factor == b->yarn_factor &&
           a->yarn_beta_fast == b->yarn_beta_fast &&
           a->yarn_beta_slow == b->yarn_beta_slow && a->yarn_mscale == b->yarn_mscale &&
           a->yarn_ctx_orig == b->yarn_ctx_orig;
}

/* Queries and keys of every layer turn by the same angles: one table per run. */
static nn_tensor *make_table(nn *c, const int32_t *pos, uint32_t rows,
                             const nn_rope_args *a)
{
    plan_rope *memo = &c->plan->rope;
    if (memo->table && memo->pos == pos && memo->table->rows == rows &&
        same_turns(&memo->a, a))
        return memo->table;
    rope s = {.table = nn_new(c, rows, a->n_rot), .a = *a};
    double *freq = nn_scratch(c, sizeof(double) * (a->n_rot / 2));
    job j = {.s = &s, .pos = pos, .freq = freq, .mscale = magnitude(a)};
    if (nn_live(c)) {
        frequencies(a, freq);
        pool_run(c->pool, rows, 64, fill, &j);
    }
    if (c->status == OM_OK) {
        *memo = (plan_rope){pos, *a, s.table};
    }
    return s.table;
}

/* ---- turning ----------------------------------------------------------------------------
 */

enum { LANES = 8 }; /* pairs at a time: a shape the compiler makes vectors of */

typedef struct {
    float y0[LANES], y1[LANES];
} turned;

static void put(float *y, size_t step, const float *v, size_t n, bool add)
{
    if (add)
        for (size_t l = 0; l < n; l++)
            y[l * step] += v[l];
    else
        for (size_t l = 0; l < n; l++)
            y[l * step] = v[l];
}

/* n <= LANES pairs; x and y may be the same head. */
static void turn_pairs(const job *j, const float *x, float *y, const float *c,
                       const float *s, size_t step, size_t apart, size_t n)
{
    turned t;
    for (size_t l = 0; l < n; l++) {
        float x0 = x[l * step], x1 = x[l * step + apart], sl = s[l] * j->sign;
        t.y0[l] = x0 * c[l] - x1 * sl;
        t.y1[l] = x0 * sl + x1 * c[l];
    }
    put(y, step, t.y0, n, j->add);
    put(y + apart, step, t.y1, n, j->add);
}

static void turn_head(const job *j, const float *x, float *y, const float *table)
{
    const nn_rope_args *a = &j->s->a;
    size_t half = a->n_rot / 2, i = 0;
    if (a->neox) {
        for (; i + LANES <= half; i += LANES)
            turn_pairs(j, x + i, y + i, table + i, table + half + i, 1, half, LANES);
        turn_pairs(j, x + i, y + i, table + i, table + half + i, 1, half, half - i);
    } else {
        for (; i + LANES <= half; i += LANES)
            turn_pairs(j, x + 2 * i, y + 2 * i, table + i, table + half + i, 2, 1, LANES);
        turn_pairs(j, x + 2 * i, y + 2 * i, table + i, table + half + i, 2, 1, half - i);
    }
    for (uint32_t k = a->n_rot; k < a->head_dim; k++)
        y[k] = j->add ? y[k] + x[k] : x[k];
}

static void turn(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    uint32_t cols = j->s->x->cols;
    (void)worker;
    for (size_t r = beg; r < end; r++)
        for (uint32_t h = 0; h < cols; h += j->s->a.head_dim)
            turn_head(j, j->from + r * cols + h, j->to + r * cols + h,
                      op_row(j->s->table, r));
}

static void run(nn *c, job *j)
{
    pool_run(c->pool, j->s->x->rows, op_grain(j->s->x->cols), turn, j);
}

static void back(nn *c, void *saved)
{
    rope *s = saved;
    job j = {.s = s, .from = nn_grad_in(c, s->y), .sign = -1.0f};
    if (!j.from)
        return;
    bool fresh;
    j.add = !nn_grad_take(c, s->x, s->y);
    j.to = nn_grad(c, s->x, &fresh);
    nn_touch(c, s->table);
    if (j.to && nn_live(c))
        run(c, &j);
}

nn_tensor *nn_rope(nn *c, nn_tensor *x, const int32_t *pos, const nn_rope_args *a)
{
    if (a->head_dim == 0 || x->cols % a->head_dim || a->n_rot > a->head_dim ||
        a->n_rot % 2) {
        nn_fail(c, OM_EARG,
                "nn: rope turns %u of %u numbers per head, in rows of %u; an even "
                "count within a head that divides the row is expected",
                a->n_rot, a->head_dim, x->cols);
        return nn_new(c, x->rows, x->cols);
    }
    rope s = {.x = x, .table = make_table(c, pos, x->rows, a), .a = *a};
    s.y = nn_new(c, x->rows, x->cols);
    s.y->needs_grad = x->needs_grad;
    nn_touch(c, x);
    nn_touch(c, s.table);
    job j = {.s = &s, .from = x->data, .to = s.y->data, .sign = 1.0f};
    if (nn_live(c))
        run(c, &j);
    if (s.y->needs_grad)
        nn_push(c, back, &s, sizeof(s));
    return s.y;
}

void nn_rope_turn(const nn_rope_args *a, float *x, int32_t by)
{
    double freq[KV_MAX_DIM / 2];
    size_t half = a->n_rot / 2, step = a->neox ? 1 : 2, apart = a->neox ? half : 1;
    BUG_IF(a->n_rot > KV_MAX_DIM);
    frequencies(a, freq);
    for (size_t i = 0; i < half; i++) {
        double c = cos(by * freq[i]), s = sin(by * freq[i]);
        double x0 = (double)x[i * step], x1 = (double)x[i * step + apart];
        x[i * step] = (float)(x0 * c - x1 * s);
        x[i * step + apart] = (float)(x0 * s + x1 * c);
    }
}
