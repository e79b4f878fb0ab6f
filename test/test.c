/* test.c - see test.h. */
#define _GNU_SOURCE
#include "test.h"

#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

void test_fail(test *t, const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    if (t->failures++ >= 10) /* a broken loop should not print a million lines */
        return;
    fprintf(stderr, "%s:%d: %s: ", file, line, t->name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

void test_skip(test *t, const char *reason) { t->skipped = reason; }

static bool dir_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

const char *test_data_dir(void)
{
    const char *env = getenv("OCTOMIL_TEST_DATA");
    if (env)
        return dir_exists(env) ? env : NULL;
    return dir_exists(OM_SOURCE_DIR "/../shared/data") ? OM_SOURCE_DIR "/../shared/data" : NULL;
}

#if defined(__has_feature) /* clang's word for it */
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(SANITIZED)
bool test_quick(void) { return true; }
#else
bool test_quick(void)
{
    const char *env = getenv("OCTOMIL_TEST_QUICK");
    return env && strcmp(env, "1") == 0;
}
#endif

int test_times(int n)
{
    int times = test_quick() ? n / 10 : n;
    return times > 1 ? times : 1;
}

static void read_stream(FILE *f, buf *b)
{
    for (size_t n = 1; f && n && buf_reserve(b, 65536) == OM_OK; b->len += n)
        n = fread(b->data + b->len, 1, 65536, f);
}

buf test_data_file(const char *name)
{
    char path[500], command[600];
    buf b = buf_growing((size_t)1 << 30);
    const char *dir = test_data_dir();
    if (!dir)
        return b;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (access(path, R_OK) != 0)
        return b;
    snprintf(command, sizeof(command), "gzip -dc '%s'", path);
    bool packed = str_ends(str_of(name), ".gz");
    FILE *f = packed ? popen(command, "r") : fopen(path, "rb");
    read_stream(f, &b);
    if (f)
        packed ? pclose(f) : fclose(f);
    return b;
}

static char temp_dir[64];

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    (void)st, (void)flag, (void)f;
    return remove(path);
}

static void remove_temp(void) { nftw(temp_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

const char *test_temp_dir(void)
{
    if (!temp_dir[0]) {
        strcpy(temp_dir, "/tmp/octomil-test-XXXXXX");
        if (!mkdtemp(temp_dir)) {
            perror("mkdtemp");
            exit(2);
        }
        atexit(remove_temp);
    }
    return temp_dir;
}

static bool wanted(int argc, char **argv, const char *name)
{
    for (int i = 1; i < argc; i++)
        if (strstr(name, argv[i]))
            return true;
    return argc < 2;
}

int test_main(int argc, char **argv, const test_case *cases)
{
    int passed = 0, failed = 0, skipped = 0;
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (const test_case *c = cases; c->name; c++)
            printf("%-28s %s\n", c->name, c->what);
        return 0;
    }
    for (const test_case *c = cases; c->name; c++) {
        if (!wanted(argc, argv, c->name))
            continue;
        test t = {.name = c->name};
        c->fn(&t);
        if (t.failures) {
            failed++;
            printf("FAIL %s (%s): %ld of %ld checks\n", c->name, c->what, t.failures, t.checks);
        } else if (t.skipped) {
            skipped++;
            printf("skip %s: %s\n", c->name, t.skipped);
        } else if (t.checks == 0) {
            failed++;
            printf("FAIL %s: it checked nothing\n", c->name);
        } else {
            passed++;
        }
        fflush(stdout);
    }
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed ? 1 : 0;
}
