/* test_base.c - the ground floor: sizes, memory, bytes, hash, random numbers. */
#include "test.h"

static void sizes(test *t)
{
    size_t n = 7;
    CHECK(t, !size_add(SIZE_MAX, 1, &n) && n == 7);
    CHECK(t, !size_mul(SIZE_MAX / 2, 3, &n) && n == 7);
    CHECK(t, size_mul(1u << 16, 1u << 16, &n) && n == (size_t)1 << 32);
    CHECK_INT(t, size_align(65, 64), 128);
}

static void sha(test *t)
{
    /* FIPS 180-4 examples: "abc", the 448-bit message, and a million 'a'. */
    uint8_t d[32];
    char hex[65];
    sha256("abc", 3, d);
    hex_encode(d, 32, hex);
    CHECK_STR(t, hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    const char *m = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    sha256(m, 56, d);
    hex_encode(d, 32, hex);
    CHECK_STR(t, hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    sha256_ctx s;
    sha256_init(&s);
    char run[1000];
    memset(run, 'a', sizeof(run));
    for (int i = 0; i < 1000; i++) { /* uneven pieces that add up to a million */
        size_t first = (size_t)(i * 7 % 1000);
        sha256_update(&s, run, first);
        sha256_update(&s, run, 1000 - first);
    }
    sha256_final(&s, d);
    hex_encode(d, 32, hex);
    CHECK_STR(t, hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    uint8_t back[32];
    CHECK(t, hex_decode(str_of(hex), back, 32) && memcmp(back, d, 32) == 0);
    CHECK(t, !hex_decode(STR("0g"), back, 1));
}

static void checksum(test *t)
{
    /* The catalogue's check value; zeros and ones of the NVMe specification's kind; and
     * any cut of a long run, by either way, is the same number. */
    uint8_t run[20000];
    for (size_t i = 0; i < sizeof(run); i++)
        run[i] = (uint8_t)(i * 131 + (i >> 7));
    CHECK(t, crc64(0, "123456789", 9) == UINT64_C(0xae8b14860a799888));
    CHECK(t, crc64(0, "", 0) == 0);
    uint8_t flat[4096] = {0}; /* the NVMe specification, 4 KiB of zeros and of ones */
    CHECK(t, crc64(0, flat, sizeof(flat)) == UINT64_C(0x6482d367eb22b64e));
    memset(flat, 0xff, sizeof(flat));
    CHECK(t, crc64(0, flat, sizeof(flat)) == UINT64_C(0xc0ddba7302eca3ac));
    uint64_t whole = crc64_portable(0, run, sizeof(run));
    CHECK(t, crc64(0, run, sizeof(run)) == whole);
    for (size_t cut = 0; cut <= sizeof(run); cut += 1 + cut / 3) {
        uint64_t a = crc64(0, run, cut), b = crc64_portable(0, run, cut);
        CHECK(t, a == b);
        CHECK(t, crc64(a, run + cut, sizeof(run) - cut) == whole);
    }
    run[777] ^= 16;
    CHECK(t, crc64(0, run, sizeof(run)) != whole);
}

static void random_numbers(test *t)
{
    /* splitmix64 with seed 1234567: the published first outputs. */
    rng r = {.key = 1234567, .ctr = 0};
    CHECK(t, rng_u64(&r) == UINT64_C(6457827717110365317));
    CHECK(t, rng_u64(&r) == UINT64_C(3203168211198807973));
    CHECK(t, rng_u64(&r) == UINT64_C(9817491932198370423));
    rng a = rng_for(1, 2, 3, 4), b = rng_for(1, 2, 3, 5);
    CHECK(t, rng_u64(&a) != rng_u64(&b));
    double sum = 0, sq = 0;
    for (int i = 0; i < 100000; i++) {
        double x = rng_normal(&a);
        sum += x;
        sq += x * x;
    }
    CHECK_NEAR(t, sum / 100000, 0, 0.02);
    CHECK_NEAR(t, sq / 100000, 1, 0.02);
    int seen[7] = {0};
    for (int i = 0; i < 70000; i++)
        seen[rng_below(&b, 7)]++;
    for (int i = 0; i < 7; i++)
        CHECK_NEAR(t, seen[i], 10000, 500);
}

static void buffers(test *t)
{
    uint8_t raw[8];
    buf f = buf_fixed(raw, sizeof(raw));
    CHECK_INT(t, buf_u64(&f, 1), OM_OK);
    CHECK_INT(t, buf_u8(&f, 1), OM_ELIMIT);
    CHECK_INT(t, f.len, 8);
    buf g = buf_growing(100);
    for (int i = 0; i < 25; i++)
        CHECK_INT(t, buf_u32(&g, (uint32_t)i), OM_OK);
    CHECK_INT(t, buf_u8(&g, 0), OM_ELIMIT);
    cursor c = cursor_of(g.data, g.len);
    for (uint32_t i = 0; i < 25; i++)
        CHECK_INT(t, cursor_u32(&c), i);
    CHECK(t, c.ok && cursor_u8(&c) == 0 && !c.ok);
    buf_free(&g);
}

static void parameters(test *t)
{
    static const param table[] = {{"lr", 0.1, 0, 10, "step", NULL},
                                  {"optimizer", 0, 0, 1, "which", "sgd|adamw"},
                                  {0}};
    double p[2];
    om_err err = {0};
    param_defaults(table, p);
    CHECK(t, p[0] == 0.1);
    CHECK_INT(t, param_set(table, "fedavg", p, STR("optimizer"), STR("adamw"), &err), OM_OK);
    CHECK(t, p[1] == 1);
    CHECK_INT(t, param_set(table, "fedavg", p, STR("lr"), STR("11"), &err), OM_EARG);
    CHECK(t, strstr(err.msg, "the nearest is 10") != NULL);
    CHECK_INT(t, param_set(table, "fedavg", p, STR("optimizer"), STR("adam"), &err), OM_EARG);
    CHECK(t, strstr(err.msg, "did you mean 'adamw'?") != NULL);
    CHECK_INT(t, param_set(table, "fedavg", p, STR("lr"), STR("nan"), &err), OM_EARG);
    CHECK_INT(t, param_set(table, "fedavg", p, STR("optimiser"), STR("sgd"), &err), OM_EARG);
    CHECK(t, strstr(err.msg, "did you mean 'optimizer'") != NULL);
}

static void memory_faults(test *t)
{
#ifdef OM_FAULTS
    mem_fail_at(2);
    void *a = mem_alloc(10), *b = mem_alloc(10), *c = mem_alloc(10);
    mem_fail_at(0);
    CHECK(t, a && !b && c);
    mem_free(a);
    mem_free(c);
#else
    test_skip(t, "built without OM_FAULTS");
#endif
    void *p = mem_alloc(100);
    CHECK(t, ((uintptr_t)p & 63) == 0);
    mem_free(p);
    CHECK(t, mem_array(SIZE_MAX / 2, 3) == NULL);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"sizes", "overflow is refused", sizes},
        {"sha256", "FIPS 180-4 vectors", sha},
        {"crc64", "published vectors; every way and every cut agree", checksum},
        {"rng", "splitmix64 vectors, streams, moments", random_numbers},
        {"buffers", "bounds of buf and cursor", buffers},
        {"parameters", "setting by name, refusals", parameters},
        {"memory", "alignment, overflow, injected failure", memory_faults},
        {0}};
    return test_main(argc, argv, cases);
}
