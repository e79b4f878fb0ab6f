/* test_proto.c - the messages: what is put is what is got, and hostile bytes never pass. */
#include "proto/wire.h"
#include "test.h"

static wire_answer sample_answer(void)
{
    wire_answer a = {.work = WIRE_TASK};
    wire_task *k = &a.task;
    *k = (wire_task){.run = "demo-1",
                     .round = 3,
                     .attempt = 1,
                     .client = 7,
                     .n_clients = 8,
                     .cohort = 8,
                     .seed = UINT64_MAX,
                     .dim = 262144,
                     .deadline_ms = 60000,
                     .algorithm = "fedavg",
                     .codec = "topk",
                     .kind = "quadratic",
                     .algorithm_params = "lr=0.1,local_steps=5",
                     .codec_params = "k=10",
                     .task = "{\"spread\": \"\\u00e9\"}",
                     .down_bytes = 1048576,
                     .up_bound = 99};
    memset(k->down_sha, 0xab, 32);
    return a;
}

static void round_trips(test *t)
{
    om_err err = {0};
    uint8_t raw[8192];
    buf b = buf_fixed(raw, sizeof(raw));
    wire_answer a = sample_answer(), back;
    CHECK_OK(t, wire_put_answer(&a, &b), err);
    CHECK_OK(t, wire_get_answer(&back, raw, b.len, &err), err);
    CHECK(t, memcmp(&a, &back, sizeof(a)) == 0);
    b.len = 0;
    wire_update u = {.run = "r",
                     .round = 1,
                     .attempt = 2,
                     .bytes = 5,
                     .loss = 0.25,
                     .samples = UINT64_C(9223372036854775808)},
                ub;
    CHECK_OK(t, wire_put_update(&u, &b), err);
    CHECK_OK(t, wire_get_update(&ub, raw, b.len, &err), err);
    CHECK(t, memcmp(&u, &ub, sizeof(u)) == 0);
    b.len = 0;
    memset(u.digest, 0xcd, 32);
    CHECK_OK(t, wire_put_update(&u, &b), err);
    CHECK_OK(t, wire_get_update(&ub, raw, b.len, &err), err);
    CHECK(t, memcmp(&u, &ub, sizeof(u)) == 0);
    b.len = 0;
    wire_result r = {.reason = WIRE_BAD_UPDATE,
                     .upload = "x.1",
                     .offset = 9,
                     .retry_min_ms = 1,
                     .retry_max_ms = 2,
                     .message = "NaN at index 3"},
                rb;
    CHECK_OK(t, wire_put_result(&r, &b), err);
    CHECK_OK(t, wire_get_result(&rb, raw, b.len, &err), err);
    CHECK(t, memcmp(&r, &rb, sizeof(r)) == 0);
    b.len = 0;
    wire_register g = {"phone-1", "edge"}, gb;
    CHECK_OK(t, wire_put_register(&g, &b), err);
    CHECK_OK(t, wire_get_register(&gb, raw, b.len, &err), err);
    CHECK_STR(t, gb.device_id, "phone-1");
}

/* Either kind of digest, over any pieces: the published value of its kind. */
static void digests(test *t)
{
    char hex[65];
    uint8_t announced[WIRE_DIGEST] = {1}, got[WIRE_DIGEST];
    wire_digester d;
    wire_digest_start(&d, announced);
    wire_digest_add(&d, "12345", 5);
    wire_digest_add(&d, "6789", 4);
    wire_digest_end(&d, got);
    hex_encode(got, 32, hex);
    CHECK_STR(t, hex, "ae8b14860a799888000000000000000000000000000000000000000000000000");
    announced[31] = 1;
    wire_digest_start(&d, announced);
    wire_digest_add(&d, "a", 1);
    wire_digest_add(&d, "bc", 2);
    wire_digest_end(&d, got);
    hex_encode(got, 32, hex);
    CHECK_STR(t, hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void refuses(test *t, const char *text, const char *why)
{
    wire_update u;
    om_err err = {0};
    CHECK(t, wire_get_update(&u, text, strlen(text), &err) != OM_OK);
    CHECK(t, strstr(err.msg, why) != NULL);
}

#define HEAD "{\"protocol\":1,\"run_id\":\"r\",\"round_number\":"
#define SHA "\"0000000000000000000000000000000000000000000000000000000000000000\""

static void hostile(test *t)
{
    refuses(t, "", "json");
    refuses(t, "[]", "object");
    refuses(t, "{}", "protocol");
    refuses(t, "{\"protocol\":2}", "protocol 2");
    refuses(t, HEAD "-1}", "round_number");
    refuses(t, HEAD "4294967296}", "round_number");
    refuses(t, HEAD "\"1\"}", "wrong type");
    refuses(t, HEAD "1,\"attempt\":0,\"update_bytes\":1099511627777}", "update_bytes");
    refuses(t, HEAD "1,\"attempt\":0,\"update_bytes\":1,\"update_sha256\":\"00\"}",
            "SHA-256");
    refuses(t, HEAD "1,\"attempt\":0,\"update_bytes\":1,\"update_crc64nvme\":\"00\"}",
            "CRC-64");
    refuses(t, HEAD "1,\"attempt\":0,\"update_bytes\":1}", "update_sha256");
    refuses(t, HEAD "1,\"attempt\":0,\"update_bytes\":1,\"update_sha256\":" SHA "}",
            "sample");
    refuses(t, "{\"protocol\":1,\"run_id\":\"../x\"}", "name");
    char big[WIRE_MESSAGE_MAX + 2];
    memset(big, ' ', sizeof(big));
    big[sizeof(big) - 1] = '\0';
    refuses(t, big, "at most");
}

/* Any truncation and any flipped bit: an error or another well-formed message, never a
 * crash (the sanitizer build watches). */
static void mangled(test *t)
{
    om_err err = {0};
    uint8_t raw[8192], bad[8192];
    buf b = buf_fixed(raw, sizeof(raw));
    wire_answer a = sample_answer(), back;
    CHECK_OK(t, wire_put_answer(&a, &b), err);
    for (size_t n = 0; n < b.len; n++)
        CHECK(t, wire_get_answer(&back, raw, n, &err) != OM_OK);
    for (size_t bit = 0; bit < 8 * b.len; bit++) {
        memcpy(bad, raw, b.len);
        bad[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (wire_get_answer(&back, bad, b.len, &err) == OM_OK && back.work == WIRE_TASK)
            CHECK(t, back.task.client < back.task.n_clients &&
                         memchr(back.task.task, 0, WIRE_PARAMS));
    }
}

static void reasons(test *t)
{
    for (int i = 0; i < WIRE_REASONS; i++) {
        wire_reason r = (wire_reason)i;
        CHECK_INT(t, wire_reason_find(str_of(wire_reason_name(r))), r);
        CHECK(t, wire_reason_http(r) >= 200 && wire_reason_http(r) < 600);
    }
    CHECK_INT(t, wire_reason_find(STR("no such reason")), WIRE_INTERNAL);
    CHECK(t, wire_name_ok(STR("phone-7.example:a_B")));
    CHECK(t,
          !wire_name_ok(STR("")) && !wire_name_ok(STR("..")) && !wire_name_ok(STR("a/b")));
    CHECK(t, !wire_name_ok((str){"a\0b", 3}));
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"round_trips", "put and get are inverse", round_trips},
        {"digests", "published values, in pieces", digests},
        {"hostile", "missing, mistyped, out of range, too large", hostile},
        {"mangled", "every truncation and every bit flip", mangled},
        {"reasons", "codes are unique, names are checked", reasons},
        {0}};
    return test_main(argc, argv, cases);
}
