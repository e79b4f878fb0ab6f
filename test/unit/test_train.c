/* test_train.c - local training against PyTorch and against itself: losses of twenty
 * steps, resuming, adapters on disk, merging, the memory budget. */
#include "adapt/adapt.h"
#include "test.h"

#define GOLDEN OM_SOURCE_DIR "/test/golden/train/"
enum { SEQ = 24, BATCH = 4, TOKENS = SEQ * BATCH + 1, STEPS = 20 };

typedef struct {
    kern k;
    pool *pool;
    llm_model *m;
    int32_t ids[TOKENS];
    double full[STEPS], lora[STEPS];
    om_err err;
} bench;

static bool open_bench(test *t, bench *b, int threads)
{
    *b = (bench){0};
    kern_init(&b->k, 0);
    FILE *f = fopen(GOLDEN "losses.txt", "r");
    bool ok = f != NULL;
    for (int i = 0; i < TOKENS && ok; i++)
        ok = fscanf(f, "%d", &b->ids[i]) == 1;
    for (int i = 0; i < STEPS && ok; i++)
        ok = fscanf(f, "%lf %lf", &b->full[i], &b->lora[i]) == 2;
    if (f)
        fclose(f);
    CHECK(t, ok);
    CHECK_OK(t, pool_open(threads, &b->pool, &b->err), b->err);
    CHECK_OK(t, llm_open(GOLDEN "model", &b->m, &b->err), b->err);
    return ok && b->pool && b->m;
}

static void close_bench(bench *b)
{
    if (b->m)
        llm_close(b->m);
    pool_close(b->pool);
}

static train_config config(const bench *b, double *optimizer_p)
{
    const nn_optim *o = nn_optim_find(STR("adamw"));
    param_defaults(o->params, optimizer_p);
    param_set(o->params, "adamw", optimizer_p, STR("weight_decay"), STR("0.01"), NULL);
    return (train_config){.optimizer = "adamw", .optimizer_p = optimizer_p, .lr = 3e-3,
                          .schedule = NN_SCHEDULE_CONSTANT, .steps = STEPS, .batch = BATCH,
                          .seq_len = SEQ, .accumulate = 1, .k = &b->k, .pool = b->pool};
}

static void follow(test *t, bench *b, trainable *tr, const double *want, size_t memory)
{
    double p[16];
    train_config c = config(b, p);
    c.memory_bytes = memory;
    trainer *run = NULL;
    token_data d = {b->ids, TOKENS, SEQ};
    CHECK_OK(t, trainer_open(tr, &c, &run, &b->err), b->err);
    for (int i = 0; run && i < STEPS; i++) {
        train_report r = {0};
        CHECK_OK(t, trainer_step(run, &d, &r, &b->err), b->err);
        CHECK_NEAR(t, r.loss / want[i], 1, 1e-3);
    }
    trainer_close(run);
}

static void full_follows_pytorch(test *t)
{
    bench b;
    trainable tr;
    if (open_bench(t, &b, 2)) {
        CHECK_OK(t, trainable_full(b.m, &tr, &b.err), b.err);
        follow(t, &b, &tr, b.full, 0);
        trainable_close(&tr);
    }
    close_bench(&b);
}

static void lora_follows_pytorch(test *t)
{
    bench b;
    trainable tr;
    if (open_bench(t, &b, 2)) {
        CHECK_OK(t, peft_load(b.m, GOLDEN "adapter", &tr, &b.err), b.err);
        CHECK_INT(t, tr.n_part, 12);
        follow(t, &b, &tr, b.lora, 0);
        trainable_close(&tr);
    }
    close_bench(&b);
}

/* Steps with a fresh full trainable; returns the values after `steps`. */
static float *values_after(test *t, bench *b, int steps, int save_at, size_t memory,
                           bool lora, size_t *n)
{
    double p[16];
    char path[256];
    train_config c = config(b, p);
    token_data d = {b->ids, TOKENS, SEQ};
    trainable tr;
    trainer *run = NULL;
    lora_config lc = {.rank = 4, .target_modules = "all", .seed = 3};
    c.memory_bytes = memory;
    c.batch = 2; /* two steps an epoch: the order matters */
    snprintf(path, sizeof(path), "%s/ck", test_temp_dir());
    CHECK_OK(t, lora ? trainable_lora(b->m, &lc, &tr, &b->err)
                     : trainable_full(b->m, &tr, &b->err), b->err);
    CHECK_OK(t, trainer_open(&tr, &c, &run, &b->err), b->err);
    for (int i = 0; run && i < steps; i++) {
        train_report r;
        if (i == save_at) {
            CHECK_OK(t, trainer_save(run, path, &b->err), b->err);
            trainer_close(run);
            memset(tr.x, 0, tr.n * sizeof(float));
            CHECK_OK(t, trainer_open(&tr, &c, &run, &b->err), b->err);
            CHECK_OK(t, trainer_load(run, path, &b->err), b->err);
        }
        CHECK_OK(t, trainer_step(run, &d, &r, &b->err), b->err);
    }
    float *x = mem_array(tr.n, sizeof(float));
    memcpy(x, tr.x, tr.n * sizeof(float));
    *n = tr.n;
    trainer_close(run);
    trainable_close(&tr);
    return x;
}

static void same_bits(test *t)
{
    bench b1, b2;
    if (open_bench(t, &b1, 1) && open_bench(t, &b2, 5)) {
        for (int lora = 0; lora < 2; lora++) {
            size_t n, n2;
            float *straight = values_after(t, &b1, 7, -1, 0, lora, &n);
            float *resumed = values_after(t, &b1, 7, 4, 0, lora, &n2);
            float *threads = values_after(t, &b2, 7, -1, 0, lora, &n2);
            CHECK(t, memcmp(straight, resumed, n * sizeof(float)) == 0);
            CHECK(t, n == n2 && memcmp(straight, threads, n * sizeof(float)) == 0);
            mem_free(straight);
            mem_free(resumed);
            mem_free(threads);
        }
    }
    close_bench(&b1);
    close_bench(&b2);
}

static void memory_budget(test *t)
{
    bench b;
    if (open_bench(t, &b, 1)) {
        size_t n;
        float *remember = values_after(t, &b, 3, -1, 0, true, &n);
        /* Enough to recompute, too little to remember (see choose_recompute). */
        size_t tight = 0;
        double p[16];
        train_config c = config(&b, p);
        token_data d = {b.ids, TOKENS, SEQ};
        lora_config lc = {.rank = 4, .target_modules = "all", .seed = 3};
        for (size_t budget = 100000; budget < 4000000 && !tight; budget += 20000) {
            trainable tr;
            trainer *run = NULL;
            train_report r;
            c.memory_bytes = budget;
            c.batch = 2;
            CHECK_OK(t, trainable_lora(b.m, &lc, &tr, &b.err), b.err);
            CHECK_OK(t, trainer_open(&tr, &c, &run, &b.err), b.err);
            om_status s = trainer_step(run, &d, &r, &b.err);
            CHECK(t, s == OM_OK || (s == OM_ELIMIT && strstr(b.err.msg, "budget")));
            tight = s == OM_OK ? budget : 0;
            trainer_close(run);
            trainable_close(&tr);
        }
        CHECK(t, tight > 0);
        float *again = values_after(t, &b, 3, -1, tight, true, &n);
        CHECK(t, memcmp(remember, again, n * sizeof(float)) == 0);
        mem_free(remember);
        mem_free(again);
    }
    close_bench(&b);
}

static double loss_now(test *t, bench *b, trainable *tr)
{
    double p[16], loss = 0;
    train_config c = config(b, p);
    token_data d = {b->ids, TOKENS, SEQ};
    uint64_t window[BATCH] = {0, 1, 2, 3};
    trainer *run = NULL;
    CHECK_OK(t, trainer_open(tr, &c, &run, &b->err), b->err);
    CHECK_OK(t, trainer_gradient(run, &d, window, BATCH, &loss, &b->err), b->err);
    trainer_close(run);
    return loss;
}

/* The loss of a model file, through a LoRA whose B is zero. */
static double loss_of_file(test *t, bench *b, const char *path)
{
    llm_model *kept = b->m;
    trainable tr;
    lora_config lc = {.rank = 1};
    double loss = 0;
    CHECK_OK(t, llm_open(path, &b->m, &b->err), b->err);
    if (b->m) {
        CHECK_OK(t, trainable_lora(b->m, &lc, &tr, &b->err), b->err);
        loss = loss_now(t, b, &tr);
        trainable_close(&tr);
        llm_close(b->m);
    }
    b->m = kept;
    return loss;
}

static void adapters_on_disk(test *t)
{
    bench b;
    trainable tr, back;
    char dir[256], file[256], merged[256], base[256];
    snprintf(dir, sizeof(dir), "%s/adapter", test_temp_dir());
    snprintf(file, sizeof(file), "%s/adapter.gguf", test_temp_dir());
    snprintf(merged, sizeof(merged), "%s/merged.gguf", test_temp_dir());
    snprintf(base, sizeof(base), "%s/base.gguf", test_temp_dir());
    if (open_bench(t, &b, 1)) {
        CHECK_OK(t, llm_write_gguf(b.m, base, DTYPE_F32, NULL, NULL, &b.err), b.err);
        CHECK_OK(t, peft_load(b.m, GOLDEN "adapter", &tr, &b.err), b.err);
        double loss = loss_now(t, &b, &tr);
        CHECK_NEAR(t, loss / b.lora[0], 1, 1e-4);
        CHECK_OK(t, peft_save(&tr, dir, "model", &b.err), b.err);
        CHECK_OK(t, lora_save_gguf(&tr, file, &b.err), b.err);
        CHECK_OK(t, lora_merge(&tr, merged, DTYPE_F32, &b.err), b.err);
        float *x = mem_array(tr.n, sizeof(float));
        memcpy(x, tr.x, tr.n * sizeof(float));
        size_t n = tr.n;
        trainable_close(&tr);
        CHECK_OK(t, peft_load(b.m, dir, &back, &b.err), b.err);
        CHECK(t, back.n == n && memcmp(back.x, x, n * sizeof(float)) == 0);
        trainable_close(&back);
        CHECK_OK(t, lora_load_gguf(b.m, file, &back, &b.err), b.err);
        CHECK(t, back.n == n && memcmp(back.x, x, n * sizeof(float)) == 0);
        trainable_close(&back);
        mem_free(x);
        CHECK_NEAR(t, loss_of_file(t, &b, merged) / loss, 1, 1e-5);
        /* The same adapters on the GGUF of the base: q and k rows lie in another order. */
        llm_model *kept = b.m;
        CHECK_OK(t, llm_open(base, &b.m, &b.err), b.err);
        CHECK_OK(t, peft_load(b.m, dir, &back, &b.err), b.err);
        CHECK_NEAR(t, loss_now(t, &b, &back) / loss, 1, 1e-5);
        trainable_close(&back);
        CHECK_OK(t, lora_load_gguf(b.m, file, &back, &b.err), b.err);
        CHECK_NEAR(t, loss_now(t, &b, &back) / loss, 1, 1e-5);
        trainable_close(&back);
        llm_close(b.m);
        b.m = kept;
    }
    close_bench(&b);
}

/* ---- bf16 products by quantized weights ------------------------------------------------ */

enum { CURVE = 50, CURVE_SEQ = 64 };

/* Losses of LoRA steps on this repository's own prose, with the kernels `k` has. */
static void curve(test *t, const kern *k, const char *path, double loss[CURVE])
{
    om_err err;
    llm_model *m = NULL;
    pool *p = NULL;
    trainer *run = NULL;
    trainable tr = {0};
    token_data d = {.seq_len = CURVE_SEQ};
    int32_t *ids = NULL;
    buf text = {0};
    lora_config lc = {.rank = 8, .alpha = 16, .target_modules = "all", .seed = 5};
    CHECK_OK(t, llm_open(path, &m, &err), err);
    CHECK_OK(t, pool_open(2, &p, &err), err);
    CHECK_OK(t, os_read_file(OM_SOURCE_DIR "/docs/architecture.md", 1 << 20, &text, &err), err);
    CHECK_OK(t, llm_tokenize(m, (str){(char *)text.data, text.len}, &ids, &d.n, &err), err);
    d.ids = ids;
    CHECK_OK(t, trainable_lora(m, &lc, &tr, &err), err);
    train_config c = {.lr = 5e-3, .steps = CURVE, .batch = 2, .seq_len = CURVE_SEQ,
                      .accumulate = 1, .k = k, .pool = p};
    CHECK_OK(t, trainer_open(&tr, &c, &run, &err), err);
    for (int i = 0; i < CURVE; i++) {
        train_report r = {0};
        CHECK_OK(t, trainer_step(run, &d, &r, &err), err);
        loss[i] = r.loss;
    }
    trainer_close(run);
    trainable_close(&tr);
    mem_free(ids);
    buf_free(&text);
    pool_close(p);
    llm_close(m);
}

/* With bf16 tiles, products by a quantized base round to bf16; everywhere else they are
 * f32.  The shipped model learns the same: every loss of fifty steps within 1 %, their
 * mean within 0.1 %. */
static void quantized_curve(test *t)
{
    static const dtype types[] = {DTYPE_Q8_0, DTYPE_Q4_0};
    double got[CURVE], want[CURVE];
    kern with, without;
    kern_init(&with, 0);
    kern_init(&without, ~(unsigned)CPU_AMX);
    if (!(with.flags & CPU_AMX)) {
        test_skip(t, "this processor has no bf16 tiles");
        return;
    }
    for (size_t i = 0; i < countof(types); i++) {
        om_err err;
        char path[256];
        llm_model *m = NULL;
        double worst = 0, mean = 0, fell;
        snprintf(path, sizeof(path), "%s/base.gguf", test_temp_dir());
        CHECK_OK(t, llm_open(OM_SOURCE_DIR "/demo/keyboard.gguf", &m, &err), err);
        CHECK_OK(t, llm_write_gguf(m, path, types[i], NULL, NULL, &err), err);
        llm_close(m);
        curve(t, &with, path, got);
        curve(t, &without, path, want);
        for (int s = 0; s < CURVE; s++) {
            worst = fmax(worst, fabs(got[s] / want[s] - 1));
            mean += (got[s] - want[s]) / want[s] / CURVE;
        }
        fell = want[0] - want[CURVE - 1];
        CHECK(t, worst > 0 && worst < 1e-2 && fabs(mean) < 1e-3);
        CHECK(t, fell > 0.5); /* it did learn */
        CHECK(t, memcmp(got, want, sizeof(got)) != 0);
    }
}

/* A prompt learns, moves nothing but itself, and comes back from disk to the same bits; its
 * gradient is that of finite differences. */
static void prompt(test *t)
{
    bench b;
    double p[16];
    char path[300];
    snprintf(path, sizeof(path), "%s/prompt.gguf", test_temp_dir());
    if (!open_bench(t, &b, 2))
        return;
    trainable tr;
    trainer *run = NULL;
    train_config c = config(&b, p);
    uint64_t windows[BATCH] = {0, 1, 2, 3};
    token_data d = {b.ids, TOKENS, SEQ};
    perplexity_report before, with, again;
    train_report r = {0};
    CHECK_OK(t, llm_perplexity(b.m, &b.k, b.pool, b.ids, TOKENS, SEQ, 0, NULL, NULL, NULL,
                               &before, &b.err), b.err);
    CHECK_OK(t, trainable_prompt(b.m, 5, 3, &tr, &b.err), b.err);
    CHECK_INT(t, tr.n, 5 * b.m->h.dim);
    c.lr = 3e-2;
    CHECK_OK(t, trainer_open(&tr, &c, &run, &b.err), b.err);
    for (size_t at = 0; at < tr.n; at += tr.n / 3) {
        double up = 0, down = 0, mid = 0;
        float kept = tr.x[at], h = 1e-2f;
        CHECK_OK(t, trainer_gradient(run, &d, windows, BATCH, &mid, &b.err), b.err);
        double g = (double)tr.grad[at];
        tr.x[at] = kept + h;
        CHECK_OK(t, trainer_gradient(run, &d, windows, BATCH, &up, &b.err), b.err);
        tr.x[at] = kept - h;
        CHECK_OK(t, trainer_gradient(run, &d, windows, BATCH, &down, &b.err), b.err);
        tr.x[at] = kept;
        CHECK_NEAR(t, (up - down) / (2 * (double)h), g, 2e-2 * fabs(g) + 2e-4);
    }
    double first = 0;
    for (int i = 0; i < STEPS; i++) {
        CHECK_OK(t, trainer_step(run, &d, &r, &b.err), b.err);
        first = i ? first : r.loss;
    }
    CHECK(t, r.loss < first - 0.02);
    trainer_close(run);
    CHECK_OK(t, prompt_save_gguf(&tr, path, &b.err), b.err);
    CHECK_OK(t, llm_perplexity(b.m, &b.k, b.pool, b.ids, TOKENS, SEQ + 5, SEQ / 2, NULL, NULL,
                               NULL, &with, &b.err), b.err);
    trainable_close(&tr);
    CHECK_OK(t, llm_perplexity(b.m, &b.k, b.pool, b.ids, TOKENS, SEQ, 0, NULL, NULL, NULL,
                               &again, &b.err), b.err);
    CHECK(t, again.nll == before.nll && with.nll != before.nll);
    CHECK_OK(t, adapter_load(b.m, path, &tr, &b.err), b.err);
    CHECK(t, tr.mode == TRAIN_PROMPT);
    CHECK_OK(t, llm_perplexity(b.m, &b.k, b.pool, b.ids, TOKENS, SEQ + 5, SEQ / 2, NULL, NULL,
                               NULL, &again, &b.err), b.err);
    CHECK(t, again.nll == with.nll);
    trainable_close(&tr);
    CHECK(t, trainable_prompt(b.m, b.m->h.context, 1, &tr, &b.err) != OM_OK);
    close_bench(&b);
}

/* rsLoRA: scale alpha / sqrt(rank), also after PEFT and GGUF. */
static void rank_stabilised(test *t)
{
    bench b;
    char dir[300], path[320];
    snprintf(dir, sizeof(dir), "%s/rslora", test_temp_dir());
    snprintf(path, sizeof(path), "%s/rslora.gguf", test_temp_dir());
    if (!open_bench(t, &b, 1))
        return;
    trainable tr;
    lora_config c = {.rank = 4, .alpha = 6, .target_modules = "q_proj", .rslora = true};
    CHECK_OK(t, trainable_lora(b.m, &c, &tr, &b.err), b.err);
    CHECK_NEAR(t, (double)b.m->layer[0].q->lora->scale, 3, 1e-6);
    CHECK_OK(t, peft_save(&tr, dir, "base", &b.err), b.err);
    CHECK_OK(t, lora_save_gguf(&tr, path, &b.err), b.err);
    trainable_close(&tr);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(t, adapter_load(b.m, i ? path : dir, &tr, &b.err), b.err);
        CHECK_NEAR(t, (double)b.m->layer[0].q->lora->scale, 3, 1e-6);
        trainable_close(&tr);
    }
    close_bench(&b);
}

static void refusals(test *t)
{
    bench b;
    trainable tr;
    if (open_bench(t, &b, 1)) {
        lora_config bad = {.rank = 4, .target_modules = "q_proj,w_proj"};
        CHECK_INT(t, trainable_lora(b.m, &bad, &tr, &b.err), OM_EARG);
        CHECK(t, strstr(b.err.msg, "w_proj") && strstr(b.err.msg, "gate_proj"));
        bad = (lora_config){.rank = 100000};
        CHECK_INT(t, trainable_lora(b.m, &bad, &tr, &b.err), OM_EARG);
        CHECK_INT(t, peft_load(b.m, "/nonexistent", &tr, &b.err), OM_ENOTFOUND);
        lora_config one = {.rank = 1}, two = {.rank = 2};
        trainable second;
        CHECK_OK(t, trainable_lora(b.m, &one, &tr, &b.err), b.err);
        CHECK_INT(t, trainable_lora(b.m, &two, &second, &b.err), OM_EEXIST);
        trainable_close(&tr);
        CHECK_OK(t, trainable_lora(b.m, &two, &second, &b.err), b.err);
        trainable_close(&second);
    }
    close_bench(&b);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"full_pytorch", "20 AdamW steps on every weight follow PyTorch", full_follows_pytorch},
        {"lora_pytorch", "20 AdamW steps on LoRA follow PyTorch", lora_follows_pytorch},
        {"same_bits", "resumed = straight, 1 = 5 threads", same_bits},
        {"budget", "recomputing gives the same bits; too small is refused", memory_budget},
        {"adapters", "PEFT, GGUF and merge agree on both row orders", adapters_on_disk},
        {"prompt", "a prompt trains, saves, loads, and leaves the model alone", prompt},
        {"rslora", "alpha over the root of the rank, on disk too", rank_stabilised},
        {"quantized_curve", "bf16 products by a quantized base learn as f32 ones",
         quantized_curve},
        {"refusals", "bad targets, ranks, files, a second adapter", refusals},
        {0}};
    return test_main(argc, argv, cases);
}
