/* http.c - bytes as they come from a socket, into a live coordinator on loopback: the
 * HTTP library, our routes, the inbox, the round machine and the store behind them.
 *
 * "TOKEN" in the input becomes the token of a registered device, so that the routes
 * behind authorisation are reached.  The law: the coordinator lives, and /health says so
 * every now and then. */
#define _GNU_SOURCE
#include "coord/coord.h"
#include "fuzz.h"

#include <errno.h>
#include <arpa/inet.h>
#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { DIM = 16, MOST = 16384 };

typedef struct {
    char dir[64], token[96];
    om_cancel cancel;
    kern k;
    coord *c;
    os_thread *worker;
    uint16_t port;
    unsigned calls;
} site;

static site s; /* one for the process: starting it takes longer than an input */

static om_status zeros(void *ctx, float *x0, om_err *err)
{
    (void)ctx, (void)err;
    memset(x0, 0, DIM * sizeof(float));
    return OM_OK;
}

static void work(void *ctx)
{
    om_err err = {0};
    (void)ctx;
    coord_run(s.c, 0, &err);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    (void)st, (void)flag, (void)f;
    return remove(path);
}

static void finish(void)
{
    s.cancel.requested = 1;
    os_thread_join(s.worker);
    coord_close(s.c);
    nftw(s.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* libFuzzer's alarm may interrupt connect, which then goes on by itself. */
static bool connected(int fd, const struct sockaddr_in *at)
{
    int failed = 0;
    socklen_t n = sizeof(failed);
    if (connect(fd, (const struct sockaddr *)at, sizeof(*at)) == 0)
        return true;
    struct pollfd f = {fd, POLLOUT, 0};
    while (errno == EINTR && poll(&f, 1, 5000) < 0)
        ;
    return f.revents && getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &n) == 0 && !failed;
}

static int dial(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(s.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    FUZZ_CHECK(fd >= 0 && connected(fd, &at));
    return fd;
}

/* Sends all, reads until silence of `ms` or the end; what came first into out. */
static void talk(const void *p, size_t n, int ms, char *out, size_t cap)
{
    char piece[4096];
    struct pollfd f = {dial(), POLLIN, 0};
    struct linger hard = {1, 0}; /* no TIME_WAIT: ports run out otherwise */
    size_t got = 0;
    setsockopt(f.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    ssize_t r = send(f.fd, p, n, MSG_NOSIGNAL);
    while (r > 0 && poll(&f, 1, ms) == 1 && (r = recv(f.fd, piece, sizeof(piece), 0)) > 0) {
        size_t keep = size_min((size_t)r, cap - 1 - got);
        memcpy(out + got, piece, keep);
        got += keep;
        ms = 2;
    }
    out[got] = '\0';
    close(f.fd);
}

static void start(void)
{
    om_err err = {0};
    char answer[4096];
    strncpy(s.dir, "/tmp/octomil-fuzz-XXXXXX", sizeof(s.dir) - 1);
    FUZZ_CHECK(mkdtemp(s.dir));
    kern_init(&s.k, 0);
    coord_config c = {.dir = s.dir,
                      .run = "fuzz",
                      .plan = {.n_clients = 4, .start_devices = 1, .cohort = 1,
                               .min_accepted = 1, .max_attempts = 1000000,
                               .n_rounds = 1000000, .retry_min_ms = 1, .retry_max_ms = 2,
                               .deadline_ms = 1000, .seed = 1},
                      .algorithm = "fedavg",
                      .algorithm_params = "",
                      .codec = "identity",
                      .codec_params = "",
                      .kind = "none",
                      .task = "{}",
                      .dim = DIM,
                      .start = zeros,
                      .keep_versions = 2,
                      .cancel = &s.cancel,
                      .k = &s.k};
    FUZZ_CHECK(coord_open(&c, &s.c, &err) == OM_OK);
    FUZZ_CHECK(coord_listen(s.c, "127.0.0.1", 0, &s.port, &err) == OM_OK);
    FUZZ_CHECK(os_thread_start(&s.worker, work, NULL, &err) == OM_OK);
    atexit(finish);
    static const char hello[] =
        "POST /api/v1/devices/register HTTP/1.1\r\nHost: x\r\nContent-Length: 52\r\n\r\n"
        "{\"protocol\":1,\"device_id\":\"me\",\"platform\":\"fuzzing\"}";
    talk(hello, sizeof(hello) - 1, 5000, answer, sizeof(answer));
    const char *at = strstr(answer, "\"token\":\"");
    FUZZ_CHECK(at);
    snprintf(s.token, sizeof(s.token), "%.*s", (int)strcspn(at + 9, "\""), at + 9);
}

static size_t expand(const uint8_t *data, size_t n, char *out)
{
    size_t k = 0, token = strlen(s.token);
    for (size_t i = 0; i < n && k + token + 1 < MOST;) {
        if (n - i >= 5 && memcmp(data + i, "TOKEN", 5) == 0) {
            memcpy(out + k, s.token, token);
            k += token;
            i += 5;
        } else {
            out[k++] = (char)data[i++];
        }
    }
    return k;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static char request[MOST], answer[8192];
    if (!s.c)
        start();
    size_t k = expand(data, n, request);
    if (k)
        talk(request, k, 4, answer, sizeof(answer));
    if (++s.calls % 64 == 0) {
        static const char health[] = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
        talk(health, sizeof(health) - 1, 5000, answer, sizeof(answer));
        FUZZ_CHECK(strstr(answer, " 200 "));
    }
    return 0;
}
