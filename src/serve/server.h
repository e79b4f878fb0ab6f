/* server.h - private to serve/: a request on its way from JSON to JSON. */
#ifndef SERVE_SERVER_H
#define SERVE_SERVER_H

#include "base/json.h"
#include "llm/chat_tools.h"
#include "serve/serve.h"

enum {
    SERVE_BODY_MAX = 32 << 20,
    SERVE_NODES = 1 << 18,
    SERVE_CHOICES = 128, /* n, times prompts */
    SERVE_INPUTS = 2048
};

struct server {
    serve_config c;
    http_server *http;
    os_mutex *lock;   /* requests' ties to http and to jobs */
    uint64_t started_s;
    uint64_t requests[3]; /* by ask_kind; under lock */
    _Atomic uint64_t errors;
    uint32_t open;    /* requests alive */
};

typedef enum { ASK_CHAT, ASK_COMPLETION, ASK_EMBEDDING } ask_kind;

typedef struct request request;
typedef struct {
    request *req;
    uint32_t index;
    job *job;
    bool done, begun;
    size_t text_sent;
    uint32_t tokens_sent;
} choice;

struct request {
    server *s;
    http_request *http; /* NULL: the client is gone, or answered */
    bool answered, started;
    buf body;
    json_doc doc;
    /* what was asked */
    ask_kind kind;
    uint32_t lane, n, prompts; /* choices: prompts * n */
    bool stream, usage, echo, logprobs, base64;
    uint32_t n_top;
    const chat_template *chat;
    const chat_tool_form *form;
    const json *tools;         /* offered; NULL: none */
    char id[40];
    uint64_t created;
    buf *echoed;               /* (prompts) */
    choice *choice;
    uint32_t pending;          /* jobs the engine has */
    om_err err;
    job_reason failed;         /* the first that went wrong */
};

/* ask.c: fills the request and makes its jobs, not yet submitted.  The status chooses the
 * answer: EARG and its kin 400, ENOTFOUND 404. */
om_status ask_read(request *q, om_err *err);
void ask_callbacks(job_args *a); /* server.c: what jobs call */

/* answer.c: called with the server's lock held. */
void answer_error(server *s, http_request *r, unsigned status, const char *type,
                  const char *code, const char *message);
void answer_failure(request *q, om_status s, const om_err *err);
void answer_text(request *q, choice *c);  /* a piece of a stream */
void answer_choice_end(request *q, choice *c);
void answer_all(request *q);              /* every job is done */

#endif
