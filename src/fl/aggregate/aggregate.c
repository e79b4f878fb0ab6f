/* aggregate.c - see aggregate.h: the registry, screening, mixing, and the one pass that
 * turns a plan into numbers.
 *
 * Mixers: bucketing (Karimireddy, He, Jaggi, ICLR 2022, arXiv 2006.09365), nearest-
 * neighbour mixing (Allouah et al., AISTATS 2023, arXiv 2302.01772), adaptive robust
 * clipping (Allouah et al., ICLR 2025, arXiv 2405.14432). */
#include "fl/aggregate/aggregate.h"

#include <math.h>
#include <stdlib.h>

#define X(name) extern const aggregator aggregator_##name;
#include "fl/aggregate/list.h"
#undef X

const aggregator *const aggregators[] = {
#define X(name) &aggregator_##name,
#include "fl/aggregate/list.h"
#undef X
    NULL};

om_status aggregator_need(str name, const aggregator **out, om_err *err)
{
    const char *names[countof(aggregators)];
    for (size_t i = 0; i < countof(aggregators); i++) {
        const aggregator *a = aggregators[i];
        names[i] = a ? a->name : NULL;
        if (a && (str_is(name, a->name) || (a->alias && str_is(name, a->alias)))) {
            *out = a;
            return OM_OK;
        }
    }
    return fail(err, OM_ENOTFOUND, "there is no aggregator '%.*s'; did you mean '%s'?",
                (int)size_min(name.n, 40), name.p, nearest_name(names, name));
}

bool aggregate_is_mean(const aggregate_rule *a)
{
    return !a->row || (a->row == &aggregator_mean && (int)a->p[AGGREGATE_PRE] == PRE_NONE &&
                       a->p[AGGREGATE_SCREEN] <= 0);
}

/* ---- checks ---- */

static size_t f_of(const aggregate_rule *a) { return (size_t)a->p[AGGREGATE_F]; }

/* Rows the rule sees when n came. */
static size_t mixed_rows(const aggregate_rule *a, size_t n)
{
    size_t s = (size_t)a->p[AGGREGATE_BUCKET];
    return (int)a->p[AGGREGATE_PRE] == PRE_BUCKETING ? (n + s - 1) / s : n;
}

static om_status enough(const aggregate_rule *a, size_t n, om_err *err)
{
    size_t f = f_of(a), m = mixed_rows(a, n), least = a->row->least(a->p, f);
    if (m >= least && 2 * f < n)
        return OM_OK;
    return fail(err, OM_ELIMIT,
                "%s against %zu hostile updates needs at least %zu, and more than twice "
                "as many as are hostile; %zu%s came",
                a->row->name, f, least, m, m == n ? "" : " buckets");
}

om_status aggregate_check(const aggregate_rule *a, size_t n, om_err *err)
{
    if (aggregate_is_mean(a))
        return OM_OK;
    if (n > COHORT_MOST)
        return fail(err, OM_ELIMIT, "%s of %zu updates; at most %d are compared",
                    a->row->name, n, COHORT_MOST);
    if ((a->row->flags & AGGREGATE_TRUSTED) && (int)a->p[AGGREGATE_PRE] != PRE_NONE)
        return fail(err, OM_EARG, "%s compares each update with the trusted one; set "
                                  "pre=none", a->row->name);
    om_status s = enough(a, n, err);
    return s == OM_OK ? s : OM_EARG;
}

/* ---- what members share ---- */

double aggregate_distance(const aggregate_view *v, size_t i, size_t j)
{
    double d = v->gram[i * v->m + i] + v->gram[j * v->m + j] - 2 * v->gram[i * v->m + j];
    return d > 0 ? d : 0;
}

int aggregate_ascending(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof(x)), memcpy(&y, b, sizeof(y));
    return (x > y) - (x < y);
}

double aggregate_crowding(const aggregate_view *v, const uint8_t *marked, size_t i,
                          size_t take, double *scratch)
{
    size_t n = 0;
    double sum = 0;
    for (size_t j = 0; j < v->m; j++)
        if (j != i && marked[j])
            scratch[n++] = aggregate_distance(v, i, j);
    qsort(scratch, n, sizeof(double), aggregate_ascending);
    for (size_t j = 0; j < take && j < n; j++)
        sum += scratch[j];
    return sum;
}

size_t aggregate_neighbours(size_t count, size_t f)
{
    return count > f + 3 ? count - f - 2 : 1;
}

/* ---- the state of a run ---- */

/* mix (m, n): row r of what the rule sees is the sum of mix_ri row i. */
typedef struct {
    size_t n, m, f;
    double *mix, *gram; /* gram (m, m), or NULL */
    double *next, *half; /* (n, n) each, for a product */
} mixing;

static bool wants_gram(const aggregate_rule *a)
{
    int pre = (int)a->p[AGGREGATE_PRE];
    return (a->row->flags & AGGREGATE_GRAM) || pre == PRE_NNM || pre == PRE_ARC ||
           pre == PRE_ARC_NNM || a->p[AGGREGATE_SCREEN] > 0;
}

/* out (m, c) = a (m, k) b (k, c) */
static void product(const double *a, const double *b, size_t m, size_t k, size_t c,
                    double *out)
{
    memset(out, 0, m * c * sizeof(*out));
    for (size_t i = 0; i < m; i++)
        for (size_t r = 0; r < k; r++) {
            double w = a[i * k + r];
            for (size_t j = 0; j < c && (w < 0 || w > 0); j++)
                out[i * c + j] += w * b[r * c + j];
        }
}

/* The rows become s->next (m, old m) times what they were: mix <- next mix and
 * gram <- next gram next'. */
static void apply(mixing *s, size_t m)
{
    product(s->next, s->mix, m, s->m, s->n, s->half);
    memcpy(s->mix, s->half, m * s->n * sizeof(double));
    if (s->gram) {
        product(s->next, s->gram, m, s->m, s->m, s->half); /* (m, old) */
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < m; j++) {
                double sum = 0;
                for (size_t r = 0; r < s->m; r++)
                    sum += s->half[i * s->m + r] * s->next[j * s->m + r];
                s->gram[i * m + j] = sum;
            }
    }
    s->m = m;
}

static aggregate_view view_of(const mixing *s, const double *p)
{
    return (aggregate_view){.m = s->m, .gram = s->gram, .f = s->f, .trusted = s->m, .p = p};
}

/* ---- screening and mixing ---- */

static double length(const mixing *s, size_t i)
{
    double g = s->gram[i * s->m + i];
    return g > 0 ? sqrt(g) : 0;
}

/* The upper median, so that half the rows stay whatever the others do. */
static void screen(mixing *s, double most, double *sorted)
{
    size_t kept = 0;
    for (size_t i = 0; i < s->m; i++)
        sorted[i] = length(s, i);
    qsort(sorted, s->m, sizeof(double), aggregate_ascending);
    double longest = most * sorted[s->m / 2];
    memset(s->next, 0, s->m * s->m * sizeof(double));
    for (size_t i = 0; i < s->m; i++)
        if (length(s, i) <= longest)
            s->next[kept++ * s->m + i] = 1;
    apply(s, kept);
}

static void bucketing(mixing *s, size_t size, rng r, double *order)
{
    size_t buckets = (s->m + size - 1) / size;
    for (size_t i = 0; i < s->m; i++) {
        size_t j = rng_below(&r, (uint32_t)i + 1);
        order[i] = order[j];
        order[j] = (double)i;
    }
    memset(s->next, 0, buckets * s->m * sizeof(double));
    for (size_t b = 0; b < buckets; b++) {
        size_t end = size_min((b + 1) * size, s->m);
        for (size_t i = b * size; i < end; i++)
            s->next[b * s->m + (size_t)order[i]] = 1.0 / (double)(end - b * size);
    }
    apply(s, buckets);
}

/* Row i becomes the mean of the m - f rows nearest to it, itself among them; of equally
 * near ones the lower. */
static void nearest(mixing *s, const double *p, double *sorted)
{
    aggregate_view v = view_of(s, p);
    size_t keep = s->m - s->f;
    memset(s->next, 0, s->m * s->m * sizeof(double));
    for (size_t i = 0; i < s->m; i++) {
        for (size_t j = 0; j < s->m; j++)
            sorted[j] = i == j ? 0 : aggregate_distance(&v, i, j);
        qsort(sorted, s->m, sizeof(double), aggregate_ascending);
        double far = sorted[keep - 1], below = 0;
        for (size_t j = 0; j < keep; j++)
            below += sorted[j] < far;
        size_t ties = keep - (size_t)below;
        for (size_t j = 0; j < s->m; j++) {
            double d = i == j ? 0 : aggregate_distance(&v, i, j);
            bool in = d < far || (d <= far && ties > 0);
            ties -= in && !(d < far);
            s->next[i * s->m + j] = in ? 1.0 / (double)keep : 0;
        }
    }
    apply(s, s->m);
}

/* The k = floor(2 f (m - f) / m) longest rows are cut to the length of the next. */
static void clip_longest(mixing *s, double *sorted)
{
    size_t k = 2 * s->f * (s->m - s->f) / s->m;
    for (size_t i = 0; i < s->m; i++)
        sorted[i] = length(s, i);
    qsort(sorted, s->m, sizeof(double), aggregate_ascending);
    double most = sorted[s->m - 1 - size_min(k, s->m - 1)];
    memset(s->next, 0, s->m * s->m * sizeof(double));
    for (size_t i = 0; i < s->m; i++) {
        double n = length(s, i);
        s->next[i * s->m + i] = n > most ? most / n : 1;
    }
    apply(s, s->m);
}

static void mix(mixing *s, const double *p, rng r, double *sorted)
{
    int pre = (int)p[AGGREGATE_PRE];
    if (pre == PRE_BUCKETING)
        bucketing(s, (size_t)p[AGGREGATE_BUCKET], r, sorted);
    if (pre == PRE_ARC || pre == PRE_ARC_NNM)
        clip_longest(s, sorted);
    if (pre == PRE_NNM || pre == PRE_ARC_NNM)
        nearest(s, p, sorted);
}

/* ---- a run ---- */

size_t aggregate_bytes(const aggregate_rule *a, const kern *k, size_t n, const pool *p)
{
    size_t square = arena_bytes(double, n * n);
    size_t gram = wants_gram(a) ? cohort_gram_bytes(k, n, p) : 0;
    size_t rows = cohort_columns_bytes(n, n, p) + arena_bytes(float, n * n);
    size_t own = a->row->plan_bytes(n) + 4 * arena_bytes(double, n);
    return 4 * square + size_max(gram, rows + own) + 256;
}

static void begin(mixing *s, const aggregate_rule *a, const cohort *rows, const kern *k,
                  pool *p, arena *memory)
{
    size_t n = rows->n;
    *s = (mixing){.n = n, .m = n, .f = f_of(a)};
    s->mix = arena_new(memory, double, n *n);
    s->next = arena_new(memory, double, n *n);
    s->half = arena_new(memory, double, n *n);
    for (size_t i = 0; i < n; i++)
        s->mix[i * n + i] = 1;
    if (!wants_gram(a))
        return;
    s->gram = arena_new(memory, double, n *n);
    cohort_gram(k, p, rows, s->gram, *memory);
}

static void end_in_weights(const mixing *s, const aggregate_plan *plan, const cohort *rows,
                           const kern *k, pool *p, float *out, arena scratch)
{
    float *w = arena_new(&scratch, float, s->n);
    for (size_t i = 0; i < s->n; i++) {
        double sum = 0;
        for (size_t r = 0; r < s->m; r++)
            sum += plan->weight[r] * s->mix[r * s->n + i];
        w[i] = (float)sum;
    }
    cohort_combine(k, p, rows, w, out);
}

static void end_in_rank(const mixing *s, const aggregate_plan *plan, const cohort *rows,
                        const kern *k, pool *p, float *out, arena scratch)
{
    float *m = arena_new(&scratch, float, s->n *s->n);
    size_t kept = 0;
    bool plain = true;
    for (size_t r = 0; r < s->m; r++) {
        if (!plan->chosen[r])
            continue;
        for (size_t i = 0; i < s->n; i++) {
            m[kept * s->n + i] = (float)s->mix[r * s->n + i];
            plain &= s->mix[r * s->n + i] == (kept == i ? 1.0 : 0.0);
        }
        kept++;
    }
    plain &= kept == s->n;
    cohort_columns(k, p, rows, plan->rank, plan->cut, plain ? NULL : m, kept, out, scratch);
}

static size_t row_of(const uint32_t *id, size_t n, uint32_t wanted)
{
    size_t i = 0;
    while (i < n && id[i] != wanted)
        i++;
    return i;
}

om_status aggregate_run(const aggregate_rule *a, const cohort *rows, const uint32_t *id,
                        rng r, const kern *k, pool *p, float *out, arena scratch,
                        om_err *err)
{
    mixing s;
    TRY(enough(a, rows->n, err));
    begin(&s, a, rows, k, p, &scratch);
    double *sorted = arena_new(&scratch, double, s.n);
    bool trusts = a->row->flags & AGGREGATE_TRUSTED;
    if (a->p[AGGREGATE_SCREEN] > 0 && !trusts)
        screen(&s, a->p[AGGREGATE_SCREEN], sorted);
    TRY(enough(a, s.m, err));
    mix(&s, a->p, r, sorted);
    aggregate_plan plan = {.weight = arena_new(&scratch, double, s.n),
                           .chosen = arena_new(&scratch, uint8_t, s.n)};
    memset(plan.chosen, 1, s.n);
    aggregate_view v = view_of(&s, a->p);
    if (trusts)
        v.trusted = row_of(id, s.n, (uint32_t)a->p[AGGREGATE_COMMON]);
    TRY(a->row->plan(&v, &plan, scratch, err));
    if (plan.ranked)
        end_in_rank(&s, &plan, rows, k, p, out, scratch);
    else
        end_in_weights(&s, &plan, rows, k, p, out, scratch);
    return OM_OK;
}
