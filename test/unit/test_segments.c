/* test_segments.c - slots of updates: whose bytes are where, whatever is given back. */
#include "coord/segments.h"
#include "test.h"

#include <stdio.h>

enum { SLOT = 5000 };

static segments *open_here(test *t, const char *name)
{
    static char dir[300];
    om_err err = {0};
    segments *s = NULL;
    snprintf(dir, sizeof(dir), "%s/%s", test_temp_dir(), name);
    CHECK_OK(t, segments_open(dir, SLOT, &s, &err), err);
    return s;
}

static slot put(test *t, segments *s, uint32_t round, uint32_t lane, char what)
{
    om_err err = {0};
    char bytes[SLOT];
    slot p = {0};
    memset(bytes, what, sizeof(bytes));
    CHECK_OK(t, slot_take(s, 1, round, lane, &p, &err), err);
    CHECK_OK(t, slot_write(p, 0, bytes, 4000, &err), err); /* in two pieces */
    CHECK_OK(t, slot_write(p, 4000, bytes, SLOT - 4000, &err), err);
    return p;
}

static void holds(test *t, const segments *s, uint32_t round, uint32_t number, uint64_t at,
                  char what)
{
    om_err err = {0};
    os_map m;
    segment_reader r = {0};
    om_status st = segment_map(s, &r, 1, round, number, at, SLOT, &m, &err);
    CHECK_OK(t, st, err);
    if (st == OM_OK) {
        for (size_t i = 0; i < SLOT; i++)
            CHECK(t, m.p[i] == (uint8_t)what);
        os_map_close(&m);
    }
    segment_reader_close(&r);
}

/* Slots never overlap; one that is given back is the next one's, one that is kept never. */
static void places(test *t)
{
    om_err err = {0};
    segments *s = open_here(t, "places");
    slot a = put(t, s, 0, 0, 'a'), b = put(t, s, 0, 0, 'b'), c = put(t, s, 0, 1, 'c');
    CHECK(t, a.in == b.in && b.at - a.at >= SLOT && c.in != a.in);
    slot_let_go(s, b, false);
    slot d = put(t, s, 0, 0, 'd');
    CHECK(t, d.in == b.in && d.at == b.at);
    slot_let_go(s, a, true);
    slot e = put(t, s, 0, 0, 'e');
    CHECK(t, e.at != a.at && e.at != d.at);
    slot list[3] = {d, c, e};
    CHECK_OK(t, slots_sync(s, list, 3, NULL, &err), err);
    holds(t, s, 0, slot_segment(a), a.at, 'a');
    holds(t, s, 0, slot_segment(c), c.at, 'c');
    holds(t, s, 0, slot_segment(d), d.at, 'd');
    slot_let_go(s, c, true);
    slot_let_go(s, d, true);
    slot_let_go(s, e, true);
    segments_close(s);
}

/* The file of a folded round serves the next one, but not while a late writer holds a
 * slot of it. */
static void rounds(test *t)
{
    om_err err = {0};
    segments *s = open_here(t, "rounds");
    slot a = put(t, s, 0, 0, 'a'), late = put(t, s, 0, 0, 'l');
    segment *file = a.in;
    slot_let_go(s, a, true);
    CHECK_OK(t, segments_forget(s, 1, 1, &err), err);
    slot b = put(t, s, 1, 0, 'b');
    CHECK(t, b.in != file);
    CHECK_OK(t, slot_write(late, 0, "late", 4, &err), err);
    holds(t, s, 1, slot_segment(b), b.at, 'b');
    slot_let_go(s, late, false);
    slot_let_go(s, b, true);
    CHECK_OK(t, segments_forget(s, 1, 2, &err), err);
    slot c = put(t, s, 2, 0, 'c'), d = put(t, s, 2, 1, 'd');
    CHECK(t, c.in == file || d.in == file); /* recycled now */
    holds(t, s, 2, slot_segment(c), c.at, 'c');
    holds(t, s, 2, slot_segment(d), d.at, 'd');
    slot_let_go(s, c, true);
    slot_let_go(s, d, true);
    segments_close(s);
}

/* What an earlier process promised in this round stays, of folded rounds it goes. */
static void restart(test *t)
{
    om_err err = {0};
    os_map m;
    segment_reader r = {0};
    segments *s = open_here(t, "restart");
    slot old = put(t, s, 3, 0, 'o'), a = put(t, s, 4, 0, 'a');
    uint32_t n_old = slot_segment(old), n_a = slot_segment(a);
    uint64_t at = a.at;
    segments_close(s);
    s = open_here(t, "restart");
    CHECK_OK(t, segments_forget(s, 1, 4, &err), err);
    slot b = put(t, s, 4, 0, 'b');
    CHECK(t, slot_segment(b) != n_a);
    holds(t, s, 4, n_a, at, 'a');
    CHECK_INT(t, segment_map(s, &r, 1, 3, n_old, 0, SLOT, &m, &err), OM_EIO);
    CHECK_INT(t, segment_map(s, &r, 1, 4, n_a, at + (1 << 20), SLOT, &m, &err), OM_EIO);
    segment_reader_close(&r);
    slot_let_go(s, b, true);
    segments_close(s);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"places", "slots do not overlap, given back ones are used again", places},
        {"rounds", "files are recycled when nobody can write to them", rounds},
        {"restart", "promised bytes stay, folded ones go", restart},
        {0}};
    return test_main(argc, argv, cases);
}
