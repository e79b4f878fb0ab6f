/* test_algo_theory.c - what the papers state about the federated methods, checked on
 * heterogeneous quadratics: special cases that coincide, sums that stay zero, Lyapunov
 * functions that do not grow, three-point inequalities, rates, and where a method reaches
 * the optimum that its simpler relative misses. */
#include "fl_loop.h"

#include "fl/second.h"

/* ---- special cases ---- */

static void coincide(test *t)
{
    static const struct {
        loop_setting a, b;
        double apart; /* 0: to the bit */
    } rows[] = {
        {{"dcgd", "lr=0.5", "identity", "", 0, 0},
         {"fedavg", "lr=0.5,batch=0,local_steps=1,weights=equal", "identity", "", 0, 0},
         2e-5},
        {{"ef21", "lr=0.5", "identity", "", 0, 0},
         {"dcgd", "lr=0.5", "identity", "", 0, 0},
         2e-5},
        {{"ef21-hb", "lr=0.3,server_momentum=0", "topk", "ratio=0.2", 0, 0},
         {"ef21", "lr=0.3", "topk", "ratio=0.2", 0, 0},
         0},
        {{"ef21-pp", "lr=0.3,participation=1", "topk", "ratio=0.2", 0, 0},
         {"ef21", "lr=0.3", "topk", "ratio=0.2", 0, 0},
         0},
        {{"ef21-sgdm", "lr=0.3,eta=1", "topk", "ratio=0.2", 0, 0},
         {"ef21", "lr=0.3", "topk", "ratio=0.2", 0, 0},
         0},
        {{"ef21-p", "lr=0.3,down=identity", "topk", "ratio=0.2", 0, 0},
         {"ef21", "lr=0.3", "topk", "ratio=0.2", 0, 0},
         1e-4},
        {{"ef21-bc", "lr=0.3,down=identity", "topk", "ratio=0.2", 0, 0},
         {"ef21", "lr=0.3", "topk", "ratio=0.2", 0, 0},
         1e-4},
        {{"diana", "lr=0.5", "identity", "", 0, 0},
         {"dcgd", "lr=0.5", "identity", "", 0, 0},
         2e-5},
        {{"lag", "lr=0.5,zeta=0", "identity", "", 0, 0},
         {"dcgd", "lr=0.5", "identity", "", 0, 0},
         2e-5},
        {{"clag", "lr=0.3,zeta=0", "topk", "ratio=0.2", 0, 0},
         {"ef21", "lr=0.3", "topk", "ratio=0.2", 0, 0},
         0},
        {{"3pc-v1", "lr=0.5", "identity", "", 0, 0},
         {"dcgd", "lr=0.5", "identity", "", 0, 0},
         2e-5},
        {{"3pc-v2", "lr=0.5", "identity", "", 0, 0},
         {"dcgd", "lr=0.5", "identity", "", 0, 0},
         2e-5},
        {{"3pc-v3", "lr=0.3,zeta=1e9", "topk", "ratio=0.2", 0, 0},
         {"ef21", "lr=0.3", "topk", "ratio=0.2", 0, 0},
         0},
        {{"3pc-v4", "lr=0.5,second=identity", "topk", "ratio=0.2", 0, 0},
         {"dcgd", "lr=0.5", "identity", "", 0, 0},
         2e-5},
        {{"newton-3pc", "variant=ef21,option=b", "topk", "ratio=0.2", 0, 0},
         {"fednl", "", "topk", "ratio=0.2", 0, 0},
         0},
        {{"newton-3pc", "variant=cbag,p=1,option=b", "topk", "ratio=0.2", 0, 0},
         {"fednl", "", "topk", "ratio=0.2", 0, 0},
         0},
        {{"newton-3pc", "variant=clag,zeta=0,option=b", "topk", "ratio=0.2", 0, 0},
         {"fednl", "", "topk", "ratio=0.2", 0, 0},
         0},
        {{"fednl-cr", "m=0,init=zero", "topk", "ratio=0.2", 0, 0},
         {"fednl", "init=zero", "topk", "ratio=0.2", 0, 0},
         0},
        {{"fednl-bc", "mu=0.05", "identity", "", 0, 0},
         {"fednl", "option=a,mu=0.05", "identity", "", 0, 0},
         1e-4},
        {{"bl1", "l2=0,mu=0.05", "identity", "", 0, 0},
         {"fednl-bc", "mu=0.05", "identity", "", 0, 0},
         1e-4},
        {{"bl2", "l2=0,drawn=10", "identity", "", 0, 0},
         {"fednl-pp", "drawn=10", "identity", "", 0, 0},
         1e-4},
        {{"fednl-pp", "drawn=10", "identity", "", 0, 0},
         {"fednl", "", "identity", "", 0, 0},
         1e-4},
        {{"3pc-v5", "lr=0.5,p=1", "topk", "ratio=0.2", 0, 0},
         {"dcgd", "lr=0.5", "identity", "", 0, 0},
         2e-5},
        {{"marina", "lr=0.5,p=1", "randk", "ratio=0.2", 0, 0},
         {"dcgd", "lr=0.5", "identity", "", 0, 0},
         2e-5},
        {{"marina", "lr=0.5", "identity", "", 0, 0},
         {"dcgd", "lr=0.5", "identity", "", 0, 0},
         2e-5},
        {{"vr-marina", "lr=0.4,batch=0", "randk", "ratio=0.3", 0, 0},
         {"marina", "lr=0.4", "randk", "ratio=0.3", 0, 0},
         0},
        {{"dasha", "lr=0.5", "identity", "", 0, 0},
         {"dcgd", "lr=0.5", "identity", "", 0, 0},
         2e-5},
        {{"dasha-pp", "lr=0.3", "randk", "ratio=0.5", 0, 0},
         {"dasha-pp", "lr=0.3,participation=1", "randk", "ratio=0.5", 0, 0},
         0},
        {{"dasha-page", "lr=0.3,p=1", "randk", "ratio=0.5", 0, 0},
         {"dasha", "lr=0.3", "randk", "ratio=0.5", 0, 0},
         0},
        {{"proxskip", "lr=0.5,p=1", "identity", "", 0, 0},
         {"dcgd", "lr=0.5", "identity", "", 0, 0},
         2e-5},
        {{"compressed-scaffnew", "lr=0.5,p=0.4,s=10", "identity", "", 0, 0},
         {"proxskip", "lr=0.5,p=0.4", "identity", "", 0, 0},
         0},
        {{"tamuna", "lr=0.5,p=0.4,s=3", "identity", "", 0, 0},
         {"compressed-scaffnew", "lr=0.5,p=0.4,s=3", "identity", "", 0, 0},
         0},
        {{"bicolor", "lr=0.9,p=0.4,down=identity", "randk", "ratio=0.3", 0, 0},
         {"locodl", "lr=0.9,p=0.4", "randk", "ratio=0.3", 0, 0},
         2e-5},
        {{"svrg", "lr=0.5,batch=1000", "identity", "", 0, 0},
         {"dcgd", "lr=0.5", "identity", "", 0, 0},
         2e-5},
        {{"l-svrg", "lr=0.5,p=1,batch=10", "identity", "", 0, 0},
         {"dcgd", "lr=0.5", "identity", "", 0, 0},
         2e-5},
        {{"saga", "lr=0.5,blocks=1", "identity", "", 0, 0},
         {"dcgd", "lr=0.5", "identity", "", 0, 0},
         2e-5},
        {{"page", "lr=0.5,p=1", "identity", "", 0, 0},
         {"dcgd", "lr=0.5", "identity", "", 0, 0},
         2e-5},
        {{"fedavgm", "lr=0.1,server_momentum=0", "qsgd", "", 0, 0},
         {"fedavg", "lr=0.1", "qsgd", "", 0, 0},
         0},
        {{"fednova", "lr=0.1,batch=10", "identity", "", 0, 0},
         {"fedavg", "lr=0.1,batch=10", "identity", "", 0, 0},
         2e-5},
        {{"scaffold", "lr=0.5,batch=0,local_steps=1", "identity", "", 0, 0},
         {"dcgd", "lr=0.5", "identity", "", 0, 0},
         2e-5},
    };
    for (size_t i = 0; i < countof(rows); i++) {
        loop a, b;
        loop_open_setting(t, &a, &rows[i].a);
        loop_open_setting(t, &b, &rows[i].b);
        rounds(t, &a, 25), rounds(t, &b, 25);
        double apart = distance(model(&a), model(&b));
        if (!(apart <= rows[i].apart))
            test_fail(t, __FILE__, __LINE__, "%s %s and %s %s are %g apart", rows[i].a.algo,
                      rows[i].a.params, rows[i].b.algo, rows[i].b.params, apart);
        loop_close(&a), loop_close(&b);
    }
}

/* With minibatch noise, storm with a = 1 is SGD over the same samples. */
static void storm_is_sgd(test *t)
{
    quadratic_config noisy = even;
    loop a, b;
    noisy.noise = 0.5;
    loop_open(t, &a, &noisy, "storm", "lr=0.3,a=1,batch=10", "identity", "");
    loop_open(t, &b, &noisy, "dcgd", "lr=0.3,batch=10", "identity", "");
    round_of(t, &a, NULL); /* storm starts from a full gradient */
    om_err err = {0};
    CHECK_OK(t, b.r.algo->server_open(&b.e, b.server, model(&a), &err), err);
    b.e.round = 1;
    rounds(t, &a, 10), rounds(t, &b, 10);
    CHECK(t, distance(model(&a), model(&b)) < 1e-5);
    loop_close(&a), loop_close(&b);
}

/* ---- what the server tracks is the mean of the clients' vectors ---- */

static double off_mean(loop *l, const float *server, uint32_t vector, double scale)
{
    double worst = 0;
    for (size_t j = 0; j < DIM; j++) {
        double sum = 0;
        for (uint32_t i = 0; i < N; i++)
            sum +=
                (double)client_vector(&l->e, l->clients + i * l->client_stride, vector)[j];
        worst = fmax(worst, fabs(sum / N * scale - (server ? (double)server[j] : 0)));
    }
    return worst;
}

static void tracked_means(test *t)
{
    static const struct {
        loop_setting s;
        int server; /* vector of average.h, or -1: the sum is zero */
        uint32_t client;
        bool absences; /* holds with clients away */
    } rows[] = {
        {{"ef21", "lr=0.2", "topk", "ratio=0.2", 0, 0}, 2, 0, true},
        {{"ef21-pp", "lr=0.2", "randk", "ratio=0.2", 0, 0}, 2, 0, true},
        {{"ef21-sgdm", "lr=0.1", "scaled-sign", "", 0, 0}, 2, 0, true},
        {{"ef21-p", "lr=0.1", "topk", "ratio=0.2", 0, 0}, 2, 0, true},
        {{"ef21-bc", "lr=0.1", "topk", "ratio=0.2", 0, 0}, 2, 0, true},
        {{"diana", "lr=0.2", "randk", "ratio=0.3", 0, 0}, 2, 0, true},
        {{"clag", "lr=0.2", "topk", "ratio=0.2", 0, 0}, 2, 0, true},
        {{"3pc-v2", "lr=0.2", "topk", "ratio=0.2", 0, 0}, 2, 0, true},
        {{"3pc-v3", "lr=0.2", "topk", "ratio=0.2", 0, 0}, 2, 0, true},
        {{"3pc-v4", "lr=0.2", "rankr", "", 0, 0}, 2, 0, true},
        {{"dasha", "lr=0.2", "randk", "ratio=0.3", 0, 0}, 2, 0, true},
        {{"dasha-pp", "lr=0.1,participation=0.5", "natural", "", 0, 0}, 2, 0, true},
        {{"scaffold", "lr=0.1,batch=0,local_steps=4", "natural", "", 0, 0}, 2, 0, true},
        {{"proxskip", "lr=0.9,p=0.3", "identity", "", 0, 0}, -1, 0, false},
        {{"compressed-scaffnew", "lr=0.9,p=0.3,s=3", "identity", "", 0, 0}, -1, 0, false},
        {{"tamuna", "lr=0.9,p=0.3,s=3", "identity", "", 0, 0}, -1, 0, false},
    };
    for (size_t r = 0; r < countof(rows); r++) {
        loop l;
        double worst = 0;
        rng coin = rng_for(1, 2, 3, 4);
        loop_open_setting(t, &l, &rows[r].s);
        for (int k = 0; k < 60; k++) {
            bool here[N];
            for (int i = 0; i < N; i++)
                here[i] = !rows[r].absences || k == 0 || rng_unit(&coin) < 0.6;
            here[k % N] = true;
            round_among(t, &l, NULL, here);
            const float *server =
                rows[r].server < 0 ? NULL : average_vector(&l.e, l.server, 2);
            worst = fmax(worst, off_mean(&l, server, rows[r].client, 1));
        }
        if (!(worst < 2e-5))
            test_fail(t, __FILE__, __LINE__, "%s: off the mean by %g", rows[r].s.algo,
                      worst);
        loop_close(&l);
    }
}

/* mean u_i + v = 0, and all clients and the server hold the same y and v. */
static void locodl_balance(test *t)
{
    loop l;
    loop_open(t, &l, &even, "locodl", "lr=0.9,p=0.4,strong=0.05", "randk", "ratio=0.3");
    for (int k = 0; k < 80; k++) {
        round_of(t, &l, NULL);
        const float *v = client_vector(&l.e, l.clients, 3);
        float minus[DIM];
        for (int j = 0; j < DIM; j++)
            minus[j] = -v[j];
        CHECK(t, off_mean(&l, minus, 2, 1) < 1e-5);
        for (uint32_t i = 1; i < N; i++) {
            char *other = l.clients + i * l.client_stride;
            CHECK(t, memcmp(client_vector(&l.e, l.clients, 1),
                            client_vector(&l.e, other, 1), sizeof(minus)) == 0);
            CHECK(t, memcmp(v, client_vector(&l.e, other, 3), sizeof(minus)) == 0);
        }
    }
    loop_close(&l);
}

/* MARINA: after a round of whole gradients g is the gradient, exactly; after any other its
 * error is carried, and the estimate tends to the gradient as the steps die out. */
static void marina_exact(test *t)
{
    loop l;
    float x[DIM] = {0};
    int exact = 0, not_exact = 0;
    loop_open(t, &l, &even, "marina", "lr=0.3,p=0.3", "randk", "ratio=0.2");
    for (int k = 0; k < 60; k++) {
        double g[DIM], off = 0, length = 0;
        quadratic_mean(l.q, x, g);
        uint64_t before = l.up_bytes;
        round_of(t, &l, NULL);
        const float *est = average_vector(&l.e, l.server, 2);
        for (int j = 0; j < DIM; j++) {
            off += ((double)est[j] - g[j]) * ((double)est[j] - g[j]);
            length += g[j] * g[j];
        }
        bool whole = l.up_bytes - before == N * (1 + 4 * DIM);
        if (whole)
            CHECK(t, off < 1e-9 + 1e-9 * length);
        exact += whole, not_exact += off > 1e-6;
        memcpy(x, model(&l), sizeof(x));
    }
    if (!(exact > 5 && not_exact > 8))
        test_fail(t, __FILE__, __LINE__, "%d whole rounds, %d others", exact, not_exact);
    loop_close(&l);
}

/* ---- inequalities ---- */

static double mean_error(loop *l, const float *x)
{
    double total = 0;
    for (uint32_t i = 0; i < N; i++) {
        fl_oracle f;
        float g[DIM];
        quadratic_oracle(l->q, i, &f);
        f.grad(f.ctx, x, g, NULL, NULL);
        double d = distance(g, client_vector(&l->e, l->clients + i * l->client_stride, 0));
        total += d * d / N;
    }
    return total;
}

/* EF21, deterministic codecs, lr of theory: Phi = f - f* + lr / (2 theta) mean |g_i - grad
 * f_i|^2 does not grow in any round.  L = L~ = 1 here. */
static void ef21_lyapunov(test *t)
{
    static const struct {
        const char *codec, *params;
    } rows[] = {
        {"topk", "ratio=0.1"}, {"topk", "ratio=0.5"}, {"rankr", ""}, {"scaled-sign", ""}};
    for (size_t r = 0; r < countof(rows); r++) {
        loop l;
        char params[60];
        loop_open(t, &l, &even, "ef21", "", rows[r].codec, rows[r].params);
        double a = l.e.up->alpha(l.e.up_p, DIM), theta = 1 - sqrt(1 - a);
        double lr = 1 / (1 + (1 + sqrt(1 - a)) / a - 1), last = (double)INFINITY;
        loop_close(&l);
        snprintf(params, sizeof(params), "lr=%.9g,init=zero", lr);
        loop_open(t, &l, &even, "ef21", params, rows[r].codec, rows[r].params);
        for (int k = 0; k < 200; k++) {
            float x[DIM];
            memcpy(x, model(&l), sizeof(x));
            double value = gap(&l);
            round_of(t, &l, NULL); /* now g_i follows grad f_i(x) */
            double phi = value + lr / (2 * theta) * mean_error(&l, x);
            if (!(phi <= last * (1 + 1e-6) + 1e-6))
                test_fail(t, __FILE__, __LINE__, "%s: round %d, %g after %g", rows[r].codec,
                          k, phi, last);
            last = phi;
        }
        loop_close(&l);
    }
}

/* The three-point inequality |C_{h,y}(z) - z|^2 <= (1 - A) |h - y|^2 + B |z - y|^2, client
 * by client along runs, for the maps that Top-K makes deterministic. */
static void three_points(test *t)
{
    enum { K = 5 };
    double a = (double)K / DIM, s = 1 - sqrt(1 - a), b = (1 - a) / s;
    double both = 1 - (1 - a) * (1 - a), two = 1 - sqrt(1 - both);
    const struct {
        loop_setting s;
        double a, b;
    } rows[] = {
        {{"lag", "lr=0.3,zeta=2", "identity", "", 0, 0}, 1, 2},
        {{"clag", "lr=0.3,zeta=2", "topk", "k=5", 0, 0}, s, fmax(b, 2)},
        {{"3pc-v1", "lr=0.3", "topk", "k=5", 0, 0}, 1, 1 - a},
        {{"3pc-v3", "lr=0.3,zeta=2,second_ratio=0.2083", "topk", "k=5", 0, 0},
         1 - (1 - a) * (1 - s),
         (1 - a) * fmax(b, 2)},
        {{"3pc-v4", "lr=0.3,second_ratio=0.2083", "topk", "k=5", 0, 0},
         two,
         (1 - both) / two},
    };
    for (size_t r = 0; r < countof(rows); r++) {
        loop l;
        loop_open_setting(t, &l, &rows[r].s);
        round_of(t, &l, NULL);
        for (int k = 0; k < 60; k++) {
            float h[N][DIM], y[N][DIM];
            for (uint32_t i = 0; i < N; i++) {
                char *c = l.clients + i * l.client_stride;
                memcpy(h[i], client_vector(&l.e, c, 0), sizeof(h[i]));
                memcpy(y[i], client_vector(&l.e, c, 1), sizeof(y[i]));
            }
            round_of(t, &l, NULL);
            for (uint32_t i = 0; i < N; i++) {
                char *c = l.clients + i * l.client_stride;
                const float *now = client_vector(&l.e, c, 0),
                            *z = client_vector(&l.e, c, 1);
                double left = distance(now, z), hy = distance(h[i], y[i]);
                double zy = distance(z, y[i]);
                CHECK(t, left * left <=
                             ((1 - rows[r].a) * hy * hy + rows[r].b * zy * zy) * 1.0001 +
                                 1e-9);
            }
        }
        loop_close(&l);
    }
}

/* ---- rates and floors ---- */

static uint32_t rounds_until(test *t, loop *l, double target, uint32_t most)
{
    uint32_t n = 0;
    while (gap(l) > target && n++ < most)
        round_of(t, l, NULL);
    return n;
}

/* From kappa 20 to 500 gradient descent needs 25 times the rounds, ProxSkip 5 times. */
static void proxskip_rate(test *t)
{
    double rounds_of[2][2];
    for (int k = 0; k < 2; k++) {
        loop gd, ps;
        char params[60];
        quadratic_config c = even;
        c.mu = k ? 0.002 : 0.05;
        c.heterogeneity = 0.05; /* more would lift the least curvature of the mean */
        snprintf(params, sizeof(params), "lr=1,p=%g", sqrt(c.mu));
        loop_open(t, &gd, &c, "dcgd", "lr=1", "identity", "");
        loop_open(t, &ps, &c, "proxskip", params, "identity", "");
        double target = 1e-6 * gap(&gd);
        rounds_of[k][0] = rounds_until(t, &gd, target, 20000);
        rounds_of[k][1] = rounds_until(t, &ps, target, 20000);
        loop_close(&gd), loop_close(&ps);
    }
    double gd = rounds_of[1][0] / rounds_of[0][0], ps = rounds_of[1][1] / rounds_of[0][1];
    if (!(gd > 12 && ps < 10 && rounds_of[1][1] < 0.3 * rounds_of[1][0]))
        test_fail(t, __FILE__, __LINE__, "gd %g -> %g, proxskip %g -> %g rounds",
                  rounds_of[0][0], rounds_of[1][0], rounds_of[0][1], rounds_of[1][1]);
}

/* ProxSkip's Lyapunov function over many rounds contracts at least at max(1 - lr mu, 1 -
 * p^2) a step. */
static void proxskip_lyapunov(test *t)
{
    loop l;
    double p = 0.3, lr = 1, mu = 0.1, psi[2] = {0};
    float best[DIM];
    loop_open(t, &l, &even, "proxskip", "lr=1,p=0.3", "identity", "");
    quadratic_optimum(l.q, best);
    for (int k = 0; k < 2; k++) {
        double d = distance(model(&l), best);
        psi[k] = N * d * d;
        for (uint32_t i = 0; i < N; i++) {
            fl_oracle f;
            float g[DIM];
            quadratic_oracle(l.q, i, &f);
            f.grad(f.ctx, best, g, NULL, NULL);
            d = distance(client_vector(&l.e, l.clients + i * l.client_stride, 0), g);
            psi[k] += lr * lr / (p * p) * d * d;
        }
        if (k == 0)
            rounds(t, &l, 60);
    }
    /* 60 rounds are about 200 steps; h is settled one round late: leave a factor. */
    CHECK(t, psi[1] < 20 * psi[0] * pow(fmax(1 - lr * mu, 1 - p * p), 190));
    loop_close(&l);
}

/* Where the simpler method stands still beside the optimum, its relative goes on. */
static void floors(test *t)
{
    static const struct {
        loop_setting stands, goes;
        uint32_t rounds;
        double noise, less;
    } rows[] = {
        {{"dcgd", "lr=0.2", "randk", "ratio=0.3", 0, 0},
         {"diana", "lr=0.2", "randk", "ratio=0.3", 0, 0},
         800,
         0,
         1e-3},
        {{"fedavg", "lr=0.2,batch=0,local_steps=20", "identity", "", 0, 0},
         {"scaffold", "lr=0.2,batch=0,local_steps=20", "identity", "", 0, 0},
         400,
         0,
         1e-3},
        {{"fedavg", "lr=0.2,batch=0,local_steps=20", "identity", "", 0, 0},
         {"proxskip", "lr=0.9,p=0.2", "identity", "", 0, 0},
         400,
         0,
         1e-3},
        {{"ef21", "lr=0.1,batch=1", "topk", "ratio=0.1", 0, 0},
         {"ef21-sgdm", "lr=0.1,batch=1,eta=0.05", "topk", "ratio=0.1", 0, 0},
         1500,
         2,
         0.5},
    };
    for (size_t r = 0; r < countof(rows); r++) {
        quadratic_config c = even;
        loop a, b;
        c.noise = rows[r].noise;
        loop_open(t, &a, &c, rows[r].stands.algo, rows[r].stands.params,
                  rows[r].stands.codec, rows[r].stands.codec_params);
        loop_open(t, &b, &c, rows[r].goes.algo, rows[r].goes.params, rows[r].goes.codec,
                  rows[r].goes.codec_params);
        rounds(t, &a, rows[r].rounds), rounds(t, &b, rows[r].rounds);
        if (!(gap(&b) < rows[r].less * gap(&a)))
            test_fail(t, __FILE__, __LINE__, "%s ends at %g, %s at %g", rows[r].stands.algo,
                      gap(&a), rows[r].goes.algo, gap(&b));
        loop_close(&a), loop_close(&b);
    }
}

/* FedNova ends at the optimum of f when clients make unlike numbers of steps; FedAvg leans
 * towards those that make more. */
static void fednova_unlike_steps(test *t)
{
    loop avg, nova;
    const char *p = "lr=0.01,batch=10,local_epochs=1"; /* 5 to 15 steps, by samples */
    loop_open(t, &avg, &unlike, "fedavg", p, "identity", "");
    loop_open(t, &nova, &unlike, "fednova", p, "identity", "");
    rounds(t, &avg, 400), rounds(t, &nova, 400);
    if (!(gap(&nova) < 0.5 * gap(&avg)))
        test_fail(t, __FILE__, __LINE__, "fednova %g, fedavg %g", gap(&nova), gap(&avg));
    loop_close(&avg), loop_close(&nova);
}

/* ---- what goes over the wire ---- */

/* Compressed ways down: whole vectors first and after a round somebody missed, else a
 * difference; and w, x and b of all clients are the server's. */
static void ways_down(test *t)
{
    static const char *const name[] = {"ef21-p", "ef21-bc"};
    for (int k = 0; k < 2; k++) {
        loop l;
        bool here[N];
        uint64_t whole = 1 + 4 * DIM * (k ? 2 : 1);
        loop_open(t, &l, &even, name[k], "lr=0.1,down=topk,down_ratio=0.125", "topk",
                  "ratio=0.2");
        for (int r = 0; r < 12; r++) {
            for (int i = 0; i < N; i++)
                here[i] = !(r == 4 && i == 3) && !(r == 5 && i < 4);
            round_among(t, &l, NULL, here);
            if (r == 0 || r == 5 || r == 6)
                CHECK_INT(t, l.down_bytes, whole);
            else
                CHECK(t, l.down_bytes <= 1 + 3 * 4 + 4);
            for (uint32_t i = 0; i < N; i++) {
                const float *w = client_vector(&l.e, l.clients + i * l.client_stride, 1);
                const float *same = client_vector(&l.e, l.clients + 9 * l.client_stride, 1);
                CHECK(t, !here[i] || memcmp(w, same, sizeof(float) * DIM) == 0);
                CHECK(t, k || !here[i] ||
                             memcmp(w, average_vector(&l.e, l.server, 3),
                                    sizeof(float) * DIM) == 0);
            }
        }
        rounds(t, &l, 2500);
        CHECK(t, gap(&l) < 1e-5);
        loop_close(&l);
    }
}

/* A client that is told a difference to something it never saw says so. */
static void missed_difference(test *t)
{
    loop l;
    om_err err = {0};
    fl_oracle f;
    buf down = buf_growing(1 << 20), up = buf_growing(1 << 20);
    loop_open(t, &l, &even, "ef21-p", "lr=0.1", "topk", "");
    rounds(t, &l, 3);
    CHECK_OK(t, l.r.algo->server_begin(&l.e, l.server, &down, &err), err);
    quadratic_oracle(l.q, 0, &f);
    memset(l.clients, 0, l.client_stride); /* a device that lost its memory */
    CHECK(t, l.r.algo->client_step(&l.e, 0, l.clients, &f, down.data, down.len, &up, NULL,
                                   scratch(&l), &err) == OM_EFORMAT);
    CHECK(t, strstr(err.msg, "difference to round 3") != NULL);
    buf_free(&down), buf_free(&up), loop_close(&l);
}

/* Lazy clients are silent, and a silence is one byte; masks send s d floats in all. */
static void silence(test *t)
{
    loop l;
    loop_open(t, &l, &even, "lag", "lr=0.3,zeta=20", "identity", "");
    rounds(t, &l, 100);
    CHECK(t, l.up_bytes < 100 * N * (1 + 4 * DIM) * 6 / 10);
    CHECK(t, (l.up_bytes - 100 * N) % (4 * DIM) == 0);
    loop_close(&l);
    loop_open(t, &l, &even, "compressed-scaffnew", "lr=0.5,s=3", "identity", "");
    rounds(t, &l, 7);
    CHECK_INT(t, l.up_bytes, 7 * 3 * DIM * 4);
    loop_close(&l);
}

/* signSGD's majority moves every coordinate by lr, whatever the gradient's length. */
static void majority(test *t)
{
    loop l;
    loop_open(t, &l, &even, "dcgd", "lr=0.25,vote=majority", "sign", "");
    round_of(t, &l, NULL);
    for (int j = 0; j < DIM; j++)
        CHECK(t, fabsf(model(&l)[j]) == 0.25f || model(&l)[j] == 0);
    CHECK_INT(t, l.up_bytes, N * (1 + DIM / 8));
    loop_close(&l);
}

/* FedNew's duals add up to 0, quantised or not: what is sent is what both sides add. */
static void duals(test *t)
{
    static const char *const codec_of[] = {"identity", "qsgd"};
    for (size_t k = 0; k < countof(codec_of); k++) {
        loop l;
        double most = 0;
        loop_open(t, &l, &even, "fednew", "", codec_of[k], "");
        rounds(t, &l, 30);
        for (uint32_t j = 0; j < DIM; j++) {
            double sum = 0;
            for (uint32_t i = 0; i < N; i++) {
                double v = second_vector(&l.e, l.clients + i * l.client_stride, 0)[j];
                sum += v;
                most = fmax(most, fabs(v));
            }
            CHECK_NEAR(t, sum, 0, 1e-12);
        }
        CHECK(t, most > 0.1);
        loop_close(&l);
    }
}

/* The server's H is the mean of the clients' H_i, whatever the codec. */
static void hessians_agree(test *t)
{
    static const char *const codec_of[] = {"topk", "natural", "rankr", "randseqk"};
    second_shape s = {.scalars = 1, .client_tris = 1};
    for (size_t k = 0; k < countof(codec_of); k++) {
        loop l;
        loop_open(t, &l, &even, "fednl", "init=zero", codec_of[k], "");
        rounds(t, &l, 10);
        second_server v = second_server_of(&l.e, &s, l.server);
        double largest = 0;
        for (size_t j = 0; j < tri_size(DIM); j++) {
            double mean = 0;
            for (uint32_t i = 0; i < N; i++)
                mean += (double)second_tri(&l.e, &s, l.clients + i * l.client_stride, 0)[j] / N;
            CHECK_NEAR(t, v.h[j], mean, 1e-6);
            largest = fmax(largest, fabs(mean));
        }
        CHECK(t, largest > 0.05);
        loop_close(&l);
    }
}

/* Against linear algebra done otherwise: residuals and orthonormality. */
static void systems(test *t)
{
    enum { D = 50 };
    static double h[D * (D + 1) / 2], a[D * D], v[D * D], w[D], b[D], x[D], y[D];
    rng r = rng_for(9, 9, 9, 9);
    for (size_t i = 0; i < D; i++) {
        b[i] = x[i] = rng_normal(&r);
        for (size_t j = i; j < D; j++)
            h[tri_row(D, i) + j] = rng_normal(&r) / 20 + (i == j ? 2 : 0);
    }
    tri_unpack(h, D, 0, a);
    CHECK(t, cholesky(a, D, NULL));
    cholesky_solve(a, D, x);
    tri_times(h, D, x, y);
    for (size_t i = 0; i < D; i++)
        CHECK_NEAR(t, y[i], b[i], 1e-12);
    tri_unpack(h, D, -4, a);
    CHECK(t, !cholesky(a, D, NULL));
    tri_unpack(h, D, 0, a);
    for (size_t i = 0; i < D; i++)
        for (size_t j = 0; j < i; j++)
            a[i * D + j] = a[j * D + i];
    CHECK(t, sym_eigen(a, D, w, v));
    for (size_t k = 0; k < D; k++) {
        tri_times(h, D, v + k * D, y);
        for (size_t i = 0; i < D; i++)
            CHECK_NEAR(t, y[i], w[k] * v[k * D + i], 1e-12);
        for (size_t l = 0; l <= k; l++) {
            double s = 0;
            for (size_t i = 0; i < D; i++)
                s += v[k * D + i] * v[l * D + i];
            CHECK_NEAR(t, s, k == l, 1e-13);
        }
    }
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"duals", "FedNew's duals add up to 0", duals},
        {"hessians_agree", "FedNL's H is the mean of the clients'", hessians_agree},
        {"systems", "Cholesky, solves and eigenvalues by their residuals", systems},
        {"coincide", "special cases are the simpler method", coincide},
        {"storm_is_sgd", "storm with a = 1", storm_is_sgd},
        {"tracked_means", "control variates, with clients away", tracked_means},
        {"locodl_balance", "mean u_i + v = 0, y and v shared", locodl_balance},
        {"marina_exact", "whole rounds make g the gradient", marina_exact},
        {"ef21_lyapunov", "Phi does not grow", ef21_lyapunov},
        {"three_points", "the 3PC inequality along runs", three_points},
        {"proxskip_rate", "rounds grow with the root of kappa", proxskip_rate},
        {"proxskip_lyapunov", "contraction of theory", proxskip_lyapunov},
        {"floors", "diana, scaffold, proxskip, ef21-sgdm pass their relatives' floor",
         floors},
        {"fednova_unlike_steps", "FedNova's optimum is f's", fednova_unlike_steps},
        {"ways_down", "compressed ways down stay in step", ways_down},
        {"missed_difference", "a lost state is noticed", missed_difference},
        {"silence", "bytes of lazy clients and of masks", silence},
        {"majority", "signSGD by majority", majority},
        {0}};
    return test_main(argc, argv, cases);
}
