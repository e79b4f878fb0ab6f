/* http_server.c - see http_server.h.  libmicrohttpd is named in this file alone.
 *
 * A request's life in libmicrohttpd's terms: the access handler is called once with the
 * headers, then with each piece of the body, then once more with none left.  An answer
 * may only be queued in the first call (the body is then not read and the connection
 * closed) or in the last; an answer made between waits, and the rest of the body is
 * thrown away.
 *
 * HOLDING.  http_hold suspends the connection; http_answer on a held request stores the
 * response and resumes it, whereupon the access handler is called again and queues it.
 * The two may race: `lock` orders them per server.
 *
 * STREAMING.  Pieces wait in `queue`; libmicrohttpd's reader takes them, and suspends the
 * connection when there are none until the next piece resumes it. */
#include "net/http_server.h"

#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct http_server {
    http_config c;
    struct MHD_Daemon *daemon;
    os_mutex *lock;
    uint16_t port;
};

struct http_request {
    http_server *s;
    struct MHD_Connection *connection;
    const http_route *route;
    str tail;
    uint64_t length, got;
    buf body;
    void *kept;
    uint32_t caller;
    bool begun, whole, unwanted, done, held, suspended;
    unsigned status;
    struct MHD_Response *response; /* made, not yet queued */
    buf queue;                     /* of a streamed answer; sent up to queue_at */
    size_t queue_at;
    bool ended, dry;               /* dry: suspended until there is more */
};

static const char *const method_names[HTTP_METHODS] = {
    [HTTP_GET] = "GET", [HTTP_POST] = "POST", [HTTP_PUT] = "PUT", [HTTP_DELETE] = "DELETE"};

/* ---- what a handler may ask --------------------------------------------------------- */

const http_route *http_route_of(const http_request *r) { return r->route; }
str http_tail(const http_request *r) { return r->tail; }
str http_body(const http_request *r)
{
    return (str){(const char *)r->body.data, r->body.len};
}
uint64_t http_length(const http_request *r) { return r->length; }
bool http_whole(const http_request *r) { return r->whole; }
void http_keep(http_request *r, void *p) { r->kept = p; }
void *http_kept(const http_request *r) { return r->kept; }
void http_set_caller(http_request *r, uint32_t id) { r->caller = id; }
uint32_t http_caller(const http_request *r) { return r->caller; }

str http_query(const http_request *r, const char *name)
{
    return str_of(MHD_lookup_connection_value(r->connection, MHD_GET_ARGUMENT_KIND, name));
}

str http_header(const http_request *r, const char *name)
{
    return str_of(MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name));
}

/* ---- answers ------------------------------------------------------------------------ */

static void ready(http_request *r, unsigned status, struct MHD_Response *response)
{
    os_mutex *lock = r->s->lock;
    os_lock(lock); /* r may be gone as soon as the connection is resumed */
    BUG_IF(r->done);
    r->done = true;
    r->status = status;
    r->response = response;
    if (r->held) {
        r->held = false;
        MHD_resume_connection(r->connection);
    }
    os_unlock(lock);
}

void http_hold(http_request *r)
{
    os_lock(r->s->lock);
    if (!r->done) {
        r->held = r->suspended = true;
        MHD_suspend_connection(r->connection);
    }
    os_unlock(r->s->lock);
}

static struct MHD_Response *plain(str body, const char *type)
{
    /* The copy is the library's: it must not outlive our buffers. */
    struct MHD_Response *p = MHD_create_response_from_buffer(
        body.n, (void *)(uintptr_t)body.p, MHD_RESPMEM_MUST_COPY);
    if (p && type)
        MHD_add_response_header(p, "Content-Type", type);
    return p;
}

void http_answer(http_request *r, unsigned status, const char *type, str body)
{
    ready(r, status, plain(body, type)); /* NULL closes the connection */
}

/* The next bytes of a streamed answer; 0 with the connection suspended: none now. */
static ssize_t next_piece(void *cls, uint64_t pos, char *out, size_t max)
{
    http_request *r = cls;
    (void)pos;
    os_lock(r->s->lock);
    size_t n = size_min(max, r->queue.len - r->queue_at);
    ssize_t got = (ssize_t)n;
    if (n) {
        memcpy(out, r->queue.data + r->queue_at, n);
        r->queue_at += n;
    } else if (r->ended) {
        got = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        r->dry = true;
        MHD_suspend_connection(r->connection);
    }
    if (r->queue_at == r->queue.len)
        r->queue_at = r->queue.len = 0;
    os_unlock(r->s->lock);
    return got;
}

/* With the lock held: there is more, or the end. */
static void wet(http_request *r)
{
    if (r->dry) {
        r->dry = false;
        MHD_resume_connection(r->connection);
    }
}

void http_stream(http_request *r, unsigned status, const char *type)
{
    struct MHD_Response *p =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, next_piece, r, NULL);
    if (p) {
        MHD_add_response_header(p, "Content-Type", type);
        MHD_add_response_header(p, "Cache-Control", "no-store");
    }
    r->queue = buf_growing(HTTP_BACKLOG);
    ready(r, status, p);
}

bool http_stream_put(http_request *r, str piece)
{
    os_lock(r->s->lock);
    bool ok = buf_put(&r->queue, piece.p, piece.n) == OM_OK;
    wet(r);
    os_unlock(r->s->lock);
    return ok;
}

void http_stream_end(http_request *r)
{
    os_lock(r->s->lock);
    r->ended = true;
    wet(r);
    os_unlock(r->s->lock);
}

bool http_gone(const http_request *r)
{
    char byte;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (!info)
        return true;
    ssize_t n = recv(info->connect_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

/* "bytes=A-B", "bytes=A-", "bytes=-N" of a file of n bytes. */
static bool parse_range(str value, uint64_t n, uint64_t *from, uint64_t *len)
{
    if (!str_starts(value, "bytes=") || n == 0)
        return false;
    str range = {value.p + 6, value.n - 6}, left = range, right = {NULL, 0};
    const char *dash = memchr(range.p, '-', range.n);
    if (!dash)
        return false;
    left.n = (size_t)(dash - range.p);
    right = (str){dash + 1, range.n - left.n - 1};
    uint64_t a = 0, b = n - 1;
    if (left.n && !str_u64(left, &a))
        return false;
    if (right.n && !str_u64(right, &b))
        return false;
    if (!left.n) {
        if (!right.n || b == 0)
            return false;
        a = b < n ? n - b : 0;
        b = n - 1;
    }
    if (a >= n || b < a)
        return false;
    b = b < n ? b : n - 1;
    *from = a;
    *len = b - a + 1;
    return true;
}

static void describe_file(struct MHD_Response *p, const char *tag, uint64_t from,
                          uint64_t len, uint64_t n, bool part)
{
    char text[80];
    MHD_add_response_header(p, "Content-Type", "application/octet-stream");
    MHD_add_response_header(p, "Accept-Ranges", "bytes");
    MHD_add_response_header(p, "Cache-Control", "immutable, max-age=31536000");
    MHD_add_response_header(p, "ETag", tag);
    if (!part)
        return;
    snprintf(text, sizeof(text), "bytes %llu-%llu/%llu", (unsigned long long)from,
             (unsigned long long)(from + len - 1), (unsigned long long)n);
    MHD_add_response_header(p, "Content-Range", text);
}

bool http_answer_file(http_request *r, const char *path, const char *etag)
{
    char tag[80];
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return false;
    }
    uint64_t n = (uint64_t)st.st_size, from = 0, len = n;
    snprintf(tag, sizeof(tag), "\"%s\"", etag);
    str range = http_header(r, "Range");
    if (str_is(http_header(r, "If-None-Match"), tag)) {
        close(fd);
        http_answer(r, 304, NULL, STR(""));
        return true;
    }
    if (range.p && !parse_range(range, n, &from, &len)) {
        close(fd);
        r->s->c.error(r->s->c.app, r, 416);
        return true;
    }
    /* The response owns fd and closes it. */
    struct MHD_Response *p = MHD_create_response_from_fd_at_offset64(len, fd, from);
    if (!p)
        close(fd);
    else
        describe_file(p, tag, from, len, n, range.p != NULL);
    ready(r, range.p ? 206 : 200, p);
    return true;
}

static enum MHD_Result queue(http_request *r)
{
    os_lock(r->s->lock);
    struct MHD_Response *p = r->response;
    r->response = NULL;
    os_unlock(r->s->lock);
    if (!p)
        return MHD_NO;
    enum MHD_Result ok = MHD_queue_response(r->connection, r->status, p);
    MHD_destroy_response(p);
    return ok;
}

static bool answered(http_request *r)
{
    os_lock(r->s->lock);
    bool yes = r->done;
    os_unlock(r->s->lock);
    return yes;
}

/* ---- routing ------------------------------------------------------------------------ */

static bool path_matches(const char *pattern, const char *url, str *tail)
{
    const char *star = strchr(pattern, '*');
    *tail = (str){NULL, 0};
    if (!star)
        return strcmp(pattern, url) == 0;
    size_t before = (size_t)(star - pattern), after = strlen(star + 1), n = strlen(url);
    if (n <= before + after || strncmp(pattern, url, before) != 0 ||
        strcmp(star + 1, url + n - after) != 0)
        return false;
    *tail = (str){url + before, n - before - after};
    return memchr(tail->p, '/', tail->n) == NULL;
}

/* The route, or NULL with *status saying 404 or 405. */
static const http_route *find_route(const http_route *routes, const char *url,
                                    const char *method, str *tail, unsigned *status)
{
    *status = 404;
    for (const http_route *t = routes; t->path; t++) {
        if (!path_matches(t->path, url, tail))
            continue;
        if (strcmp(method, method_names[t->method]) == 0)
            return t;
        *status = 405;
    }
    return NULL;
}

static uint64_t content_length(struct MHD_Connection *c, bool *bad)
{
    uint64_t n = 0;
    str v = str_of(MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length"));
    *bad = v.p && !str_u64(v, &n);
    return n;
}

/* The first call: everything that can be refused before the body travels. */
static void open_request(http_request *r, const char *url, const char *method)
{
    const http_config *c = &r->s->c;
    bool bad;
    unsigned status;
    r->route = find_route(c->routes, url, method, &r->tail, &status);
    r->length = content_length(r->connection, &bad);
    if (!r->route) {
        c->error(c->app, r, status);
        return;
    }
    if (bad || r->length > r->route->body_max) {
        c->error(c->app, r, bad ? 400 : 413);
        return;
    }
    if (!c->authorise(c->app, r, r->route->auth))
        return;
    r->body = buf_growing(size_min(HTTP_COLLECT_MAX, (size_t)r->route->body_max) + 1);
    if (r->route->begin) {
        r->begun = true;
        r->unwanted = !r->route->begin(c->app, r);
    }
}

static void take_piece(http_request *r, const void *p, size_t n)
{
    const http_config *c = &r->s->c;
    if (r->unwanted)
        return;
    r->got += n;
    if (r->got > r->route->body_max) { /* a chunked body has no length to check before */
        r->unwanted = true;
        c->error(c->app, r, 413);
    } else if (r->route->body) {
        r->unwanted = !r->route->body(c->app, r, p, n);
    } else if (buf_put(&r->body, p, n) != OM_OK) {
        r->unwanted = true;
        c->error(c->app, r, r->got > HTTP_COLLECT_MAX ? 413 : 503);
    }
}

static http_request *new_request(http_server *s, struct MHD_Connection *connection)
{
    http_request *r = mem_alloc(sizeof(*r));
    if (r) {
        r->s = s;
        r->connection = connection;
    }
    return r;
}

static enum MHD_Result on_access(void *cls, struct MHD_Connection *connection,
                                 const char *url, const char *method, const char *version,
                                 const char *data, size_t *size, void **slot)
{
    http_request *r = *slot;
    (void)version;
    if (!r) {
        r = new_request(cls, connection);
        if (!r)
            return MHD_NO;
        *slot = r;
        open_request(r, url, method);
        return answered(r) ? queue(r) : MHD_YES;
    }
    if (*size) {
        take_piece(r, data, *size);
        *size = 0;
        return MHD_YES;
    }
    if (answered(r))
        return queue(r);
    if (r->whole || r->unwanted) /* handled already, and nothing came of it */
        return MHD_NO;
    r->whole = true;
    r->route->handle(r->s->c.app, r);
    return !r->suspended && answered(r) ? queue(r) : MHD_YES; /* held: called again */
}

static void on_end(void *cls, struct MHD_Connection *connection, void **slot,
                   enum MHD_RequestTerminationCode why)
{
    http_request *r = *slot;
    (void)cls, (void)connection, (void)why;
    if (!r)
        return;
    if (r->route && r->route->end && (r->begun || r->kept))
        r->route->end(r->s->c.app, r);
    if (r->response)
        MHD_destroy_response(r->response);
    buf_free(&r->body);
    buf_free(&r->queue);
    mem_free(r);
    *slot = NULL;
}

/* ---- the server --------------------------------------------------------------------- */

static om_status resolve(const http_config *c, struct addrinfo **out, om_err *err)
{
    char port[8];
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    snprintf(port, sizeof(port), "%u", (unsigned)c->port);
    int e = getaddrinfo(c->host, port, &hints, out);
    return e == 0 ? OM_OK
                  : fail(err, OM_EARG, "http: cannot listen on '%s': %s", c->host,
                         gai_strerror(e));
}

static om_status start(http_server *s, om_err *err)
{
    struct addrinfo *at;
    TRY(resolve(&s->c, &at, err));
    /* Not epoll: libmicrohttpd 0.9.75 now and then loses the wake-up of a resumed
     * connection in its edge-triggered loop, and with it all of that thread's others. */
    unsigned flags = MHD_USE_POLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME;
    if (at->ai_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    int threads = s->c.threads ? s->c.threads : os_cpu_count();
    s->daemon = MHD_start_daemon(
        flags, s->c.port, NULL, NULL, on_access, s, MHD_OPTION_SOCK_ADDR, at->ai_addr,
        MHD_OPTION_THREAD_POOL_SIZE, (unsigned)threads, MHD_OPTION_CONNECTION_LIMIT,
        s->c.max_connections, MHD_OPTION_CONNECTION_TIMEOUT, s->c.idle_seconds,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_CONNECTION_BYTES,
        MHD_OPTION_LISTEN_BACKLOG_SIZE, 1024u, MHD_OPTION_NOTIFY_COMPLETED, on_end, NULL,
        MHD_OPTION_END);
    freeaddrinfo(at);
    if (!s->daemon)
        return fail(err, OM_EIO, "http: cannot listen on %s:%u; is the port taken?",
                    s->c.host, (unsigned)s->c.port);
    const union MHD_DaemonInfo *info =
        MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT);
    s->port = info ? info->port : s->c.port;
    return OM_OK;
}

om_status http_server_open(const http_config *c, http_server **out, om_err *err)
{
    http_server *s = mem_alloc(sizeof(*s));
    *out = NULL;
    if (!s)
        return fail(err, OM_ENOMEM, "http: no memory");
    s->c = *c;
    om_status st = os_mutex_open(&s->lock, err);
    if (st == OM_OK)
        st = start(s, err);
    if (st != OM_OK) {
        http_server_close(s);
        return st;
    }
    *out = s;
    return OM_OK;
}

uint16_t http_server_port(const http_server *s) { return s->port; }

void http_server_close(http_server *s)
{
    if (!s)
        return;
    if (s->daemon)
        MHD_stop_daemon(s->daemon);
    os_mutex_close(s->lock);
    mem_free(s);
}
