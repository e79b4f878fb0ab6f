/* blobs.h - immutable bytes named by their SHA-256, in a folder:
 *
 *     DIR/objects/ab/cdef...   62 more hexadecimal digits
 *
 * A blob appears whole or not at all: temp file, write, fsync, rename, fsync of the
 * folder.  Who refers to a blob is counted in the store (store.h) in the transaction
 * that announces it; a file nobody refers to is the leftover of a crash and is swept at
 * the next start.  Putting what is there already is free. */
#ifndef COORD_BLOBS_H
#define COORD_BLOBS_H

#include "os/os.h"

typedef struct {
    char dir[1024]; /* .../objects */
} blobs;

enum { BLOB_PATH = 1200 };

om_status blobs_open(const char *dir, blobs *b, om_err *err);
om_status blobs_path(const blobs *b, const uint8_t sha[32], char out[BLOB_PATH],
                     om_err *err);
bool blobs_has(const blobs *b, const uint8_t sha[32]);
om_status blobs_put(const blobs *b, const void *p, size_t n, uint8_t sha[32], om_err *err);
/* Take over a file whose content is already durable and hashes to `sha`. */
om_status blobs_adopt(const blobs *b, const char *path, const uint8_t sha[32], om_err *err);
om_status blobs_map(const blobs *b, const uint8_t sha[32], os_map *out, om_err *err);
om_status blobs_remove(const blobs *b, const uint8_t sha[32], om_err *err);
/* Remove every file that `wanted` does not want, temp files too. */
om_status blobs_sweep(const blobs *b, bool (*wanted)(void *ctx, const uint8_t sha[32]),
                      void *ctx, om_err *err);

#endif
