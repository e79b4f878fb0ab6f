/* devices.h - who may talk to the coordinator: names, indices and tokens, in memory for
 * every request and in the store for ever.
 *
 * A device's token is "oct_dev_<index>_<64 hex>"; only its SHA-256 is kept.  The index
 * in it makes the check one comparison, in constant time.  An index is given once, in
 * order of registration or by the place in the configured list of names, and never
 * changes: it is the client id of the federated algorithm. */
#ifndef COORD_DEVICES_H
#define COORD_DEVICES_H

#include "coord/store.h"
#include "proto/wire.h"

typedef struct devices devices;

/* names: when n_names > 0 only these may register, and their place is their index. */
om_status devices_open(store *s, uint32_t n_clients, const char *const *names,
                       size_t n_names, devices **out, om_err *err);
void devices_close(devices *d);

uint32_t devices_count(devices *d);
bool devices_known(devices *d, uint32_t index);
/* A new token, durable when this returns.  *why says what was wrong with the request;
 * the status is OM_EREFUSED then. */
om_status devices_register(devices *d, const wire_register *m, uint64_t now_ms,
                           wire_registered *out, wire_reason *why, om_err *err);
/* The index of the device whose token this is. */
bool devices_authenticate(devices *d, str token, uint64_t now_ms, uint32_t *index);
/* Write down when devices were last seen, not durably. */
om_status devices_flush(devices *d, om_err *err);

bool secret_equal(const uint8_t a[32], const uint8_t b[32]); /* constant time */

#endif
