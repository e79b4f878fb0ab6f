/* blobs.c - see blobs.h. */
#include "coord/blobs.h"

om_status blobs_open(const char *dir, blobs *b, om_err *err)
{
    if (os_join(b->dir, sizeof(b->dir), dir, "objects") != OM_OK)
        return fail(err, OM_ELIMIT, "blobs: the path '%.80s...' is too long", dir);
    return os_mkdirs(b->dir, err);
}

/* The folder of a blob, and its file when `file`. */
static om_status path_of(const blobs *b, const uint8_t sha[32], bool file,
                         char out[BLOB_PATH], om_err *err)
{
    char hex[65], rest[68];
    hex_encode(sha, 32, hex);
    memcpy(rest, hex, 2);
    rest[2] = '\0';
    if (file) {
        rest[2] = '/';
        memcpy(rest + 3, hex + 2, 63);
    }
    om_status s = os_join(out, BLOB_PATH, b->dir, rest);
    return s == OM_OK ? s : fail(err, s, "blobs: the path of %s is too long", hex);
}

om_status blobs_path(const blobs *b, const uint8_t sha[32], char out[BLOB_PATH],
                     om_err *err)
{
    return path_of(b, sha, true, out, err);
}

bool blobs_has(const blobs *b, const uint8_t sha[32])
{
    char path[BLOB_PATH];
    return path_of(b, sha, true, path, NULL) == OM_OK && os_exists(path);
}

static om_status make_folder(const blobs *b, const uint8_t sha[32], om_err *err)
{
    char dir[BLOB_PATH];
    TRY(path_of(b, sha, false, dir, err));
    if (os_is_dir(dir))
        return OM_OK;
    TRY(os_mkdirs(dir, err));
    return os_fsync_dir(b->dir, err);
}

om_status blobs_put(const blobs *b, const void *p, size_t n, uint8_t sha[32], om_err *err)
{
    char path[BLOB_PATH];
    sha256(p, n, sha);
    if (blobs_has(b, sha))
        return OM_OK;
    TRY(make_folder(b, sha, err));
    TRY(path_of(b, sha, true, path, err));
    return os_write_file_atomic(path, p, n, err);
}

om_status blobs_adopt(const blobs *b, const char *path, const uint8_t sha[32], om_err *err)
{
    char to[BLOB_PATH], dir[BLOB_PATH];
    if (blobs_has(b, sha))
        return os_remove(path, err);
    TRY(make_folder(b, sha, err));
    TRY(path_of(b, sha, true, to, err));
    TRY(path_of(b, sha, false, dir, err));
    TRY(os_rename(path, to, err));
    return os_fsync_dir(dir, err);
}

om_status blobs_map(const blobs *b, const uint8_t sha[32], os_map *out, om_err *err)
{
    char path[BLOB_PATH];
    TRY(path_of(b, sha, true, path, err));
    return os_map_open(path, out, err);
}

om_status blobs_remove(const blobs *b, const uint8_t sha[32], om_err *err)
{
    char path[BLOB_PATH];
    TRY(path_of(b, sha, true, path, err));
    return os_remove(path, err);
}

/* ---- sweep ----------------------------------------------------------------------------
 */

typedef struct {
    const char *dir;
    const char *first; /* the folder's two digits */
    bool (*wanted)(void *ctx, const uint8_t sha[32]);
    void *ctx;
} sweep;

static om_status sweep_file(void *ctx, const char *name, om_err *err)
{
    const sweep *w = ctx;
    char path[BLOB_PATH], hex[65];
    uint8_t sha[32];
    str rest = str_of(name);
    bool blob = rest.n == 62;
    if (blob) {
        memcpy(hex, w->first, 2);
        memcpy(hex + 2, name, 63);
        blob = hex_decode((str){hex, 64}, sha, 32);
    }
    if (blob && w->wanted(w->ctx, sha))
        return OM_OK;
    TRY(os_join(path, sizeof(path), w->dir, name));
    return os_remove(path, err);
}

static om_status sweep_folder(void *ctx, const char *name, om_err *err)
{
    sweep w = *(const sweep *)ctx;
    char dir[BLOB_PATH];
    if (strlen(name) != 2)
        return OM_OK;
    TRY(os_join(dir, sizeof(dir), w.dir, name));
    w.dir = dir;
    w.first = name;
    return os_list_dir(dir, sweep_file, &w, err);
}

om_status blobs_sweep(const blobs *b, bool (*wanted)(void *ctx, const uint8_t sha[32]),
                      void *ctx, om_err *err)
{
    sweep w = {.dir = b->dir, .wanted = wanted, .ctx = ctx};
    return os_list_dir(b->dir, sweep_folder, &w, err);
}
