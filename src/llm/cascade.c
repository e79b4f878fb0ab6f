/* cascade.c - see cascade.h. */
#include "llm/cascade.h"
#include "llm/windows.h"

#include <math.h>
#include <stdlib.h>

/* ---- what models say ---- */

typedef struct {
    llm_model *m;
    text_windows t;
    float *logits; /* (room, vocab) */
} reader;

static om_status forward(nn *c, void *ctx)
{
    reader *r = ctx;
    nn_tensor *h = text_windows_forward(c, r->m, &r->t);
    nn_output(c, nn_linear(c, h, r->m->output, NULL), r->logits);
    return c->status;
}

static cascade_guess guess_of(const float *z, uint32_t n)
{
    uint32_t best = 0;
    double sum = 0, mean = 0, second = -HUGE_VAL;
    for (uint32_t i = 1; i < n; i++)
        best = z[i] > z[best] ? i : best;
    for (uint32_t i = 0; i < n; i++) {
        double d = (double)z[i] - (double)z[best], e = exp(d);
        sum += e;
        mean += e * d;
        second = i != best && d > second ? d : second;
    }
    return (cascade_guess){(int32_t)best, (float)(1 / sum), (float)(exp(second) / sum),
                           (float)(log(sum) - mean / sum)};
}

static om_status read_all(reader *r, nn *c, cascade_guess *out, int32_t *target, size_t cap,
                          size_t *count, om_err *err)
{
    uint32_t vocab = r->m->h.vocab;
    while (text_windows_next(&r->t)) {
        TRY(nn_run(c, text_windows_key(&r->t), false, forward, r, err));
        for (uint32_t i = 0; i < r->t.n_scored && *count < cap; i++, ++*count) {
            out[*count] = guess_of(r->logits + (size_t)i * vocab, vocab);
            target[*count] = r->t.target[i];
        }
    }
    return OM_OK;
}

om_status cascade_guesses(llm_model *m, const kern *k, pool *p, const int32_t *ids, size_t n,
                          uint32_t window, const om_cancel *cancel, cascade_guess **out,
                          int32_t **target, size_t *count, om_err *err)
{
    reader r = {.m = m};
    nn *c = NULL;
    *out = NULL, *target = NULL, *count = 0;
    om_status s = text_windows_open(&r.t, m, ids, n, window, 0, err);
    if (s == OM_OK) {
        r.logits = mem_array((size_t)r.t.room * m->h.vocab, sizeof(float));
        *out = mem_array(n, sizeof(**out));
        *target = mem_array(n, sizeof(**target));
        if (!r.logits || !*out || !*target)
            s = fail(err, OM_ENOMEM, "cascade: no memory for %u rows of %u logits", r.t.room,
                     m->h.vocab);
    }
    if (s == OM_OK)
        s = nn_open(&(nn_config){.k = k, .pool = p}, &c, err);
    if (s == OM_OK) {
        c->cancel = cancel;
        s = read_all(&r, c, *out, *target, n, count, err);
    }
    nn_close(c);
    text_windows_close(&r.t);
    mem_free(r.logits);
    return s;
}

/* ---- a tier ---- */

void cascade_vote(const cascade_guess *const *guess, uint32_t n, size_t i, cascade_reply *out)
{
    uint32_t best = 0, most = 0;
    double likely = 0;
    for (uint32_t k = 0; k < n; k++) {
        uint32_t votes = 0;
        double p = 0;
        for (uint32_t o = 0; o < n; o++)
            if (guess[o][i].token == guess[k][i].token)
                votes++, p += (double)guess[o][i].p;
        if (votes > most || (votes == most && p > likely))
            best = k, most = votes, likely = p;
    }
    double margin = 0, entropy = 0;
    for (uint32_t k = 0; k < n; k++) {
        margin += (double)guess[k][i].p - (double)guess[k][i].second;
        entropy += (double)guess[k][i].entropy;
    }
    double share = n > 1 ? (double)most / n : likely;
    *out = (cascade_reply){guess[best][i].token,
                           {1, share, likely / n, margin / n, entropy / n}, share};
}

void cascade_run(const cascade_data *d, const double *threshold, cascade_result *out)
{
    size_t right = 0, answered[CASCADE_TIERS] = {0};
    double cost = 0, n = d->count ? (double)d->count : 1;
    for (size_t i = 0; i < d->count; i++) {
        uint32_t t = 0;
        cost += d->cost[0];
        while (t + 1 < d->n && !(d->reply[t][i].score >= threshold[t]))
            cost += d->cost[++t];
        answered[t]++;
        right += d->reply[t][i].answer == d->target[i];
    }
    *out = (cascade_result){.accuracy = (double)right / n, .cost = cost / n};
    for (uint32_t t = 0; t < d->n; t++)
        out->answered[t] = (double)answered[t] / n;
}

/* ---- the learned score ---- */

/* Solves a (n, n) x = b in place by elimination with pivots. */
static void solve(double a[][CASCADE_FEATURES], double *b, int n)
{
    for (int k = 0; k < n; k++) {
        int p = k;
        for (int i = k + 1; i < n; i++)
            p = fabs(a[i][k]) > fabs(a[p][k]) ? i : p;
        for (int j = 0; j < n && p != k; j++) {
            double kept = a[k][j];
            a[k][j] = a[p][j], a[p][j] = kept;
        }
        double kept = b[k];
        b[k] = b[p], b[p] = kept;
        for (int i = k + 1; i < n; i++) {
            double f = a[i][k] / a[k][k];
            for (int j = k; j < n; j++)
                a[i][j] -= f * a[k][j];
            b[i] -= f * b[k];
        }
    }
    for (int k = n - 1; k >= 0; k--) {
        for (int j = k + 1; j < n; j++)
            b[k] -= a[k][j] * b[j];
        b[k] /= a[k][k];
    }
}

static double logit(const double *w, const double *f)
{
    double z = 0;
    for (int j = 0; j < CASCADE_FEATURES; j++)
        z += w[j] * f[j];
    return z;
}

/* Newton's method on the log-likelihood, with a little ridge: features may be equal. */
static void fit_one(const cascade_reply *r, const int32_t *target, size_t n, double *w)
{
    enum { STEPS = 25 };
    const double ridge = 1e-3 * ((double)n + 1);
    memset(w, 0, CASCADE_FEATURES * sizeof(*w));
    for (int step = 0; step < STEPS; step++) {
        double h[CASCADE_FEATURES][CASCADE_FEATURES] = {{0}}, g[CASCADE_FEATURES];
        for (int j = 0; j < CASCADE_FEATURES; j++) {
            h[j][j] = ridge;
            g[j] = -ridge * w[j];
        }
        for (size_t i = 0; i < n; i++) {
            const double *f = r[i].feature;
            double p = 1 / (1 + exp(-logit(w, f))), y = r[i].answer == target[i];
            for (int j = 0; j < CASCADE_FEATURES; j++) {
                g[j] += (y - p) * f[j];
                for (int k = 0; k < CASCADE_FEATURES; k++)
                    h[j][k] += p * (1 - p) * f[j] * f[k];
            }
        }
        solve(h, g, CASCADE_FEATURES);
        for (int j = 0; j < CASCADE_FEATURES; j++)
            w[j] += g[j];
    }
}

void cascade_fit(const cascade_data *d, double (*w)[CASCADE_FEATURES])
{
    for (uint32_t t = 0; t < d->n; t++)
        fit_one(d->reply[t], d->target, d->count, w[t]);
}

void cascade_score(const cascade_data *d, double (*w)[CASCADE_FEATURES])
{
    for (uint32_t t = 0; t < d->n; t++)
        for (size_t i = 0; i < d->count; i++)
            d->reply[t][i].score = 1 / (1 + exp(-logit(w[t], d->reply[t][i].feature)));
}

/* ---- thresholds ---- */

typedef struct {
    double score;
    int excess; /* wrong here, less wrong in the last tier */
} reached;

static int by_score(const void *x, const void *y)
{
    double a = ((const reached *)x)->score, b = ((const reached *)y)->score;
    return (a < b) - (a > b);
}

/* The lowest threshold whose passing examples keep the bound; above every score: none. */
static double lowest(reached *r, size_t n, double epsilon)
{
    double best = HUGE_VAL, sum = 0;
    qsort(r, n, sizeof(*r), by_score);
    for (size_t i = 0; i < n; i++) {
        sum += r[i].excess;
        bool last_equal = i + 1 == n || r[i + 1].score < r[i].score;
        if (last_equal && sum <= epsilon * (double)(i + 1))
            best = r[i].score;
    }
    return best;
}

om_status cascade_agree(const cascade_data *d, double epsilon, double *threshold, om_err *err)
{
    reached *r = mem_array(d->count + 1, sizeof(*r));
    uint8_t *gone = mem_array(d->count + 1, 1);
    om_status s = r && gone ? OM_OK : fail(err, OM_ENOMEM, "cascade: no memory");
    for (uint32_t t = 0; s == OM_OK && t + 1 < d->n; t++) {
        size_t n = 0;
        const cascade_reply *here = d->reply[t], *last = d->reply[d->n - 1];
        for (size_t i = 0; i < d->count; i++)
            if (!gone[i])
                r[n++] = (reached){here[i].score, (here[i].answer != d->target[i]) -
                                                      (last[i].answer != d->target[i])};
        threshold[t] = lowest(r, n, epsilon);
        for (size_t i = 0; i < d->count; i++)
            gone[i] |= here[i].score >= threshold[t];
    }
    mem_free(r);
    mem_free(gone);
    return s;
}

/* Candidates of a tier: quantiles of its scores, and above all. */
enum { QUANTILES = 40, FEW_QUANTILES = 12 };

static size_t candidates(const cascade_data *d, uint32_t t, reached *room, double *out)
{
    size_t q = d->n > 3 ? FEW_QUANTILES : QUANTILES, n = 0;
    for (size_t i = 0; i < d->count; i++)
        room[i] = (reached){d->reply[t][i].score, 0};
    qsort(room, d->count, sizeof(*room), by_score);
    out[n++] = HUGE_VAL;
    for (size_t k = 1; k <= q && d->count; k++)
        out[n++] = room[(d->count * k - 1) / q].score;
    return n;
}

om_status cascade_search(const cascade_data *d, double budget, double epsilon,
                         double *threshold, om_err *err)
{
    double value[CASCADE_TIERS][QUANTILES + 1], now[CASCADE_TIERS] = {0};
    size_t n[CASCADE_TIERS], at[CASCADE_TIERS] = {0};
    uint32_t free_tiers = d->n - 1;
    cascade_result r, best = {.accuracy = -1, .cost = HUGE_VAL};
    bool best_fits = false;
    reached *room = mem_array(d->count + 1, sizeof(*room));
    if (!room)
        return fail(err, OM_ENOMEM, "cascade: no memory");
    for (uint32_t t = 0; t < free_tiers; t++)
        n[t] = candidates(d, t, room, value[t]);
    mem_free(room);
    for (uint32_t t = 0; t < free_tiers; t++)
        now[t] = HUGE_VAL;
    cascade_run(d, now, &r); /* the last tier alone answers */
    double least = r.accuracy - epsilon;
    for (;;) {
        for (uint32_t t = 0; t < free_tiers; t++)
            now[t] = value[t][at[t]];
        cascade_run(d, now, &r);
        bool fits = budget > 0 ? r.cost <= budget : r.accuracy >= least;
        bool better = budget > 0 && fits
                          ? r.accuracy > best.accuracy ||
                                (r.accuracy >= best.accuracy && r.cost < best.cost)
                          : r.cost < best.cost;
        if ((fits && !best_fits) || (fits == best_fits && better)) {
            best = r, best_fits = fits;
            memcpy(threshold, now, free_tiers * sizeof(*now));
        }
        uint32_t t = 0;
        while (t < free_tiers && ++at[t] == n[t])
            at[t++] = 0;
        if (t == free_tiers)
            return OM_OK;
    }
}
