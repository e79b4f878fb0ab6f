/* bench_depth.c - generation at depth, tokens per second through a session.
 *
 *     bench_depth MODEL [--threads N] [--tokens N] [DEPTH...]
 *
 * Per depth and kind of cache: the context before is not computed, its pages hold zeros,
 * which take as long to attend to as any numbers.  Kinds take turns, each token of one
 * after a token of the others, so that a disturbance meets all; the median is told and the
 * quarter below and above. */
#include "llm/kv.h"

#include <stdio.h>
#include <stdlib.h>

enum { KINDS = 4, MOST = 512 };

static const struct {
    const char *name;
    float bits;
} kinds[KINDS] = {{"f16", 0}, {"q8", 8.5f}, {"4.5 bits", 4.5f}, {"3.5 bits", 3.5f}};

static void must(om_status s, const om_err *err)
{
    if (s != OM_OK) {
        fprintf(stderr, "bench_depth: %s\n", err->msg);
        exit(1);
    }
}

static llm_session *at_depth(llm_model *m, const kern *k, pool *p, float bits,
                             uint32_t depth)
{
    om_err err;
    llm_session *s;
    llm_session_args a = {
        .context = depth + MOST, .kv_type = DTYPE_F16, .k = k, .pool = p, .bits = bits};
    must(llm_session_open(m, &a, &s, &err), &err);
    for (uint32_t i = 0; i < kv_pages_of(depth); i++) {
        must(kv_page_new(s->kv, &s->kv->plain, &s->page[i], &err), &err);
        if (bits > 0 && (i + 3) * KV_TOKENS < depth)
            must(kv_page_pack(s->kv, s->page[i], &err), &err);
    }
    s->n = s->computed = depth;
    return s;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(llm_model *m, const kern *k, pool *p, uint32_t depth, uint32_t tokens)
{
    om_err err;
    llm_session *s[KINDS];
    static double t[KINDS][MOST];
    int32_t id = 1;
    for (int i = 0; i < KINDS; i++)
        s[i] = at_depth(m, k, p, kinds[i].bits, depth);
    for (uint32_t j = 0; j < tokens + 1; j++)
        for (int i = 0; i < KINDS; i++) {
            uint64_t start = os_now_ns();
            must(llm_eval(s[i], &id, 1, NULL, &err), &err);
            t[i][j ? j - 1 : 0] = (double)(os_now_ns() - start) * 1e-9;
        }
    for (int i = 0; i < KINDS; i++) {
        qsort(t[i], tokens, sizeof(double), ascending);
        printf("depth %6u  %-8s  %7.2f tokens/s (%.2f to %.2f, best %.2f), cache %llu MB\n",
               depth, kinds[i].name, 1 / t[i][tokens / 2], 1 / t[i][tokens * 3 / 4],
               1 / t[i][tokens / 4], 1 / t[i][0],
               (unsigned long long)llm_kv_bytes(s[i]->kv) / 1000000);
        llm_session_close(s[i]);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    int threads = 0, n = 0;
    uint32_t depth[16], tokens = 16;
    om_err err;
    llm_model *m;
    kern k;
    pool *p;
    for (int i = 2; i < argc; i++)
        if (!strcmp(argv[i], "--threads") && i + 1 < argc)
            threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--tokens") && i + 1 < argc)
            tokens = (uint32_t)size_min((size_t)atoi(argv[++i]), MOST - 2);
        else if (n < 16)
            depth[n++] = (uint32_t)atoi(argv[i]);
    if (argc < 2) {
        fprintf(stderr, "usage: bench_depth MODEL [--threads N] [--tokens N] [DEPTH...]\n");
        return 2;
    }
    if (!n) {
        depth[n++] = 0;
        depth[n++] = 2048;
        depth[n++] = 8192;
    }
    kern_init(&k, 0);
    must(pool_open(threads, &p, &err), &err);
    must(llm_open(argv[1], &m, &err), &err);
    printf("%s, %d threads\n", argv[1], pool_threads(p));
    for (int i = 0; i < n; i++)
        measure(m, &k, p, depth[i], tokens);
    llm_close(m);
    pool_close(p);
    return 0;
}
