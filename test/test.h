/* test.h - the runner: a table of named cases, one closing line.
 *
 *     static void rejects_short_header(test *t) { CHECK(t, parse("") != OM_OK); }
 *     int main(int argc, char **argv)
 *     {
 *         static const test_case cases[] = {
 *             {"short_header", "a file of 3 bytes is refused", rejects_short_header}, {0}};
 *         return test_main(argc, argv, cases);
 *     }
 *
 * `prog --list` names the cases, `prog NAME...` runs those whose name contains NAME,
 * the last line is "N passed, N failed, N skipped". */
#ifndef TEST_TEST_H
#define TEST_TEST_H

#include "base/base.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    const char *name;
    long checks, failures;
    const char *skipped; /* the reason */
} test;

typedef struct {
    const char *name, *what;
    void (*fn)(test *t);
} test_case;

int test_main(int argc, char **argv, const test_case *cases);
void test_fail(test *t, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void test_skip(test *t, const char *reason);

/* Folder of shared test data, or NULL: $OCTOMIL_TEST_DATA, else ../shared/data beside
 * the source tree.  A test that needs it skips when it is absent. */
const char *test_data_dir(void);
/* A file of that folder, unpacked when its name ends in .gz; empty when absent.  The
 * caller frees. */
buf test_data_file(const char *name);
/* True under a sanitizer, an emulator or valgrind, as far as the build or OCTOMIL_TEST_QUICK=1
 * says so: cases that repeat themselves to gather evidence repeat less, and none is left out. */
bool test_quick(void);
/* n, or with test_quick() a tenth of it, at least 1. */
int test_times(int n);
/* A fresh folder for this test program, removed at exit. */
const char *test_temp_dir(void);

#define CHECK(t, cond)                                              \
    do {                                                            \
        (t)->checks++;                                              \
        if (!(cond))                                                \
            test_fail((t), __FILE__, __LINE__, "%s", #cond);        \
    } while (0)
#define CHECK_OK(t, expr, err)                                                   \
    do {                                                                         \
        (t)->checks++;                                                           \
        om_status cs_ = (expr);                                                  \
        if (cs_ != OM_OK)                                                        \
            test_fail((t), __FILE__, __LINE__, "%s is %s: %s", #expr,            \
                      om_status_name(cs_), (err).msg);                           \
    } while (0)
#define CHECK_INT(t, got, want)                                                        \
    do {                                                                               \
        long long g_ = (long long)(got), w_ = (long long)(want);                       \
        (t)->checks++;                                                                 \
        if (g_ != w_)                                                                  \
            test_fail((t), __FILE__, __LINE__, "%s is %lld, expected %lld", #got, g_, w_); \
    } while (0)
#define CHECK_STR(t, got, want)                                                          \
    do {                                                                                 \
        const char *g_ = (got), *w_ = (want);                                            \
        (t)->checks++;                                                                   \
        if (!g_ || strcmp(g_, w_) != 0)                                                  \
            test_fail((t), __FILE__, __LINE__, "%s is \"%s\", expected \"%s\"", #got,    \
                      g_ ? g_ : "(null)", w_);                                           \
    } while (0)
#define CHECK_NEAR(t, got, want, tol)                                                  \
    do {                                                                               \
        double g_ = (double)(got), w_ = (double)(want), t_ = (double)(tol);            \
        (t)->checks++;                                                                 \
        if (!(fabs(g_ - w_) <= t_))                                                    \
            test_fail((t), __FILE__, __LINE__, "%s is %.9g, expected %.9g +- %.3g",    \
                      #got, g_, w_, t_);                                               \
    } while (0)

#endif
