/* ranks.c - one simulation on several machines: the clients of a wave are dealt to ranks,
 * their messages go to all.
 *
 * Every rank holds the whole simulation and takes every step of it but one: of a wave it
 * computes only the clients that are its own.  Then the ranks exchange what those said
 * (and the client's new state, where the method keeps one), each receives all messages in
 * ascending client id, and so all hold the same bits as one process would.  Nothing else
 * travels: no model, because each has made it, and no decision, because each has taken it.
 * So a checkpoint of any rank is a checkpoint, for any number of ranks.
 *
 * PLACEMENT.  Dealt in turn, or by size: largest first to the rank with the least work so
 * far (Graham 1969), which keeps a wave of uneven clients within 4/3 of the best.  It
 * moves work, never a bit of the result.
 *
 * A client that fails says so in its head, with the reason as its message: then all ranks
 * end with the same error. */
#include "sim/state.h"

enum { HEAD = 5 * 8 }; /* status, bytes said, samples, loss, seconds: u64 each */

om_status ranks_open(sim *s, om_err *err)
{
    const sim_ranks *r = s->conf.ranks;
    size_t n = (size_t)r->size;
    s->rank_of = mem_array(s->wave, sizeof(*s->rank_of));
    s->rank_load = mem_array(n, sizeof(*s->rank_load));
    s->rank_bytes = mem_array(n, sizeof(*s->rank_bytes));
    s->out = buf_growing(SIZE_MAX / 2);
    s->in = buf_growing(SIZE_MAX / 2);
    return s->rank_of && s->rank_load && s->rank_bytes
               ? OM_OK
               : fail(err, OM_ENOMEM, "simulate: no memory for %d ranks", r->size);
}

void ranks_close(sim *s)
{
    mem_free(s->rank_of);
    mem_free(s->rank_load);
    mem_free(s->rank_bytes);
    buf_free(&s->out);
    buf_free(&s->in);
}

static uint64_t work_of(const sim *s, size_t seat_i)
{
    uint64_t n = s->conf.samples(s->conf.ctx, s->seat[seat_i].client);
    return n ? n : 1;
}

/* The largest client that has no rank yet; ties to the lower seat. */
static size_t largest(const sim *s, size_t n)
{
    size_t best = n;
    for (size_t i = 0; i < n; i++)
        if (s->rank_of[i] < 0 && (best == n || work_of(s, i) > work_of(s, best)))
            best = i;
    return best;
}

static void deal_by_size(sim *s, size_t n)
{
    memset(s->rank_load, 0, (size_t)s->conf.ranks->size * sizeof(*s->rank_load));
    for (size_t i = 0; i < n; i++)
        s->rank_of[i] = -1;
    for (size_t dealt = 0; dealt < n; dealt++) {
        size_t i = largest(s, n);
        int least = 0;
        for (int r = 1; r < s->conf.ranks->size; r++)
            if (s->rank_load[r] < s->rank_load[least])
                least = r;
        s->rank_of[i] = least;
        s->rank_load[least] += work_of(s, i);
    }
}

void ranks_deal(sim *s, size_t n)
{
    const sim_ranks *r = s->conf.ranks;
    if (r->by_size && s->conf.samples) {
        deal_by_size(s, n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        s->rank_of[i] = (int)(i % (size_t)r->size);
}

/* ---- the exchange ---- */

static str said(const seat *c)
{
    return c->status == OM_OK ? (str){(const char *)c->up.data, c->up.len}
                              : str_of(c->err.msg);
}

static om_status put_head(sim *s, const seat *c)
{
    uint64_t loss, seconds;
    memcpy(&loss, &c->loss, sizeof(loss));
    memcpy(&seconds, &c->seconds, sizeof(seconds));
    TRY(buf_u64(&s->out, (uint64_t)c->status));
    TRY(buf_u64(&s->out, said(c).n));
    TRY(buf_u64(&s->out, c->samples));
    TRY(buf_u64(&s->out, loss));
    return buf_u64(&s->out, seconds);
}

static om_status put_said(sim *s, const seat *c)
{
    TRY(buf_str(&s->out, said(c)));
    return buf_put(&s->out, s->clients.p + c->client * s->client_bytes, s->client_bytes);
}

/* What put() makes of our seats goes to all; s->in has everybody's, in rank order. */
static om_status gather(sim *s, size_t n, om_status (*put)(sim *s, const seat *c),
                        om_err *err)
{
    const sim_ranks *r = s->conf.ranks;
    size_t all = 0;
    om_status st = OM_OK;
    s->out.len = 0;
    for (size_t i = 0; i < n && st == OM_OK; i++)
        if (s->rank_of[i] == r->rank)
            st = put(s, &s->seat[i]);
    for (int i = 0; i < r->size; i++)
        all += s->rank_bytes[i];
    s->in.len = 0;
    if (st == OM_OK)
        st = buf_reserve(&s->in, all + 1);
    if (st != OM_OK)
        return fail(err, OM_ENOMEM, "simulate: no memory to exchange %zu bytes", all);
    BUG_IF(s->out.len != s->rank_bytes[r->rank]);
    s->in.len = all;
    return r->all_gather(r->ctx, s->out.data, s->in.data, s->rank_bytes, err);
}

static void read_head(seat *c, cursor *in, uint64_t *bytes)
{
    c->status = (om_status)cursor_u64(in);
    *bytes = cursor_u64(in);
    c->samples = cursor_u64(in);
    uint64_t loss = cursor_u64(in), seconds = cursor_u64(in);
    memcpy(&c->loss, &loss, sizeof(loss));
    memcpy(&c->seconds, &seconds, sizeof(seconds));
}

static om_status read_said(sim *s, seat *c, cursor *in, uint64_t bytes)
{
    const uint8_t *p = cursor_take(in, (size_t)bytes);
    const uint8_t *state = cursor_take(in, s->client_bytes);
    BUG_IF(!p || !state); /* ranks are one program */
    if (c->status != OM_OK) {
        fail(&c->err, c->status, "%.*s", (int)bytes, (const char *)p);
        return OM_OK;
    }
    memcpy(s->clients.p + c->client * s->client_bytes, state, s->client_bytes);
    c->up.len = 0;
    return buf_put(&c->up, p, (size_t)bytes);
}

om_status ranks_exchange(sim *s, size_t n, om_err *err)
{
    const sim_ranks *r = s->conf.ranks;
    uint64_t *bytes = mem_array(n, sizeof(*bytes));
    if (!bytes)
        return fail(err, OM_ENOMEM, "simulate: no memory for %zu clients", n);
    memset(s->rank_bytes, 0, (size_t)r->size * sizeof(*s->rank_bytes));
    for (size_t i = 0; i < n; i++)
        s->rank_bytes[s->rank_of[i]] += HEAD;
    om_status st = gather(s, n, put_head, err);
    cursor in = cursor_of(s->in.data, s->in.len);
    for (int k = 0; st == OM_OK && k < r->size; k++) {
        s->rank_bytes[k] = 0;
        for (size_t i = 0; i < n; i++)
            if (s->rank_of[i] == k) {
                read_head(&s->seat[i], &in, &bytes[i]);
                s->rank_bytes[k] += (size_t)bytes[i] + s->client_bytes;
            }
    }
    if (st == OM_OK)
        st = gather(s, n, put_said, err);
    in = cursor_of(s->in.data, s->in.len);
    for (int k = 0; st == OM_OK && k < r->size; k++)
        for (size_t i = 0; i < n && st == OM_OK; i++)
            if (s->rank_of[i] == k && k != r->rank)
                st = read_said(s, &s->seat[i], &in, bytes[i]);
            else if (s->rank_of[i] == k)
                cursor_take(&in, (size_t)bytes[i] + s->client_bytes);
    mem_free(bytes);
    return st;
}
