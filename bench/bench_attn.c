/* bench_attn.c - attention over a cache at depth, per type and threads, beside a plain
 * read of as many bytes.
 *
 *     bench_attn [--threads N] [--rows N] [--shape 1b|05b] [TYPE...]
 *
 * One token (or --rows of a prompt) attends in every layer of a model of one billion
 * (0.5 billion) parameters, Llama 3.2's (Qwen 2.5's) heads; nothing else is computed.  The
 * cache of all layers is larger than what the processor keeps.  Best of several tokens. */
#include "nn/nn.h"

#include <stdio.h>
#include <stdlib.h>

static const struct {
    const char *name;
    uint32_t layers, heads, kv_heads, d;
} shapes[] = {{"1b", 16, 32, 8, 64}, {"05b", 24, 14, 2, 64}};

typedef struct {
    uint32_t layers, rows, depth;
    nn_attn_args a;
    nn_kv_part part[32], tail[32];
    nn_kv_page *page;
    uint32_t pages;
    float *q, *k;
    nn_seq seq;
    nn_kv_layer layer[32];
} bench;

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    return p;
}

static om_status token(nn *c, void *ctx)
{
    bench *b = ctx;
    uint32_t d = b->a.head_dim;
    for (uint32_t i = 0; i < b->layers; i++) {
        nn_tensor *q = nn_input(c, b->q, b->rows, b->a.n_head * d);
        nn_tensor *k = nn_input(c, b->k, b->rows, b->a.n_kv_head * d);
        nn_attention(c, q, k, k, &b->seq, 1, &b->a, &b->layer[i]);
    }
    return c->status;
}

static size_t form(const bench *b, kv_type t, nn_kv_part *out)
{
    size_t at = 0;
    for (uint32_t i = 0; i < b->layers; i++) {
        out[i] = (nn_kv_part){.k = t, .v = t, .k_at = at};
        out[i].v_at = at + b->a.n_kv_head * kv_block_bytes(t, false, b->a.head_dim);
        at = out[i].v_at + b->a.n_kv_head * kv_block_bytes(t, true, b->a.head_dim);
    }
    return at;
}

/* Random contents; the pages rows are appended to are F16. */
static size_t open_pages(bench *b, const kern *k, kv_type t)
{
    rng r = rng_for(1, 0, 0, 0);
    uint32_t d = b->a.head_dim, blocks = b->layers * b->a.n_kv_head;
    float *x = must(mem_array(KV_TOKENS * d, sizeof(*x)));
    size_t bytes = form(b, t, b->part), plain = form(b, KV_F16, b->tail);
    uint32_t full = b->depth / KV_TOKENS;
    b->pages = (b->depth + b->rows + KV_TOKENS - 1) / KV_TOKENS;
    b->page = must(mem_array(b->pages, sizeof(*b->page)));
    for (uint32_t i = 0; i < b->pages; i++) {
        bool old = i < full;
        b->page[i] =
            (nn_kv_page){must(mem_alloc(old ? bytes : plain)), old ? b->part : b->tail};
        for (uint32_t n = 0; old && n < 2 * blocks; n++) {
            bool v = n % 2;
            uint32_t l = n / 2 / b->a.n_kv_head, h = n / 2 % b->a.n_kv_head;
            size_t one = kv_block_bytes(t, v, d);
            uint8_t *to =
                b->page[i].data + (v ? b->part[l].v_at : b->part[l].k_at) + h * one;
            if (n >= 2) { /* the same contents everywhere: only their bytes matter */
                memcpy(to, b->page[i].data + (v ? b->part[0].v_at : b->part[0].k_at), one);
                continue;
            }
            for (uint32_t j = 0; j < KV_TOKENS * d; j++)
                x[j] = (float)rng_normal(&r);
            for (uint32_t j = 0; j < KV_TOKENS && !kv_packed(t); j++)
                kv_put(k, t, v, to, d, j, x + j * d);
            if (kv_packed(t))
                kv_pack(t, v, to, d, x);
        }
    }
    mem_free(x);
    return bytes * full;
}

static void read_chunk(void *ctx, size_t beg, size_t end, int worker)
{
    bench *b = ctx;
    (void)worker;
    uint64_t s[8] = {0};
    for (size_t i = beg; i < end; i++)
        for (uint32_t l = 0; l < b->layers; l++) {
            const uint8_t *p = b->page[i].data + b->part[l].k_at;
            size_t n = b->layers > 1 ? b->part[1].k_at - b->part[0].k_at : 0;
            for (size_t j = 0; j + 64 <= n; j += 64) {
                uint64_t v[8];
                memcpy(v, p + j, 64);
                for (int w = 0; w < 8; w++)
                    s[w] += v[w];
            }
        }
    volatile uint64_t sink = s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
    (void)sink;
}

static void measure(bench *b, const kern *k, pool *p, kv_type t)
{
    om_err err;
    nn *c;
    size_t bytes = open_pages(b, k, t);
    double best = 1e9, read = 1e9;
    if (nn_open(&(nn_config){.k = k, .pool = p}, &c, &err) != OM_OK)
        exit(1);
    b->seq = (nn_seq){.n_rows = b->rows, .past = b->depth, .page = b->page};
    for (uint32_t i = 0; i < b->layers; i++)
        b->layer[i] = (nn_kv_layer){i, b->depth + b->rows, kv_packed(t)};
    for (int i = 0; i < 12; i++) {
        uint64_t start = os_now_ns();
        if (nn_run(c, b->depth, false, token, b, &err) != OM_OK) {
            fprintf(stderr, "%s\n", err.msg);
            exit(1);
        }
        double s = (double)(os_now_ns() - start) * 1e-9;
        if (i && s < best)
            best = s;
        start = os_now_ns();
        pool_run(p, b->depth / KV_TOKENS, 1, read_chunk, b);
        s = (double)(os_now_ns() - start) * 1e-9;
        read = s < read ? s : read;
    }
    printf("%-4s depth %5u  %7.1f MB  %8.2f ms a token  %5.1f GB/s; a read takes %6.2f ms, "
           "%5.1f GB/s\n",
           kv_type_name(t), b->depth, (double)bytes * 1e-6, best * 1e3 / b->rows,
           (double)bytes / best * 1e-9, read * 1e3, (double)bytes / read * 1e-9);
    fflush(stdout);
    nn_close(c);
    for (uint32_t i = 0; i < b->pages; i++)
        mem_free(b->page[i].data);
    mem_free(b->page);
}

int main(int argc, char **argv)
{
    static const uint32_t depths[] = {512, 2048, 8192};
    int threads = 0, shape = 0;
    unsigned want = 0;
    bench b = {.rows = 1};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--threads") && i + 1 < argc)
            threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--rows") && i + 1 < argc)
            b.rows = (uint32_t)atoi(argv[++i]);
        else if (!strcmp(argv[i], "--shape") && i + 1 < argc)
            shape = !strcmp(argv[++i], "05b");
        for (int t = 0; t < KV_TYPES; t++)
            if (!strcmp(argv[i], kv_type_name((kv_type)t)))
                want |= 1u << t;
    }
    kern k;
    pool *p;
    om_err err;
    kern_init(&k, 0);
    if (pool_open(threads, &p, &err) != OM_OK)
        return 1;
    b.layers = shapes[shape].layers;
    b.a = (nn_attn_args){.n_head = shapes[shape].heads,
                         .n_kv_head = shapes[shape].kv_heads,
                         .head_dim = shapes[shape].d};
    b.q = must(mem_array((size_t)b.rows * b.a.n_head * b.a.head_dim, sizeof(float)));
    b.k = must(mem_array((size_t)b.rows * b.a.n_kv_head * b.a.head_dim, sizeof(float)));
    printf("attention of a %s model, kernels %s, %d threads, %u rows at a time\n",
           shapes[shape].name, k.attn->name, pool_threads(p), b.rows);
    for (int t = 0; t < KV_TYPES; t++)
        for (size_t i = 0; i < countof(depths); i++)
            if (!want || want >> t & 1) {
                b.depth = depths[i];
                measure(&b, &k, p, (kv_type)t);
            }
    mem_free(b.q);
    mem_free(b.k);
    pool_close(p);
    return 0;
}
