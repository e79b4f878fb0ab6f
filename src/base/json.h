/* json.h - JSON (RFC 8259) in and out: configuration, model folders, the wire.
 *
 * Reading: json_parse turns (ptr, len) into a tree inside one block the document
 * owns; strings are unescaped UTF-8, numbers keep their text, so 64-bit integers
 * survive; both are followed by a NUL that is not counted.  Hostile input is refused
 * with its byte offset: depth, node count and size are capped, lone surrogates and
 * invalid UTF-8 are errors.  Of duplicate keys json_get finds the first; a walk over
 * the members meets them all.  A byte order mark before the text is skipped.
 *
 * Writing: json_out appends to a buf and keeps track of commas; errors stick. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include "base/base.h"

typedef enum {
    JSON_NULL,
    JSON_BOOL,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT
} json_type;

typedef struct json json;
struct json {
    json_type type;
    bool boolean;
    str text;          /* string: unescaped; number: as written     */
    str key;           /* the member's name, when inside an object  */
    const json *child; /* first element or member                   */
    const json *next;  /* sibling                                   */
    uint32_t count;    /* elements or members                       */
    uint32_t pos;      /* byte offset in the input, for errors      */
};

typedef struct {
    const json *root;
    void *block_; /* freed by json_close */
} json_doc;

enum { JSON_DEPTH = 64 }; /* containers inside each other, read and written */

/* max_nodes caps memory (64 bytes each); 0 means 1 million.  The text may go afterwards.
 * OM_EFORMAT, OM_ELIMIT (nodes, depth, 4 GiB) or OM_ENOMEM; then out is empty. */
om_status json_parse(const void *p, size_t n, uint32_t max_nodes, json_doc *out,
                     om_err *err);
void json_close(json_doc *d);

const json *json_get(const json *object,
                     const char *key);              /* NULL when absent or no object */
const json *json_at(const json *array, uint32_t i); /* NULL past the end; O(i) */
/* Defaults are returned when the node is NULL, of another type, or out of range.  The
 * integer readers also take 1.0 and 1e3, which some writers give for whole numbers. */
str json_str(const json *j, const char *def);
double json_f64(const json *j, double def);
uint64_t json_u64(const json *j, uint64_t def);
int64_t json_i64(const json *j, int64_t def);
bool json_bool(const json *j, bool def);

typedef struct {
    buf *out;
    om_status status; /* first failure of the buf; check once at the end */
    uint8_t depth;
    bool comma[JSON_DEPTH + 1];
} json_out;

json_out json_to(buf *b);
void json_open_object(json_out *o, const char *key); /* key NULL at top or in an array */
void json_open_array(json_out *o, const char *key);
void json_shut(json_out *o, char bracket); /* '}' or ']' */
void json_put_str(json_out *o, const char *key,
                  str v); /* escapes; invalid UTF-8 becomes U+FFFD */
void json_put_f64(json_out *o, const char *key,
                  double v); /* shortest round trip; NaN -> null */
void json_put_u64(json_out *o, const char *key, uint64_t v);
void json_put_i64(json_out *o, const char *key, int64_t v);
void json_put_bool(json_out *o, const char *key, bool v);
void json_put_null(json_out *o, const char *key);
void json_put_raw(json_out *o, const char *key, str json_text);

#endif
