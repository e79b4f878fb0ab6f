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
 * cos and sin are made once per row, in double, and used by every head. */
#include "nn/op.h"

#include <math.h>

static const double tau = 6.283185307179586476925;

typedef struct {
    nn_tensor *x, *y;
    const int32_t *pos;
    nn_rope_args a;
} rope;

typedef struct {
    const rope *s;
    const double *freq; /* (n_rot / 2) */
    float *table;       /* per worker: cos, sin of each pair */
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

static void turn_head(const job *j, const float *x, float *y, const float *table)
{
    const nn_rope_args *a = &j->s->a;
    uint32_t half = a->n_rot / 2;
    uint32_t step = a->neox ? 1 : 2, apart = a->neox ? half : 1;
    for (uint32_t i = 0; i < half; i++) {
        float c = table[i], s = table[half + i];
        const float x0 = x[i * step], x1 = x[i * step + apart];
        float y0 = x0 * c - x1 * s, y1 = x0 * s + x1 * c;
        y[i * step] = j->add ? y[i * step] + y0 : y0;
        y[i * step + apart] = j->add ? y[i * step + apart] + y1 : y1;
    }
    for (uint32_t i = a->n_rot; i < a->head_dim; i++)
        y[i] = j->add ? y[i] + x[i] : x[i];
}

static void turn(void *ctx, size_t beg, size_t end, int worker)
{
    const job *j = ctx;
    const rope *s = j->s;
    uint32_t half = s->a.n_rot / 2, cols = s->x->cols;
    float *table = j->table + (size_t)worker * 2 * half;
    for (size_t r = beg; r < end; r++) {
        for (uint32_t i = 0; i < half; i++) {
            double angle = s->pos[r] * j->freq[i];
            table[i] = (float)cos(angle) * j->mscale;
            table[half + i] = (float)sin(angle) * j->mscale * j->sign;
        }
        for (uint32_t h = 0; h < cols; h += s->a.head_dim)
            turn_head(j, j->from + r * cols + h, j->to + r * cols + h, table);
    }
}

static double *declare_tables(nn *c, const nn_rope_args *a, float **table)
{
    *table = nn_scratch(c, sizeof(float) * a->n_rot * (size_t)pool_threads(c->pool));
    return nn_scratch(c, sizeof(double) * (a->n_rot / 2));
}

static void run(nn *c, job *j, double *freq)
{
    frequencies(&j->s->a, freq);
    j->freq = freq;
    j->mscale = magnitude(&j->s->a);
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
    double *freq = declare_tables(c, &s->a, &j.table);
    if (j.to && nn_live(c))
        run(c, &j, freq);
}

nn_tensor *nn_rope(nn *c, nn_tensor *x, const int32_t *pos, const nn_rope_args *a)
{
    rope s = {.x = x, .y = nn_new(c, x->rows, x->cols), .pos = pos, .a = *a};
    if (a->head_dim == 0 || x->cols % a->head_dim || a->n_rot > a->head_dim ||
        a->n_rot % 2) {
        nn_fail(c, OM_EARG,
                "nn: rope turns %u of %u numbers per head, in rows of %u; an even "
                "count within a head that divides the row is expected",
                a->n_rot, a->head_dim, x->cols);
        return s.y;
    }
    job j = {.s = &s, .from = x->data, .to = s.y->data, .sign = 1.0f};
    double *freq = declare_tables(c, a, &j.table);
    nn_touch(c, x);
    s.y->needs_grad = x->needs_grad;
    if (nn_live(c))
        run(c, &j, freq);
    if (s.y->needs_grad)
        nn_push(c, back, &s, sizeof(s));
    return s.y;
}
