/* test_codec.c - laws of every codec in the table, and the exact behaviour of each. */
#include "codec/codec.h"
#include "codec/wire.h"
#include "test.h"

enum { D = 1000 };

/* Parameter sets worth trying: the defaults and the corners. */
static const char *const settings[][2] = {
    {"identity", ""},
    {"topk", ""},
    {"topk", "ratio=0.1"},
    {"topk", "ratio=1"},
    {"topk", "k=1"},
    {"randk", ""},
    {"randk", "ratio=0.25"},
    {"randk", "ratio=1"},
    {"randk", "k=3"},
    {"qsgd", ""},
    {"qsgd", "bits=2"},
    {"qsgd", "norm=l2"},
    {"qsgd", "bits=4"},
    {"qsgd", "bucket=7"},
    {"qsgd", "bits=3 norm=l2 bucket=100"},
};

typedef struct {
    const codec *c;
    double p[16];
    char name[64];
    void *memory;
} subject;

static subject subject_of(test *t, size_t i, size_t d)
{
    subject s = {.c = codec_find(str_of(settings[i][0]))};
    om_err err = {0};
    char list[64];
    snprintf(s.name, sizeof(s.name), "%s %s", settings[i][0], settings[i][1]);
    snprintf(list, sizeof(list), "%s", settings[i][1]);
    param_defaults(s.c->params, s.p);
    for (char *one = strtok(list, " "); one; one = strtok(NULL, " ")) {
        char *eq = strchr(one, '=');
        CHECK_OK(t,
                 param_set(s.c->params, s.c->name, s.p, (str){one, (size_t)(eq - one)},
                           str_of(eq + 1), &err),
                 err);
    }
    s.memory = mem_alloc(s.c->scratch_bytes(s.p, d) + 64);
    return s;
}

static om_status encode(const subject *s, const float *x, size_t d, uint32_t client,
                        buf *out)
{
    arena a = arena_of(s->memory, s->c->scratch_bytes(s->p, d));
    return s->c->encode(s->p, x, d, rng_for(7, 0, client, 1), a, out);
}

static void random_vector(float *x, size_t d, uint64_t seed)
{
    rng r = rng_for(seed, 0, 0, 99);
    for (size_t i = 0; i < d; i++)
        x[i] = (float)(rng_normal(&r) * exp(rng_normal(&r)));
}

static double square(const float *x, const float *y, size_t d)
{
    double s = 0;
    for (size_t i = 0; i < d; i++)
        s += ((double)x[i] - (double)(y ? y[i] : 0)) *
             ((double)x[i] - (double)(y ? y[i] : 0));
    return s;
}

static void all_listed(test *t)
{
    for (size_t i = 0; codecs[i]; i++) {
        bool tried = false;
        for (size_t j = 0; j < countof(settings); j++)
            tried |= strcmp(settings[j][0], codecs[i]->name) == 0;
        CHECK(t, tried);
        CHECK(t, codecs[i]->summary && codecs[i]->source);
        CHECK(t, codecs[i]->flags & (CODEC_UNBIASED | CODEC_CONTRACTIVE));
        CHECK(t, !!(codecs[i]->flags & CODEC_UNBIASED) == !!codecs[i]->omega);
        CHECK(t, !!(codecs[i]->flags & CODEC_CONTRACTIVE) == !!codecs[i]->alpha);
    }
    const codec *c;
    om_err err = {0};
    CHECK(t, codec_need(STR("tokp"), &c, &err) == OM_ENOTFOUND && strstr(err.msg, "topk"));
}

/* Bound met, decode adds weight * C(x), the same key gives the same bytes. */
static void round_trip(test *t)
{
    static const size_t sizes[] = {0, 1, 2, 7, 8, 63, 64, 65, 257, D};
    float x[D], y[D], z[D];
    om_err err = {0};
    for (size_t i = 0; i < countof(settings); i++) {
        subject s = subject_of(t, i, D);
        for (size_t j = 0; j < countof(sizes); j++) {
            size_t d = sizes[j];
            buf a = buf_growing(1 << 20), b = buf_growing(1 << 20);
            random_vector(x, d, j);
            CHECK_INT(t, encode(&s, x, d, 3, &a), OM_OK);
            CHECK_INT(t, encode(&s, x, d, 3, &b), OM_OK);
            CHECK(t, a.len <= s.c->bound(s.p, d));
            CHECK(t, a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0));
            memset(y, 0, sizeof(y));
            for (size_t q = 0; q < D; q++)
                z[q] = 5;
            CHECK_OK(t, s.c->decode(s.p, a.data, a.len, 1, y, d, &err), err);
            CHECK_OK(t, s.c->decode(s.p, a.data, a.len, -2, z, d, &err), err);
            for (size_t q = 0; q < D; q++) /* beyond d nothing is touched */
                CHECK_NEAR(t, z[q], 5 - 2 * (double)(q < d ? y[q] : 0),
                           1e-5 * (1 + fabs((double)y[q])));
            buf_free(&a), buf_free(&b);
        }
        mem_free(s.memory);
    }
}

/* A fixed buffer of bound bytes always suffices, and with one byte less encode fails
 * without writing where the bound is the exact size. */
static void bound_suffices(test *t)
{
    float x[D];
    for (size_t i = 0; i < countof(settings); i++) {
        subject s = subject_of(t, i, D);
        size_t n = s.c->bound(s.p, D);
        uint8_t *room = mem_alloc(n + 64);
        for (uint32_t k = 0; k < 50; k++) {
            random_vector(x, D, k);
            if (k % 3 == 0) /* a run of large numbers at one end: the longest gaps */
                for (size_t q = 0; q < D; q++)
                    x[q] *= k % 2 ? (q > D - 120 ? 1e6f : 1e-6f) : (q < 120 ? 1e6f : 1e-6f);
            buf out = buf_fixed(room, n);
            memset(room + n, 0xa5, 64);
            CHECK_INT(t, encode(&s, x, D, k, &out), OM_OK);
            for (size_t q = 0; q < 64; q++)
                CHECK_INT(t, room[n + q], 0xa5);
            buf small = buf_fixed(room, n - 1);
            CHECK_INT(t, encode(&s, x, D, k, &small), OM_ELIMIT);
            CHECK_INT(t, small.len, 0);
        }
        mem_free(room), mem_free(s.memory);
    }
}

/* E C(x) = x within 5 sigma; E|C(x)-x|^2 within what omega or alpha say. */
static void variance(test *t)
{
    enum { SMALL = 200, DRAWS = 4000 };
    float x[SMALL], y[SMALL];
    for (size_t i = 0; i < countof(settings); i++) {
        subject s = subject_of(t, i, SMALL);
        double mean[SMALL] = {0}, sq[SMALL] = {0}, error = 0, most = 0;
        om_err err = {0};
        random_vector(x, SMALL, i);
        for (uint32_t k = 0; k < DRAWS; k++) {
            uint8_t room[2000];
            buf out = buf_fixed(room, sizeof(room));
            CHECK_INT(t, encode(&s, x, SMALL, k, &out), OM_OK);
            memset(y, 0, sizeof(y));
            CHECK_OK(t, s.c->decode(s.p, out.data, out.len, 1, y, SMALL, &err), err);
            error += square(y, x, SMALL) / DRAWS;
            for (size_t q = 0; q < SMALL; q++) {
                most = fmax(most, fabs((double)y[q]));
                mean[q] += (double)y[q] / DRAWS;
                sq[q] += (double)y[q] * (double)y[q] / DRAWS;
            }
        }
        double xx = square(x, NULL, SMALL);
        if (s.c->omega && error > s.c->omega(s.p, SMALL) * xx * 1.1)
            test_fail(t, __FILE__, __LINE__, "%s: variance %g above omega %g", s.name,
                      error / xx, s.c->omega(s.p, SMALL));
        if (s.c->alpha)
            CHECK(t, error <= (1 - s.c->alpha(s.p, SMALL)) * xx * 1.0001);
        for (size_t q = 0; s.c->omega && q < SMALL; q++) {
            double sigma = sqrt(fmax(0, sq[q] - mean[q] * mean[q]) / DRAWS);
            /* Rounded to `most` with probability x / most, a small number may never be
             * drawn: (1 - 12 / DRAWS)^DRAWS = e^-12. */
            double rare = sigma > 0 ? 0 : 12.0 / DRAWS * most;
            CHECK_NEAR(t, mean[q], x[q],
                       5.5 * sigma + rare + 2e-6 * (1 + fabs((double)x[q])));
        }
        mem_free(s.memory);
    }
}

/* Rand-K's variance is an equality. */
static void randk_exact_variance(test *t)
{
    enum { SMALL = 100, DRAWS = 20000 };
    float x[SMALL], y[SMALL];
    subject s = subject_of(t, 6, SMALL); /* ratio=0.25: omega = 3 */
    double error = 0;
    random_vector(x, SMALL, 5);
    CHECK_NEAR(t, s.c->omega(s.p, SMALL), 3, 1e-12);
    for (uint32_t k = 0; k < DRAWS; k++) {
        uint8_t room[2000];
        buf out = buf_fixed(room, sizeof(room));
        CHECK_INT(t, encode(&s, x, SMALL, k, &out), OM_OK);
        memset(y, 0, sizeof(y));
        CHECK_INT(t, s.c->decode(s.p, out.data, out.len, 1, y, SMALL, NULL), OM_OK);
        error += square(y, x, SMALL) / DRAWS;
    }
    CHECK_NEAR(t, error / square(x, NULL, SMALL), 3, 0.1);
    mem_free(s.memory);
}

/* Every truncation and every lengthening is refused and leaves y alone; so is every
 * message of which a bit was flipped, or it decodes to finite numbers. */
static void hostile(test *t)
{
    enum { SMALL = 120 };
    float x[SMALL], y[SMALL];
    for (size_t i = 0; i < countof(settings); i++) {
        subject s = subject_of(t, i, SMALL);
        uint8_t room[1000] = {0};
        buf out = buf_fixed(room, sizeof(room) - 8);
        random_vector(x, SMALL, i);
        CHECK_INT(t, encode(&s, x, SMALL, 1, &out), OM_OK);
        memset(y, 0, sizeof(y));
        for (size_t n = 0; n < out.len + 8; n++) {
            if (n == out.len)
                continue;
            uint8_t *exact = mem_alloc(n); /* so that a sanitizer sees an overread */
            om_err err = {0};
            memcpy(exact, room, n);
            CHECK_INT(t, s.c->decode(s.p, exact, n, 1, y, SMALL, &err), OM_EFORMAT);
            CHECK(t, strstr(err.msg, s.c->name) == err.msg);
            mem_free(exact);
        }
        CHECK(t, square(y, NULL, SMALL) == 0);
        for (size_t bit = 0; bit < out.len * 8; bit++) {
            room[bit / 8] ^= (uint8_t)(1u << bit % 8);
            om_status st = s.c->decode(s.p, room, out.len, 1, y, SMALL, NULL);
            bool finite = wire_first_bad(y, SMALL) == SMALL;
            CHECK(t, finite && (st == OM_OK || square(y, NULL, SMALL) == 0));
            memset(y, 0, sizeof(y));
            room[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        mem_free(s.memory);
    }
}

/* Random bytes of a plausible length never break a decoder. */
static void noise(test *t)
{
    float y[D];
    rng r = rng_for(1, 2, 3, 4);
    for (size_t i = 0; i < countof(settings); i++) {
        subject s = subject_of(t, i, D);
        for (int k = 0; k < 300; k++) {
            size_t n = s.c->bound(s.p, D) - rng_below(&r, k % 2 ? 1 : 6);
            uint8_t *in = mem_alloc(n);
            for (size_t q = 0; q < n; q++)
                in[q] = (uint8_t)(k % 3 ? rng_u64(&r) : rng_u64(&r) & rng_u64(&r) & 0x7f);
            memset(y, 0, sizeof(y));
            om_status st = s.c->decode(s.p, in, n, 1, y, D, NULL);
            CHECK(t, st == OM_OK || square(y, NULL, D) == 0);
            CHECK(t, wire_first_bad(y, D) == D);
            mem_free(in);
        }
        mem_free(s.memory);
    }
}

static void refuses_not_finite(test *t)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    float x[D];
    for (size_t i = 0; i < countof(settings); i++) {
        subject s = subject_of(t, i, D);
        for (size_t k = 0; k < 3; k++) {
            buf out = buf_growing(1 << 20);
            random_vector(x, D, 1);
            x[k * 499] = bad[k];
            CHECK_INT(t, encode(&s, x, D, 1, &out), OM_EARG);
            CHECK_INT(t, out.len, 0);
            buf_free(&out);
        }
        mem_free(s.memory);
    }
}

/* Zero is a fixed point of every codec; the largest floats survive. */
static void zero_and_huge(test *t)
{
    float x[64], y[64];
    for (size_t i = 0; i < countof(settings); i++) {
        subject s = subject_of(t, i, 64);
        uint8_t room[1000];
        buf out = buf_fixed(room, sizeof(room));
        memset(x, 0, sizeof(x)), memset(y, 0, sizeof(y));
        CHECK_INT(t, encode(&s, x, 64, 1, &out), OM_OK);
        CHECK_INT(t, s.c->decode(s.p, out.data, out.len, 1, y, 64, NULL), OM_OK);
        CHECK(t, square(y, NULL, 64) == 0);
        if (!strstr(s.name, "l2") &&
            !(s.c->flags & CODEC_UNBIASED && s.c->omega(s.p, 64) > 1)) {
            out = buf_fixed(room, sizeof(room));
            x[3] = 3.4028235e38f;
            CHECK_INT(t, encode(&s, x, 64, 1, &out), OM_OK);
            CHECK_INT(t, s.c->decode(s.p, out.data, out.len, 1, y, 64, NULL), OM_OK);
            CHECK(t, y[3] == x[3]);
        }
        mem_free(s.memory);
    }
}

static int by_size(const void *a, const void *b)
{
    float x = fabsf(*(const float *)a), y = fabsf(*(const float *)b);
    return (x < y) - (x > y);
}

/* Against a full sort, with many ties: the kept set is the K largest, and among the
 * smallest kept magnitude the lowest indices. */
static void topk_exact(test *t)
{
    float x[D], y[D], sorted[D];
    for (uint32_t trial = 0; trial < 40; trial++) {
        subject s = subject_of(t, 2, D); /* ratio=0.1 */
        size_t k = D / 10, kept = 0;
        uint8_t room[1000];
        buf out = buf_fixed(room, sizeof(room));
        random_vector(x, D, trial);
        for (size_t i = 0; trial % 2 && i < D; i++)
            x[i] = roundf(x[i] * 2) / 2; /* a few distinct values, zeros too */
        memcpy(sorted, x, sizeof(x));
        qsort(sorted, D, sizeof(float), by_size);
        CHECK_INT(t, encode(&s, x, D, 0, &out), OM_OK);
        for (size_t i = 0; i < D; i++)
            y[i] = 0;
        CHECK_INT(t, s.c->decode(s.p, out.data, out.len, 1, y, D, NULL), OM_OK);
        float least = fabsf(sorted[k - 1]);
        bool skipped = false;
        for (size_t i = 0; i < D; i++) {
            bool is = y[i] != 0 && y[i] == x[i];
            CHECK(t, is || y[i] == 0);
            kept += is;
            if (fabsf(x[i]) > least)
                CHECK(t, is);
            if (fabsf(x[i]) < least)
                CHECK(t, !is);
            if (fabsf(x[i]) == least && least > 0) {
                CHECK(t, !(is && skipped));
                skipped |= !is;
            }
        }
        CHECK(t, kept == k || least == 0);
        mem_free(s.memory);
    }
}

/* Index cost: a plain index of a million takes 20 bits, a gap at 1 % under 9. */
static void topk_bytes(test *t)
{
    enum { MILLION = 1000000 };
    float *x = mem_array(MILLION, sizeof(float));
    subject s = subject_of(t, 1, MILLION);
    buf out = buf_growing(1 << 20);
    random_vector(x, MILLION, 1);
    CHECK_INT(t, encode(&s, x, MILLION, 0, &out), OM_OK);
    CHECK(t, (double)out.len < 10000 * (32 + 8.5) / 8);
    CHECK(t, out.len <= s.c->bound(s.p, MILLION));
    buf_free(&out), mem_free(s.memory), mem_free(x);
}

/* QSGD with s levels hits multiples of norm/s exactly. */
static void qsgd_levels(test *t)
{
    float x[8] = {1, -1, 0.5f, 0.25f, -0.75f, 0, 1, -0.5f}, y[8] = {0};
    subject s = subject_of(t, 12, 8); /* bits=4: s = 7 */
    uint8_t room[100];
    buf out = buf_fixed(room, sizeof(room));
    CHECK_INT(t, encode(&s, x, 8, 0, &out), OM_OK);
    CHECK_INT(t, out.len, 4 + 4);
    CHECK_INT(t, s.c->decode(s.p, out.data, out.len, 1, y, 8, NULL), OM_OK);
    CHECK(t, y[0] == 1 && y[1] == -1 && y[5] == 0 && y[6] == 1);
    for (int i = 0; i < 8; i++) {
        CHECK_NEAR(t, y[i] * 7, roundf(y[i] * 7), 1e-5);
        CHECK(t, fabsf(y[i] - x[i]) < 1.0f / 7 + 1e-6f);
    }
    mem_free(s.memory);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"all_listed", "every codec is tried here and declares its class", all_listed},
        {"round_trip", "deterministic, within bound, adds weight * C(x)", round_trip},
        {"bound_suffices", "bound bytes are enough and nothing is written beyond",
         bound_suffices},
        {"variance", "mean and spread as declared", variance},
        {"randk_exact_variance", "Rand-K: E|C(x)-x|^2 = (d/K-1)|x|^2",
         randk_exact_variance},
        {"hostile", "truncated, lengthened and flipped messages", hostile},
        {"noise", "random bytes", noise},
        {"refuses_not_finite", "NaN and infinity are not encoded", refuses_not_finite},
        {"zero_and_huge", "C(0) = 0 and FLT_MAX", zero_and_huge},
        {"topk_exact", "Top-K against a sort, with ties", topk_exact},
        {"topk_bytes", "Top-K of a million at 1 %", topk_bytes},
        {"qsgd_levels", "levels of 4-bit QSGD", qsgd_levels},
        {0}};
    return test_main(argc, argv, cases);
}
