/* test_os.c - files that are replaced whole or not at all, a disk that is full, and the
 * pool: every chunk once, the same chunks for any number of threads. */
#define _GNU_SOURCE /* sigaction flags, setrlimit */
#include "fmt/gguf.h"
#include "fmt/safetensors.h"
#include "os/os.h"
#include "test.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>

static char *in_temp(const char *name)
{
    static char path[4][300];
    static int at;
    at = (at + 1) % 4;
    os_join(path[at], sizeof(path[at]), test_temp_dir(), name);
    return path[at];
}

static void check_content(test *t, const char *path, const char *want)
{
    buf b;
    om_err err = {0};
    CHECK_OK(t, os_read_file(path, 1000, &b, &err), err);
    CHECK(t, str_is((str){(const char *)b.data, b.len}, want));
    buf_free(&b);
}

static void reading(test *t)
{
    os_map m;
    buf b;
    om_err err = {0};
    const char *path = in_temp("a");
    CHECK_OK(t, os_write_file_atomic(path, "hello", 5, &err), err);
    CHECK_OK(t, os_map_open(path, &m, &err), err);
    CHECK(t, m.n == 5 && memcmp(m.p, "hello", 5) == 0);
    os_map_close(&m);
    os_map_close(&m);
    CHECK_INT(t, os_read_file(path, 4, &b, &err), OM_ELIMIT);
    CHECK(t, strstr(err.msg, path) && b.data == NULL);
    CHECK_OK(t, os_read_file(path, 5, &b, &err), err);
    CHECK_INT(t, b.len, 5);
    buf_free(&b);
    CHECK_OK(t, os_read_file(path, SIZE_MAX, &b, &err), err);
    buf_free(&b);
    CHECK_INT(t, os_map_open(in_temp("none"), &m, &err), OM_ENOTFOUND);
    CHECK_INT(t, os_read_file(in_temp("none"), 9, &b, &err), OM_ENOTFOUND);
    buf_free(&b);
    CHECK_INT(t, os_map_open(test_temp_dir(), &m, &err), OM_EARG);
    CHECK_OK(t, os_write_file_atomic(in_temp("empty"), NULL, 0, &err), err);
    CHECK_OK(t, os_map_open(in_temp("empty"), &m, &err), err);
    CHECK(t, m.n == 0 && m.p != NULL);
    os_map_close(&m);
}

static void replacing(test *t)
{
    os_put f;
    om_err err = {0};
    const char *path = in_temp("r");
    CHECK_OK(t, os_write_file_atomic(path, "old", 3, &err), err);
    CHECK_OK(t, os_put_open(path, &f, &err), err);
    CHECK_OK(t, os_put_write(&f, "new?", 4, &err), err);
    check_content(t, path, "old"); /* until the commit */
    os_put_abort(&f);
    check_content(t, path, "old");
    CHECK(t, !os_exists(in_temp("r.part")));
    CHECK_OK(t, os_put_open(path, &f, &err), err);
    CHECK_OK(t, os_put_at(&f, 3, "def", 3, &err), err);
    CHECK_OK(t, os_put_at(&f, 0, "abc", 3, &err), err);
    CHECK_OK(t, os_put_commit(&f, &err), err);
    check_content(t, path, "abcdef");
    CHECK_OK(t, os_write_file_atomic(in_temp("r.part"), "left by a crash", 15, &err), err);
    CHECK_OK(t, os_write_file_atomic(path, "n", 1, &err), err);
    check_content(t, path, "n");
    CHECK(t, !os_exists(in_temp("r.part")));
    CHECK_INT(t, os_put_open(in_temp("no/such/x"), &f, &err), OM_ENOTFOUND);
    CHECK_OK(t, os_mkdirs(in_temp("folder"), &err), err);
    CHECK_INT(t, os_write_file_atomic(in_temp("folder"), "x", 1, &err), OM_EIO);
    CHECK(t, strstr(err.msg, "folder") && !os_exists(in_temp("folder.part")));
}

static om_status collect(void *ctx, const char *name, om_err *err)
{
    buf *all = ctx;
    if (strcmp(name, "stop") == 0)
        return fail(err, OM_ECANCEL, "stopped");
    return buf_fmt(all, "%s ", name);
}

static void names(test *t)
{
    om_err err = {0};
    char small[4];
    uint64_t size;
    buf all = buf_growing(1000);
    CHECK_OK(t, os_mkdirs(in_temp("d/e/f"), &err), err);
    CHECK_OK(t, os_mkdirs(in_temp("d/e/f"), &err), err);
    CHECK(t, os_is_dir(in_temp("d/e/f")) && !os_is_dir(in_temp("none")));
    CHECK_OK(t, os_append(in_temp("d/z"), "1", 1, &err), err);
    CHECK_OK(t, os_append(in_temp("d/z"), "23", 2, &err), err);
    check_content(t, in_temp("d/z"), "123");
    CHECK_INT(t, os_mkdirs(in_temp("d/z"), &err), OM_EIO);
    CHECK_INT(t, os_mkdirs("", &err), OM_EARG);
    CHECK_OK(t, os_rename(in_temp("d/z"), in_temp("d/a"), &err), err);
    CHECK_OK(t, os_list_dir(in_temp("d"), collect, &all, &err), err);
    CHECK(t, str_is((str){(const char *)all.data, all.len}, "a e "));
    CHECK_OK(t, os_append(in_temp("d/stop"), "", 0, &err), err);
    CHECK_INT(t, os_list_dir(in_temp("d"), collect, &all, &err), OM_ECANCEL);
    CHECK_OK(t, os_file_size(in_temp("d/a"), &size, &err), err);
    CHECK_INT(t, size, 3);
    CHECK_OK(t, os_remove(in_temp("d/a"), &err), err);
    CHECK_OK(t, os_remove(in_temp("d/a"), &err), err);
    CHECK_INT(t, os_file_size(in_temp("d/a"), &size, &err), OM_ENOTFOUND);
    CHECK_INT(t, os_join(small, sizeof(small), "ab", "c"), OM_ELIMIT);
    CHECK_INT(t, os_join(small, sizeof(small), "a", "c"), OM_OK);
    buf_free(&all);
}

/* ---- a full disk ------------------------------------------------------------------------
 */

/* From here files cannot grow beyond n bytes: a write fails as on a full disk. */
static void limit_files(rlim_t n)
{
    struct rlimit l;
    getrlimit(RLIMIT_FSIZE, &l);
    l.rlim_cur = n < l.rlim_max ? n : l.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &l);
}

static om_status write_gguf(const char *path, om_err *err)
{
    static const float x[2000];
    gguf_writer *w;
    tensor a = {STR("w"), DTYPE_F32, 1, {2000, 1, 1, 1}, x, sizeof(x)};
    TRY(gguf_writer_open(path, &w, err));
    gguf_put_tensor_info(w, &a);
    om_status s = gguf_begin_data(w, err);
    if (s == OM_OK)
        s = gguf_write_data(w, x, sizeof(x), err);
    if (s != OM_OK) {
        gguf_writer_abort(w);
        return s;
    }
    return gguf_writer_commit(w, err);
}

static om_status write_safetensors(const char *path, om_err *err)
{
    static const float x[2000];
    tensor a = {STR("w"), DTYPE_F32, 1, {2000, 1, 1, 1}, x, sizeof(x)};
    return safetensors_write(path, &a, 1, NULL, NULL, 0, err);
}

static om_status write_plain(const char *path, om_err *err)
{
    static const char x[8000];
    return os_write_file_atomic(path, x, sizeof(x), err);
}

static om_status write_at(const char *path, om_err *err)
{
    os_put f;
    TRY(os_put_open(path, &f, err));
    om_status s = os_put_at(&f, 8000, "x", 1, err);
    os_put_abort(&f);
    return s;
}

static om_status append(const char *path, om_err *err)
{
    static const char x[8000];
    return os_append(path, x, sizeof(x), err);
}

static void full_disk(test *t)
{
    static om_status (*const write[])(const char *path, om_err *err) = {
        write_gguf, write_safetensors, write_plain, write_at, append};
    const char *path = in_temp("full"), *part = in_temp("full.part");
    for (rlim_t limit = 0; limit < 8000; limit += 4096)
        for (size_t i = 0; i < countof(write); i++) {
            om_err err = {0};
            limit_files(RLIM_INFINITY);
            CHECK_OK(t, os_write_file_atomic(path, "old", 3, &err), err);
            limit_files(limit);
            CHECK_INT(t, write[i](path, &err), OM_EIO);
            limit_files(RLIM_INFINITY);
            CHECK(t, strstr(err.msg, "cannot write") && strstr(err.msg, "full"));
            check_content(t, path, "old");
            CHECK(t, !os_exists(part));
        }
    om_err err = {0};
    if (os_exists("/dev/full")) {
        CHECK_INT(t, os_append("/dev/full", "x", 1, &err), OM_EIO);
        CHECK(t, strstr(err.msg, "No space left") != NULL);
    }
}

/* ---- pool
 * ----------------------------------------------------------------------------------- */

typedef struct {
    atomic_int touched[5000];
    size_t n, grain;
    int threads;
    atomic_int wrong;
} job;

static void touch(void *ctx, size_t beg, size_t end, int worker)
{
    job *j = ctx;
    size_t grain = j->grain ? j->grain : 1;
    if (beg % grain || end > j->n || end <= beg || end - beg > grain || worker < 0 ||
        worker >= j->threads || (end - beg < grain && end != j->n))
        atomic_fetch_add(&j->wrong, 1);
    for (size_t i = beg; i < end; i++)
        atomic_fetch_add(&j->touched[i], 1);
}

static void pool_runs(test *t)
{
    static const size_t sizes[] = {0, 1, 2, 7, 64, 1000, 4999},
                        grains[] = {0, 1, 3, 64, 9999};
    static job j;
    for (int threads = 0; threads <= 8; threads = threads ? threads * 2 : 1) {
        pool *p = NULL; /* the caller alone */
        om_err err = {0};
        if (threads)
            CHECK_OK(t, pool_open(threads, &p, &err), err);
        j.threads = threads ? threads : 1;
        CHECK_INT(t, pool_threads(p), j.threads);
        for (size_t s = 0; s < countof(sizes); s++)
            for (size_t g = 0; g < countof(grains); g++) {
                memset(j.touched, 0, sizeof(j.touched));
                j.n = sizes[s];
                j.grain = grains[g];
                pool_run(p, j.n, j.grain, touch, &j);
                for (size_t i = 0; i < countof(j.touched); i++)
                    if (atomic_load(&j.touched[i]) != (i < j.n))
                        atomic_fetch_add(&j.wrong, 1);
            }
        CHECK_INT(t, atomic_load(&j.wrong), 0);
        pool_close(p);
    }
}

static void count(void *ctx, size_t beg, size_t end, int worker)
{
    (void)worker;
    atomic_fetch_add((atomic_llong *)ctx, (long long)((beg + 1) * (end - beg)));
}

static void pool_many_small(test *t)
{
    pool *p;
    om_err err = {0};
    atomic_llong sum = 0;
    CHECK_OK(t, pool_open(4, &p, &err), err);
    for (int i = 0; i < 2000; i++)
        pool_run(p, 5, 1, count, &sum);
    CHECK_INT(t, atomic_load(&sum), 2000 * 15);
    os_sleep_ms(20); /* long enough that workers sleep */
    pool_run(p, 5, 1, count, &sum);
    CHECK_INT(t, atomic_load(&sum), 2001 * 15);
    pool_close(p);
    pool_close(NULL);
    CHECK_INT(t, pool_open(-1, &p, &err), OM_EARG);
    CHECK_INT(t, pool_open(100000, &p, &err), OM_EARG);
}

typedef struct {
    os_mutex *lock;
    long n;
} shared;

static void add_many(void *ctx)
{
    shared *s = ctx;
    for (int i = 0; i < 10000; i++) {
        os_lock(s->lock);
        s->n++;
        os_unlock(s->lock);
    }
}

static void threads(test *t)
{
    os_thread *a, *b;
    shared s = {0};
    om_err err = {0};
    CHECK_OK(t, os_mutex_open(&s.lock, &err), err);
    CHECK_OK(t, os_thread_start(&a, add_many, &s, &err), err);
    CHECK_OK(t, os_thread_start(&b, add_many, &s, &err), err);
    os_thread_join(a);
    os_thread_join(b);
    CHECK_INT(t, s.n, 20000);
    os_mutex_close(s.lock);
    os_thread_join(NULL);
    os_mutex_close(NULL);
}

static void facts(test *t)
{
    uint64_t a[8], b[8], before = os_now_ns();
    char name[100], tiny[4];
    om_err err = {0};
    CHECK_OK(t, os_entropy(a, sizeof(a), &err), err);
    CHECK_OK(t, os_entropy(b, sizeof(b), &err), err);
    CHECK(t, memcmp(a, b, sizeof(a)) != 0);
    os_sleep_ms(2);
    CHECK(t, os_now_ns() - before >= 2000000);
    CHECK(t, os_wall_ms() > UINT64_C(1600000000000));
    CHECK(t, os_cpu_count() >= 1 && os_memory_bytes() >= os_peak_rss_bytes());
    CHECK(t, os_peak_rss_bytes() > 100000 && os_available_bytes() > 0);
    CHECK(t, strlen(os_cpu_name(name, sizeof(name))) > 0);
    CHECK(t, strlen(os_cpu_name(tiny, sizeof(tiny))) <= 3);
}

static void allocation_failure(test *t)
{
#ifdef OM_FAULTS
    om_status s = OM_ENOMEM;
    long nth = 1;
    for (; s == OM_ENOMEM; nth++) {
        pool *p = NULL;
        buf b = {0};
        om_err err = {0};
        const char *path = in_temp("oom");
        CHECK_OK(t, os_write_file_atomic(path, "old", 3, &err), err);
        mem_fail_at(nth);
        s = pool_open(3, &p, &err);
        s = s != OM_OK ? s : os_read_file(path, 100, &b, &err);
        s = s != OM_OK ? s : os_write_file_atomic(path, "new", 3, &err);
        bool failed = mem_count() >= nth;
        mem_fail_at(0);
        CHECK(t, s == (failed ? OM_ENOMEM : OM_OK));
        check_content(t, path, failed ? "old" : "new");
        pool_close(p);
        buf_free(&b);
    }
    CHECK(t, nth > 8);
#else
    test_skip(t, "built without OM_FAULTS");
#endif
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"reading", "maps and whole files, limits, missing files", reading},
        {"replacing", "the old file or the new one, never a part", replacing},
        {"names", "folders, listing, renaming", names},
        {"full_disk", "a full disk is reported and loses nothing", full_disk},
        {"pool_runs", "every item once, chunks by grain, 1 to 8 threads", pool_runs},
        {"pool_many_small", "thousands of jobs, sleeping workers", pool_many_small},
        {"threads", "threads and locks", threads},
        {"facts", "time, entropy, the machine", facts},
        {"allocation_failure", "every allocation may fail", allocation_failure},
        {0}};
    return test_main(argc, argv, cases);
}
