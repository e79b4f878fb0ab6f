/* cmd_bench.c - how fast a model runs here: tokens per second of reading a prompt (pp) and
 * of generating (tg), from an empty cache and after `depth` tokens.
 *
 * Tokens are drawn at random: speed does not depend on them.  The cache is filled to the
 * depth once and rewound before every repeat; the first round of each test is not counted.
 * Generation reads every weight once a token, so its ceiling is the memory: the share given
 * is (bytes of weights times tokens per second) over the read bandwidth, which is measured
 * on the model's own bytes, best of a few sweeps before and after the tests. */
#include "cli/cli.h"

#include "llm/model.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST_SIZES = 16, MOST_REPEATS = 64, SWEEPS = 4, LINE = 64, RUN = 4, STREAMS = 4 };

typedef struct {
    uint32_t n, value[MOST_SIZES];
} sizes;

typedef struct {
    char test[24];
    uint32_t depth, n;
    double rate[MOST_REPEATS]; /* tokens per second, ascending */
} result;

typedef struct {
    cli *c;
    llm_model *m;
    llm_session *s;
    int32_t *ids; /* (longest prompt or depth) */
    sizes prompt, depth;
    uint64_t generate, repeat, batch, bytes;
    double read; /* bytes per second, the best sweep */
    result *results;
    size_t n_results;
} bench;

/* ---- arguments ---------------------------------------------------------------------- */

/* "128,512" */
static om_status read_sizes(const cli *c, const char *name, uint32_t min, sizes *out,
                            om_err *err)
{
    const char *at = cli_str(c, name);
    for (out->n = 0; *at; out->n++) {
        char *end;
        unsigned long v = strtoul(at, &end, 10);
        if (end == at || (*end && *end != ',') || v < min || v > 1u << 20 ||
            out->n == MOST_SIZES)
            return fail(err, OM_EARG,
                        "bench: --%s is \"%s\"; it must be up to %d numbers from %u to %u "
                        "with commas between", name, cli_str(c, name), MOST_SIZES, min,
                        1u << 20);
        out->value[out->n] = (uint32_t)v;
        at = *end ? end + 1 : end;
    }
    return OM_OK;
}

static uint32_t largest(const sizes *s)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < s->n; i++)
        most = s->value[i] > most ? s->value[i] : most;
    return most;
}

/* ---- bandwidth ---------------------------------------------------------------------- */

/* A few streams at once: one alone does not reach what the memory can give. */
static void sweep(void *ctx, size_t beg, size_t end, int worker)
{
    const uint8_t *p = ctx;
    size_t part = (end - beg) / STREAMS & ~(size_t)(LINE * RUN - 1);
    uint64_t sum[LINE / 8] = {0};
    (void)worker;
    for (size_t i = beg; i < beg + part; i += LINE * RUN)
        for (size_t q = 0; q < STREAMS * RUN; q++) {
            uint64_t v[LINE / 8];
            memcpy(v, p + i + q / RUN * part + q % RUN * LINE, LINE);
            for (size_t j = 0; j < LINE / 8; j++)
                sum[j] ^= v[j];
        }
    volatile uint64_t sink = 0;
    for (size_t j = 0; j < LINE / 8; j++)
        sink = sink ^ sum[j];
}

/* Reads the largest weight; a model smaller than the caches shows what those give. */
static void measure_read(bench *b)
{
    const nn_weight *most = &b->m->weight[0];
    size_t bytes = 0, row;
    for (uint32_t i = 0; i < b->m->n_weight; i++) {
        const nn_weight *w = &b->m->weight[i];
        if (dtype_row_bytes(w->type, w->cols, &row) && row * w->rows > bytes) {
            most = w;
            bytes = row * w->rows;
        }
    }
    for (int i = 0; i < SWEEPS; i++) {
        uint64_t start = os_now_ns();
        pool_run(b->c->pool, bytes, 4 << 20, sweep, (void *)(uintptr_t)most->data);
        double rate = (double)bytes / ((double)(os_now_ns() - start) * 1e-9);
        b->read = rate > b->read ? rate : b->read;
    }
}

/* Bytes that one token reads: all weights, of an embedding that is not also the output
 * one row. */
static uint64_t touched(const llm_model *m)
{
    uint64_t total = 0;
    size_t row;
    for (uint32_t i = 0; i < m->n_weight; i++) {
        const nn_weight *w = &m->weight[i];
        bool one_row = w == m->pos_embed || (w == m->embed && m->output != m->embed);
        if (dtype_row_bytes(w->type, w->cols, &row))
            total += (uint64_t)row * (one_row ? 1 : w->rows);
    }
    return total;
}

/* ---- tests -------------------------------------------------------------------------- */

/* n tokens after `depth`, all at once or one by one. */
static om_status once(bench *b, uint32_t depth, uint32_t n, bool one_by_one, double *rate,
                      om_err *err)
{
    TRY(llm_rewind(b->s, llm_past(b->s) - depth, err));
    uint64_t start = os_now_ns();
    for (uint32_t i = 0; i < n; i += one_by_one ? 1 : n)
        TRY(llm_eval(b->s, b->ids + i, one_by_one ? 1 : n, NULL, err));
    *rate = n / ((double)(os_now_ns() - start) * 1e-9);
    return OM_OK;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static om_status test(bench *b, uint32_t depth, uint32_t n, bool generate, om_err *err)
{
    result *r = &b->results[b->n_results];
    double warm;
    *r = (result){.depth = depth, .n = n};
    snprintf(r->test, sizeof(r->test), "%s%u", generate ? "tg" : "pp", n);
    TRY(once(b, depth, generate ? (uint32_t)size_min(n, 4) : n, generate, &warm, err));
    for (uint64_t i = 0; i < b->repeat; i++) {
        TRY(once(b, depth, n, generate, &r->rate[i], err));
        cli_progress(b->c, r->test, "rounds", i + 1, b->repeat);
    }
    qsort(r->rate, b->repeat, sizeof(r->rate[0]), ascending);
    b->n_results++;
    return OM_OK;
}

static om_status at_depth(bench *b, uint32_t depth, om_err *err)
{
    uint32_t past = llm_past(b->s);
    if (past > depth)
        TRY(llm_rewind(b->s, past - depth, err));
    else if (past < depth)
        TRY(llm_eval(b->s, b->ids, depth - past, NULL, err));
    for (uint32_t i = 0; i < b->prompt.n; i++)
        TRY(test(b, depth, b->prompt.value[i], false, err));
    if (b->generate)
        TRY(test(b, depth, (uint32_t)b->generate, true, err));
    return OM_OK;
}

static om_status prepare(bench *b, om_err *err)
{
    cli *c = b->c;
    TRY(read_sizes(c, "prompt", 1, &b->prompt, err));
    TRY(read_sizes(c, "depth", 0, &b->depth, err));
    TRY(cli_u64(c, "generate", 0, 1u << 20, &b->generate, err));
    TRY(cli_u64(c, "repeat", 1, MOST_REPEATS, &b->repeat, err));
    TRY(cli_u64(c, "batch", 1, 1u << 16, &b->batch, err));
    uint32_t most = (uint32_t)size_max(largest(&b->prompt), b->generate);
    uint32_t context = largest(&b->depth) + most + 1;
    size_t n = size_max(most, largest(&b->depth));
    TRY(llm_open(c->operand[0], &b->m, err));
    b->bytes = touched(b->m);
    b->ids = mem_array(n + 1, sizeof(*b->ids));
    b->results = mem_array((size_t)b->depth.n * (b->prompt.n + 1) + 1, sizeof(result));
    if (!b->ids || !b->results)
        return fail(err, OM_ENOMEM, "bench: no memory for %zu tokens", n);
    rng r = rng_for(1, 0, 0, 0);
    for (size_t i = 0; i < n; i++)
        b->ids[i] = (int32_t)(rng_u64(&r) % b->m->h.vocab);
    llm_session_args a = {.context = context, .kv_type = DTYPE_F16, .k = &c->kernels,
                          .pool = c->pool, .batch = (uint32_t)b->batch,
                          .cancel = c->cancel};
    return llm_session_open(b->m, &a, &b->s, err);
}

static om_status measure(bench *b, om_err *err)
{
    TRY(prepare(b, err));
    measure_read(b);
    for (uint32_t i = 0; i < b->depth.n; i++)
        TRY(at_depth(b, b->depth.value[i], err));
    measure_read(b);
    return OM_OK;
}

/* ---- answers ------------------------------------------------------------------------ */

static double median(const bench *b, const result *r)
{
    return (r->rate[(b->repeat - 1) / 2] + r->rate[b->repeat / 2]) / 2;
}

static double share(const bench *b, const result *r)
{
    return r->test[0] == 't' ? (double)b->bytes * median(b, r) / b->read : 0;
}

static void answer_json(bench *b)
{
    json_out o = json_to(&b->c->out);
    json_open_object(&o, NULL);
    json_put_str(&o, "model", str_of(b->c->operand[0]));
    json_put_u64(&o, "threads", (uint64_t)pool_threads(b->c->pool));
    json_put_u64(&o, "bytes_per_token", b->bytes);
    json_put_f64(&o, "read_bytes_per_second", b->read);
    json_open_array(&o, "results");
    for (size_t i = 0; i < b->n_results; i++) {
        const result *r = &b->results[i];
        json_open_object(&o, NULL);
        json_put_str(&o, "test", str_of(r->test));
        json_put_u64(&o, "depth", r->depth);
        json_put_f64(&o, "tokens_per_second", median(b, r));
        json_put_f64(&o, "lowest", r->rate[0]);
        json_put_f64(&o, "highest", r->rate[b->repeat - 1]);
        if (r->test[0] == 't')
            json_put_f64(&o, "share_of_bandwidth", share(b, r));
        json_shut(&o, '}');
    }
    json_shut(&o, ']');
    json_put_u64(&o, "peak_rss_bytes", os_peak_rss_bytes());
    json_shut(&o, '}');
    cli_print(b->c, "\n");
}

static void answer_table(bench *b)
{
    char size[24];
    cli_print(b->c, "%s a token, %d threads, memory read at %.1f GB/s\n",
              cli_bytes(size, b->bytes), pool_threads(b->c->pool), b->read * 1e-9);
    cli_print(b->c, "%-8s %7s %10s %10s %10s %10s\n", "test", "depth", "tokens/s", "lowest",
              "highest", "bandwidth");
    for (size_t i = 0; i < b->n_results; i++) {
        const result *r = &b->results[i];
        cli_print(b->c, "%-8s %7u %10.2f %10.2f %10.2f", r->test, r->depth, median(b, r),
                  r->rate[0], r->rate[b->repeat - 1]);
        if (r->test[0] == 't')
            cli_print(b->c, " %9.0f%%", 100 * share(b, r));
        cli_print(b->c, "\n");
    }
}

static om_status run(cli *c, om_err *err)
{
    bench b = {.c = c};
    om_status s = measure(&b, err);
    cli_progress_end(c);
    if (s == OM_OK && c->json)
        answer_json(&b);
    else if (s == OM_OK)
        answer_table(&b);
    llm_session_close(b.s);
    llm_close(b.m);
    mem_free(b.ids);
    mem_free(b.results);
    return s;
}

static const cli_option options[] = {
    {"prompt", 'p', "N,...", "128,512", "prompt lengths to read", false},
    {"generate", 'n', "N", "64", "tokens to generate; 0: none", false},
    {"depth", 'd', "N,...", "0", "tokens in the cache beforehand", false},
    {"repeat", 'r', "N", "5", "rounds of each test; the median is given", false},
    {"batch", 'b', "N", "512", "prompt tokens per forward", false},
    {0},
};

const command command_bench = {
    .name = "bench", .summary = "tokens per second of a model, and the share of bandwidth",
    .operands = "MODEL", .min_operands = 1, .max_operands = 1, .options = options,
    .run = run,
    .details =
        "pp512 reads a prompt of 512 tokens, tg64 generates 64 one by one.  Generation is\n"
        "limited by memory: the last column is the share of the read bandwidth, measured\n"
        "beside it, that the weights alone take.\n\n"
        "  octomil bench model.gguf --prompt 16 --generate 4 --repeat 2\n"
        "  octomil bench model.gguf --prompt 16 --generate 4 --depth 0,32 --json\n",
};
