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
    {"toplek", "ratio=0.1"},
    {"toplek", "ratio=1"},
    {"toplek", "k=1"},
    {"topk-quantized", "ratio=0.1"},
    {"topk-quantized", "ratio=0.1 values=8bit"},
    {"topk-quantized", "ratio=0.3 values=4bit"},
    {"randseqk", "ratio=0.25"},
    {"randseqk", "k=1"},
    {"permk", ""},
    {"permk", "clients=4"},
    {"permk", "clients=7"},
    {"permk", "clients=450"},
    {"bernoulli", "p=0.3"},
    {"bernoulli", "p=0.3 what=vector"},
    {"natural", ""},
    {"natural-dithering", ""},
    {"natural-dithering", "bits=3 norm=l2 bucket=64"},
    {"terngrad", ""},
    {"terngrad", "bucket=33"},
    {"sign", ""},
    {"scaled-sign", ""},
    {"scaled-sign", "bucket=10"},
    {"powersgd", ""},
    {"powersgd", "rank=1 rows=20"},
    {"rankr", ""},
    {"rankr", "rank=3 rows=7"},
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

static om_status encode_as(const subject *s, const float *x, size_t d, rng r, buf *out)
{
    memset(s->memory, 0xff, s->c->scratch_bytes(s->p, d)); /* scratch promises nothing */
    arena a = arena_of(s->memory, s->c->scratch_bytes(s->p, d));
    return s->c->encode(s->p, x, d, r, a, out);
}

static om_status encode(const subject *s, const float *x, size_t d, uint32_t client,
                        buf *out)
{
    return encode_as(s, x, d, rng_for(7, 0, client, 1), out);
}

/* The setting of this name and these parameters, whatever its place in the list. */
static subject named(test *t, const char *codec_name, const char *params, size_t d)
{
    for (size_t i = 0; i < countof(settings); i++)
        if (strcmp(settings[i][0], codec_name) == 0 && strcmp(settings[i][1], params) == 0)
            return subject_of(t, i, d);
    test_fail(t, __FILE__, __LINE__, "no setting %s %s", codec_name, params);
    return subject_of(t, 0, d);
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
        CHECK(t, codecs[i]->flags & (CODEC_UNBIASED | CODEC_CONTRACTIVE | CODEC_DIRECTION));
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
            CHECK(t, error <= (1 - s.c->alpha(s.p, SMALL)) * xx * 1.005 + 1e-9 * xx);
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
    subject s = named(t, "randk", "ratio=0.25", SMALL); /* omega = 3 */
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

/* Does it send the largest number of a vector as it is? */
static bool keeps_values(const subject *s)
{
    static const char *const names[] = {"identity", "topk", "qsgd"};
    for (size_t i = 0; i < countof(names); i++)
        if (strcmp(s->c->name, names[i]) == 0)
            return !strstr(s->name, "l2");
    return false;
}

/* Zero is a fixed point of every codec (of sign: on average); the largest floats survive.
 */
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
        CHECK(t, square(y, NULL, 64) == 0 || s.c->flags & CODEC_DIRECTION);
        if (keeps_values(&s)) {
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
        subject s = named(t, "topk", "ratio=0.1", D);
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
    subject s = named(t, "topk", "", MILLION);
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
    subject s = named(t, "qsgd", "bits=4", 8); /* s = 7 */
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

/* The mean of |C(x)-x|^2 / |x|^2 over draws of the coins. */
static double loss_of(test *t, const subject *s, const float *x, size_t d, uint32_t draws)
{
    float *y = mem_array(d, sizeof(float));
    uint8_t *room = mem_alloc(s->c->bound(s->p, d));
    double error = 0;
    for (uint32_t k = 0; k < draws; k++) {
        buf out = buf_fixed(room, s->c->bound(s->p, d));
        CHECK_INT(t, encode(s, x, d, k, &out), OM_OK);
        memset(y, 0, d * sizeof(float));
        CHECK_INT(t, s->c->decode(s->p, out.data, out.len, 1, y, d, NULL), OM_OK);
        error += square(y, x, d) / draws;
    }
    mem_free(room), mem_free(y);
    return error / square(x, NULL, d);
}

/* Where theory gives an equality, or a worst case that is reached, so do we. */
static void exact_constants(test *t)
{
    enum { SMALL = 100, DRAWS = 20000 };
    static const struct {
        const char *codec, *params;
        double loss, tolerance;
    } rows[] = {
        {"randseqk", "ratio=0.25", 3, 0.15},  /* d/K - 1 */
        {"bernoulli", "p=0.3", 7.0 / 3, 0.1}, /* 1/p - 1 */
        {"bernoulli", "p=0.3 what=vector", 7.0 / 3, 0.1},
        {"permk", "clients=4", 3, 0.15},     /* n - 1 */
        {"permk", "clients=7", 6, 0.3},      /* n - 1, d not a multiple of n */
        {"toplek", "ratio=0.1", 0.9, 0.005}, /* 1 - K/d */
    };
    float x[SMALL];
    random_vector(x, SMALL, 5);
    for (size_t i = 0; i < countof(rows); i++) {
        subject s = named(t, rows[i].codec, rows[i].params, SMALL);
        double loss = loss_of(t, &s, x, SMALL, DRAWS);
        if (!(fabs(loss - rows[i].loss) < rows[i].tolerance))
            test_fail(t, __FILE__, __LINE__, "%s: %g, theory says %g", s.name, loss,
                      rows[i].loss);
        if (s.c->omega)
            CHECK_NEAR(t, s.c->omega(s.p, SMALL), rows[i].loss, 1e-12);
        else
            CHECK_NEAR(t, 1 - s.c->alpha(s.p, SMALL), rows[i].loss, 1e-12);
        mem_free(s.memory);
    }
    /* More clients than numbers: n = 450 over d = 100, worst over coordinates. */
    subject s = named(t, "permk", "clients=450", SMALL);
    CHECK_NEAR(t, s.c->omega(s.p, SMALL), 450 * (50 / 4.0 + 50 / 5.0) / 100 - 1, 1e-9);
    mem_free(s.memory);
    /* Natural: 1/8 is reached at |x| = 4/3 of a power of two. */
    s = named(t, "natural", "", SMALL);
    for (size_t i = 0; i < SMALL; i++)
        x[i] = 4.0f / 3;
    CHECK_NEAR(t, loss_of(t, &s, x, SMALL, 4000), 0.125, 0.002);
    mem_free(s.memory);
    /* TernGrad: (sqrt(d) - 1) / 2 is reached at one M and the rest M / (1 + sqrt(d)). */
    s = named(t, "terngrad", "", SMALL);
    for (size_t i = 0; i < SMALL; i++)
        x[i] = i == 17 ? 1 : 1.0f / 11;
    CHECK_NEAR(t, s.c->omega(s.p, SMALL), 4.5, 1e-12);
    CHECK_NEAR(t, loss_of(t, &s, x, SMALL, 8000), 4.5, 0.1);
    mem_free(s.memory);
    /* Scaled sign: exactly |x|^2 - |x|_1^2 / d. */
    s = named(t, "scaled-sign", "", SMALL);
    double one = 0;
    random_vector(x, SMALL, 6);
    for (size_t i = 0; i < SMALL; i++)
        one += fabs((double)x[i]);
    CHECK_NEAR(t, loss_of(t, &s, x, SMALL, 1),
               1 - one * one / SMALL / square(x, NULL, SMALL), 1e-6);
    mem_free(s.memory);
}

/* Rand-K and Rand-Seq-K as FP32 bits of section "bits" of the papers: exact sizes. */
static void sizes(test *t)
{
    static const struct {
        const char *codec, *params;
        size_t bytes; /* of 1000 numbers */
    } rows[] = {{"identity", "", 4000},
                {"randk", "ratio=0.25", 8 + 1000},
                {"randseqk", "ratio=0.25", 8 + 1000},
                {"permk", "clients=4", 12 + 1000},
                {"natural", "", 9 * 1000 / 8},
                {"natural-dithering", "", 2 * 4 + 4 * 1000 / 8},
                {"terngrad", "", 2 * 4 + 103 + 98},
                {"sign", "", 125},
                {"scaled-sign", "", 2 * 4 + 64 + 61},
                {"qsgd", "bits=4", 2 * 4 + 500},
                {"powersgd", "", 4 * 2 * (31 + 33)},
                {"rankr", "", 4 * 2 * (31 + 33)}};
    float x[D];
    random_vector(x, D, 8);
    for (size_t i = 0; i < countof(rows); i++) {
        subject s = named(t, rows[i].codec, rows[i].params, D);
        buf out = buf_growing(1 << 20);
        CHECK_INT(t, encode(&s, x, D, 0, &out), OM_OK);
        CHECK_INT(t, out.len, rows[i].bytes);
        buf_free(&out), mem_free(s.memory);
    }
}

/* Together the Perm-K messages of a round tile the vector: their mean is x, exactly,
 * with more, as many, and fewer clients than numbers, dividing and not. */
static void permk_tiles(test *t)
{
    static const struct {
        uint32_t n;
        size_t d;
    } cases[] = {{4, 100}, {7, 100}, {100, 100}, {3, 1}, {450, 100}, {300, 100}, {1, 9}};
    for (size_t c = 0; c < countof(cases); c++) {
        uint32_t n = cases[c].n;
        size_t d = cases[c].d, sent = 0;
        float x[100], y[100] = {0};
        subject s = named(t, "permk", "clients=4", d);
        s.p[0] = n;
        random_vector(x, d, c);
        for (uint32_t i = 0; i < n; i++) {
            uint8_t room[1000];
            buf out = buf_fixed(room, sizeof(room));
            rng r = rng_for(7, (uint32_t)c, 0, 1);
            r.ctr = i;
            CHECK_INT(t, encode_as(&s, x, d, r, &out), OM_OK);
            CHECK_INT(t, s.c->decode(s.p, out.data, out.len, 1.0f / (float)n, y, d, NULL),
                      OM_OK);
            sent += (out.len - 12) / 4;
        }
        for (size_t i = 0; i < d; i++)
            CHECK_NEAR(t, y[i], x[i], 2e-6 * fabs((double)x[i]));
        CHECK_INT(t, sent, size_max(d, n));
        mem_free(s.memory);
    }
}

/* Natural compression: powers of two are kept, and 3 becomes 2 or 4, half and half. */
static void natural_values(test *t)
{
    float x[6] = {1, -0.5f, 1024, 0, 1.17549435e-38f, -2}, y[6];
    subject s = named(t, "natural", "", 6);
    for (uint32_t k = 0; k < 100; k++) {
        uint8_t room[8];
        buf out = buf_fixed(room, sizeof(room));
        memset(y, 0, sizeof(y));
        CHECK_INT(t, encode(&s, x, 6, k, &out), OM_OK);
        CHECK_INT(t, out.len, 7); /* 54 bits */
        CHECK_INT(t, s.c->decode(s.p, out.data, out.len, 1, y, 6, NULL), OM_OK);
        CHECK(t, memcmp(x, y, sizeof(x)) == 0);
    }
    int up = 0;
    for (uint32_t k = 0; k < 10000; k++) {
        uint8_t room[8];
        float three = 3, z = 0;
        buf out = buf_fixed(room, sizeof(room));
        CHECK_INT(t, encode(&s, &three, 1, k, &out), OM_OK);
        CHECK_INT(t, s.c->decode(s.p, out.data, out.len, 1, &z, 1, NULL), OM_OK);
        CHECK(t, z == 2 || z == 4);
        up += z == 4;
    }
    CHECK_NEAR(t, up, 5000, 5 * 50);
    mem_free(s.memory);
}

/* Against the singular values of a known matrix, U diag(s) V' with U, V of Hadamard:
 * rankr loses exactly the squares of the values it drops; a matrix of rank R survives. */
static void low_rank(test *t)
{
    enum { N = 16 };
    static const float sigma[N] = {8, -5, 4, 2, 1, 1, 0.5f, 0.25f};
    float x[N * N] = {0};
    double total = 0, dropped = 0;
    for (size_t c = 0; c < N; c++)
        for (size_t i = 0; i < N; i++)
            for (size_t j = 0; j < N; j++) {
                int u = __builtin_popcountl(c & i) & 1,
                    v = __builtin_popcountl((c ^ 5) & j) & 1;
                x[i * N + j] += sigma[c] * (u ? -1.0f : 1.0f) * (v ? -1.0f : 1.0f) / N;
            }
    for (size_t c = 0; c < N; c++) {
        total += (double)sigma[c] * (double)sigma[c];
        dropped += c >= 2 ? (double)sigma[c] * (double)sigma[c] : 0;
    }
    subject best = named(t, "rankr", "", N * N), step = named(t, "powersgd", "", N * N);
    CHECK_NEAR(t, loss_of(t, &best, x, N * N, 3), dropped / total, 1e-6);
    double one_step = loss_of(t, &step, x, N * N, 200);
    CHECK(t, one_step > dropped / total && one_step < 1 - 2.0 / N);
    for (size_t i = 0; i < N * N; i++) /* equal singular values: the bound is reached */
        x[i] = __builtin_popcountl(i / N & i % N) & 1 ? -1 : 1;
    CHECK_NEAR(t, loss_of(t, &best, x, N * N, 1), 1 - 2.0 / N, 1e-6);
    CHECK_NEAR(t, loss_of(t, &step, x, N * N, 1), 1 - 2.0 / N, 1e-6);
    for (size_t i = 0; i < N * N; i++) /* rank 2 */
        x[i] = (float)(i / N + 1) * (float)(i % N) - (float)(i % N % 3);
    CHECK(t, loss_of(t, &step, x, N * N, 3) < 1e-12);
    CHECK(t, loss_of(t, &best, x, N * N, 3) < 1e-12);
    mem_free(best.memory), mem_free(step.memory);
}

/* Bits a place: at most 0.6 above the entropy of a random set, log2 C(d, K) / K. */
static void place_bits(test *t)
{
    static const double ratio[] = {0.001, 0.01, 0.05, 0.1, 0.2};
    enum { N = 100000 };
    float *x = mem_array(N, sizeof(float));
    random_vector(x, N, 4);
    for (size_t i = 0; i < countof(ratio); i++) {
        double k = ratio[i] * N;
        double entropy = (lgamma(N + 1.0) - lgamma(k + 1) - lgamma(N - k + 1)) / log(2) / k;
        subject s = named(t, "topk", "", N);
        s.p[0] = ratio[i];
        buf out = buf_growing(1 << 20);
        CHECK_INT(t, encode(&s, x, N, 0, &out), OM_OK);
        double bits = ((double)out.len - 4 * k) * 8 / k;
        if (!(bits > entropy - 0.1 && bits < entropy + 0.6))
            test_fail(t, __FILE__, __LINE__, "%g of %d: %.2f bits a place, entropy %.2f",
                      ratio[i], N, bits, entropy);
        buf_free(&out), mem_free(s.memory);
    }
    mem_free(x);
}

/* What was sent and what is kept adds up to all that was put in, for every contractive
 * codec; and the error stays bounded: |e| <= 2 (1 - alpha) / alpha of the longest v. */
static void feedback(test *t)
{
    enum { SMALL = 60, STEPS = 400 };
    for (size_t i = 0; i < countof(settings); i++) {
        subject s = subject_of(t, i, SMALL);
        double in[SMALL] = {0}, longest = 0;
        float sent[SMALL] = {0}, error[SMALL] = {0}, v[SMALL];
        om_err err = {0};
        for (uint32_t k = 0; s.c->alpha && k < STEPS; k++) {
            uint8_t room[1000];
            buf out = buf_fixed(room, sizeof(room));
            random_vector(v, SMALL, k);
            longest = fmax(longest, sqrt(square(v, NULL, SMALL)));
            for (size_t q = 0; q < SMALL; q++)
                in[q] += (double)v[q];
            memset(s.memory, 0, s.c->scratch_bytes(s.p, SMALL));
            arena a = arena_of(s.memory, s.c->scratch_bytes(s.p, SMALL));
            CHECK_OK(t,
                     codec_feedback(s.c, s.p, v, error, SMALL, rng_for(3, k, 0, 0), a, &out,
                                    &err),
                     err);
            CHECK_OK(t, s.c->decode(s.p, out.data, out.len, 1, sent, SMALL, &err), err);
        }
        for (size_t q = 0; s.c->alpha && q < SMALL; q++)
            CHECK_NEAR(t, (double)sent[q] + (double)error[q], in[q], 2e-3);
        if (s.c->alpha) {
            double a = s.c->alpha(s.p, SMALL);
            CHECK(t, sqrt(square(error, NULL, SMALL)) <= 2 * (1 - a) / a * longest + 1e-3);
        }
        mem_free(s.memory);
    }
}

/* An unbiased codec divided by 1 + omega is contractive. */
static void scaled_unbiased(test *t)
{
    enum { SMALL = 100 };
    float x[SMALL], y[SMALL];
    random_vector(x, SMALL, 9);
    for (size_t i = 0; i < countof(settings); i++) {
        subject s = subject_of(t, i, SMALL);
        double error = 0;
        for (uint32_t k = 0; s.c->omega && k < 2000; k++) {
            uint8_t room[1000];
            buf out = buf_fixed(room, sizeof(room));
            memset(y, 0, sizeof(y));
            CHECK_INT(t, encode(&s, x, SMALL, k, &out), OM_OK);
            CHECK_INT(t,
                      s.c->decode(s.p, out.data, out.len,
                                  (float)codec_scale(s.c, s.p, SMALL), y, SMALL, NULL),
                      OM_OK);
            error += square(y, x, SMALL) / 2000;
        }
        double a = codec_alpha(s.c, s.p, SMALL);
        CHECK(t, (a > 0 && a <= 1) || s.c->flags & CODEC_DIRECTION);
        if (s.c->omega)
            CHECK(t, error <= (1 - a) * square(x, NULL, SMALL) * 1.05 + 1e-9);
        mem_free(s.memory);
    }
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
        {"exact_constants", "omega and alpha where theory gives equality", exact_constants},
        {"sizes", "bytes on the wire, exactly", sizes},
        {"permk_tiles", "Perm-K: the mean of a round's messages is x", permk_tiles},
        {"natural_values", "natural compression keeps powers of two", natural_values},
        {"low_rank", "rankr and powersgd against known singular values", low_rank},
        {"place_bits", "bits a place against the entropy", place_bits},
        {"feedback", "error feedback loses nothing, around every contractive codec",
         feedback},
        {"scaled_unbiased", "Q / (1 + omega) is contractive", scaled_unbiased},
        {0}};
    return test_main(argc, argv, cases);
}
