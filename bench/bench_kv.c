/* bench_kv.c - what a packed cache costs in quality: perplexity of a text for several bits
 * per number, beside a plain F16 cache.
 *
 *     bench_kv MODEL TEXT [--tokens N] [--context N] [--recent N] [BITS...]
 *
 * The text is scored in windows as long as the context, each read in batches of 64 tokens
 * through a session that packs what is older than `recent` tokens (1: only the page being
 * written is plain, the hardest case).  Columns: bits per number of a packed page, bits
 * over the whole cache at the end of a window, perplexity and how much it is above F16's,
 * over all tokens and over the last half of every window, and the bytes of a full one. */
#include "llm/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    llm_model *m;
    kern k;
    pool *pool;
    int32_t *ids;
    size_t n;
    uint32_t context, recent;
} bench;

typedef struct {
    double nll, late;
    uint64_t n, n_late;
    llm_kv_stats end;
} score;

static void die(const om_err *err)
{
    fprintf(stderr, "bench_kv: %s\n", err->msg);
    exit(1);
}

static double nll_of(const float *l, uint32_t vocab, int32_t want)
{
    double top = (double)l[0], z = 0;
    for (uint32_t v = 1; v < vocab; v++)
        top = fmax(top, (double)l[v]);
    for (uint32_t v = 0; v < vocab; v++)
        z += exp((double)l[v] - top);
    return top + log(z) - (double)l[want];
}

static void window(const bench *b, llm_session *s, const int32_t *ids, uint32_t n,
                   score *out)
{
    om_err err;
    for (uint32_t at = 0; at < n; at += 64) {
        uint32_t rows = (uint32_t)size_min(n - at, 64);
        llm_turn t = {.s = s, .ids = ids + at, .n = rows, .want = rows};
        if (llm_eval_many(&t, 1, &err) != OM_OK)
            die(&err);
        for (uint32_t i = 0; i < rows && at + i + 1 < n; i++) {
            double v = nll_of(t.logits + (size_t)i * b->m->h.vocab, b->m->h.vocab,
                              ids[at + i + 1]);
            bool late = at + i >= n / 2;
            out->nll += v;
            out->late += late ? v : 0;
            out->n++;
            out->n_late += late;
        }
    }
}

static score measure(const bench *b, float bits)
{
    om_err err;
    score out = {0};
    llm_session *s;
    llm_session_args a = {.context = b->context,
                          .kv_type = DTYPE_F16,
                          .k = &b->k,
                          .pool = b->pool,
                          .bits = bits,
                          .recent = b->recent};
    if (llm_session_open(b->m, &a, &s, &err) != OM_OK)
        die(&err);
    for (size_t at = 0; at + b->context <= b->n; at += b->context) {
        if (llm_rewind(s, llm_past(s), &err) != OM_OK)
            die(&err);
        window(b, s, b->ids + at, b->context, &out);
    }
    out.end = llm_kv_now(llm_session_kv(s));
    llm_session_close(s);
    return out;
}

static void show(const bench *b, float bits, const score *plain)
{
    score s = measure(b, bits);
    double numbers = 2.0 * b->m->h.n_layer * b->m->h.n_kv_head * b->m->h.head_dim;
    double page =
        s.end.packed_bytes ? (double)s.end.packed_bytes * 8 / numbers / KV_TOKENS : 16;
    double all = (double)s.end.memory * 8 / numbers / (double)(s.end.pages * KV_TOKENS);
    double p = exp(s.nll / (double)s.n), q = exp(s.late / (double)s.n_late);
    const score *f = plain ? plain : &s;
    printf("%5.2f bits (%5.2f over all): perplexity %8.4f (%+.3f %%), last half %8.4f "
           "(%+.3f %%), %llu kB\n",
           page, all, p, 100 * (exp(s.nll / (double)s.n - f->nll / (double)f->n) - 1), q,
           100 * (exp(s.late / (double)s.n_late - f->late / (double)f->n_late) - 1),
           (unsigned long long)(s.end.memory >> 10));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const float usual[] = {8.5f, 5, 4.5f, 4, 3.5f};
    bench b = {.recent = 1};
    om_err err;
    buf text;
    float bits[16];
    size_t n_bits = 0, most = 8192;
    for (int i = 3; i < argc; i++) {
        if (!strcmp(argv[i], "--tokens") && i + 1 < argc)
            most = (size_t)atoll(argv[++i]);
        else if (!strcmp(argv[i], "--context") && i + 1 < argc)
            b.context = (uint32_t)atoi(argv[++i]);
        else if (!strcmp(argv[i], "--recent") && i + 1 < argc)
            b.recent = (uint32_t)atoi(argv[++i]);
        else if (n_bits < countof(bits))
            bits[n_bits++] = (float)atof(argv[i]);
    }
    for (size_t i = 0; i < countof(usual) && (n_bits == 0 || n_bits == i); i++)
        bits[n_bits++] = usual[i];
    kern_init(&b.k, 0);
    if (argc < 3) {
        fprintf(stderr, "usage: bench_kv MODEL TEXT [BITS...]\n");
        return 2;
    }
    if (pool_open(0, &b.pool, &err) != OM_OK || llm_open(argv[1], &b.m, &err) != OM_OK ||
        os_read_file(argv[2], (size_t)1 << 30, &text, &err) != OM_OK ||
        llm_tokenize(b.m, (str){(const char *)text.data, text.len}, &b.ids, &b.n, &err) !=
            OM_OK)
        die(&err);
    b.n = size_min(b.n, most);
    b.context = b.context ? b.context : b.m->h.context;
    score plain = measure(&b, 0);
    printf("%s, %zu tokens in windows of %u, heads of %u, recent %u\n", argv[1],
           b.n / b.context * b.context, b.context, b.m->h.head_dim, b.recent);
    show(&b, 0, NULL);
    for (size_t i = 0; i < n_bits; i++)
        show(&b, bits[i], &plain);
    mem_free(b.ids);
    buf_free(&text);
    llm_close(b.m);
    pool_close(b.pool);
    return 0;
}
