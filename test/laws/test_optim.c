/* test_optim.c - optimizers against PyTorch over 20 steps of a small Llama, schedules,
 * clipping. */
#include "mini_llama.h"
#include "nn_golden.h"

enum { STEPS = 20 };

/* ---- against PyTorch --------------------------------------------------------------------
 */

typedef struct {
    const char *golden, *optim;
    bool adapted;
    double lr;
    const char *set[5]; /* "name=value" */
} course;

static void set_params(test *t, const course *s, const nn_optim *o, double *p)
{
    om_err err = {0};
    param_defaults(o->params, p);
    for (const char *const *one = s->set; *one; one++) {
        const char *eq = strchr(*one, '=');
        str name = {*one, (size_t)(eq - *one)};
        CHECK_OK(t, param_set(o->params, o->name, p, name, str_of(eq + 1), &err), err);
    }
}

static void run_course(test *t, const course *s)
{
    kern k;
    nn *c;
    om_err err = {0};
    static mini m;
    double p[8];
    float losses[STEPS];
    const nn_optim *o = nn_optim_find(str_of(s->optim));
    CHECK(t, o != NULL);
    kern_init(&k, 0);
    memset(&m, 0, sizeof(m));
    golden_copy(t, "llama", "base", m.base, N_BASE);
    golden_copy(t, "llama", "lora", m.lora, N_LORA);
    mini_open(&m, s->adapted);
    set_params(t, s, o, p);
    size_t n = s->adapted ? N_LORA : N_BASE;
    float *x = s->adapted ? m.lora : m.base, *g = s->adapted ? m.lora_grad : m.base_grad;
    void *state = mem_alloc(o->state_bytes(p, n));
    CHECK_OK(t, nn_open(&(nn_config){.k = &k}, &c, &err), err);
    for (int i = 0; i < STEPS; i++) {
        memset(g, 0, n * sizeof(float));
        CHECK_OK(t, nn_run(c, 1, true, mini_step, &m, &err), err);
        if (i == 0 && strcmp(s->optim, "adamw") == 0)
            golden_check(t, s->golden, "grad", g, n, 1e-5);
        losses[i] = (float)(m.loss.sum / (double)m.loss.rows);
        o->step(&k, NULL, p, state, x, g, n, s->lr, (uint64_t)i + 1);
    }
    golden_check(t, s->golden, "losses", losses, STEPS, 1e-5);
    golden_check(t, s->golden, "x", x, 64, 2e-4);
    mem_free(state);
    nn_close(c);
}

static void follows_torch(test *t)
{
    static const course all[] = {
        {"llama lora adamw", "adamw", true, 0.01, {"weight_decay=0.1"}},
        {"llama full adamw", "adamw", false, 0.01, {"weight_decay=0.1"}},
        {"llama full sgd", "sgd", false, 0.1, {0}},
        {"llama full momentum", "momentum", false, 0.03, {"weight_decay=0.01"}},
        {"llama full nesterov", "momentum", false, 0.03, {"nesterov=true"}},
    };
    if (golden_open(t))
        for (size_t i = 0; i < countof(all); i++)
            run_course(t, &all[i]);
}

/* ---- laws of every row
 * --------------------------------------------------------------------- */

enum { N = 40000 };

/* The same bits on any number of threads; the first steps go downhill. */
static void any_threads(test *t)
{
    kern k;
    om_err err = {0};
    kern_init(&k, 0);
    for (const nn_optim *const *o = nn_optims; *o; o++) {
        float *x[3], *g = mem_array(N, sizeof(float));
        double p[8];
        rng r = rng_for(1, 0, 0, 0);
        CHECK(t,
              (*o)->name && (*o)->summary && (*o)->source && param_count((*o)->params) < 8);
        param_defaults((*o)->params, p);
        for (size_t i = 0; i < N; i++)
            g[i] = (float)rng_normal(&r);
        for (int i = 0; i < 3; i++) {
            static const int threads[] = {1, 2, 5};
            pool *workers;
            void *state = mem_alloc((*o)->state_bytes(p, N));
            CHECK_OK(t, pool_open(threads[i], &workers, &err), err);
            x[i] = mem_array(N, sizeof(float));
            for (uint64_t step = 1; step <= 3; step++)
                (*o)->step(&k, workers, p, state, x[i], g, N, 0.1, step);
            pool_close(workers);
            mem_free(state);
            CHECK(t, memcmp(x[0], x[i], N * sizeof(float)) == 0);
            CHECK(t, x[i][N - 1] * g[N - 1] < 0.0f); /* went downhill */
        }
        for (int i = 0; i < 3; i++)
            mem_free(x[i]);
        mem_free(g);
    }
    CHECK(t, nn_optim_find(STR("adam")) == NULL);
}

static void schedules(test *t)
{
    /* Rises to the full rate at step `warmup`, never above it, ends at min_ratio. */
    for (int kind = 0; kind < 3; kind++) {
        nn_schedule_kind s = (nn_schedule_kind)kind;
        double end = s == NN_SCHEDULE_CONSTANT ? 2.0 : 0.2, last = 0;
        for (uint64_t i = 0; i <= 10; i++) {
            double lr = nn_schedule(s, 2.0, i, 10, 110, 0.1);
            CHECK(t, lr > last && lr <= 2.0);
            last = lr;
        }
        CHECK_NEAR(t, nn_schedule(s, 2.0, 10, 10, 110, 0.1), 2.0, 1e-12);
        CHECK_NEAR(t, nn_schedule(s, 2.0, 60, 10, 110, 0.1), (2.0 + end) / 2, 1e-12);
        CHECK_NEAR(t, nn_schedule(s, 2.0, 110, 10, 110, 0.1), end, 1e-12);
        CHECK_NEAR(t, nn_schedule(s, 2.0, 500, 10, 110, 0.1), end, 1e-12);
    }
    /* A quarter of the way down a cosine: (1 + cos(pi/4)) / 2. */
    CHECK_NEAR(t, nn_schedule(NN_SCHEDULE_COSINE, 1, 25, 0, 100, 0), 0.8535533905932737,
               1e-12);
    CHECK_NEAR(t, nn_schedule(NN_SCHEDULE_LINEAR, 1, 25, 0, 100, 0), 0.75, 1e-12);
    CHECK_NEAR(t, nn_schedule(NN_SCHEDULE_LINEAR, 1, 0, 0, 0, 0), 1, 1e-12);
}

static void clipping(test *t)
{
    kern k;
    pool *workers;
    om_err err = {0};
    enum { M = 3000000 };
    float *g = mem_array(M, sizeof(float)), *h = mem_array(M, sizeof(float));
    kern_init(&k, 0);
    CHECK_OK(t, pool_open(3, &workers, &err), err);
    for (size_t i = 0; i < M; i++)
        g[i] = h[i] = i % 2 ? 3.0f : -4.0f;
    double norm = sqrt(M / 2 * (9.0 + 16.0));
    CHECK_NEAR(t, nn_clip_norm(&k, workers, g, M, 1e9) / norm, 1, 1e-9);
    CHECK(t, memcmp(g, h, M * sizeof(float)) == 0); /* below the limit: untouched */
    double one = nn_clip_norm(&k, NULL, h, M, 1.0),
           two = nn_clip_norm(&k, workers, g, M, 1.0);
    CHECK(t, one == two && memcmp(g, h, M * sizeof(float)) == 0);
    CHECK_NEAR(t, nn_clip_norm(&k, workers, g, M, 1e9), 1, 1e-6);
    CHECK_NEAR(t, nn_clip_norm(&k, NULL, g, 0, 1), 0, 0);
    pool_close(workers);
    mem_free(g);
    mem_free(h);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"follows_torch", "20 steps of a small Llama, loss by loss", follows_torch},
        {"any_threads", "every optimizer, same bits on 1, 2, 5 threads", any_threads},
        {"schedules", "warm-up, constant, linear, cosine", schedules},
        {"clipping", "norm, limit, threads", clipping},
        {0}};
    return test_main(argc, argv, cases);
}
