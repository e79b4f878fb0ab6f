/* serve.h - an OpenAI-compatible HTTP server over the engine.
 *
 *     GET  /                        a chat page            GET /health, /metrics
 *     GET  /v1/models               POST /v1/chat/completions
 *     POST /v1/completions          POST /v1/embeddings
 *
 * docs/server.md tells what of each is supported, docs/openapi-serve.yaml the shapes. */
#ifndef SERVE_SERVE_H
#define SERVE_SERVE_H

#include "net/http_server.h"
#include "serve/engine.h"

typedef struct server server;

enum { SERVE_KEYS = 64 };

typedef struct {
    const char *host;
    uint16_t port;              /* 0: any free one */
    engine *engine;             /* with its lanes, not started */
    const chat_template *chat;  /* for models without one; NULL: they complete only */
    const char *key[SERVE_KEYS];
    uint32_t n_keys;            /* 0: everybody may ask */
    uint32_t timeout_s;         /* of one request; 0: none */
    uint32_t max_connections;
} serve_config;

om_status serve_open(const serve_config *c, server **out, om_err *err);
uint16_t serve_port(const server *s);
/* Requests that run have patience_ms to end. */
void serve_close(server *s, uint64_t patience_ms);

extern const http_route serve_routes[];
extern const char serve_page[]; /* the chat page, HTML */

#endif
