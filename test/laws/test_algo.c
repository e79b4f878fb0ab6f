/* test_algo.c - laws of every federated algorithm in the table, on heterogeneous
 * quadratics with a known optimum, driven by a plain loop in one thread. */
#include "fl_loop.h"

/* ---- the oracle itself ---- */

static void oracle(test *t)
{
    quadratic *q;
    om_err err = {0};
    float x[DIM], g[DIM], hv[DIM], w[DIM], best[DIM], moved[DIM];
    double loss, up, dn, full[DIM];
    CHECK_OK(t, quadratic_open(&unlike, &q, &err), err);
    rng r = rng_for(1, 1, 1, 1);
    for (int i = 0; i < DIM; i++) {
        x[i] = (float)rng_normal(&r);
        w[i] = (float)rng_normal(&r);
    }
    fl_oracle f;
    quadratic_oracle(q, 3, &f);
    CHECK_OK(t, f.grad(f.ctx, x, g, &loss, &err), err);
    double along = 0, curve = 0;
    CHECK_OK(t, f.hvp(f.ctx, x, w, hv, &err), err);
    for (int i = 0; i < DIM; i++) {
        along += (double)g[i] * (double)w[i];
        curve += (double)hv[i] * (double)w[i];
    }
    /* A quadratic's central difference is exact: f(x+hw) - f(x-hw) = 2 h g'w. */
    for (int i = 0; i < DIM; i++)
        moved[i] = x[i] + 0.5f * w[i];
    CHECK_OK(t, f.value(f.ctx, moved, &up, &err), err);
    for (int i = 0; i < DIM; i++)
        moved[i] = x[i] - 0.5f * w[i];
    CHECK_OK(t, f.value(f.ctx, moved, &dn, &err), err);
    CHECK_NEAR(t, up - dn, along, 1e-4 * fabs(along) + 1e-4);
    CHECK_NEAR(t, up + dn - 2 * loss, 0.25 * curve, 1e-4 * curve);
    quadratic_optimum(q, best);
    quadratic_mean(q, best, full);
    for (int i = 0; i < DIM; i++)
        CHECK_NEAR(t, full[i], 0, 1e-6);
    CHECK(t, quadratic_mean(q, x, NULL) > quadratic_mean(q, best, NULL));
    quadratic_close(q);
}

/* ---- laws of every row ---- */

static void converges(test *t)
{
    for (size_t a = 0; fl_algos[a]; a++) {
        bool tried = fl_algos[a]->flags & FL_SCORES; /* in test_objectives.c */
        for (size_t i = 0; i < countof(settings); i++)
            tried |= strcmp(settings[i].algo, fl_algos[a]->name) == 0;
        if (!tried)
            test_fail(t, __FILE__, __LINE__, "%s is not tried", fl_algos[a]->name);
    }
    for (size_t i = 0; i < countof(settings); i++) {
        const loop_setting *s = &settings[i];
        loop l;
        loop_open_setting(t, &l, s);
        CHECK(t, gap(&l) > 1);
        rounds(t, &l, s->rounds);
        if (!(gap(&l) < s->tolerance))
            test_fail(t, __FILE__, __LINE__, "%s %s with %s %s: gap %g after %u rounds",
                      s->algo, s->params, s->codec, s->codec_params, gap(&l), s->rounds);
        loop_close(&l);
    }
}

/* Any order of the clients' computation gives the same bits. */
static void any_order(test *t)
{
    static const uint32_t perm[N] = {7, 2, 9, 0, 4, 1, 8, 3, 6, 5};
    for (size_t i = 0; i < countof(settings); i++) {
        loop l, m;
        loop_open_setting(t, &l, &settings[i]);
        loop_open_setting(t, &m, &settings[i]);
        for (int k = 0; k < 5; k++) {
            round_of(t, &l, NULL);
            round_of(t, &m, perm);
        }
        CHECK(t, memcmp(model(&l), model(&m), sizeof(float) * DIM) == 0);
        CHECK(t, memcmp(l.clients, m.clients, N * l.client_stride) == 0);
        loop_close(&l), loop_close(&m);
    }
}

/* Server and client bytes moved to new memory continue to the same bits. */
static void save_restore(test *t)
{
    for (size_t i = 0; i < countof(settings); i++) {
        loop l, m;
        loop_open_setting(t, &l, &settings[i]);
        loop_open_setting(t, &m, &settings[i]);
        rounds(t, &l, 4);
        size_t n = l.r.algo->server_bytes(&l.e);
        memcpy(m.server, l.server, n);
        memcpy(m.clients, l.clients, N * l.client_stride);
        m.e.round = l.e.round;
        rounds(t, &l, 4), rounds(t, &m, 4);
        CHECK(t, memcmp(l.server, m.server, n) == 0);
        CHECK(t, memcmp(l.clients, m.clients, N * l.client_stride) == 0);
        loop_close(&l), loop_close(&m);
    }
}

/* The first message of a client of a fresh federation. */
static buf message_of(test *t, loop *l, uint32_t id, const buf *down)
{
    buf up = buf_growing(1 << 20);
    om_err err = {0};
    fl_oracle f;
    quadratic_oracle(l->q, id, &f);
    CHECK_OK(t,
             l->r.algo->client_step(&l->e, id, l->clients + id * l->client_stride, &f,
                                    down->data, down->len, &up, NULL, scratch(l), &err),
             err);
    return up;
}

static bool refused(loop *l, uint32_t id, uint64_t samples, const uint8_t *up, size_t n)
{
    om_err err = {0};
    uint8_t *exact = mem_alloc(n); /* so that a sanitizer sees an overread */
    memcpy(exact, up, n);
    om_status s =
        l->r.algo->server_recv(&l->e, l->server, id, samples, exact, n, scratch(l), &err);
    mem_free(exact);
    return s != OM_OK && err.msg[0];
}

/* A refused message leaves the server byte for byte as it was; server_check refuses what
 * server_recv refuses for its form. */
static void refusals(test *t)
{
    for (size_t s = 0; s < countof(settings); s++) {
        loop l;
        om_err err = {0};
        buf down = buf_growing(1 << 20);
        static const float bad[] = {NAN, INFINITY, -INFINITY};
        float zeros[DIM] = {0};
        if (strcmp(settings[s].codec, "identity") !=
            0) /* the codecs have laws of their own */
            continue;
        loop_open_setting(t, &l, &settings[s]);
        size_t n = l.r.algo->server_bytes(&l.e);
        void *before = mem_alloc(n);
        CHECK_OK(t, l.r.algo->server_begin(&l.e, l.server, &down, &err), err);
        buf four = message_of(t, &l, 4, &down), five = message_of(t, &l, 5, &down);
        CHECK_OK(t,
                 l.r.algo->server_recv(&l.e, l.server, 4, 10, four.data, four.len,
                                       scratch(&l), &err),
                 err);
        memcpy(before, l.server, n);
        CHECK(t, refused(&l, 4, 10, four.data, four.len));
        CHECK(t, refused(&l, 3, 10, five.data, five.len));
        CHECK(t, refused(&l, N, 10, five.data, five.len));
        CHECK(t, refused(&l, 5, 0, five.data, five.len));
        CHECK(t, refused(&l, 5, UINT64_C(1) << 63, five.data, five.len));
        for (size_t k = 0; k < five.len; k++)
            CHECK(t, refused(&l, 5, 10, five.data, k));
        for (size_t k = 0; k < 3; k++) {
            buf wrong = buf_growing(1 << 20);
            CHECK_INT(t, buf_put(&wrong, five.data, five.len), OM_OK);
            memcpy(wrong.data + wrong.len - 4, &bad[k], 4);
            CHECK(t, refused(&l, 5, 10, wrong.data, wrong.len));
            CHECK(t, l.r.algo->server_check(&l.e, 5, 10, wrong.data, wrong.len, zeros,
                                            &err) != OM_OK);
            buf_free(&wrong);
        }
        CHECK(t, memcmp(before, l.server, n) == 0);
        CHECK_OK(t, l.r.algo->server_check(&l.e, 5, 10, five.data, five.len, zeros, &err),
                 err);
        for (int i = 0; i < DIM; i++)
            CHECK(t, zeros[i] == 0);
        /* Finite but absurd: the round fails, the model stands. */
        float was[DIM], huge = 3e38f;
        memcpy(was, model(&l), sizeof(was));
        memcpy(five.data + five.len - 4, &huge, 4);
        CHECK_OK(t,
                 l.r.algo->server_recv(&l.e, l.server, 5, 1000, five.data, five.len,
                                       scratch(&l), &err),
                 err);
        bool majority = strstr(settings[s].params, "majority") != NULL;
        om_status st = l.r.algo->server_close(&l.e, l.server, scratch(&l), &err);
        CHECK(t, st == OM_ELIMIT || (majority && st == OM_OK));
        CHECK(t, memcmp(was, model(&l), sizeof(was)) == 0 || majority);
        memset(l.clients, 0, N * l.client_stride);
        rounds(t, &l, 2); /* and the next works; a line search takes two */
        if (!memcmp(was, model(&l), sizeof(was)))
            test_fail(t, __FILE__, __LINE__, "%s does not go on", settings[s].algo);
        buf_free(&four), buf_free(&five), buf_free(&down);
        mem_free(before), loop_close(&l);
    }
}

/* A down message cut anywhere, or with a NaN, is refused by the client. */
static void hostile_down(test *t)
{
    for (size_t s = 0; s < countof(settings); s++) {
        loop l;
        om_err err = {0};
        fl_oracle f;
        buf down = buf_growing(1 << 20), up = buf_growing(1 << 20);
        loop_open_setting(t, &l, &settings[s]);
        const fl_algo *a = l.r.algo;
        quadratic_oracle(l.q, 0, &f);
        CHECK_OK(t, a->server_begin(&l.e, l.server, &down, &err), err);
        for (size_t n = 0; n < down.len; n++)
            CHECK(t, a->client_step(&l.e, 0, l.clients, &f, down.data, n, &up, NULL,
                                    scratch(&l), &err) == OM_EFORMAT);
        if (down.len >= 16) { /* all know where some methods begin */
            memset(down.data + 8, 0xff, 8);
            CHECK(t, a->client_step(&l.e, 0, l.clients, &f, down.data, down.len, &up, NULL,
                                    scratch(&l), &err) == OM_EFORMAT);
        }
        CHECK_INT(t, up.len, 0);
        buf_free(&down), buf_free(&up), loop_close(&l);
    }
}

/* ---- special cases ---- */

/* One full-gradient step, everybody, server_lr 1: gradient descent on the weighted f. */
static void fedavg_is_gd(test *t)
{
    loop l;
    double x[DIM] = {0}, g[DIM];
    loop_open(t, &l, &unlike, "fedavg", "batch=0,local_steps=1,lr=0.5", "identity", "");
    for (int k = 0; k < 30; k++) {
        float xf[DIM];
        for (int i = 0; i < DIM; i++)
            xf[i] = (float)x[i];
        quadratic_mean(l.q, xf, g);
        for (int i = 0; i < DIM; i++)
            x[i] -= 0.5 * g[i];
        round_of(t, &l, NULL);
        for (int i = 0; i < DIM; i++)
            CHECK_NEAR(t, model(&l)[i], x[i], 2e-5);
    }
    loop_close(&l);
}

static void fedprox_mu_zero(test *t)
{
    loop l, m;
    const char *p = "batch=8,local_epochs=2,lr=0.2";
    quadratic_config c = unlike;
    c.noise = 0.3;
    loop_open(t, &l, &c, "fedavg", p, "qsgd", "");
    loop_open(t, &m, &c, "fedprox", "batch=8,local_epochs=2,lr=0.2,mu=0", "qsgd", "");
    rounds(t, &l, 6), rounds(t, &m, 6);
    CHECK(t, memcmp(model(&l), model(&m), DIM * sizeof(float)) == 0);
    loop_close(&l), loop_close(&m);
}

/* Local optimizers: momentum 0 is sgd, every one reaches the neighbourhood. */
static void local_optimizers(test *t)
{
    static const char *const p[] = {"lr=0.1", "lr=0.1,local_optimizer=momentum,momentum=0",
                                    "lr=0.03,local_optimizer=momentum",
                                    "lr=0.02,local_optimizer=adamw", "lr=0.1,clip=1"};
    float first[DIM];
    for (size_t i = 0; i < countof(p); i++) {
        loop l;
        char params[100];
        snprintf(params, sizeof(params), "batch=0,local_steps=4,%s", p[i]);
        loop_open(t, &l, &unlike, "fedavg", params, "identity", "");
        double from = gap(&l);
        rounds(t, &l, 300);
        if (i == 0)
            memcpy(first, model(&l), sizeof(first));
        if (i == 1)
            CHECK(t, distance(first, model(&l)) < 1e-4);
        if (!(gap(&l) < 0.05 * from))
            test_fail(t, __FILE__, __LINE__, "%s: gap %g of %g", p[i], gap(&l), from);
        loop_close(&l);
    }
}

/* Local steps on unlike data: fedavg stops beside x*, nearer for a smaller lr; a pull
 * towards the server's model moves the fixed point nearer too. */
static void drift(test *t)
{
    loop big, small, prox;
    loop_open(t, &big, &unlike, "fedavg", "batch=0,local_steps=20,lr=0.5", "identity", "");
    loop_open(t, &small, &unlike, "fedavg", "batch=0,local_steps=20,lr=0.05", "identity",
              "");
    loop_open(t, &prox, &unlike, "fedprox", "batch=0,local_steps=20,lr=0.5,mu=1",
              "identity", "");
    rounds(t, &big, 300), rounds(t, &small, 300), rounds(t, &prox, 300);
    double floor = gap(&big);
    rounds(t, &big, 100);
    CHECK_NEAR(t, gap(&big), floor, 1e-4 * floor); /* a fixed point, and not x* */
    CHECK(t, floor > 1e-3);
    CHECK(t, gap(&small) < 0.5 * floor);
    CHECK(t, gap(&prox) < 0.5 * floor);
    loop_close(&big), loop_close(&small), loop_close(&prox);
}

static void alike_clients_need_no_server(test *t)
{
    quadratic_config c = unlike;
    loop l;
    fl_oracle f;
    om_err err = {0};
    float y[DIM] = {0}, g[DIM];
    c.heterogeneity = 0;
    loop_open(t, &l, &c, "fedavg", "batch=0,local_steps=5,lr=0.3", "identity", "");
    rounds(t, &l, 3);
    quadratic_oracle(l.q, 0, &f);
    for (int k = 0; k < 15; k++) {
        CHECK_OK(t, f.grad(f.ctx, y, g, NULL, &err), err);
        for (int i = 0; i < DIM; i++)
            y[i] -= 0.3f * g[i];
    }
    CHECK(t, distance(y, model(&l)) < 1e-5);
    loop_close(&l);
}

/* The formulas of Reddi et al. in double, from the round's mean update. */
static void fedopt_formulas(test *t)
{
    static const char *const rule[] = {"fedadam", "fedyogi", "fedadagrad"};
    for (int k = 0; k < 3; k++) {
        loop l, avg;
        double x[DIM] = {0}, m[DIM] = {0}, v[DIM];
        double b1 = k == 2 ? 0 : 0.9, b2 = 0.99, tau = 1e-3;
        const char *p = "batch=0,local_steps=1,lr=0.5,server_lr=0.03,v0=0";
        loop_open(t, &l, &unlike, rule[k], p, "identity", "");
        for (int i = 0; i < DIM; i++)
            v[i] = 0;
        for (int round = 0; round < 20; round++) {
            /* the mean update is what one round of fedavg from the same x gives */
            loop_open(t, &avg, &unlike, "fedavg", "batch=0,local_steps=1,lr=0.5",
                      "identity", "");
            om_err err = {0};
            CHECK_OK(t, avg.r.algo->server_open(&avg.e, avg.server, model(&l), &err), err);
            for (int i = 0; i < DIM; i++)
                x[i] = (double)model(&l)[i];
            round_of(t, &avg, NULL);
            round_of(t, &l, NULL);
            for (int i = 0; i < DIM; i++) {
                double d = (double)model(&avg)[i] - x[i], d2 = d * d;
                m[i] = b1 * m[i] + (1 - b1) * d;
                if (k == 0)
                    v[i] = b2 * v[i] + (1 - b2) * d2;
                else if (k == 1)
                    v[i] -= (1 - b2) * d2 * (v[i] > d2 ? 1 : v[i] < d2 ? -1 : 0);
                else
                    v[i] += d2;
                CHECK(t, v[i] >= 0);
                CHECK_NEAR(t, model(&l)[i], x[i] + 0.03 * m[i] / (sqrt(v[i]) + tau), 2e-5);
            }
            loop_close(&avg);
        }
        loop_close(&l);
    }
}

/* With v0 = 0 the first steps of Adam and Yogi are the same. */
static void adam_yogi_first_step(test *t)
{
    loop a, y;
    loop_open(t, &a, &unlike, "fedadam", "v0=0,batch=0", "identity", "");
    loop_open(t, &y, &unlike, "fedyogi", "v0=0,batch=0", "identity", "");
    rounds(t, &a, 1), rounds(t, &y, 1);
    CHECK(t, distance(model(&a), model(&y)) < 1e-6);
    rounds(t, &a, 10), rounds(t, &y, 10);
    CHECK(t, distance(model(&a), model(&y)) > 1e-6);
    loop_close(&a), loop_close(&y);
}

/* Top-K converges with error feedback and not without. */
static void error_feedback(test *t)
{
    loop with, without;
    loop_open(t, &with, &unlike, "fedavg", "batch=0,local_steps=1,lr=0.2", "topk",
              "ratio=0.1");
    loop_open(t, &without, &unlike, "fedavg",
              "batch=0,local_steps=1,lr=0.2,error_feedback=off", "topk", "ratio=0.1");
    CHECK(t, with.client_stride > 0 && without.client_stride == 0);
    rounds(t, &with, 1500), rounds(t, &without, 1500);
    if (!(gap(&with) < 0.05 && gap(&with) < 0.2 * gap(&without)))
        test_fail(t, __FILE__, __LINE__, "gap %g with, %g without", gap(&with),
                  gap(&without));
    loop_close(&with), loop_close(&without);
}

/* x_k - mean of the errors is what uncompressed descent with the same updates gives:
 * nothing that was cut off is lost. */
static void feedback_conserves(test *t)
{
    loop l;
    double sent[DIM] = {0}, moved;
    quadratic_config c = unlike;
    c.uneven = false;
    loop_open(t, &l, &c, "fedavg", "batch=0,local_steps=1,lr=0.2", "topk", "ratio=0.1");
    for (int k = 0; k < 50; k++) {
        double g[DIM];
        quadratic_mean(l.q, model(&l), g);
        for (int i = 0; i < DIM; i++)
            sent[i] -= 0.2 * g[i];
        round_of(t, &l, NULL);
        for (int i = 0; i < DIM; i++) {
            moved = (double)model(&l)[i];
            for (uint32_t q = 0; q < N; q++)
                moved += (double)((const float *)(l.clients + q * l.client_stride))[i] / N;
            CHECK_NEAR(t, moved, sent[i], 5e-5);
        }
    }
    loop_close(&l);
}

/* Unbiased codecs converge to a neighbourhood; bytes are the codec's. */
static void unbiased_codecs(test *t)
{
    static const char *const name[][2] = {{"qsgd", "bits=8"}, {"randk", "ratio=0.5"}};
    for (int k = 0; k < 2; k++) {
        loop l;
        loop_open(t, &l, &unlike, "fedavg", "batch=0,local_steps=1,lr=0.1", name[k][0],
                  name[k][1]);
        double start = gap(&l);
        rounds(t, &l, 600);
        CHECK(t, gap(&l) < (k ? 0.05 : 1e-3) * start);
        CHECK_INT(t, l.up_bytes, 600 * N * (k ? 8 + 4 * DIM / 2 : 4 + DIM));
        loop_close(&l);
    }
}

/* ---- recipes and seeded choices ---- */

static void recipes(test *t)
{
    fl_recipe r;
    om_err err = {0};
    CHECK_OK(t,
             fl_recipe_of(STR("fedavg"), STR("lr=0.5, local_steps=3"), STR("topk"),
                          STR("ratio=0.2"), &r, &err),
             err);
    CHECK(t, r.p[3] == 0.5 && r.p[1] == 3 && r.up_p[0] == 0.2);
    static const struct {
        const char *algo, *p, *codec, *up_p, *says;
    } bad[] = {
        {"fedavgg", "", "topk", "", "fedavg"},
        {"fedavg", "", "tokp", "", "topk"},
        {"fedavg", "lrr=1", "topk", "", "'lr'"},
        {"fedavg", "lr=abc", "topk", "", "not a number"},
        {"fedavg", "lr=-1", "topk", "", "between"},
        {"fedavg", "lr", "topk", "", "name=value"},
        {"fedavg", "", "topk", "ratio=2", "between"},
        {"fedavg", "error_feedback=on", "randk", "", "contractive"},
        {"fedavg", "local_epochs=0", "identity", "", "train"},
        {"fedavg", "", "identity", "x=1", "no parameters"},
        {"marina", "", "topk", "",
         "unbiased codec (E C(x) = x) and topk is not one; "
         "nearest first: randk"},
        {"diana", "", "rankr", "", "nearest first: qsgd"},
        {"fedavg", "", "sign", "", "nearest first: scaled-sign"},
        {"ef21", "", "sign", "", "directions alone"},
        {"lag", "", "topk", "", "choose clag"},
        {"3pc-v2", "second=topk", "topk", "", "choose second = randk"},
        {"proxskip", "", "randk", "", "choose locodl"},
        {"scaffold", "local_optimizer=adamw", "identity", "", "sgd"},
        {"fednova", "local_optimizer=adamw", "identity", "", "sgd or momentum"},
    };
    for (size_t i = 0; i < countof(bad); i++) {
        err.msg[0] = 0;
        CHECK(t, fl_recipe_of(str_of(bad[i].algo), str_of(bad[i].p), str_of(bad[i].codec),
                              str_of(bad[i].up_p), &r, &err) != OM_OK);
        if (!strstr(err.msg, bad[i].says))
            test_fail(t, __FILE__, __LINE__, "'%s' does not say '%s'", err.msg,
                      bad[i].says);
    }
    fl_algo picky = *fl_algo_find(STR("fedavg"));
    picky.flags |= FL_NEEDS_UNBIASED;
    r = (fl_recipe){.algo = &picky, .up = codec_find(STR("topk"))};
    CHECK(t, fl_recipe_check(&r, &err) == OM_EARG && strstr(err.msg, "unbiased"));
    CHECK(t, strstr(err.msg, "nearest first: randk"));
}

/* What a way of taking part would break is refused. */
static void drives(test *t)
{
    static const struct {
        const char *algo;
        fl_drive drive;
        const char *says; /* NULL: fine */
    } rows[] = {
        {"marina", {10, 10, 10, 10, true, false, false, NULL}, NULL},
        {"marina", {10, 5, 5, 5, true, false, false, NULL}, "every client"},
        {"locodl", {10, 10, 10, 2, true, false, false, NULL}, "dropout to 0"},
        {"diana", {10, 5, 5, 2, false, false, false, NULL}, NULL},
        {"tamuna", {10, 5, 5, 5, true, false, false, NULL}, NULL},
        {"tamuna", {10, 7, 5, 5, true, false, false, NULL}, "over_selection"},
        {"tamuna", {10, 5, 5, 5, false, false, false, NULL}, "simulator alone"},
    };
    for (size_t i = 0; i < countof(rows); i++) {
        fl_recipe r;
        om_err err = {0};
        CHECK_OK(
            t,
            fl_recipe_of(str_of(rows[i].algo), STR(""), STR("identity"), STR(""), &r, &err),
            err);
        om_status s = fl_recipe_drive(&r, &rows[i].drive, &err);
        CHECK(t, rows[i].says ? s != OM_OK && strstr(err.msg, rows[i].says) != NULL
                              : s == OM_OK);
    }
    fl_recipe r;
    om_err err = {0};
    fl_drive d = {10, 10, 10, 10, false, false, false, NULL};
    CHECK_OK(t, fl_recipe_of(STR("marina"), STR(""), STR("permk"), STR(""), &r, &err), err);
    CHECK_OK(t, fl_recipe_drive(&r, &d, &err), err);
    CHECK(t, r.up_p[0] == 10);
    r.up_p[0] = 9;
    CHECK(t, fl_recipe_drive(&r, &d, &err) == OM_EARG);
}

/* Uniform, without repetition, ascending, and a function of (seed, round). */
static void cohorts(test *t)
{
    enum { CLIENTS = 130 };
    long seen[CLIENTS] = {0};
    uint32_t a[40], b[40];
    char room[256];
    CHECK(t, fl_cohort_bytes(CLIENTS) <= sizeof(room));
    for (uint32_t round = 0; round < 13000; round++) {
        fl_cohort(1, round, CLIENTS, 40, a, arena_of(room, sizeof(room)));
        for (int i = 0; i < 40; i++) {
            CHECK(t, a[i] < CLIENTS && (i == 0 || a[i] > a[i - 1]));
            seen[a[i]]++;
        }
    }
    for (int i = 0; i < CLIENTS; i++)
        CHECK_NEAR(t, seen[i], 4000, 6 * sqrt(4000 * (1 - 40.0 / CLIENTS)));
    fl_cohort(1, 5, CLIENTS, 40, a, arena_of(room, sizeof(room)));
    fl_cohort(1, 5, CLIENTS, 40, b, arena_of(room, sizeof(room)));
    CHECK(t, memcmp(a, b, sizeof(a)) == 0);
    fl_cohort(2, 5, CLIENTS, 40, b, arena_of(room, sizeof(room)));
    CHECK(t, memcmp(a, b, sizeof(a)) != 0);
    fl_cohort(1, 0, 3, 3, a, arena_of(room, sizeof(room)));
    CHECK(t, a[0] == 0 && a[1] == 1 && a[2] == 2);
}

/* fl_pick is a permutation for every n, and every sample's first place varies. */
static void shuffles(test *t)
{
    static const uint64_t sizes[] = {1, 2, 3, 4, 5, 16, 17, 100, 600, 1025};
    for (size_t s = 0; s < countof(sizes); s++) {
        bool seen[1025] = {false};
        for (uint64_t i = 0; i < sizes[s]; i++) {
            uint64_t at = fl_pick(99, sizes[s], i);
            CHECK(t, at < sizes[s] && !seen[at]);
            seen[at] = true;
        }
    }
    double chi = 0;
    long first[10] = {0};
    for (uint64_t k = 0; k < 10000; k++) {
        rng r = {.key = k};
        first[fl_pick(rng_u64(&r), 10, 0)]++;
    }
    for (int i = 0; i < 10; i++)
        chi += (double)((first[i] - 1000) * (first[i] - 1000)) / 1000;
    CHECK(t, chi < 35); /* chi-square with 9 degrees: p about 1e-4 */
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"oracle", "quadratics: value, gradient, Hessian and optimum agree", oracle},
        {"converges", "every row reaches tolerance", converges},
        {"any_order", "clients in any order, same bits", any_order},
        {"save_restore", "state moved mid-run continues to the same bits", save_restore},
        {"refusals", "bad updates leave the server untouched", refusals},
        {"hostile_down", "bad model messages are refused", hostile_down},
        {"fedavg_is_gd", "FedAvg with one step is gradient descent", fedavg_is_gd},
        {"fedprox_mu_zero", "FedProx with mu = 0 is FedAvg, bit for bit", fedprox_mu_zero},
        {"local_optimizers", "sgd, momentum, adamw, clipping", local_optimizers},
        {"drift", "many local steps: a fixed point beside the optimum", drift},
        {"alike_clients", "equal clients: FedAvg is local descent",
         alike_clients_need_no_server},
        {"fedopt_formulas", "Adam, Yogi, Adagrad against the paper", fedopt_formulas},
        {"adam_yogi", "equal first steps for v0 = 0", adam_yogi_first_step},
        {"error_feedback", "Top-K with and without", error_feedback},
        {"feedback_conserves", "what is cut off is kept", feedback_conserves},
        {"unbiased_codecs", "QSGD and Rand-K under FedAvg", unbiased_codecs},
        {"recipes", "names, parameters and their refusals", recipes},
        {"drives", "cohorts that a method's state cannot bear are refused", drives},
        {"cohorts", "uniform, ascending, seeded", cohorts},
        {"shuffles", "fl_pick permutes", shuffles},
        {0}};
    return test_main(argc, argv, cases);
}
