/* http_client.h - HTTP for devices, over libcurl: one connection kept alive, timeouts on
 * everything, cancellation at any moment.  One client is used by one thread.
 *
 * A transfer that ends early says OM_ENET and how far it came; whether to go on from
 * there is the caller's business.  An answer of any status is OM_OK: the caller reads
 * the status. */
#ifndef NET_HTTP_CLIENT_H
#define NET_HTTP_CLIENT_H

#include "os/os.h"

typedef struct http_client http_client;

typedef struct {
    const char *url;               /* "http://127.0.0.1:8000", no path */
    const char *ca_file;           /* trusted certificates; NULL: the system's */
    uint32_t connect_ms, stall_ms; /* 0: 10 s to connect, 30 s without a byte */
    const om_cancel *cancel;       /* may be NULL */
} http_client_config;

om_status http_client_open(const http_client_config *c, http_client **out, om_err *err);
void http_client_close(http_client *c);
/* Sent as "Authorization: Bearer TOKEN" from now on; NULL: none. */
om_status http_client_token(http_client *c, const char *token, om_err *err);

typedef struct {
    const char *method, *path; /* path with its query */
    const char *header;        /* one more header line, or NULL */
    const char *type;          /* Content-Type of the body, or NULL */
    const void *body;
    uint64_t body_n;
    uint64_t range_from; /* > 0: ask for bytes from here on */
    uint32_t wait_ms;    /* the server may hold the answer this long */
    /* Pieces of an answer of status 200 or 206; NULL: collected into `answer`. Non-OK
     * ends the transfer with that status. */
    om_status (*sink)(void *ctx, unsigned status, const void *p, size_t n, om_err *err);
    void *ctx;
} http_call;

/* `answer` (growing, cleared first, at most its limit) takes what sink does not. */
om_status http_do(http_client *c, const http_call *call, unsigned *status, buf *answer,
                  om_err *err);
/* Bytes of bodies and headers moved by this client so far. */
void http_client_traffic(const http_client *c, uint64_t *up, uint64_t *down);

#endif
