/* test_nn_plan.c - planned memory: packing is sound and tight, reuse and threads change
 * no bit, recomputation costs less and gives the same, nothing is allocated in a step,
 * and every failure is reported. */
#include "mini_llama.h"
#include "nn/plan.h"

/* ---- packing
 * -------------------------------------------------------------------------------- */

static size_t most_alive(const plan_buf *b, uint32_t n, uint32_t ticks)
{
    size_t most = 0;
    for (uint32_t k = 0; k < ticks; k++) {
        size_t sum = 0;
        for (uint32_t i = 0; i < n; i++)
            sum += b[i].birth <= k && k <= b[i].last ? b[i].bytes : 0;
        most = size_max(most, sum);
    }
    return most;
}

static void packing(test *t)
{
    enum { N = 300, TICKS = 200 };
    static plan_buf b[N];
    static uint32_t scratch[2 * N];
    for (uint32_t trial = 0; trial < 20; trial++) {
        rng r = rng_for(trial, 0, 0, 0);
        for (int i = 0; i < N; i++) {
            uint32_t birth = rng_below(&r, TICKS);
            uint32_t life = rng_below(&r, 10) ? rng_below(&r, 8) : rng_below(&r, TICKS);
            uint32_t last = birth + life < TICKS ? birth + life : TICKS - 1;
            b[i] = (plan_buf){64 * (size_t)rng_below(&r, 1000), 0, birth, last};
        }
        size_t total = plan_pack(b, N, false, scratch), least = most_alive(b, N, TICKS);
        CHECK(t, total >= least && (double)total <= 1.25 * (double)least);
        for (int i = 0; i < N; i++) {
            CHECK(t, b[i].offset % 64 == 0 && b[i].offset + b[i].bytes <= total);
            for (int k = 0; k < i; k++) {
                bool together = b[i].birth <= b[k].last && b[k].birth <= b[i].last;
                bool overlap = b[i].offset < b[k].offset + b[k].bytes &&
                               b[k].offset < b[i].offset + b[i].bytes;
                CHECK(t, !together || !overlap);
            }
        }
    }
}

/* ---- the whole model
 * -------------------------------------------------------------------------- */

typedef struct {
    float lora_grad[N_LORA], base_grad[N_BASE];
    double loss;
    size_t bytes;
} outcome;

static void run_once(test *t, bool adapted, int threads, bool no_reuse, bool recompute,
                     outcome *out)
{
    static mini m;
    kern k;
    pool *p;
    nn *c;
    om_err err = {0};
    kern_init(&k, 0);
    mini_random(&m, adapted);
    m.recompute = recompute;
    CHECK_OK(t, pool_open(threads, &p, &err), err);
    CHECK_OK(t, nn_open(&(nn_config){.k = &k, .pool = p, .no_reuse = no_reuse}, &c, &err),
             err);
    CHECK_OK(t, nn_measure(c, true, mini_step, &m, &out->bytes, &err), err);
    CHECK_OK(t, nn_run(c, 1, true, mini_step, &m, &err), err);
    memcpy(out->lora_grad, m.lora_grad, sizeof(m.lora_grad));
    memcpy(out->base_grad, m.base_grad, sizeof(m.base_grad));
    out->loss = m.loss.sum;
    nn_close(c);
    pool_close(p);
}

static bool same(const outcome *a, const outcome *b)
{
    return a->loss == b->loss &&
           memcmp(a->lora_grad, b->lora_grad, sizeof(a->lora_grad)) == 0 &&
           memcmp(a->base_grad, b->base_grad, sizeof(a->base_grad)) == 0;
}

static void reuse(test *t)
{
    static outcome with, without;
    for (int adapted = 0; adapted < 2; adapted++) {
        run_once(t, adapted, 1, false, false, &with);
        run_once(t, adapted, 1, true, false, &without);
        CHECK(t, isfinite(with.loss) && same(&with, &without));
        CHECK(t, with.bytes * 2 < without.bytes);
    }
}

static void threads(test *t)
{
    static outcome one, more;
    for (int adapted = 0; adapted < 2; adapted++) {
        run_once(t, adapted, 1, false, false, &one);
        run_once(t, adapted, 2, false, false, &more);
        CHECK(t, same(&one, &more));
        run_once(t, adapted, 5, false, false, &more);
        CHECK(t, same(&one, &more));
    }
}

static void recompute(test *t)
{
    static outcome kept, again;
    for (int adapted = 0; adapted < 2; adapted++) {
        run_once(t, adapted, 1, true, false, &kept);
        run_once(t, adapted, 1, true, true, &again);
        CHECK(t, same(&kept, &again));
        run_once(t, adapted, 1, false, false, &kept);
        run_once(t, adapted, 1, false, true, &again);
        CHECK(t, same(&kept, &again));
        CHECK(t, again.bytes < kept.bytes);
    }
}

/* ---- running
 * ------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t rows;
    float out[64];
    int calls;
    om_cancel *cancel_at; /* set in the second op */
} chain;

/* rows x 8 -> scaled four times; not a power of two, so that an order would show. */
static om_status scaled(nn *c, void *ctx)
{
    chain *s = ctx;
    static const float x[64] = {1, 2, 3, 4, 5, 6, 7, 8};
    nn_tensor *a = nn_input(c, x, s->rows, 8);
    for (int i = 0; i < 4; i++) {
        a = nn_scale(c, a, 3.0f);
        if (s->cancel_at && !c->dry)
            s->cancel_at->requested = 1;
    }
    nn_output(c, a, s->out);
    s->calls++;
    return c->status;
}

static nn *open_plain(test *t, kern *k, size_t max_bytes)
{
    nn *c = NULL;
    om_err err = {0};
    kern_init(k, 0);
    CHECK_OK(t, nn_open(&(nn_config){.k = k, .max_bytes = max_bytes}, &c, &err), err);
    return c;
}

static void planned_once(test *t)
{
    kern k;
    om_err err = {0};
    chain s = {.rows = 8};
    size_t bytes;
    nn *c = open_plain(t, &k, 0);
    CHECK_OK(t, nn_measure(c, false, scaled, &s, &bytes, &err), err);
    CHECK_INT(t, bytes, 512); /* input and output of one op at a time */
    s.calls = 0;
    for (uint64_t round = 0; round < 3; round++)
        for (uint64_t key = 1; key <= 8; key++) {
            s.rows = (uint32_t)key;
            CHECK_OK(t, nn_run(c, key, false, scaled, &s, &err), err);
            CHECK_NEAR(t, s.out[8 * key - 8], key == 1 ? 81 : 0, 0);
        }
    CHECK_INT(t, s.calls, 8 + 3 * 8); /* eight plans stay */
    s.rows = 3;
    CHECK_INT(t, nn_run(c, 8, false, scaled, &s, &err), OM_EARG); /* the key lies */
    CHECK(t, strstr(err.msg, "shape key") != NULL);
    s.rows = 8;
    CHECK_OK(t, nn_run(c, 8, false, scaled, &s, &err), err);
    nn_close(c);
}

static void limits(test *t)
{
    kern k;
    om_err err = {0};
    chain s = {.rows = 8};
    nn *c = open_plain(t, &k, 511);
    CHECK_INT(t, nn_run(c, 1, false, scaled, &s, &err), OM_ELIMIT);
    CHECK(t, strstr(err.msg, "512") && strstr(err.msg, "511"));
    s.rows = 4;
    CHECK_OK(t, nn_run(c, 2, false, scaled, &s, &err), err);
    nn_tensor x = {.rows = UINT32_MAX, .cols = UINT32_MAX};
    c->dry = true;
    CHECK(t, nn_new(c, x.rows, x.cols) != NULL && c->status == OM_ELIMIT);
    nn_close(c);
}

static void cancelled(test *t)
{
    kern k;
    om_err err = {0};
    om_cancel stop = {0};
    chain s = {.rows = 8, .cancel_at = &stop};
    nn *c = open_plain(t, &k, 0);
    c->cancel = &stop;
    memset(s.out, 0, sizeof(s.out));
    CHECK_INT(t, nn_run(c, 1, false, scaled, &s, &err), OM_ECANCEL);
    CHECK(t, s.out[0] == 0.0f);
    stop.requested = 0;
    s.cancel_at = NULL;
    CHECK_OK(t, nn_run(c, 1, false, scaled, &s, &err), err);
    CHECK(t, s.out[0] == 81.0f);
    nn_close(c);
}

static om_status misshapen(nn *c, void *ctx)
{
    static const float x[64];
    nn_weight w = {"blk.0.ffn_up", DTYPE_F32, x, 4, 6, NULL, NULL, NULL};
    nn_tensor *a = nn_linear(c, nn_input(c, x, 2, 8), &w, NULL);
    (void)ctx;
    nn_add(c, a, nn_input(c, x, 1, 1)); /* the first error stays */
    return c->status;
}

static void errors_stick(test *t)
{
    kern k;
    om_err err = {0};
    nn *c = open_plain(t, &k, 0);
    CHECK_INT(t, nn_run(c, 1, false, misshapen, NULL, &err), OM_EARG);
    CHECK(t, strstr(err.msg, "blk.0.ffn_up") != NULL);
    CHECK_INT(t, err.code, OM_EARG);
    nn_close(c);
}

/* ---- allocation
 * ------------------------------------------------------------------------------------ */

static void no_allocation(test *t)
{
#ifdef OM_FAULTS
    kern k;
    om_err err = {0};
    static mini m;
    for (int again = 0; again < 2; again++) {
        nn *c = open_plain(t, &k, 0);
        mini_random(&m, true);
        m.recompute = again;
        CHECK_OK(t, nn_run(c, 1, true, mini_step, &m, &err), err);
        mem_fail_at(0);
        CHECK_OK(t, nn_run(c, 1, true, mini_step, &m, &err), err);
        CHECK_INT(t, mem_count(), 0);
        nn_close(c);
    }
#else
    test_skip(t, "built without OM_FAULTS");
#endif
}

static void faults(test *t)
{
#ifdef OM_FAULTS
    kern k;
    static mini m;
    kern_init(&k, 0);
    long nth = 0;
    om_status s = OM_ENOMEM;
    while (s != OM_OK && nth < 100) {
        nn *c = NULL;
        om_err err = {0};
        mini_random(&m, true);
        m.recompute = true;
        mem_fail_at(++nth);
        s = nn_open(&(nn_config){.k = &k}, &c, &err);
        if (s == OM_OK)
            s = nn_run(c, 1, true, mini_step, &m, &err);
        mem_fail_at(0);
        CHECK(t, s == OM_OK || (s == OM_ENOMEM && err.msg[0]));
        if (c && s != OM_OK) { /* the context still works */
            memset(m.lora_grad, 0, sizeof(m.lora_grad));
            CHECK_OK(t, nn_run(c, 1, true, mini_step, &m, &err), err);
        }
        nn_close(c);
    }
    CHECK(t, s == OM_OK && nth > 5);
#else
    test_skip(t, "built without OM_FAULTS");
#endif
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"packing", "what lives together does not overlap; near the least possible",
         packing},
        {"reuse", "the same bits with and without reuse", reuse},
        {"threads", "the same bits on 1, 2, 5 threads", threads},
        {"recompute", "the same bits with activations recomputed", recompute},
        {"planned_once", "plans are cached; a wrong key is caught", planned_once},
        {"limits", "a plan over the limit is refused with both sizes", limits},
        {"cancelled", "cancellation between ops, and a run after it", cancelled},
        {"errors_stick", "the first error is the one reported", errors_stick},
        {"no_allocation", "a planned step allocates nothing", no_allocation},
        {"faults", "the n-th allocation fails", faults},
        {0}};
    return test_main(argc, argv, cases);
}
