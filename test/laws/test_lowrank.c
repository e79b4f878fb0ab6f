/* test_lowrank.c - laws of the federated methods of low rank: their linear algebra against
 * NumPy, equality of special cases, what travels. */
#include "fl_loop.h"

#include "codec/wire.h"
#include "fl/lowrank.h"
#include "fl/side.h"
#include "fl/svd.h"

/* ---- golden values ---- */

enum { ROWS = 7, COLS = 4, CLIENTS = 3, MOST = 64 };
static const uint32_t rank_of[] = {3, 1, 2};
static const uint64_t samples_of[] = {5, 2, 3};

static double number(uint32_t i, uint32_t j, uint32_t k, uint32_t which)
{
    return (double)((i * 7 + j * 5 + k * 11 + which * 3) % 17) / 8 - 1 + 0.01 * k;
}

static void golden(test *t, const char *name, double *out, size_t n)
{
    char word[40];
    FILE *f = fopen(OM_SOURCE_DIR "/test/golden/lowrank.txt", "r");
    size_t count;
    double v;
    CHECK(t, f != NULL);
    while (f && fscanf(f, "%39s %zu", word, &count) == 2) {
        bool wanted = strcmp(word, name) == 0;
        CHECK(t, !wanted || count == n);
        for (size_t i = 0; i < count; i++) {
            CHECK_INT(t, fscanf(f, "%lf", &v), 1);
            if (wanted)
                out[i] = v;
        }
        if (wanted)
            break;
    }
    if (f)
        fclose(f);
}

/* A federation of three whose server alone is driven, with messages made by hand. */
typedef struct {
    fl_recipe r;
    fl_env e;
    fl_matrix m;
    fl_shape shape;
    kern k;
    float start[MOST];
    void *server, *memory;
} by_hand;

static void hand_open(test *t, by_hand *h, const char *algo, const char *params, bool pairs,
                      uint32_t rank)
{
    om_err err = {0};
    buf down = buf_growing(1 << 16);
    *h = (by_hand){.m = {0, (size_t)rank * COLS, ROWS, COLS}};
    if (!pairs)
        h->m.b = 0;
    h->shape = (fl_shape){.m = &h->m, .n = 1, .rank = pairs ? rank : 0, .ranks = rank_of,
                          .n_ranks = CLIENTS, .start = h->start};
    CHECK_OK(t, fl_recipe_of(str_of(algo), str_of(params), STR("identity"), STR(""), &h->r,
                             &err), err);
    kern_init(&h->k, 0);
    h->e = (fl_env){.dim = pairs ? (size_t)rank * (ROWS + COLS) : ROWS * COLS,
                    .n_clients = CLIENTS, .cohort = CLIENTS, .seed = 3, .p = h->r.p,
                    .up = h->r.up, .up_p = h->r.up_p, .k = &h->k, .shape = &h->shape};
    h->server = mem_alloc(h->r.algo->server_bytes(&h->e));
    h->memory = mem_alloc(h->r.algo->scratch_bytes(&h->e));
    CHECK_OK(t, h->r.algo->server_open(&h->e, h->server, h->start, &err), err);
    CHECK_OK(t, h->r.algo->server_begin(&h->e, h->server, &down, &err), err);
    buf_free(&down);
}

static arena room(const by_hand *h)
{
    return arena_of(h->memory, h->r.algo->scratch_bytes(&h->e));
}

/* FLoRA's A as it begins, which both sides know and which is not sent. */
static double begins(const by_hand *h, uint32_t id, uint32_t j, uint32_t k)
{
    rng g = rng_for(h->e.seed, h->e.round, id, 0x38000000);
    double v = 0;
    for (uint32_t i = 0; i <= j * COLS + k; i++)
        v = 2 * rng_unit(&g) - 1;
    return h->shape.rank ? 0 : v / sqrt(COLS);
}

/* The three clients' factors as messages, one round. */
static const float *hand_round(test *t, by_hand *h)
{
    om_err err = {0};
    for (uint32_t i = 0; i < CLIENTS; i++) {
        uint8_t message[400];
        size_t n = 4;
        wire_store(message, rank_of[i]);
        for (uint32_t j = 0; j < rank_of[i]; j++) {
            for (uint32_t k = 0; k < COLS; k++, n += 4)
                wire_store_f32(message + n,
                               (float)(number(i, j, k, 0) - begins(h, i, j, k)));
            for (uint32_t k = 0; k < ROWS; k++, n += 4)
                wire_store_f32(message + n, (float)number(i, j, k, 1));
        }
        CHECK_OK(t, h->r.algo->server_recv(&h->e, h->server, i, samples_of[i], message, n,
                                           room(h), &err), err);
    }
    CHECK_OK(t, h->r.algo->server_close(&h->e, h->server, room(h), &err), err);
    return h->r.algo->model(&h->e, h->server);
}

static void hand_close(by_hand *h) { mem_free(h->server), mem_free(h->memory); }

/* out (ROWS, COLS) = B A of a pair vector, the first r ranks. */
static void product(const by_hand *h, const float *x, uint32_t r, double *out)
{
    uint32_t rank = h->shape.rank;
    memset(out, 0, ROWS * COLS * sizeof(*out));
    for (uint32_t k = 0; k < ROWS; k++)
        for (uint32_t c = 0; c < COLS; c++)
            for (uint32_t j = 0; j < r; j++)
                out[k * COLS + c] += (double)x[h->m.b + (size_t)k * rank + j] *
                                     (double)x[h->m.a + (size_t)j * COLS + c];
}

static void check_near(test *t, const double *x, const double *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        CHECK_NEAR(t, x[i], y[i], 2e-6 * (1 + fabs(y[i])));
}

static void numpy(test *t)
{
    static const char *const mean[] = {"fedit", "hetlora"};
    double want[ROWS * COLS + 16], got[ROWS * COLS + 16];
    by_hand h;
    for (int i = 0; i < 2; i++) {
        hand_open(t, &h, mean[i], "", true, 3);
        const float *x = hand_round(t, &h);
        golden(t, mean[i], want, 33);
        for (int k = 0; k < 33; k++)
            got[k] = (double)x[k];
        check_near(t, got, want, 33);
        hand_close(&h);
    }
    hand_open(t, &h, "flora", "", false, 3);
    const float *w = hand_round(t, &h);
    golden(t, "flora", want, ROWS * COLS);
    for (int k = 0; k < ROWS * COLS; k++)
        got[k] = (double)w[k];
    check_near(t, got, want, ROWS * COLS);
    hand_close(&h);

    hand_open(t, &h, "flexlora", "", true, 4); /* the matrix's own rank: nothing is cut */
    const float *x = hand_round(t, &h);
    golden(t, "mean_product", want, ROWS * COLS);
    product(&h, x, 4, got);
    check_near(t, got, want, ROWS * COLS);
    golden(t, "rank2", want, ROWS * COLS);
    product(&h, x, 2, got);
    check_near(t, got, want, ROWS * COLS);
    golden(t, "singular", want, COLS);
    for (uint32_t j = 0; j < 4; j++) { /* A orthonormal, B of the singular values' length */
        double b = 0;
        for (uint32_t k = 0; k < ROWS; k++)
            b += (double)x[h.m.b + k * 4 + j] * (double)x[h.m.b + k * 4 + j];
        got[j] = sqrt(b);
    }
    check_near(t, got, want, COLS);
    hand_close(&h);
}

/* U diag(s) V' is the matrix again, also of low rank and of one column. */
static void svd(test *t)
{
    enum { M = 9, NC = 5 };
    for (size_t rank = 0; rank <= NC; rank++)
        for (size_t n = 1; n <= NC; n += 2) {
            double x[M * NC] = {0}, u[M * NC], s[NC], v[NC * NC];
            rng r = rng_for(1, (uint32_t)rank, (uint32_t)n, 0);
            for (size_t k = 0; k < rank; k++) {
                double left[M], right[NC];
                for (size_t i = 0; i < M; i++)
                    left[i] = rng_normal(&r);
                for (size_t i = 0; i < n; i++)
                    right[i] = rng_normal(&r);
                for (size_t j = 0; j < n; j++)
                    for (size_t i = 0; i < M; i++)
                        x[j * M + i] += left[i] * right[j];
            }
            memcpy(u, x, sizeof(x));
            svd_thin(u, M, n, s, v);
            for (size_t j = 0; j < n; j++) {
                CHECK(t, j == 0 || s[j] <= s[j - 1]);
                CHECK(t, j < rank || s[j] < 1e-12 * (1 + s[0]));
                for (size_t i = 0; i < M; i++) {
                    double sum = 0;
                    for (size_t k = 0; k < n; k++)
                        sum += u[k * M + i] * s[k] * v[k * n + j];
                    CHECK_NEAR(t, sum, x[j * M + i], 1e-12 * (1 + s[0]));
                }
                for (size_t k = 0; k < n; k++) {
                    double dot = 0;
                    for (size_t i = 0; i < n; i++)
                        dot += v[j * n + i] * v[k * n + i];
                    CHECK_NEAR(t, dot, j == k, 1e-12);
                }
            }
        }
}

/* ---- special cases ---- */

static void same_bits(test *t, const char *one, const char *p, const char *other,
                      const char *q, const char *codec_name)
{
    loop l, m;
    loop_open(t, &l, &unlike, one, p, codec_name, "");
    loop_open(t, &m, &unlike, other, q, codec_name, "");
    rounds(t, &l, 6), rounds(t, &m, 6);
    if (memcmp(model(&l), model(&m), DIM * sizeof(float)) != 0)
        test_fail(t, __FILE__, __LINE__, "%s %s is not %s %s", one, p, other, q);
    loop_close(&l), loop_close(&m);
}

static void equalities(test *t)
{
    const char *local = "batch=8,local_epochs=2,lr=0.2";
    same_bits(t, "fedit", local, "fedavg", local, "identity");
    same_bits(t, "hetlora", "batch=8,local_epochs=2,lr=0.2,gamma=1,weigh_by=samples", "fedit",
              local, "qsgd");
    same_bits(t, "flasc",
              "batch=8,local_epochs=2,lr=0.2,server_lr=0.1,density_down=1,density_up=1",
              "fedadam", "batch=8,local_epochs=2,lr=0.2,server_lr=0.1", "identity");
    same_bits(t, "bernoulli-lora-page", "lr=0.5,batch=10,p=1,rank=2", "bernoulli-lora",
              "lr=0.5,rank=2", "identity");
}

/* A sketch as large as the matrix is no sketch: gradient descent; and the coin at 1 with a
 * full gradient is RAC-LoRA's single step. */
static void chains(test *t)
{
    static const char *const rows[][2] = {
        {"rac-lora", "batch=0,local_steps=1,lr=0.5,weights=equal,rank=4"},
        {"bernoulli-lora", "lr=0.5,rank=4,bernoulli_p=1"},
        {"rac-lora", "batch=0,local_steps=1,lr=0.5,weights=equal,rank=2"},
        {"bernoulli-lora", "lr=0.5,rank=2,bernoulli_p=1"},
        {"rac-lora", "batch=0,local_steps=1,lr=0.5,weights=equal,rank=3,factor=b"},
        {"bernoulli-lora", "lr=0.5,rank=3,bernoulli_p=0"},
    };
    for (size_t i = 0; i < countof(rows); i += 2) {
        loop l, m, gd;
        loop_open(t, &l, &even, rows[i][0], rows[i][1], "identity", "");
        loop_open(t, &m, &even, rows[i + 1][0], rows[i + 1][1], "identity", "");
        loop_open(t, &gd, &even, "dcgd", "lr=0.5", "identity", "");
        for (int k = 0; k < 8; k++) {
            round_of(t, &l, NULL), round_of(t, &m, NULL), round_of(t, &gd, NULL);
            CHECK(t, distance(model(&l), model(&m)) < 2e-5);
            CHECK(t, (distance(model(&l), model(&gd)) < 2e-5) == (i == 0));
        }
        loop_close(&l), loop_close(&m), loop_close(&gd);
    }
}

/* H = H' = H^2 of rank r, and E H D = (p r/rows + (1-p) r/cols) D over sketches. */
static void sketches(test *t)
{
    enum { ROUNDS = 4000, R = 2 };
    kern k;
    kern_init(&k, 0);
    fl_env e = {.dim = DIM, .seed = 4, .k = &k, .shape = &loop_matrices};
    float q[R * 6], room_[R * 6], d[DIM], twice[DIM], x[DIM];
    double mean[DIM] = {0};
    om_err err = {0};
    rng r = rng_for(2, 2, 2, 2);
    for (int i = 0; i < DIM; i++)
        x[i] = (float)rng_normal(&r);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        lowrank_side side = round % 4 ? SIDE_B : SIDE_A;
        CHECK_OK(t, lowrank_frames(&e, round, R, side, q, &err), err);
        memcpy(d, x, sizeof(d));
        lowrank_project(&e, R, side, q, room_, d);
        memcpy(twice, d, sizeof(d));
        lowrank_project(&e, R, side, q, room_, twice);
        CHECK(t, distance(d, twice) < 1e-5);
        double along = 0, length = 0;
        for (int i = 0; i < DIM; i++) {
            mean[i] += (double)d[i] / ROUNDS;
            along += (double)x[i] * (double)d[i];
            length += (double)d[i] * (double)d[i];
        }
        CHECK_NEAR(t, along, length, 1e-4); /* x'Hx = |Hx|^2 */
    }
    double part = 0.75 * R / 4 + 0.25 * R / 6;
    for (int i = 0; i < DIM; i++)
        CHECK_NEAR(t, mean[i], part * (double)x[i], 0.06);
}

/* FFA: A never moves, and B A is the weighted mean of the clients' products. */
static void frozen_a(test *t)
{
    by_hand h;
    om_err err = {0};
    double want[ROWS * COLS] = {0}, got[ROWS * COLS];
    hand_open(t, &h, "ffa-lora", "", true, 3);
    for (uint32_t k = 0; k < 3 * COLS; k++) /* the adapters as they begin: A not zero */
        h.start[k] = (float)number(9, 1, k, 2);
    CHECK_OK(t, h.r.algo->server_open(&h.e, h.server, h.start, &err), err);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        uint8_t message[200];
        size_t n = 4;
        wire_store(message, rank_of[i]);
        for (uint32_t j = 0; j < rank_of[i]; j++)
            for (uint32_t k = 0; k < ROWS; k++, n += 4) {
                wire_store_f32(message + n, (float)number(i, j, k, 1));
                for (uint32_t c = 0; c < COLS; c++)
                    want[k * COLS + c] += (double)samples_of[i] / 10 * number(i, j, k, 1) *
                                          (double)h.start[j * COLS + c];
            }
        CHECK_OK(t, h.r.algo->server_recv(&h.e, h.server, i, samples_of[i], message, n,
                                          room(&h), &err), err);
    }
    CHECK_OK(t, h.r.algo->server_close(&h.e, h.server, room(&h), &err), err);
    const float *x = h.r.algo->model(&h.e, h.server);
    CHECK(t, memcmp(x, h.start, 3 * COLS * sizeof(float)) == 0);
    product(&h, x, 3, got);
    check_near(t, got, want, ROWS * COLS);
    hand_close(&h);
}

/* ---- what travels ---- */

/* FLASC: floor(density N) numbers each way, tiers take a prefix, and with feedback what was
 * sent and what is kept add up to what was to be sent. */
static void sparse_ways(test *t)
{
    loop l;
    om_err err = {0};
    fl_oracle f;
    buf down = buf_growing(1 << 16), up = buf_growing(1 << 16);
    loop_open(t, &l, &unlike, "flasc",
              "batch=0,local_steps=1,lr=0.5,density_down=0.5,density_up=0.3,tiers=2,"
              "error_feedback=on",
              "identity", "");
    const fl_algo *a = l.r.algo;
    rounds(t, &l, 3);
    CHECK_OK(t, a->server_begin(&l.e, l.server, &down, &err), err);
    size_t small = a->down_part(&l.e, 0, down.data, down.len);
    CHECK(t, small < down.len && a->down_part(&l.e, 1, down.data, down.len) == down.len);
    for (uint32_t id = 0; id < 2; id++) {
        float before[DIM], sent[DIM] = {0}, x[DIM] = {0}, g[DIM];
        float *error = (float *)(void *)(l.clients + id * l.client_stride);
        size_t k = id ? 7 : 1, n = 0; /* floor(0.3 x 24), floor(0.3 / 4 x 24) */
        memcpy(before, error, sizeof(before));
        quadratic_oracle(l.q, id, &f);
        up.len = 0;
        CHECK_OK(t, a->client_step(&l.e, id, error, &f, down.data, id ? down.len : small, &up,
                                   NULL, scratch(&l), &err), err);
        side_codec top = side_of(SIDE_TOPK, 1);
        top.p[1] = (double)k;
        CHECK_OK(t, top.c->decode(top.p, up.data, up.len, 1, sent, DIM, &err), err);
        for (int i = 0; i < DIM; i++)
            n += sent[i] != 0;
        CHECK_INT(t, n, k);
        size_t at = 0;
        for (uint32_t tier = 0; tier <= id; tier++) { /* 3 numbers, then 9 more */
            top.p[1] = tier ? 9 : 3;
            CHECK_OK(t, top.c->decode(top.p, down.data + at + 4, wire_load(down.data + at), 1,
                                      x, DIM, &err), err);
            at += 4 + wire_load(down.data + at);
        }
        CHECK_OK(t, f.grad(f.ctx, x, g, NULL, &err), err);
        for (int i = 0; i < DIM; i++)
            CHECK_NEAR(t, (double)sent[i] + (double)error[i],
                       (double)before[i] - 0.5 * (double)g[i], 1e-5);
    }
    buf_free(&down), buf_free(&up), loop_close(&l);
}

/* A client of rank 1 takes and sends half of what one of rank 2 does, and trains as if the
 * rest of the model were not there. */
static void prefixes(test *t)
{
    static const uint32_t own[] = {2, 1};
    static const char *const algos[] = {"fedit", "ffa-lora", "hetlora", "flexlora"};
    for (size_t i = 0; i < countof(algos); i++) {
        loop l;
        om_err err = {0};
        fl_oracle f;
        buf down = buf_growing(1 << 16), whole = buf_growing(1 << 16), part = whole;
        loop_open(t, &l, &unlike, algos[i], "batch=0,local_steps=2,lr=0.1", "identity", "");
        fl_shape s = *l.e.shape;
        s.ranks = own, s.n_ranks = 2, l.e.shape = &s;
        const fl_algo *a = l.r.algo;
        rounds(t, &l, 2);
        CHECK_OK(t, a->server_begin(&l.e, l.server, &down, &err), err);
        size_t half = a->down_part(&l.e, 1, down.data, down.len);
        CHECK_INT(t, 2 * half, down.len);
        CHECK_INT(t, a->down_part(&l.e, 0, down.data, down.len), down.len);
        quadratic_oracle(l.q, 1, &f);
        void *client = l.clients + l.client_stride;
        for (int k = 0; k < 2; k++)
            CHECK_OK(t, a->client_step(&l.e, 1, client, &f, down.data, k ? half : down.len,
                                       k ? &part : &whole, NULL, scratch(&l), &err), err);
        CHECK_INT(t, whole.len, 4 + half);
        CHECK(t, part.len == whole.len && memcmp(part.data, whole.data, part.len) == 0);
        quadratic_oracle(l.q, 0, &f);
        part.len = 0;
        CHECK_OK(t, a->client_step(&l.e, 0, l.clients, &f, down.data, down.len, &part, NULL,
                                   scratch(&l), &err), err);
        CHECK_INT(t, part.len, 4 + 2 * half);
        CHECK(t, a->server_recv(&l.e, l.server, 1, 5, part.data, part.len, scratch(&l),
                                &err) != OM_OK); /* more ranks than it has */
        buf_free(&down), buf_free(&whole), buf_free(&part), loop_close(&l);
    }
}

/* A pull takes the last ranks towards zero, and they are given up; what is left travels. */
static void self_pruning(test *t)
{
    loop l;
    uint32_t r;
    loop_open(t, &l, &unlike, "hetlora", "batch=0,local_steps=3,lr=0.05,gamma=0.5,lambda=3",
              "identity", "");
    rounds(t, &l, 30);
    uint64_t before = l.up_bytes, after = 0, pruned = 0;
    round_of(t, &l, NULL);
    for (uint32_t i = 0; i < N; i++) {
        memcpy(&r, l.clients + i * l.client_stride, sizeof(r));
        after += 4 + 4 * 12 * (uint64_t)r;
        pruned += r == 1;
    }
    CHECK(t, pruned >= N / 2);
    CHECK_INT(t, l.up_bytes - before, after);
    loop_close(&l);
}

/* Who follows is sent factors alone; after an absence the next message is whole, and all
 * hold the server's model bit for bit. */
static void following(test *t)
{
    static const char *const rows[][2] = {{"flora", "batch=0,local_steps=2,lr=0.05,rank=2"},
                                          {"rac-lora", "batch=0,local_steps=2,lr=0.1,rank=2"}};
    for (size_t i = 0; i < countof(rows); i++) {
        loop l;
        bool present[N];
        float was[DIM];
        size_t part = i ? 1 + 4 * 2 * 6 : 1 + N * (8 + 4 * 2 * 10);
        loop_open(t, &l, &unlike, rows[i][0], rows[i][1], "identity", "");
        round_of(t, &l, NULL);
        CHECK_INT(t, l.down_bytes, 1);
        memcpy(was, model(&l), sizeof(was));
        round_of(t, &l, NULL);
        CHECK_INT(t, l.down_bytes, part);
        for (uint32_t k = 0; k < N; k++) {
            CHECK(t, memcmp(l.clients + k * l.client_stride + 64, was, sizeof(was)) == 0);
            present[k] = k != 3;
        }
        round_among(t, &l, NULL, present);
        round_of(t, &l, NULL);
        CHECK_INT(t, l.down_bytes, 1 + 4 * DIM);
        round_of(t, &l, NULL);
        CHECK_INT(t, l.down_bytes, part);
        loop_close(&l);
    }
}

static void refused(test *t)
{
    fl_recipe r;
    om_err err = {0};
    fl_drive d = {.n_clients = N, .asked = N, .cohort = N, .least = N, .ends = true};
    CHECK_OK(t, fl_recipe_of(STR("flora"), STR(""), STR("identity"), STR(""), &r, &err), err);
    CHECK(t, fl_recipe_drive(&r, &d, &err) == OM_EUNSUPPORTED);
    CHECK(t, strstr(err.msg, "matrices") != NULL);
    d.shape = &loop_pairs;
    CHECK(t, fl_recipe_drive(&r, &d, &err) == OM_EARG);
    d.shape = &loop_matrices;
    CHECK_OK(t, fl_recipe_drive(&r, &d, &err), err);
    CHECK(t, fl_recipe_of(STR("fedit"), STR(""), STR("permk"), STR(""), &r, &err) != OM_OK);
    CHECK(t, fl_recipe_of(STR("flora"), STR("error_feedback=on"), STR("topk"), STR(""), &r,
                          &err) != OM_OK);
    CHECK(t, fl_recipe_of(STR("bernoulli-lora"), STR(""), STR("topk"), STR(""), &r, &err) !=
                 OM_OK);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"svd", "U diag(s) V' is the matrix", svd},
        {"numpy", "means, stacks and cuts are NumPy's", numpy},
        {"frozen_a", "FFA-LoRA averages exactly", frozen_a},
        {"equalities", "special cases are equal in every bit", equalities},
        {"chains", "full sketches are gradient descent; Bernoulli at 0 and 1 is RAC", chains},
        {"sketches", "projections, and their mean", sketches},
        {"sparse_ways", "FLASC sends what it says, both ways", sparse_ways},
        {"prefixes", "a smaller rank is a prefix", prefixes},
        {"self_pruning", "HetLoRA gives ranks up", self_pruning},
        {"following", "factors to who follows, all to who was away", following},
        {"refused", "what makes no sense is refused", refused},
        {0}};
    return test_main(argc, argv, cases);
}
