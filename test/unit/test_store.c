/* test_store.c - the coordinator's durable facts: blobs, transactions, the fence. */
#include "coord/blobs.h"
#include "coord/store.h"
#include "test.h"

#include <unistd.h>

static const char *path_in(test *t, const char *name)
{
    static char path[512];
    CHECK(t, os_join(path, sizeof(path), test_temp_dir(), name) == OM_OK);
    return path;
}

static bool want_first(void *ctx, const uint8_t sha[32])
{
    return memcmp(ctx, sha, 32) == 0;
}

static void blob_life(test *t)
{
    om_err err = {0};
    blobs b;
    uint8_t one[32], two[32], again[32];
    os_map m;
    char path[BLOB_PATH];
    CHECK_OK(t, blobs_open(test_temp_dir(), &b, &err), err);
    CHECK_OK(t, blobs_put(&b, "abc", 3, one, &err), err);
    CHECK_OK(t, blobs_put(&b, "abc", 3, again, &err), err);
    CHECK(t, memcmp(one, again, 32) == 0 && blobs_has(&b, one));
    CHECK_OK(t, blobs_path(&b, one, path, &err), err);
    CHECK(t, strstr(path, "/objects/ba/7816bf8f") != NULL);
    CHECK_OK(t, blobs_map(&b, one, &m, &err), err);
    CHECK(t, m.n == 3 && memcmp(m.p, "abc", 3) == 0);
    os_map_close(&m);
    const char *loose = path_in(t, "loose");
    CHECK_OK(t, os_write_file_atomic(loose, "xyz", 3, &err), err);
    sha256("xyz", 3, two);
    CHECK_OK(t, blobs_adopt(&b, loose, two, &err), err);
    CHECK(t, blobs_has(&b, two) && !os_exists(loose));
    strcat(path, ".part"); /* a crash in the middle of a put */
    CHECK_OK(t, os_write_file_atomic(path, "half", 4, &err), err);
    CHECK_OK(t, blobs_sweep(&b, want_first, one, &err), err);
    CHECK(t, blobs_has(&b, one) && !blobs_has(&b, two) && !os_exists(path));
    CHECK_INT(t, blobs_map(&b, two, &m, &err), OM_ENOTFOUND);
}

static store_version version_of(int n)
{
    store_version v = {.state_bytes = 10, .down_bytes = 20};
    memset(v.state_sha, n, 32);
    memset(v.down_sha, 100 + n, 32);
    return v;
}

typedef struct {
    uint32_t device[16];
    uint64_t bytes;
    size_t n;
    int well_placed;
} listing;

static om_status list_update(void *ctx, const store_update *u, om_err *err)
{
    listing *l = ctx;
    (void)err;
    l->device[l->n++] = u->device;
    l->bytes += u->payload ? u->bytes : 0;
    l->well_placed += u->in_segment ? u->segment == u->device && u->at == 4096 : u->payload != NULL;
    return OM_OK;
}

static om_status drop_blob(void *ctx, const uint8_t sha[32], om_err *err)
{
    (void)err;
    ((listing *)ctx)->device[sha[0] % 16]++;
    return OM_OK;
}

static store_update update_of(uint32_t round, uint32_t device)
{
    store_update u = {.round = round,
                      .device = device,
                      .bytes = 3,
                      .samples = 5,
                      .loss = 1.5,
                      .payload = device % 2 ? "abc" : NULL,
                      .in_segment = device % 2 == 0,
                      .segment = device,
                      .at = 4096};
    memset(u.digest, (int)device, 32);
    return u;
}

static store *open_run(test *t, const char *name, store_run *run)
{
    om_err err = {0};
    store *s = NULL;
    store_version v0 = version_of(0);
    CHECK_OK(t, store_open(path_in(t, name), &s, &err), err);
    CHECK_INT(t, store_run_find(s, "r", run, &err), OM_ENOTFOUND);
    CHECK_OK(t, store_run_create(s, "r", STR("{}"), STR("snap"), &v0, run, &err), err);
    return s;
}

static void accept_and_commit(test *t)
{
    om_err err = {0};
    store_run run;
    store *s = open_run(t, "a.db", &run);
    store_update u[3] = {update_of(0, 5), update_of(0, 1), update_of(0, 2)};
    CHECK_OK(t, store_accept(s, run.id, u, 3, &err), err);
    store_update bad[2] = {update_of(0, 7), update_of(0, 5)};
    CHECK_INT(t, store_accept(s, run.id, bad, 2, &err), OM_EEXIST);
    uint8_t sha[32];
    CHECK_INT(t, store_accepted(s, run.id, 0, 7, sha, &err),
              OM_ENOTFOUND); /* all or none */
    CHECK_OK(t, store_accepted(s, run.id, 0, 5, sha, &err), err);
    CHECK_INT(t, sha[0], 5);
    listing l = {0};
    CHECK_OK(t, store_updates(s, run.id, 0, list_update, &l, &err), err);
    CHECK(t, l.n == 3 && l.device[0] == 1 && l.device[1] == 2 && l.device[2] == 5);
    CHECK_INT(t, l.bytes, 6);
    CHECK_INT(t, l.well_placed, 3);
    store_round r = {.round = 0, .accepted = 3, .loss = 0.5};
    store_version v1 = version_of(1);
    CHECK_OK(t, store_commit(s, run.id, &r, &v1, STR("snap1"), 1, &err), err);
    CHECK_INT(t, store_commit(s, run.id, &r, &v1, STR("snap1"), 1, &err), OM_EEXIST);
    CHECK_OK(t, store_accepted(s, run.id, 0, 5, sha, &err),
             err); /* remembered for replays */
    CHECK(t, store_blob_wanted(s, v1.state_sha) &&
                 !store_blob_wanted(s, run.version.state_sha));
    l = (listing){0};
    CHECK_OK(t, store_drop_blobs(s, drop_blob, &l, &err), err);
    CHECK(t, l.device[0] == 1 && l.device[100 % 16] == 1 && l.device[1] == 0);
    store_run_clear(&run);
    store_close(s);
    CHECK_OK(t, store_open(path_in(t, "a.db"), &s, &err), err);
    CHECK_OK(t, store_run_find(s, "r", &run, &err), err);
    CHECK_INT(t, run.round, 1);
    CHECK(t, str_is((str){(char *)run.snapshot.data, run.snapshot.len}, "snap1"));
    CHECK(t, memcmp(&run.version, &v1, sizeof(v1)) == 0);
    store_run_clear(&run);
    store_close(s);
}

/* A second coordinator opens the store; the first, which may only have been slow, must
 * not be able to promise anything any more. */
static void fence(test *t)
{
    om_err err = {0};
    store_run run;
    store *stale = open_run(t, "f.db", &run), *now = NULL;
    CHECK_OK(t, store_open(path_in(t, "f.db"), &now, &err), err);
    store_update u = update_of(0, 1);
    CHECK_INT(t, store_accept(stale, run.id, &u, 1, &err), OM_EREFUSED);
    store_round r = {0};
    store_version v1 = version_of(1);
    CHECK_INT(t, store_commit(stale, run.id, &r, &v1, STR(""), 0, &err), OM_EREFUSED);
    CHECK_OK(t, store_accept(now, run.id, &u, 1, &err), err);
    store_run_clear(&run);
    store_close(stale);
    store_close(now);
}

static om_status list_device(void *ctx, const store_device *d)
{
    *(store_device *)ctx = *d;
    return OM_OK;
}

static void devices(test *t)
{
    om_err err = {0};
    store *s = NULL;
    CHECK_OK(t, store_open(path_in(t, "d.db"), &s, &err), err);
    store_device d = {.index = 3, .name = "phone", .platform = "edge"}, got = {0};
    CHECK_OK(t, store_device_put(s, &d, &err), err);
    memset(d.token_hash, 9, 32);
    d.index = 8; /* a known name keeps its index */
    CHECK_OK(t, store_device_put(s, &d, &err), err);
    uint64_t seen = 77;
    uint32_t index = 3;
    CHECK_OK(t, store_seen(s, &index, &seen, 1, &err), err);
    CHECK_OK(t, store_devices(s, list_device, &got, &err), err);
    CHECK(t, got.index == 3 && got.token_hash[5] == 9 && got.seen_ms == 77);
    CHECK_STR(t, got.name, "phone");
    store_close(s);
}

static void not_ours(test *t)
{
    om_err err = {0};
    store *s = NULL;
    char junk[4096];
    memset(junk, 'x', sizeof(junk));
    CHECK_OK(t, os_write_file_atomic(path_in(t, "junk.db"), junk, sizeof(junk), &err), err);
    CHECK(t, store_open(path_in(t, "junk.db"), &s, &err) != OM_OK && s == NULL);
    CHECK(t, strstr(err.msg, "store:") != NULL);
    CHECK(t, store_open("/nonexistent/x.db", &s, &err) != OM_OK && s == NULL);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"blob_life", "put, adopt, map, sweep", blob_life},
        {"accept_and_commit", "all or none, order, versions, references",
         accept_and_commit},
        {"fence", "a stale coordinator promises nothing", fence},
        {"devices", "tokens change, indices do not", devices},
        {"not_ours", "files that are not a store", not_ours},
        {0}};
    return test_main(argc, argv, cases);
}
