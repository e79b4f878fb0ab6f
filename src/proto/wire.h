/* wire.h - what a device and the coordinator say to each other.
 *
 * Control is JSON, one object per message, snake_case names; payloads are raw bytes beside
 * it: a round's down message named by length and SHA-256, an update by length and digest.  Every
 * message carries "protocol": a peer of another version is refused with a sentence
 * instead of being misunderstood.  Unknown members are ignored, so that a newer peer
 * may say more.
 *
 * Reading is for hostile bytes: lengths, counts and ranges are checked here once, and
 * what a struct holds afterwards can be used as it is.  Strings are copied into fixed
 * arrays: a message owns nothing. */
#ifndef PROTO_WIRE_H
#define PROTO_WIRE_H

#include "base/json.h"

enum {
    WIRE_PROTOCOL = 1,
    WIRE_NAME = 256, /* a device's name: 1..255 bytes, [A-Za-z0-9._:-]   */
    WIRE_TOKEN = 80,
    WIRE_PARAMS = 2048,
    WIRE_MESSAGE_MAX = 16384, /* bytes of one JSON message                        */
};
#define WIRE_SAMPLES_MAX (UINT64_C(1) << 32) /* a claim above this is absurd */
#define WIRE_PAYLOAD_MAX (UINT64_C(1) << 40)

/* Why something was refused: stable code, HTTP status, whether the same request can
 * succeed later, and the sentence the agent shows. */
#define WIRE_REASON_MAP(X)                                                                 \
    X(OK, ok, 200, false, "accepted")                                                      \
    X(BAD_MESSAGE, bad_message, 400, false, "the message is malformed")                    \
    X(WRONG_PROTOCOL, wrong_protocol, 400, false,                                          \
      "the other side speaks another protocol version; update the older one")              \
    X(UNAUTHORIZED, unauthorized, 401, false, "the token is missing or not known here")    \
    X(UNKNOWN_DEVICE, unknown_device, 403, false, "this device is not registered")         \
    X(NOT_SELECTED, not_selected, 403, false,                                              \
      "this device was not selected for the round")                                        \
    X(NOT_FOUND, not_found, 404, false, "no such thing")                                   \
    X(NO_RUN, no_run, 404, false, "no such run")                                           \
    X(BAD_METHOD, bad_method, 405, false, "this path does not take this method")           \
    X(POPULATION_FULL, population_full, 409, false, "the run has all its devices")         \
    X(WRONG_ROUND, wrong_round, 409, false, "the update is for a round that is not open")  \
    X(LATE, late, 409, false, "the round closed before the update arrived")                \
    X(REPLAY, replay, 409, false, "another update of this device counts for this round")   \
    X(ROUND_FULL, round_full, 409, false, "the round has all the updates it needs")        \
    X(RUN_OVER, run_over, 409, false, "the run is over")                                   \
    X(WRONG_OFFSET, wrong_offset, 409, true, "the upload continues at another offset")     \
    X(IN_PROGRESS, in_progress, 409, true, "the same update is being accepted already")    \
    X(TOO_LARGE, too_large, 413, false, "the body is larger than this path takes")         \
    X(BAD_RANGE, bad_range, 416, false, "the range asked for is not in the file")          \
    X(WRONG_LENGTH, wrong_length, 422, false, "the update has a wrong length or shape")    \
    X(CHECKSUM, checksum, 422, true, "the bytes do not have the checksum announced")        \
    X(BAD_UPDATE, bad_update, 422, false, "the update cannot be decoded")                  \
    X(NORM, norm, 422, false, "the update is larger than this run takes")                  \
    X(ABSURD_SAMPLES, absurd_samples, 422, false, "the claimed sample count is absurd")    \
    X(INTERNAL, internal, 500, true, "the coordinator failed; it keeps what it accepted")  \
    X(BUSY, busy, 503, true, "the coordinator has no room now")                            \
    X(NO_STORAGE, no_storage, 507, true, "the coordinator cannot write to its disk")

typedef enum {
#define X(NAME, name, http, again, text) WIRE_##NAME,
    WIRE_REASON_MAP(X)
#undef X
        WIRE_REASONS
} wire_reason;

const char *wire_reason_name(wire_reason r);
const char *wire_reason_text(wire_reason r);
unsigned wire_reason_http(wire_reason r);
bool wire_reason_again(wire_reason r);  /* worth retrying as it is        */
wire_reason wire_reason_find(str name); /* WIRE_INTERNAL when not known   */

bool wire_name_ok(str name);

typedef struct {
    char device_id[WIRE_NAME];
    char platform[32];
} wire_register;

typedef struct {
    char device_id[WIRE_NAME];
    char token[WIRE_TOKEN];
    uint32_t index;
} wire_registered;

/* What a device needs to know to compute its update: the plan of its round. */
typedef struct {
    char run[64];
    uint32_t round, attempt, client, n_clients, cohort;
    uint64_t seed, dim, deadline_ms; /* deadline: from now */
    char algorithm[32], codec[32], kind[32];
    char algorithm_params[WIRE_PARAMS], codec_params[WIRE_PARAMS], task[WIRE_PARAMS];
    uint64_t down_bytes, up_bound;
    uint8_t down_sha[32];
} wire_task;

typedef enum { WIRE_WAIT, WIRE_TASK, WIRE_END } wire_work;

/* The answer to a check-in. */
typedef struct {
    wire_work work;
    uint32_t retry_min_ms, retry_max_ms; /* for WIRE_WAIT */
    char outcome[16];                    /* for WIRE_END: finished, abandoned */
    wire_task task;                      /* for WIRE_TASK */
} wire_answer;

/* What an update's bytes must come to: their SHA-256, or their CRC-64/NVME (big-endian)
 * followed by 24 zeros, as no SHA-256 will ever be.  The CRC is what our devices send: it
 * finds every accident, costs a fifteenth, and an update needs no name that an enemy
 * cannot forge, because it is known by its device's token, its run and its round. */
enum { WIRE_DIGEST = 32 };

typedef struct {
    bool is_crc;
    uint64_t crc;
    sha256_ctx sha;
} wire_digester;

void wire_digest_start(wire_digester *d, const uint8_t announced[WIRE_DIGEST]);
void wire_digest_add(wire_digester *d, const void *p, size_t n);
void wire_digest_end(wire_digester *d, uint8_t out[WIRE_DIGEST]);
void wire_crc_digest(const void *p, size_t n, uint8_t out[WIRE_DIGEST]);

/* The head of an update. */
typedef struct {
    char run[64];
    uint32_t round, attempt;
    uint64_t bytes, samples;
    uint8_t digest[WIRE_DIGEST]; /* of its bytes, see wire_digest */
    double loss; /* before training, on the device's data; NaN when not known */
} wire_update;

/* The answer to an upload's steps and to every refusal. */
typedef struct {
    wire_reason reason;
    bool complete; /* accepted for good; else go on at `offset`      */
    uint64_t offset;
    char upload[80]; /* name of the upload, for append and complete    */
    uint32_t retry_min_ms, retry_max_ms;
    char message[300]; /* the reason's sentence and its details          */
} wire_result;

/* Each appends one JSON object to `out`; each parser names what it did not like. */
om_status wire_put_register(const wire_register *m, buf *out);
om_status wire_get_register(wire_register *m, const void *p, size_t n, om_err *err);
om_status wire_put_registered(const wire_registered *m, buf *out);
om_status wire_get_registered(wire_registered *m, const void *p, size_t n, om_err *err);
om_status wire_put_answer(const wire_answer *m, buf *out);
om_status wire_get_answer(wire_answer *m, const void *p, size_t n, om_err *err);
om_status wire_put_update(const wire_update *m, buf *out);
om_status wire_get_update(wire_update *m, const void *p, size_t n, om_err *err);
om_status wire_put_result(const wire_result *m, buf *out);
om_status wire_get_result(wire_result *m, const void *p, size_t n, om_err *err);

#endif
