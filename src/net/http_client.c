/* http_client.c - see http_client.h.  libcurl is named in this file alone. */
#include "net/http_client.h"

#include <curl/curl.h>
#include <stdio.h>

struct http_client {
    http_client_config c;
    char *url;
    char *authorization; /* header line or NULL */
    CURL *curl;
    uint64_t up, down;
};

typedef struct {
    http_client *client;
    const http_call *call;
    buf *answer;
    om_err *err;
    om_status status; /* of the sink */
    uint64_t sent;
} transfer;

om_status http_client_open(const http_client_config *c, http_client **out, om_err *err)
{
    *out = NULL;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return fail(err, OM_ENOMEM, "http: libcurl does not start");
    http_client *h = mem_alloc(sizeof(*h));
    if (h) {
        h->c = *c;
        h->url = mem_strdup(str_of(c->url));
        h->curl = curl_easy_init();
    }
    if (!h || !h->url || !h->curl) {
        http_client_close(h);
        return fail(err, OM_ENOMEM, "http: no memory");
    }
    size_t n = strlen(h->url);
    while (n && h->url[n - 1] == '/')
        h->url[--n] = '\0';
    *out = h;
    return OM_OK;
}

void http_client_close(http_client *h)
{
    if (!h)
        return;
    if (h->curl)
        curl_easy_cleanup(h->curl);
    mem_free(h->url);
    mem_free(h->authorization);
    mem_free(h);
    curl_global_cleanup();
}

om_status http_client_token(http_client *h, const char *token, om_err *err)
{
    mem_free(h->authorization);
    h->authorization = NULL;
    if (!token)
        return OM_OK;
    buf b = buf_growing(4096);
    om_status st = buf_fmt(&b, "Authorization: Bearer %s", token);
    h->authorization = st == OM_OK ? mem_strdup((str){(char *)b.data, b.len}) : NULL;
    buf_free(&b);
    return h->authorization ? OM_OK : fail(err, OM_ENOMEM, "http: no memory for a token");
}

void http_client_traffic(const http_client *h, uint64_t *up, uint64_t *down)
{
    *up = h->up;
    *down = h->down;
}

/* ---- libcurl's callbacks ------------------------------------------------------------ */

static size_t on_read(char *to, size_t size, size_t count, void *ctx)
{
    transfer *t = ctx;
    size_t n = size_min(size * count, (size_t)(t->call->body_n - t->sent));
    if (n)
        memcpy(to, (const char *)t->call->body + t->sent, n);
    t->sent += n;
    return n;
}

/* A kept connection that turns out dead makes libcurl start the body again. */
static int on_seek(void *ctx, curl_off_t offset, int origin)
{
    transfer *t = ctx;
    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > t->call->body_n)
        return CURL_SEEKFUNC_FAIL;
    t->sent = (uint64_t)offset;
    return CURL_SEEKFUNC_OK;
}

static size_t on_write(char *p, size_t size, size_t count, void *ctx)
{
    transfer *t = ctx;
    size_t n = size * count;
    long status = 0;
    curl_easy_getinfo(t->client->curl, CURLINFO_RESPONSE_CODE, &status);
    if (t->call->sink && (status == 200 || status == 206))
        t->status = t->call->sink(t->call->ctx, (unsigned)status, p, n, t->err);
    else if (buf_put(t->answer, p, n) != OM_OK)
        t->status = fail(t->err, OM_ELIMIT, "http: an answer of more than %zu bytes",
                         t->answer->limit);
    return t->status == OM_OK ? n : 0;
}

static int on_progress(void *ctx, curl_off_t dt, curl_off_t d, curl_off_t ut, curl_off_t u)
{
    transfer *t = ctx;
    (void)dt, (void)d, (void)ut, (void)u;
    return is_cancelled(t->client->c.cancel);
}

/* ---- one call ----------------------------------------------------------------------- */

static bool add(struct curl_slist **list, const char *line)
{
    struct curl_slist *more = line ? curl_slist_append(*list, line) : *list;
    if (line && !more)
        return false;
    *list = more;
    return true;
}

static bool make_headers(http_client *h, const http_call *k, struct curl_slist **list)
{
    char type[128];
    snprintf(type, sizeof(type), "Content-Type: %s", k->type ? k->type : "");
    return add(list, h->authorization) && add(list, k->header) &&
           add(list, k->type ? type : NULL);
}

static void set_limits(http_client *h, const http_call *k)
{
    long stall = (long)((h->c.stall_ms ? h->c.stall_ms : 30000) + k->wait_ms) / 1000 + 1;
    long connect_ms = h->c.connect_ms ? (long)h->c.connect_ms : 10000;
    curl_easy_setopt(h->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h->curl, CURLOPT_CONNECTTIMEOUT_MS, connect_ms);
    curl_easy_setopt(h->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(h->curl, CURLOPT_LOW_SPEED_TIME, stall);
    curl_easy_setopt(h->curl, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(h->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    if (h->c.ca_file)
        curl_easy_setopt(h->curl, CURLOPT_CAINFO, h->c.ca_file);
}

static void set_body(http_client *h, const http_call *k)
{
    curl_easy_setopt(h->curl, CURLOPT_CUSTOMREQUEST, k->method);
    if (!k->body && strcmp(k->method, "GET") == 0) {
        curl_easy_setopt(h->curl, CURLOPT_HTTPGET, 1L);
        curl_easy_setopt(h->curl, CURLOPT_CUSTOMREQUEST, NULL);
    } else { /* also an empty body says Content-Length: 0 */
        curl_easy_setopt(h->curl, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(h->curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)k->body_n);
    }
}

static void set_callbacks(http_client *h, transfer *t)
{
    curl_easy_setopt(h->curl, CURLOPT_READFUNCTION, on_read);
    curl_easy_setopt(h->curl, CURLOPT_READDATA, t);
    curl_easy_setopt(h->curl, CURLOPT_SEEKFUNCTION, on_seek);
    curl_easy_setopt(h->curl, CURLOPT_SEEKDATA, t);
    curl_easy_setopt(h->curl, CURLOPT_WRITEFUNCTION, on_write);
    curl_easy_setopt(h->curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(h->curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(h->curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(h->curl, CURLOPT_XFERINFODATA, t);
}

static void count_traffic(http_client *h)
{
    curl_off_t up = 0, down = 0;
    long head_up = 0, head_down = 0;
    curl_easy_getinfo(h->curl, CURLINFO_SIZE_UPLOAD_T, &up);
    curl_easy_getinfo(h->curl, CURLINFO_SIZE_DOWNLOAD_T, &down);
    curl_easy_getinfo(h->curl, CURLINFO_REQUEST_SIZE, &head_up);
    curl_easy_getinfo(h->curl, CURLINFO_HEADER_SIZE, &head_down);
    h->up += (uint64_t)up + (uint64_t)head_up;
    h->down += (uint64_t)down + (uint64_t)head_down;
}

static om_status perform(http_client *h, transfer *t, unsigned *status)
{
    char text[CURL_ERROR_SIZE] = "";
    long code = 0;
    curl_easy_setopt(h->curl, CURLOPT_ERRORBUFFER, text);
    CURLcode rc = curl_easy_perform(h->curl);
    curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &code);
    curl_easy_setopt(h->curl, CURLOPT_ERRORBUFFER, NULL);
    count_traffic(h);
    *status = (unsigned)code;
    if (t->status != OM_OK)
        return t->status;
    if (rc == CURLE_ABORTED_BY_CALLBACK)
        return fail(t->err, OM_ECANCEL, "http: cancelled");
    if (rc == CURLE_OUT_OF_MEMORY)
        return fail(t->err, OM_ENOMEM, "http: no memory");
    return rc == CURLE_OK
               ? OM_OK
               : fail(t->err, OM_ENET, "http: %s %s%.80s: %s", t->call->method, h->url,
                      t->call->path, text[0] ? text : curl_easy_strerror(rc));
}

om_status http_do(http_client *h, const http_call *k, unsigned *status, buf *answer,
                  om_err *err)
{
    transfer t = {.client = h, .call = k, .answer = answer, .err = err};
    struct curl_slist *headers = NULL;
    buf url = buf_growing(8192);
    answer->len = 0;
    *status = 0;
    om_status st = buf_fmt(&url, "%s%s", h->url, k->path);
    if (st == OM_OK)
        st = buf_u8(&url, 0);
    if (st != OM_OK || !make_headers(h, k, &headers)) {
        curl_slist_free_all(headers);
        buf_free(&url);
        return fail(err, OM_ENOMEM, "http: no memory for a request");
    }
    curl_easy_reset(h->curl); /* options go; the connection stays */
    curl_easy_setopt(h->curl, CURLOPT_URL, (const char *)url.data);
    set_limits(h, k);
    set_body(h, k);
    set_callbacks(h, &t);
    char range[32];
    snprintf(range, sizeof(range), "%llu-", (unsigned long long)k->range_from);
    curl_easy_setopt(h->curl, CURLOPT_RANGE, k->range_from ? range : NULL);
    curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, headers);
    st = perform(h, &t, status);
    curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);
    buf_free(&url);
    return st;
}
