/* driver.c - main() of a fuzz target in a build without libFuzzer: runs the corpus, then
 * for a moment mutations of it (cuts, flips, pastes; always the same sequence), and ends
 * with the closing line of a test.  `prog FILE...` runs these files alone, to look at an
 * input that libFuzzer left. */
#include "fuzz.h"
#include "os/os.h"

#include <stdio.h>

enum { MAX_SEEDS = 1000, MAX_INPUT = 1 << 16, MOMENT_MS = 300 };

typedef struct {
    const char *dir;
    buf seed[MAX_SEEDS];
    size_t n;
} corpus;

static void run(const uint8_t *p, size_t n)
{
    uint8_t *copy = fuzz_copy(p, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

static om_status load(void *ctx, const char *name, om_err *err)
{
    corpus *c = ctx;
    char path[1000];
    if (c->n == MAX_SEEDS)
        return fail(err, OM_ELIMIT, "more than %d inputs in %s", MAX_SEEDS, c->dir);
    TRY(os_join(path, sizeof(path), c->dir, name));
    return os_read_file(path, MAX_INPUT, &c->seed[c->n++], err);
}

/* One to four changes of in[0..n); returns the new length, at most MAX_INPUT. */
static size_t mutate(rng *r, const corpus *c, uint8_t *in, size_t n)
{
    for (uint32_t k = 1 + rng_below(r, 4); k > 0; k--) {
        uint32_t at = n ? rng_below(r, (uint32_t)n) : 0;
        const buf *other = &c->seed[rng_below(r, (uint32_t)c->n)];
        size_t from = other->len ? rng_below(r, (uint32_t)other->len) : 0;
        size_t len = size_min(other->len - from, 1 + rng_below(r, 16));
        switch (rng_below(r, 5)) {
        case 0: /* cut */
            n = at;
            break;
        case 1: /* flip */
            if (n)
                in[at] ^= (uint8_t)(1u << rng_below(r, 8));
            break;
        case 2: /* a telling byte */
            if (n)
                in[at] = (uint8_t) "\0\xff\x7f\x80 \"{[0-"[rng_below(r, 10)];
            break;
        case 3: /* paste over */
            memcpy(in + at, other->data + from, size_min(len, n - at));
            break;
        default: /* insert */
            if (n + len > MAX_INPUT)
                break;
            memmove(in + at + len, in + at, n - at);
            memcpy(in + at, other->data + from, len);
            n += len;
        }
    }
    return n;
}

static size_t run_mutations(const corpus *c)
{
    static uint8_t in[MAX_INPUT];
    rng r = rng_for(1, 2, 3, 4);
    size_t runs = 0;
    for (uint64_t end = os_now_ns() + MOMENT_MS * 1000000u; os_now_ns() < end; runs++) {
        const buf *seed = &c->seed[rng_below(&r, (uint32_t)c->n)];
        memcpy(in, seed->data, seed->len);
        run(in, mutate(&r, c, in, seed->len));
    }
    return runs;
}

static om_status run_files(int n, char **path, om_err *err)
{
    for (int i = 0; i < n; i++) {
        buf b;
        TRY(os_read_file(path[i], (size_t)1 << 30, &b, err));
        run(b.data, b.len);
        buf_free(&b);
    }
    return OM_OK;
}

int main(int argc, char **argv)
{
    static corpus c = {.dir = FUZZ_CORPUS};
    om_err err = {0};
    om_status s =
        argc > 1 ? run_files(argc - 1, argv + 1, &err) : os_list_dir(c.dir, load, &c, &err);
    if (s == OM_OK && argc < 2 && c.n == 0)
        s = fail(&err, OM_ENOTFOUND, "no input in %s", c.dir);
    if (s != OM_OK) {
        printf("FAIL: %s\n0 passed, 1 failed, 0 skipped\n", err.msg);
        return 1;
    }
    for (size_t i = 0; i < c.n; i++)
        run(c.seed[i].data, c.seed[i].len);
    if (c.n)
        printf("%zu inputs, %zu mutations\n", c.n, run_mutations(&c));
    for (size_t i = 0; i < c.n; i++)
        buf_free(&c.seed[i]);
    printf("1 passed, 0 failed, 0 skipped\n");
    return 0;
}
