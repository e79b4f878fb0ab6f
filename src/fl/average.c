/* average.c - see average.h.
 *
 * Updates are added with their weight and divided by the total at the close, always in
 * ascending client id, so the sum has one order and one set of bits.  With a robust rule
 * every client counts the same, for what it says of its samples is as doubtful as the
 * rest; the updates are kept as they are until the close. */
#include "fl/average.h"
#include "codec/wire.h"

#include <math.h>

typedef struct {
    double weight;    /* total received */
    uint64_t next_id; /* the lowest id that may come next */
    uint64_t received;
    uint64_t zero;
    uint64_t note[4]; /* the algorithm's own */
} head;
_Static_assert(sizeof(head) == 64, "vectors start on a cache line");

static size_t stride(const fl_env *e) { return size_align(e->dim * sizeof(float), 64); }

/* Head, what correlated noise remembers, vectors. */
static size_t past_bytes(const fl_env *e)
{
    return e->privacy ? privacy_past_bytes(e->privacy, e->dim) : 0;
}

size_t average_bytes(const fl_env *e, uint32_t own_vectors)
{
    return sizeof(head) + past_bytes(e) + (2 + (size_t)own_vectors) * stride(e);
}

static void *past_of(void *server) { return (char *)server + sizeof(head); }

float *average_vector(const fl_env *e, void *server, uint32_t i)
{
    return (float *)(void *)((char *)past_of(server) + past_bytes(e) + i * stride(e));
}

const float *average_model(const fl_env *e, const void *server)
{
    return (const float *)(const void *)((const char *)server + sizeof(head) + past_bytes(e));
}

om_status average_open(const fl_env *e, void *server, const float *x0, om_err *err)
{
    size_t bad = wire_first_bad(x0, e->dim);
    if (bad < e->dim)
        return fail(err, OM_EARG, "the starting model is not finite at number %zu", bad);
    memcpy(average_vector(e, server, 0), x0, e->dim * sizeof(float));
    return OM_OK;
}

/* Ready for a round; what the algorithm noted stays. */
static void forget(head *h)
{
    h->weight = 0;
    h->next_id = 0;
    h->received = 0;
}

uint64_t *average_note(void *server, uint32_t i) { return &((head *)server)->note[i]; }

double average_weight(const void *server) { return ((const head *)server)->weight; }

uint64_t average_received(const void *server) { return ((const head *)server)->received; }

size_t average_down_bound(const fl_env *e) { return 4 * e->dim; }

om_status average_begin(const fl_env *e, void *server, buf *down, om_err *err)
{
    const float *x = average_model(e, server);
    head *h = server;
    if (h->received) /* interrupted; else the sum is zero, and need not even be in memory */
        memset(average_vector(e, server, 1), 0, e->dim * sizeof(float));
    forget(h);
    if (buf_reserve(down, 4 * e->dim) != OM_OK)
        return fail(err, OM_ENOMEM, "no room for a model of %zu numbers", e->dim);
    for (size_t i = 0; i < e->dim; i++)
        wire_store_f32(down->data + down->len + 4 * i, x[i]);
    down->len += 4 * e->dim;
    return OM_OK;
}

/* ---- with a robust rule: the updates themselves, in the driver's memory ---- */

typedef struct {
    uint32_t *id; /* (cohort) */
    float *row;   /* (cohort, stride) */
    arena scratch;
} cohort_room;

static bool is_robust(const fl_env *e) { return e->robust && !aggregate_is_mean(e->robust); }

static size_t id_bytes(const fl_env *e)
{
    return size_align((size_t)e->cohort * sizeof(uint32_t), 64);
}

static bool is_private(const fl_env *e) { return privacy_at_server(e->privacy); }

size_t fl_round_bytes(const fl_env *e)
{
    if (is_private(e))
        return privacy_bytes(e->dim);
    if (!is_robust(e))
        return 0;
    return id_bytes(e) + e->cohort * stride(e) +
           aggregate_bytes(e->robust, e->k, e->cohort, e->pool);
}

static cohort_room room_of(const fl_env *e)
{
    char *p = e->kept;
    char *end = p + fl_round_bytes(e), *rows = p + id_bytes(e);
    return (cohort_room){(uint32_t *)(void *)p, (float *)(void *)rows,
                         {rows + e->cohort * stride(e), end}};
}

static size_t first_absurd(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(x[i] >= -1e15f && x[i] <= 1e15f))
            return i;
    return n;
}

static size_t row_floats(const fl_env *e) { return stride(e) / sizeof(float); }

bool average_is_robust(const fl_env *e) { return is_robust(e); }

om_status average_row(const fl_env *e, const void *server, float **row, om_err *err)
{
    const head *h = server;
    if (h->received >= e->cohort)
        return fail(err, OM_ELIMIT, "update %llu of a round of %u",
                    (unsigned long long)h->received + 1, (unsigned)e->cohort);
    *row = room_of(e).row + h->received * row_floats(e);
    memset(*row, 0, e->dim * sizeof(float));
    return OM_OK;
}

void average_count_row(const fl_env *e, void *server, uint32_t id)
{
    head *h = server;
    cohort_room room = room_of(e);
    bool kept = first_absurd(room.row + h->received * row_floats(e), e->dim) == e->dim;
    room.id[h->received] = id;
    average_count(server, id, kept ? 1 : 0);
    h->received -= !kept;
}

const float *average_kept(const fl_env *e, uint64_t i, uint32_t *id)
{
    cohort_room room = room_of(e);
    *id = room.id[i];
    return room.row + i * row_floats(e);
}

enum { USE_BUCKETS = 0x6275636b };

static om_status robust_mean(const fl_env *e, const head *h, float *out, om_err *err)
{
    cohort_room room = room_of(e);
    cohort rows = {(size_t)h->received, e->dim, stride(e) / sizeof(float), room.row};
    return aggregate_run(e->robust, &rows, room.id,
                         rng_for(e->seed, e->round, 0, USE_BUCKETS), e->k, e->pool, out,
                         room.scratch, err);
}

/* ---- with privacy: clipped sums on a grid, in the driver's memory ---- */

/* Of the head's notes; the rows that may be private keep none of their own. */
static privacy_ledger *ledger(head *h)
{
    _Static_assert(sizeof(privacy_ledger) <= sizeof(h->note), "a ledger fits the notes");
    return (privacy_ledger *)(void *)h->note;
}

static om_status add_private(const fl_env *e, head *h, const uint8_t *up, size_t up_n,
                             om_err *err)
{
    if (h->received == 0)
        privacy_begin(e->kept, e->dim);
    TRY(e->up->decode(e->up_p, up, up_n, 1.0f, privacy_update(e->kept, e->dim), e->dim,
                      err));
    privacy_add(e->privacy, ledger(h), e->kept, e->dim);
    return OM_OK;
}

/* A round without anybody is noise like any other. */
static om_status release_private(const fl_env *e, head *h, float *out, om_err *err)
{
    if (h->received == 0)
        privacy_begin(e->kept, e->dim);
    return privacy_release(e->privacy, ledger(h), e->kept, past_of(h), e->dim, e->cohort,
                           e->seed, e->round, out, err);
}

/* ---- receiving ---- */

om_status average_read(const fl_env *e, const uint8_t *down, size_t n, float *x,
                       om_err *err)
{
    if (n / 4 != e->dim || n % 4)
        return fail(err, OM_EFORMAT, "the model message has %zu bytes, expected %zu", n,
                    4 * e->dim);
    if (!wire_all_finite(down, e->dim))
        return fail(err, OM_EFORMAT, "the model message holds a NaN or an infinity");
    for (size_t i = 0; i < e->dim; i++)
        x[i] = wire_load_f32(down + 4 * i);
    return OM_OK;
}

om_status average_check_head(const fl_env *e, uint32_t id, uint64_t samples, om_err *err)
{
    if (id >= e->n_clients)
        return fail(err, OM_EARG, "client %u is outside the population of %u", (unsigned)id,
                    (unsigned)e->n_clients);
    if (samples == 0 || samples > AVERAGE_MOST_SAMPLES)
        return fail(err, OM_EARG, "client %u claims %llu samples; 1 to %llu are believed",
                    (unsigned)id, (unsigned long long)samples,
                    (unsigned long long)AVERAGE_MOST_SAMPLES);
    return OM_OK;
}

om_status average_check(const fl_env *e, uint32_t id, uint64_t samples, const uint8_t *up,
                        size_t up_n, float *zeros, om_err *err)
{
    TRY(average_check_head(e, id, samples, err));
    return e->up->decode(e->up_p, up, up_n, 0.0f, zeros, e->dim, err);
}

om_status average_admit(const fl_env *e, const void *server, uint32_t id, uint64_t samples,
                        om_err *err)
{
    TRY(average_check_head(e, id, samples, err));
    if (id < ((const head *)server)->next_id)
        return fail(err, OM_EARG, "client %u came twice or out of order", (unsigned)id);
    return OM_OK;
}

void average_count(void *server, uint32_t id, double weight)
{
    head *h = server;
    h->weight += weight;
    h->next_id = (uint64_t)id + 1;
    h->received++;
}

om_status average_norm(const fl_env *e, const uint8_t *up, size_t up_n, float *zeros,
                       double *norm, om_err *err)
{
    double sum = 0;
    TRY(e->up->decode(e->up_p, up, up_n, 1.0f, zeros, e->dim, err));
    for (size_t i = 0; i < e->dim; i++)
        sum += (double)zeros[i] * (double)zeros[i];
    memset(zeros, 0, e->dim * sizeof(float));
    *norm = sqrt(sum);
    return OM_OK;
}

om_status average_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                       bool weighted, const uint8_t *up, size_t up_n, om_err *err)
{
    TRY(average_admit(e, server, id, samples, err));
    float weight = weighted ? (float)samples : 1.0f;
    if (is_robust(e)) {
        float *row;
        TRY(average_row(e, server, &row, err));
        TRY(e->up->decode(e->up_p, up, up_n, 1.0f, row, e->dim, err));
        average_count_row(e, server, id);
        return OM_OK;
    }
    if (is_private(e))
        TRY(add_private(e, server, up, up_n, err));
    else
        TRY(e->up->decode(e->up_p, up, up_n, weight, average_vector(e, server, 1), e->dim,
                          err));
    average_count(server, id, (double)weight);
    return OM_OK;
}

om_status average_mean(const fl_env *e, void *server, float **mean, om_err *err)
{
    return average_sum(e, server, ((head *)server)->weight, mean, err);
}

om_status average_sum(const fl_env *e, void *server, double divisor, float **out,
                      om_err *err)
{
    head *h = server;
    float *sum = average_vector(e, server, 1);
    bool ready = is_robust(e) || is_private(e);
    *out = NULL;
    if (privacy_at_clients(e->privacy))
        TRY(privacy_count(e->privacy, ledger(h), err));
    if (h->received == 0 && !is_private(e))
        return OM_OK;
    float scale = (float)(1.0 / divisor);
    if (is_private(e))
        TRY(release_private(e, h, sum, err));
    else if (is_robust(e))
        TRY(robust_mean(e, h, sum, err));
    for (size_t i = 0; i < e->dim && !ready; i++)
        sum[i] *= scale;
    size_t bad = first_absurd(sum, e->dim);
    if (bad < e->dim)
        return fail(err, OM_ELIMIT,
                    "the mean of %llu updates is %g at number %zu; the model "
                    "is kept",
                    (unsigned long long)h->received, (double)sum[bad], bad);
    *out = sum;
    return OM_OK;
}

om_status average_accept(const fl_env *e, void *server, const float *next, om_err *err)
{
    size_t bad = wire_first_bad(next, e->dim);
    if (bad < e->dim)
        return fail(err, OM_ELIMIT,
                    "the new model is not finite at number %zu; the old one "
                    "is kept; lower the learning rates",
                    bad);
    memcpy(average_vector(e, server, 0), next, e->dim * sizeof(float));
    memset(average_vector(e, server, 1), 0, e->dim * sizeof(float));
    forget(server);
    return OM_OK;
}

om_status average_step(const fl_env *e, void *server, double lr, double momentum,
                       om_err *err)
{
    float *d, *m = average_vector(e, server, 2), step = (float)lr, b = (float)momentum;
    const float *x = average_model(e, server);
    TRY(average_mean(e, server, &d, err));
    for (size_t i = 0; d && momentum > 0 && i < e->dim; i++) {
        m[i] = b * m[i] + d[i];
        d[i] = m[i];
    }
    for (size_t i = 0; d && i < e->dim; i++)
        d[i] = x[i] + step * d[i];
    return d ? average_accept(e, server, d, err) : OM_OK;
}
