/* test_private.c - private federated averaging: what a client can do to the result, the
 * noise that hides it, the budget that ends it, and an audit that tries to see through it.
 */
#include "fl/privacy/accountant.h"
#include "fl/privacy/factor.h"
#include "fl/privacy/privacy.h"
#include "fl/oracle/quadratic.h"
#include "sim/sim.h"
#include "test.h"

enum { DIM = 30, CLIENTS = 40 };

static const quadratic_config bowl = {
    .dim = DIM, .n_clients = CLIENTS, .mu = 0.2, .smooth = 1, .heterogeneity = 0.3,
    .seed = 3};
static const float start[DIM] = {1, 2, 3};

static om_status client_of(void *ctx, uint32_t client, int worker, fl_oracle *out,
                           om_err *err)
{
    (void)worker, (void)err;
    quadratic_oracle(ctx, client, out);
    return OM_OK;
}

static sim_config config_of(test *t, quadratic *q, const kern *k, double noise, double clip)
{
    sim_config c = {.dim = DIM,
                    .n_clients = CLIENTS,
                    .cohort = CLIENTS,
                    .asked = CLIENTS,
                    .min = 1,
                    .seed = 8,
                    .k = k,
                    .ctx = q,
                    .make_oracle = client_of};
    om_err err = {0};
    CHECK_OK(t,
             fl_recipe_of(STR("fedavg"), STR("batch=0,local_steps=3,lr=0.3,weights=equal"),
                          STR("identity"), STR(""), &c.recipe, &err),
             err);
    privacy_rule *p = &c.recipe.privacy;
    param_defaults(privacy_params, p->p);
    p->on = noise > 0;
    p->p[PRIVACY_NOISE] = noise;
    p->p[PRIVACY_CLIP] = clip;
    return c;
}

static void rounds(test *t, const sim_config *c, int n, float *x)
{
    om_err err = {0};
    sim *s;
    sim_row row;
    CHECK_OK(t, sim_open(c, start, &s, &err), err);
    for (int i = 0; i < n; i++)
        CHECK_OK(t, sim_round(s, &row, &err), err);
    memcpy(x, sim_model(s), DIM * sizeof(float));
    sim_close(s);
}

/* Hardly any noise and no clipping: federated averaging. */
static void plain(test *t)
{
    om_err err = {0};
    quadratic *q;
    kern k;
    float a[DIM], b[DIM], many[DIM];
    kern_init(&k, 0);
    CHECK_OK(t, quadratic_open(&bowl, &q, &err), err);
    sim_config c = config_of(t, q, &k, 0, 1);
    rounds(t, &c, 10, a);
    c = config_of(t, q, &k, 1e-6, 20);
    rounds(t, &c, 10, b);
    for (int i = 0; i < DIM; i++)
        CHECK_NEAR(t, b[i], a[i], 2e-4);
    c = config_of(t, q, &k, 1, 1); /* and with noise, the same bits on three threads */
    rounds(t, &c, 4, b);
    CHECK_OK(t, pool_open(3, &c.pool, &err), err);
    rounds(t, &c, 4, many);
    CHECK(t, memcmp(b, many, sizeof(b)) == 0);
    pool_close(c.pool);
    quadratic_close(q);
}

/* One round by hand: updates in, the noisy mean out. */
typedef struct {
    privacy_rule r;
    privacy_ledger l;
    char *room, *past;
    size_t d;
} hand;

static void hand_open(hand *h, size_t d, double noise, double clip)
{
    *h = (hand){.d = d, .room = mem_alloc(privacy_bytes(d))};
    param_defaults(privacy_params, h->r.p);
    h->r.on = true;
    h->r.p[PRIVACY_NOISE] = noise;
    h->r.p[PRIVACY_CLIP] = clip;
    privacy_begin(h->room, d);
}

static void release(test *t, hand *h, uint32_t wanted, uint32_t round, float *out)
{
    om_err err = {0};
    CHECK_OK(t, privacy_release(&h->r, &h->l, h->room, h->past, h->d, wanted, 1, round, out,
                             &err),
             err);
    privacy_begin(h->room, h->d);
}

static void noise_and_clip(test *t)
{
    enum { D = 20000 };
    float *out = mem_array(D, sizeof(float));
    double sum = 0, square = 0, want = 0.7 * 2 / 10;
    hand h;
    hand_open(&h, D, 0.7, 2);
    release(t, &h, 10, 0, out); /* nobody came: noise alone, and it counts */
    for (int i = 0; i < D; i++)
        sum += (double)out[i], square += (double)out[i] * (double)out[i];
    CHECK_NEAR(t, sum / D, 0, 5 * want / sqrt(D));
    CHECK_NEAR(t, sqrt(square / D), want, 5 * want / sqrt(2.0 * D));
    CHECK_INT(t, h.l.released, 1);
    mem_free(h.room);
    hand_open(&h, D, 1e-6, 2);
    privacy_update(h.room, D)[5] = -1e9f; /* whatever a client sends, C is its reach */
    privacy_add(&h.r, &h.l, h.room, D);
    CHECK(t, privacy_update(h.room, D)[5] == 0);
    privacy_update(h.room, D)[6] = 1.5f;
    privacy_add(&h.r, &h.l, h.room, D);
    release(t, &h, 10, 1, out);
    CHECK_NEAR(t, out[5], -0.2, 1e-5);
    CHECK_NEAR(t, out[6], 0.15, 1e-5);
    mem_free(h.room), mem_free(out);
}

/* Lengths 0.1, 0.2 .. 4.0: C goes to their median. */
static void quantile(test *t)
{
    float out[4];
    hand h;
    hand_open(&h, 4, 0.5, 0.1);
    h.r.p[PRIVACY_QUANTILE] = 0.5;
    for (uint32_t round = 0; round < 100; round++) {
        for (int i = 1; i <= 40; i++) {
            privacy_update(h.room, 4)[0] = 0.1f * (float)i;
            privacy_add(&h.r, &h.l, h.room, 4);
        }
        release(t, &h, 40, round, out);
    }
    CHECK(t, h.l.clip > 1.4 && h.l.clip < 2.7);
    mem_free(h.room);
}

static void budget(test *t)
{
    om_err err = {0};
    quadratic *q;
    kern k;
    sim *s;
    sim_row row;
    char path[300];
    float x[DIM];
    kern_init(&k, 0);
    CHECK_OK(t, quadratic_open(&bowl, &q, &err), err);
    sim_config c = config_of(t, q, &k, 1, 1);
    c.recipe.privacy.most = 3;
    snprintf(path, sizeof(path), "%s/private.sim", test_temp_dir());
    CHECK_OK(t, sim_open(&c, start, &s, &err), err);
    CHECK_OK(t, sim_round(s, &row, &err), err);
    CHECK_OK(t, sim_round(s, &row, &err), err);
    CHECK_OK(t, sim_save(s, path, &err), err);
    sim_close(s);
    CHECK_OK(t, sim_open(&c, start, &s, &err), err); /* a restart forgets nothing */
    CHECK_OK(t, sim_load(s, path, &err), err);
    CHECK_OK(t, sim_round(s, &row, &err), err);
    memcpy(x, sim_model(s), sizeof(x));
    CHECK(t, sim_round(s, &row, &err) == OM_ELIMIT);
    CHECK(t, strstr(err.msg, "spent after 3 rounds") != NULL);
    CHECK(t, memcmp(x, sim_model(s), sizeof(x)) == 0);
    sim_close(s);
    quadratic_close(q);
}

static void settled(test *t)
{
    om_err err = {0};
    double e;
    privacy_rule r = {.on = true};
    param_defaults(privacy_params, r.p);
    r.p[PRIVACY_SAMPLING] = SAMPLING_POISSON;
    CHECK_NEAR(t, privacy_rate(&r, 10, 200), 0.05, 1e-15);
    CHECK_OK(t, privacy_settle(&r, 10, 200, 50, &err), err); /* finds the noise */
    CHECK_OK(t, privacy_spent(&r, 10, 200, 50, &e, &err), err);
    CHECK(t, e <= 8 && e > 7.9 && r.most >= 50);
    CHECK(t, privacy_settle(&r, 10, 200, 100, &err) == OM_EREFUSED);
    r.p[PRIVACY_NOISE] = r.p[PRIVACY_EPSILON] = 0;
    CHECK(t, privacy_settle(&r, 10, 200, 50, &err) == OM_EARG);
}

/* Clients that join by coins are a cohort on average, and never a fixed number. */
static void coin_cohorts(test *t)
{
    om_err err = {0};
    quadratic *q;
    kern k;
    sim *s;
    sim_row row;
    uint32_t total = 0, least = CLIENTS, most = 0;
    kern_init(&k, 0);
    CHECK_OK(t, quadratic_open(&bowl, &q, &err), err);
    sim_config c = config_of(t, q, &k, 1, 1);
    c.cohort = c.asked = 10;
    c.recipe.privacy.p[PRIVACY_SAMPLING] = SAMPLING_POISSON;
    CHECK_OK(t, sim_open(&c, start, &s, &err), err);
    for (int i = 0; i < 200; i++) {
        CHECK_OK(t, sim_round(s, &row, &err), err);
        total += row.received;
        least = row.received < least ? row.received : least;
        most = row.received > most ? row.received : most;
    }
    CHECK_NEAR(t, total / 200.0, 10, 5 * sqrt(7.5 / 200));
    CHECK(t, least < 6 && most > 14);
    sim_close(s);
    quadratic_close(q);
}

/* ---- other noises ---- */

static double mean_square(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum / (double)n;
}

/* Skellam and shares of the discrete Gaussian: the deviation that z asks for, over an
 * empty round; and one client's reach. */
static void grids(test *t)
{
    enum { D = 1500 };
    static const int mechanism[] = {MECHANISM_SKELLAM, MECHANISM_DDGAUSS};
    float out[D];
    for (size_t i = 0; i < countof(mechanism); i++) {
        hand h;
        double want = 0.7 * 2 / 10; /* a coarse grid's reach is a little longer than C */
        hand_open(&h, D, 0.7, 2);
        h.r.p[PRIVACY_MECHANISM] = mechanism[i];
        release(t, &h, 10, 0, out);
        CHECK(t, mean_square(out, D) > want * want * (1 - 5 * sqrt(2.0 / D)));
        CHECK(t, mean_square(out, D) < 1.15 * want * want * (1 + 5 * sqrt(2.0 / D)));
        mem_free(h.room);
        hand_open(&h, D, 0.01, 2);
        h.r.p[PRIVACY_MECHANISM] = mechanism[i];
        privacy_update(h.room, D)[5] = -1e9f;
        privacy_add(&h.r, &h.l, h.room, D);
        release(t, &h, 10, 1, out);
        CHECK_NEAR(t, out[5], -0.2, 0.02);
        mem_free(h.room);
    }
}

/* The noise of the sum of all rounds so far, over the noise of one: for a tree the nodes
 * of a binary decomposition, finished cycles included; for a factor its published error. */
static void prefixes(test *t)
{
    enum { D = 3000, TURN = 6, T = 15 };
    static const double nodes[TURN + 1] = {0, 1, 1, 2, 1, 2, 2}; /* ones of 0 .. 6 */
    float out[D], sum[D];
    double c[TURN], worst, mean, scratch[2 * T], before = 0;
    factor_sqrt(TURN, true, c);
    for (int m = MECHANISM_TREE; m <= MECHANISM_BANDED; m++) {
        hand h;
        hand_open(&h, D, 2, 1);
        h.r.p[PRIVACY_MECHANISM] = m;
        h.r.p[PRIVACY_SAMPLING] = SAMPLING_CYCLE;
        h.r.turn = TURN;
        h.past = mem_alloc(privacy_past_bytes(&h.r, D) + 1);
        memset(sum, 0, sizeof(sum));
        for (uint32_t round = 0; round < T; round++) {
            double want, one = 2.0 * 2.0 / 100;
            release(t, &h, 10, round, out);
            for (int i = 0; i < D; i++)
                sum[i] += out[i];
            want = nodes[TURN] * ((round + 1) / TURN) + nodes[(round + 1) % TURN];
            if (m == MECHANISM_BANDED) {
                factor_error(c, TURN, round + 1, 1, &worst, &mean, scratch);
                want = worst;
            }
            CHECK_NEAR(t, mean_square(sum, D) / one, want, 5 * want * sqrt(2.0 / D));
            CHECK(t, m == MECHANISM_TREE || want < round + 1.0 || round < 2);
            before = want;
        }
        CHECK(t, before < T); /* independent noise would have added up to T */
        CHECK_INT(t, h.l.released, T);
        mem_free(h.room), mem_free(h.past);
    }
}

/* Turns: everyone once, then everyone again in the same order; and what they cost. */
static void turns(test *t)
{
    om_err err = {0};
    uint8_t seen[23] = {0};
    double e, want;
    for (uint32_t round = 0; round < 14; round++)
        for (uint32_t i = 0; i < 3; i++) {
            uint32_t c = privacy_in_turn(9, round, 3, 23, i);
            CHECK_INT(t, seen[c]++, round / 7);
            CHECK_INT(t, c, privacy_in_turn(9, round + 7, 3, 23, i));
        }
    privacy_rule r = {.on = true};
    param_defaults(privacy_params, r.p);
    r.p[PRIVACY_SAMPLING] = SAMPLING_CYCLE;
    r.p[PRIVACY_NOISE] = 4;
    for (int m = MECHANISM_GAUSSIAN; m <= MECHANISM_BANDED; m++) {
        r.p[PRIVACY_MECHANISM] = m;
        CHECK_OK(t, privacy_spent(&r, 10, 200, 50, &e, &err), err); /* three turns of 20 */
        CHECK_OK(t, pld_epsilon(1, 4, m == MECHANISM_TREE ? 15 : 3, 1e-5, &want, &err), err);
        if (m == MECHANISM_SKELLAM)
            CHECK(t, e > want && e < 1.2 * want);
        else
            CHECK_NEAR(t, e, want, 1e-9);
    }
    r.p[PRIVACY_MECHANISM] = MECHANISM_TREE; /* published by Renyi divergence: 3.6171 */
    CHECK_OK(t, privacy_spent(&r, 1, 1000, 1000, &e, &err), err);
    CHECK(t, e <= 3.6170997730 && e > 3.0);
    CHECK_OK(t, privacy_settle(&r, 10, 200, 60, &err), err);
    CHECK(t, r.most == 60 && r.turn == 20);
    r.p[PRIVACY_SAMPLING] = SAMPLING_EVERYONE;
    CHECK(t, privacy_settle(&r, 10, 200, 60, &err) == OM_EARG);
    CHECK(t, strstr(err.msg, "sampling to cycle") != NULL);
    r.p[PRIVACY_MECHANISM] = MECHANISM_SKELLAM;
    r.p[PRIVACY_NOISE] = 0;
    CHECK_OK(t, privacy_settle(&r, 10, 200, 20, &err), err);
    CHECK_OK(t, privacy_spent(&r, 10, 200, 20, &e, &err), err);
    CHECK(t, e <= 8 && e > 7.9 && r.most == 20);
}

/* A simulation of each, cut in two by a checkpoint: the same bits as in one piece. */
static void resumed(test *t)
{
    om_err err = {0};
    quadratic *q;
    kern k;
    char path[300];
    kern_init(&k, 0);
    CHECK_OK(t, quadratic_open(&bowl, &q, &err), err);
    snprintf(path, sizeof(path), "%s/noisy.sim", test_temp_dir());
    for (int m = MECHANISM_SKELLAM; m <= MECHANISM_BANDED; m++) {
        sim_config c = config_of(t, q, &k, 1, 1);
        sim *s, *again;
        sim_row row;
        c.cohort = c.asked = 10;
        c.recipe.privacy.p[PRIVACY_MECHANISM] = m;
        c.recipe.privacy.p[PRIVACY_EPSILON] = 0;
        c.recipe.privacy.p[PRIVACY_SAMPLING] =
            m >= MECHANISM_TREE ? SAMPLING_CYCLE : SAMPLING_EVERYONE;
        CHECK_OK(t, fl_recipe_private(&c.recipe, 10, CLIENTS, 6, &err), err);
        CHECK_INT(t, c.recipe.privacy.turn, m >= MECHANISM_TREE ? 4 : 1);
        c.recipe.privacy.most = 7;
        CHECK_OK(t, sim_open(&c, start, &s, &err), err);
        CHECK_OK(t, sim_open(&c, start, &again, &err), err);
        for (int i = 0; i < 7; i++) {
            if (i == 5)
                CHECK_OK(t, sim_save(s, path, &err), err);
            CHECK_OK(t, sim_round(s, &row, &err), err);
            CHECK_INT(t, row.received, 10);
        }
        CHECK_OK(t, sim_load(again, path, &err), err);
        CHECK_OK(t, sim_round(again, &row, &err), err);
        CHECK_OK(t, sim_round(again, &row, &err), err);
        CHECK(t, memcmp(sim_model(s), sim_model(again), sizeof(start)) == 0);
        CHECK(t, sim_round(again, &row, &err) == OM_ELIMIT); /* spent, resumed or not */
        sim_close(s), sim_close(again);
    }
    quadratic_close(q);
}

/* ---- examples ---- */

/* Every example, hardly any noise, no clipping: gradient descent.  A rate that draws
 * nobody: noise of the right length.  A spent budget ends the run. */
static void examples(test *t)
{
    om_err err = {0};
    quadratic *q;
    kern k;
    sim *s;
    sim_row row;
    float a[DIM], b[DIM], many[DIM];
    double e, want;
    kern_init(&k, 0);
    CHECK_OK(t, quadratic_open(&bowl, &q, &err), err);
    sim_config c = config_of(t, q, &k, 0, 1);
    rounds(t, &c, 8, a);
    c = config_of(t, q, &k, 1e-5, 50);
    c.recipe.privacy.p[PRIVACY_UNIT] = UNIT_EXAMPLE;
    c.recipe.privacy.p[PRIVACY_EXAMPLE_RATE] = 1;
    rounds(t, &c, 8, b);
    for (int i = 0; i < DIM; i++)
        CHECK_NEAR(t, b[i], a[i], 2e-3);
    c.recipe.privacy.p[PRIVACY_NOISE] = 1;
    c.recipe.privacy.p[PRIVACY_CLIP] = 1;
    c.recipe.privacy.p[PRIVACY_EXAMPLE_RATE] = 0.1;
    rounds(t, &c, 3, b);
    CHECK_OK(t, pool_open(3, &c.pool, &err), err);
    rounds(t, &c, 3, many);
    CHECK(t, memcmp(b, many, sizeof(b)) == 0);
    pool_close(c.pool), c.pool = NULL;
    c.recipe.privacy.p[PRIVACY_EPSILON] = 0;
    CHECK_OK(t, fl_recipe_private(&c.recipe, CLIENTS, CLIENTS, 5, &err), err);
    CHECK_INT(t, c.recipe.privacy.steps, 3);
    CHECK_OK(t, privacy_spent(&c.recipe.privacy, CLIENTS, CLIENTS, 5, &e, &err), err);
    CHECK_OK(t, pld_epsilon(0.1, 1, 15, 1e-5, &want, &err), err);
    CHECK_NEAR(t, e, want, 1e-12);
    c.recipe.privacy.most = 2;
    CHECK_OK(t, sim_open(&c, start, &s, &err), err);
    CHECK_OK(t, sim_round(s, &row, &err), err);
    CHECK_OK(t, sim_round(s, &row, &err), err);
    CHECK(t, sim_round(s, &row, &err) == OM_ELIMIT);
    sim_close(s);
    /* the noise stays at home, so a robust rule may follow; the server's may not */
    CHECK_OK(t, fl_recipe_robust(&c.recipe, STR("median"), STR(""), &err), err);
    c.recipe.privacy.p[PRIVACY_UNIT] = UNIT_CLIENT;
    CHECK(t, fl_recipe_check(&c.recipe, &err) == OM_EARG);
    quadratic_close(q);
}

static void empty_steps(test *t)
{
    enum { D = 3000 };
    float out[D];
    om_err err = {0};
    hand h;
    hand_open(&h, D, 1.5, 2);
    privacy_step s = privacy_step_of(&h.r, 1, 2, 3, 4);
    CHECK_OK(t, privacy_step_mean(&h.r, &s, h.room, D, 20, out, &err), err);
    double want = 1.5 * 2 / 20;
    CHECK_NEAR(t, sqrt(mean_square(out, D)), want, 5 * want / sqrt(2.0 * D));
    h.r.p[PRIVACY_EXAMPLE_RATE] = 0.2;
    int n = 0;
    for (int i = 0; i < 20000; i++)
        n += privacy_drawn(&h.r, &s);
    CHECK_NEAR(t, n / 20000.0, 0.2, 5 * sqrt(0.16 / 20000));
    mem_free(h.room);
}

/* Clip21, private: the noise goes over messages of bounded length, and the run ends. */
static void clip21(test *t)
{
    om_err err = {0};
    quadratic *q;
    kern k;
    sim *s;
    sim_row row;
    float a[DIM], b[DIM];
    kern_init(&k, 0);
    CHECK_OK(t, quadratic_open(&bowl, &q, &err), err);
    for (int noisy = 0; noisy < 2; noisy++) {
        sim_config c = config_of(t, q, &k, noisy ? 1e-5 : 0, 0.5);
        privacy_rule p = c.recipe.privacy;
        CHECK_OK(t,
                 fl_recipe_of(STR("clip21"), STR("lr=0.5,tau=0.5"), STR("identity"),
                              STR(""), &c.recipe, &err),
                 err);
        c.recipe.privacy = p;
        CHECK_OK(t, fl_recipe_check(&c.recipe, &err), err);
        rounds(t, &c, 12, noisy ? b : a);
    }
    for (int i = 0; i < DIM; i++)
        CHECK_NEAR(t, a[i], b[i], 1e-3); /* max_grad_norm is tau */
    sim_config c = config_of(t, q, &k, 1, 0.5);
    privacy_rule p = c.recipe.privacy;
    CHECK_OK(t, fl_recipe_of(STR("clip21"), STR("lr=0.1"), STR("identity"), STR(""),
                             &c.recipe, &err), err);
    c.recipe.privacy = p;
    c.recipe.privacy.most = 1;
    CHECK_OK(t, sim_open(&c, start, &s, &err), err);
    CHECK_OK(t, sim_round(s, &row, &err), err);
    CHECK(t, sim_round(s, &row, &err) == OM_ELIMIT);
    sim_close(s);
    quadratic_close(q);
}

/* ---- the audit ---- */

/* P(Binomial(n, p) >= k) */
static double at_least(int n, double p, int k)
{
    double sum = 0;
    for (int i = k; i <= n; i++)
        sum += exp(lgamma(n + 1.0) - lgamma(i + 1.0) - lgamma(n - i + 1.0) + i * log(p) +
                   (n - i) * log1p(-p));
    return sum;
}

/* The largest epsilon that `right` of `guesses` refute at 95 % (Steinke, Nasr, Jagielski,
 * NeurIPS 2023); what delta could add to m canaries is counted as a breach. */
static double refuted(int guesses, int right, int m, double delta)
{
    double e = 0;
    while (at_least(guesses, exp(e) / (1 + exp(e)), right) + 2 * m * delta < 0.05)
        e += 0.01;
    return e;
}

static int by_value(const void *a, const void *b)
{
    const float *x = *(const float *const *)a, *y = *(const float *const *)b;
    return (*x > *y) - (*x < *y);
}

/* One run, 1000 canaries, each a client with a direction of its own, there or not by a
 * fair coin; the auditor sees the release and names the 100 surest of either kind. */
static double audit(test *t, int mechanism, double noise, double delta)
{
    enum { M = 1000, R = 100, TURN = 4 };
    float out[M], next[M], *order[M];
    uint8_t in[M];
    hand h;
    rng coin = {.key = 11, .ctr = 0};
    int right = 0;
    hand_open(&h, M, noise, 1);
    h.r.p[PRIVACY_MECHANISM] = mechanism;
    h.r.turn = mechanism >= MECHANISM_TREE ? TURN : 1;
    h.past = mem_alloc(privacy_past_bytes(&h.r, M) + 1);
    for (size_t i = 0; i < M; i++) {
        in[i] = rng_unit(&coin) < 0.5;
        order[i] = &out[i];
        if (!in[i])
            continue;
        privacy_update(h.room, M)[i] = 1;
        privacy_add(&h.r, &h.l, h.room, M);
    }
    release(t, &h, 1, 0, out);
    for (uint32_t round = 1; round < h.r.turn; round++) { /* the model is a sum of rounds */
        release(t, &h, 1, round, next);
        for (size_t i = 0; i < M; i++)
            out[i] += next[i];
    }
    qsort(order, M, sizeof(*order), by_value);
    for (size_t i = 0; i < R; i++)
        right += !in[order[i] - out] + in[order[M - 1 - i] - out];
    mem_free(h.room), mem_free(h.past);
    return refuted(2 * R, right, M, delta);
}

static void audited(test *t)
{
    static const double noise[] = {0.3, 0.5, 1, 2, 4};
    double delta = 1e-6, bound[countof(noise)];
    om_err err = {0};
    for (size_t i = 0; i < countof(noise); i++) {
        double claimed;
        CHECK_OK(t, pld_epsilon(1, noise[i], 1, delta, &claimed, &err), err);
        bound[i] = audit(t, MECHANISM_GAUSSIAN, noise[i], delta);
        CHECK(t, bound[i] <= claimed);
    }
    CHECK(t, bound[0] > 2); /* the audit has teeth where there is little noise */
    CHECK(t, bound[4] < 1.5);
    for (int m = MECHANISM_SKELLAM; m <= MECHANISM_BANDED; m++)
        for (size_t i = 1; i < countof(noise); i += 2) {
            privacy_rule r = {.on = true};
            double claimed;
            param_defaults(privacy_params, r.p);
            r.p[PRIVACY_MECHANISM] = m;
            r.p[PRIVACY_NOISE] = noise[i];
            r.p[PRIVACY_DELTA] = delta;
            r.p[PRIVACY_SAMPLING] = m >= MECHANISM_TREE ? SAMPLING_CYCLE : SAMPLING_EVERYONE;
            CHECK_OK(t, privacy_spent(&r, 1, 4, 1, &claimed, &err), err);
            double found = audit(t, m, noise[i], delta);
            CHECK(t, found <= claimed);
            CHECK(t, i > 1 || found > 0.5);
        }
}

/* The same for the examples of one noisy step, drawn at a rate of a half. */
static void audited_examples(test *t)
{
    enum { M = 1000, R = 100 };
    static const double noise[] = {0.3, 1};
    for (size_t k = 0; k < countof(noise); k++) {
        float out[M], *order[M];
        uint8_t in[M];
        hand h;
        om_err err = {0};
        rng coin = {.key = 12, .ctr = 0};
        double claimed, delta = 1e-6;
        int right = 0;
        hand_open(&h, M, noise[k], 1);
        h.r.p[PRIVACY_EXAMPLE_RATE] = 0.5;
        privacy_step s = privacy_step_of(&h.r, 5, 0, 0, 0);
        for (size_t i = 0; i < M; i++) {
            in[i] = rng_unit(&coin) < 0.5;
            order[i] = &out[i];
            if (!in[i] || !privacy_drawn(&h.r, &s))
                continue;
            privacy_update(h.room, M)[i] = 1;
            privacy_add(&h.r, &h.l, h.room, M);
        }
        CHECK_OK(t, privacy_step_mean(&h.r, &s, h.room, M, 250, out, &err), err);
        qsort(order, M, sizeof(*order), by_value);
        for (size_t i = 0; i < R; i++)
            right += !in[order[i] - out] + in[order[M - 1 - i] - out];
        CHECK_OK(t, pld_epsilon(0.5, noise[k], 1, delta, &claimed, &err), err);
        double found = refuted(2 * R, right, M, delta);
        CHECK(t, found <= claimed && (k > 0 || found > 0.3));
        mem_free(h.room);
    }
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"plain", "without noise and clipping it is federated averaging", plain},
        {"noise_and_clip", "noise of z C / cohort; a client reaches no farther than C",
         noise_and_clip},
        {"quantile", "the clipping length finds the quantile", quantile},
        {"budget", "a spent budget ends the run, across a restart too", budget},
        {"settled", "noise is found for a budget, too many rounds are refused", settled},
        {"coin_cohorts", "Poisson cohorts have the right mean and vary", coin_cohorts},
        {"grids", "Skellam and shared noise have the deviation asked for", grids},
        {"prefixes", "correlated noise adds up as little as it should", prefixes},
        {"turns", "clients take turns, and pay for those alone", turns},
        {"resumed", "every noise survives a restart to the bit, and its budget too", resumed},
        {"examples", "DP-SGD at the clients: exact cases, cost, budget", examples},
        {"empty_steps", "a step without examples is noise", empty_steps},
        {"clip21", "Clip21 with noise, and its budget", clip21},
        {"audited_examples", "a canary audit of noisy steps", audited_examples},
        {"audited", "one-run canary audits stay below the claimed epsilon", audited},
        {0}};
    return test_main(argc, argv, cases);
}
