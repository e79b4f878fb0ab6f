/* test_experts.c - a mixture of experts with a cache smaller than its experts: the same
 * bits as with all of them in memory, whatever the cache's size; nothing over budget; a file
 * that ends early is an error, not a wait. */
#include "test.h"

#include "llm/experts.h"
#include "os/os.h"

enum { TOKENS = 24 };

typedef struct {
    llm_model *m;
    kern k;
    pool *pool;
    char path[5000];
    int32_t ids[TOKENS];
} fixture;

static bool open_model(test *t, fixture *f, const char *name)
{
    om_err err = {0};
    char from[5000];
    llm_model *folder = NULL;
    *f = (fixture){0};
    kern_init(&f->k, 0);
    CHECK_OK(t, pool_open(2, &f->pool, &err), err);
    snprintf(from, sizeof(from), OM_SOURCE_DIR "/test/golden/arch/%s", name);
    snprintf(f->path, sizeof(f->path), "%s/%s.gguf", test_temp_dir(), name);
    CHECK_OK(t, llm_open(from, &folder, &err), err);
    if (folder)
        CHECK_OK(t, llm_write_gguf(folder, f->path, DTYPE_F32, NULL, NULL, &err), err);
    llm_close(folder);
    CHECK_OK(t, llm_open(f->path, &f->m, &err), err);
    rng r = rng_for(5, 0, 0, 0);
    for (int i = 0; f->m && i < TOKENS; i++)
        f->ids[i] = (int32_t)(rng_u64(&r) % f->m->h.vocab);
    return f->m != NULL;
}

static void close_model(fixture *f)
{
    llm_close(f->m);
    pool_close(f->pool);
}

/* Logits after every piece, all of them in out; the cache's numbers. */
static llm_expert_stats run(test *t, fixture *f, uint64_t cache, buf *out)
{
    static const uint32_t piece[] = {12, 1, 1, 1, 5, 1, 1, 1, 1};
    llm_session_args a = {.context = TOKENS, .k = &f->k, .pool = f->pool,
                          .expert_cache = cache};
    llm_session *s = NULL;
    llm_expert_stats now = {0};
    om_err err = {0};
    uint32_t at = 0;
    CHECK_OK(t, llm_session_open(f->m, &a, &s, &err), err);
    for (size_t i = 0; s && i < countof(piece); i++) {
        const float *logits = NULL;
        CHECK_OK(t, llm_eval(s, f->ids + at, piece[i], &logits, &err), err);
        at += piece[i];
        if (logits)
            CHECK_INT(t, buf_put(out, logits, f->m->h.vocab * sizeof(float)), OM_OK);
    }
    if (s)
        now = llm_experts_now(llm_session_kv(s));
    llm_session_close(s);
    return now;
}

static void same_bits(test *t)
{
    static const char *const names[] = {"mixtral", "qwen2moe", "qwen3moe", "olmoe"};
    for (size_t i = 0; i < countof(names); i++) {
        fixture f;
        if (open_model(t, &f, names[i])) {
            uint64_t least = experts_least(f.m);
            buf want = buf_growing(1 << 20);
            run(t, &f, 0, &want);
            for (uint64_t cache = least; cache < 3 * least; cache += least / 3) {
                buf got = buf_growing(1 << 20);
                llm_expert_stats now = run(t, &f, cache, &got);
                CHECK(t, got.len == want.len && want.len > 0 &&
                             memcmp(got.data, want.data, want.len) == 0);
                CHECK(t, now.cache_bytes <= cache && now.slots > 0);
                CHECK(t, now.requests >= 9 * f.m->h.n_layer * f.m->h.n_expert_used);
                CHECK(t, now.misses <= now.requests && now.misses > 0 && now.read_bytes > 0);
                buf_free(&got);
            }
            buf_free(&want);
        }
        close_model(&f);
    }
}

/* Every expert fits: each is read once, and only the first use waits. */
static void all_fit(test *t)
{
    fixture f;
    if (open_model(t, &f, "mixtral")) {
        buf got = buf_growing(1 << 20);
        llm_expert_stats now = run(t, &f, 1ull << 30, &got);
        CHECK_INT(t, now.slots, now.experts);
        CHECK(t, now.misses <= now.experts);
        CHECK(t, now.read_bytes <= now.cache_bytes);
        buf_free(&got);
    }
    close_model(&f);
}

static void refusals(test *t)
{
    fixture f;
    om_err err = {0};
    expert_store *s = NULL;
    if (open_model(t, &f, "olmoe")) {
        CHECK_INT(t, experts_open(f.m, experts_least(f.m) - 1, &s, &err), OM_ELIMIT);
        CHECK(t, s == NULL && strstr(err.msg, "at least"));
        char folder[5000];
        llm_model *m = NULL;
        snprintf(folder, sizeof(folder), OM_SOURCE_DIR "/test/golden/arch/olmoe");
        CHECK_OK(t, llm_open(folder, &m, &err), err);
        if (m)
            CHECK_INT(t, experts_open(m, 1 << 30, &s, &err), OM_EUNSUPPORTED);
        llm_close(m);
    }
    close_model(&f);
}

/* The file loses its end while it is in use: the call fails and says so. */
static void cut_short(test *t)
{
    fixture f;
    om_err err = {0};
    if (open_model(t, &f, "mixtral")) {
        expert_store *s = NULL;
        const void *m[3 * 8];
        uint32_t expert[] = {0, 1, 2, 3};
        int fd;
        uint64_t size;
        CHECK_OK(t, experts_open(f.m, 1 << 30, &s, &err), err);
        CHECK_OK(t, os_open_rw(f.path, &fd, &size, &err), err);
        CHECK_OK(t, os_truncate(fd, 4096, f.path, &err), err);
        os_close(fd);
        nn_expert_store *face = experts_face(s);
        uint32_t got, n = 4, *next = expert;
        while (n && (got = face->take(face, 1, next, n, m, &err)) > 0) {
            face->release(face);
            next += got;
            n -= got;
        }
        CHECK(t, n > 0 && strstr(err.msg, "ends at"));
        experts_close(s);
    }
    close_model(&f);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"same_bits", "the bits of experts in memory, for any size of the cache", same_bits},
        {"all_fit", "a cache for all reads each once", all_fit},
        {"refusals", "a cache too small, a folder", refusals},
        {"cut_short", "a file that lost its end", cut_short},
        {0}};
    return test_main(argc, argv, cases);
}
