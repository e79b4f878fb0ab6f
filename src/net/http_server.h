/* http_server.h - HTTP/1.1 for the coordinator: a table of routes over libmicrohttpd.
 *
 * One polling thread per CPU; a request is handled where it arrives.  What may be large
 * never lies in memory: a streamed body is handed on in the pieces the socket gives, a
 * file is answered from its descriptor (sendfile).  A handler that must wait for the
 * disk or for another device holds its request and answers it later from any thread;
 * the connection costs its buffers meanwhile, no thread.
 *
 * Limits: connections, body bytes per route, header bytes (the connection's buffer),
 * idle time.  Handlers of one server run concurrently. */
#ifndef NET_HTTP_SERVER_H
#define NET_HTTP_SERVER_H

#include "os/os.h"

typedef struct http_server http_server;
typedef struct http_request http_request;

typedef enum { HTTP_GET, HTTP_POST, HTTP_PUT, HTTP_DELETE, HTTP_METHODS } http_method;

typedef struct {
    http_method method;
    const char *path;  /* one "*" may stand for one or more characters without '/' */
    int auth;          /* handed to the server's authorise()                     */
    uint64_t body_max; /* bytes; 0: no body                                      */
    const char *summary;
    /* After the whole body.  Must answer or hold. */
    void (*handle)(void *app, http_request *r);
    /* Streamed bodies: begin() after the headers; then body() per piece; false from
     * either means that the request was answered and the rest is not wanted. */
    bool (*begin)(void *app, http_request *r);
    bool (*body)(void *app, http_request *r, const void *p, size_t n);
    /* The request ends, answered or cut off: let go of what http_keep holds. */
    void (*end)(void *app, http_request *r);
} http_route; /* a table ends with a NULL path */

typedef struct {
    const char *host; /* "127.0.0.1" */
    uint16_t port;    /* 0: any free one */
    int threads;      /* 0: one per CPU */
    unsigned max_connections;
    unsigned idle_seconds;
    const http_route *routes;
    void *app;
    /* False: not allowed, and answered. */
    bool (*authorise)(void *app, http_request *r, int level);
    /* Answer for 404, 405, 413 and 503, which no handler sees. */
    void (*error)(void *app, http_request *r, unsigned status);
} http_config;

enum { HTTP_CONNECTION_BYTES = 60 * 1024, HTTP_COLLECT_MAX = 16 * 1024 };

om_status http_server_open(const http_config *c, http_server **out, om_err *err);
uint16_t http_server_port(const http_server *s);
/* Held requests must be answered first. */
void http_server_close(http_server *s);

/* ---- a request ---------------------------------------------------------------------- */

const http_route *http_route_of(const http_request *r);
str http_tail(const http_request *r);                     /* what "*" matched   */
str http_query(const http_request *r, const char *name);  /* p NULL when absent */
str http_header(const http_request *r, const char *name); /* p NULL when absent */
str http_body(const http_request *r);                     /* not streamed: all of it */
uint64_t http_length(const http_request *r);              /* Content-Length, or 0 */
bool http_whole(const http_request *r);                   /* the body came to its end */
void http_keep(http_request *r, void *p);                 /* handler's own */
void *http_kept(const http_request *r);
void http_set_caller(http_request *r, uint32_t id); /* by authorise() */
uint32_t http_caller(const http_request *r);

/* ---- answers: exactly one per request ----------------------------------------------- */

void http_answer(http_request *r, unsigned status, const char *type, str body);
/* A file that never changes, with its SHA-256 in hex as ETag; honours Range of one part
 * and If-None-Match.  False, nothing answered: cannot be opened. */
bool http_answer_file(http_request *r, const char *path, const char *etag);
/* Keep the client waiting; somebody calls http_answer later, from any thread. */
void http_hold(http_request *r);

/* An answer in pieces: http_stream in http_answer's place, then pieces from any thread, then
 * the end; all before the route's end() was called.  http_stream_put is false when more
 * than HTTP_BACKLOG bytes wait for a client that does not read. */
enum { HTTP_BACKLOG = 1 << 20 };
void http_stream(http_request *r, unsigned status, const char *type);
bool http_stream_put(http_request *r, str piece);
void http_stream_end(http_request *r);
/* Has the client of a held or streamed request closed the connection?  Nobody else looks
 * while it waits; answer it then, and end() follows. */
bool http_gone(const http_request *r);

#endif
