/* wire.c - messages between device and coordinator: the first byte chooses which.
 *
 * What is accepted is put and got again, and must be the same. */
#include "fuzz.h"
#include "proto/round.h"
#include "proto/wire.h"

static uint8_t raw[65536];

static void answer(const uint8_t *p, size_t n)
{
    wire_answer a, b;
    if (wire_get_answer(&a, p, n, NULL) != OM_OK)
        return;
    FUZZ_CHECK(a.work != WIRE_TASK || a.task.client < a.task.n_clients);
    buf out = buf_fixed(raw, sizeof(raw));
    FUZZ_CHECK(wire_put_answer(&a, &out) == OM_OK);
    if (out.len > WIRE_MESSAGE_MAX) /* escapes may make it longer than it was */
        return;
    FUZZ_CHECK(wire_get_answer(&b, raw, out.len, NULL) == OM_OK);
    FUZZ_CHECK(a.work == b.work && strcmp(a.task.task, b.task.task) == 0);
}

static void update(const uint8_t *p, size_t n)
{
    wire_update a, b;
    if (wire_get_update(&a, p, n, NULL) != OM_OK)
        return;
    buf out = buf_fixed(raw, sizeof(raw));
    FUZZ_CHECK(wire_put_update(&a, &out) == OM_OK);
    FUZZ_CHECK(wire_get_update(&b, raw, out.len, NULL) == OM_OK);
    FUZZ_CHECK(a.samples == b.samples && a.bytes == b.bytes && strcmp(a.run, b.run) == 0);
}

static void result(const uint8_t *p, size_t n)
{
    wire_result a, b;
    if (wire_get_result(&a, p, n, NULL) != OM_OK)
        return;
    buf out = buf_fixed(raw, sizeof(raw));
    FUZZ_CHECK(wire_put_result(&a, &out) == OM_OK);
    FUZZ_CHECK(wire_get_result(&b, raw, out.len, NULL) == OM_OK);
    FUZZ_CHECK(a.reason == b.reason && a.offset == b.offset);
}

/* A saved round: damaged ones are refused, accepted ones keep the invariants. */
static void snapshot(const uint8_t *p, size_t n)
{
    static const round_plan plan = {.n_clients = 4, .start_devices = 4, .cohort = 2,
                                    .min_accepted = 1, .max_attempts = 3, .n_rounds = 5,
                                    .deadline_ms = 10};
    uint8_t flags[4];
    round_state s;
    if (round_load(&s, &plan, flags, p, n, NULL) == OM_OK)
        FUZZ_CHECK(round_check(&s) == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    wire_register g;
    wire_registered h;
    if (n == 0)
        return 0;
    uint8_t *p = fuzz_copy(data + 1, n - 1);
    switch (data[0] % 6) {
    case 0: answer(p, n - 1); break;
    case 1: update(p, n - 1); break;
    case 2: result(p, n - 1); break;
    case 3: snapshot(p, n - 1); break;
    case 4:
        if (wire_get_register(&g, p, n - 1, NULL) == OM_OK)
            FUZZ_CHECK(wire_name_ok(str_of(g.device_id)));
        break;
    default: (void)wire_get_registered(&h, p, n - 1, NULL);
    }
    free(p);
    return 0;
}
