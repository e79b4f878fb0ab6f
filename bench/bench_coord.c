/* bench_coord.c - how many updates a second the coordinator takes, durably, and how much
 * memory it needs: do-nothing clients that fetch the model and send as much back.
 *
 *     bench_coord [--clients N] [--bytes N] [--rounds N] [--dir FOLDER] [--algorithm NAME]
 *
 * Without options the cases of the published measurements of a peer (a Python framework
 * over gRPC, 2 cores, clients included): 64 x 1 MiB and 256 x 4 KiB, then 64 x 60 MB for
 * memory.  The coordinator is a process of its own; all clients are one process with one
 * connection each, so both cores are shared between the two sides.  Every update is
 * checked, digested, synced and committed before its client hears so; the peer keeps
 * everything in memory. */
#define _GNU_SOURCE
#include "coord/coord.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    uint32_t clients, rounds;
    size_t dim;
    const char *dir, *algorithm;
} bench;

/* ---- the coordinator's process ----------------------------------------------------------- */

static om_status zeros(void *ctx, float *x0, om_err *err)
{
    (void)ctx, (void)x0, (void)err;
    return OM_OK; /* the memory is zero already */
}

typedef struct {
    uint16_t port;
    uint64_t rss_start, rss_peak;
    double cpu_s;
} report;

static void on_log(void *ctx, log_level level, const char *msg)
{
    (void)ctx, (void)level;
    fprintf(stderr, "coordinator: %s\n", msg);
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static int coordinate(const bench *b, int out)
{
    om_err err = {0};
    coord *c = NULL;
    kern k;
    report r = {.rss_start = os_peak_rss_bytes()};
    kern_init(&k, 0);
    coord_config cfg = {.dir = b->dir,
                        .run = "bench",
                        .plan = {.n_clients = b->clients,
                                 .start_devices = b->clients,
                                 .cohort = b->clients,
                                 .min_accepted = b->clients,
                                 .max_attempts = 100,
                                 .n_rounds = b->rounds,
                                 .retry_min_ms = 20,
                                 .retry_max_ms = 40,
                                 .deadline_ms = 600000,
                                 .seed = 1},
                        .algorithm = b->algorithm,
                        .algorithm_params = "",
                        .codec = "identity",
                        .codec_params = "",
                        .kind = "none",
                        .task = "{}",
                        .dim = b->dim,
                        .start = zeros,
                        .keep_versions = 2,
                        .log = {on_log, NULL, LOG_INFO},
                        .k = &k};
    om_status st = coord_open(&cfg, &c, &err);
    if (st == OM_OK)
        st = coord_listen(c, "127.0.0.1", 0, &r.port, &err);
    if (st == OM_OK && write(out, &r, sizeof(r)) == (ssize_t)sizeof(r))
        st = coord_run(c, 500, &err);
    r.rss_peak = os_peak_rss_bytes();
    r.cpu_s = cpu_seconds();
    coord_close(c);
    if (st != OM_OK)
        fprintf(stderr, "bench: %s\n", err.msg);
    return write(out, &r, sizeof(r)) == (ssize_t)sizeof(r) && st == OM_OK ? 0 : 1;
}

/* ---- clients: one process, one connection each ---------------------------------------------- */

typedef enum { CHECKING, FETCHING, SENDING, OVER } client_state;

typedef struct {
    int fd;
    client_state state;
    char token[96], sha[65];
    char head[2048];          /* request going out */
    size_t head_n, sent;      /* of head and body together */
    char in[8192];            /* answer coming in: headers and a small body */
    size_t in_n, skip, got;   /* skip: bytes of the body not kept */
    long body;                /* Content-Length, or -1: headers not complete */
    uint32_t round, attempt;
} client;

typedef struct {
    const bench *b;
    client *client;
    int update;               /* file in memory: what every client sends */
    char update_crc[17];
    uint16_t port;
    uint32_t open, updates;
    int epoll;
    double first, last;
} load;

enum { SCRATCH = 1 << 20 }; /* bytes of a model thrown away at a time */

static double seconds(void) { return (double)os_now_ns() * 1e-9; }

static int dial(uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof(at)) != 0) {
        perror("bench: connect");
        exit(1);
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

/* The text after "key":" or "key": up to the next quote, comma or brace. */
static bool field(const char *text, const char *key, char *out, size_t cap)
{
    char pattern[64];
    snprintf(pattern, sizeof(pattern), "\"%s\":", key);
    const char *p = strstr(text, pattern);
    if (!p)
        return false;
    p += strlen(pattern);
    p += *p == '"';
    size_t n = strcspn(p, "\",}");
    snprintf(out, cap, "%.*s", (int)n, p);
    return true;
}

static void register_client(load *l, uint32_t i)
{
    client *c = &l->client[i];
    char body[128], text[512];
    c->fd = dial(l->port);
    snprintf(body, sizeof(body), "{\"protocol\":1,\"device_id\":\"d%u\",\"platform\":\"b\"}", i);
    int n = snprintf(text, sizeof(text), "POST /api/v1/devices/register HTTP/1.1\r\nHost: b\r\n"
                     "Content-Length: %zu\r\n\r\n%s", strlen(body), body);
    if (write(c->fd, text, (size_t)n) != n)
        exit(1);
    size_t got = 0;
    while (got < sizeof(c->in) - 1) {
        ssize_t r = read(c->fd, c->in + got, sizeof(c->in) - 1 - got);
        if (r <= 0)
            exit(1);
        got += (size_t)r;
        c->in[got] = '\0';
        if (strstr(c->in, "\r\n\r\n") && strchr(c->in, '}'))
            break;
    }
    if (!field(c->in, "token", c->token, sizeof(c->token))) {
        fprintf(stderr, "bench: not registered: %s\n", c->in);
        exit(1);
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
}

static void ask(load *l, client *c, client_state state)
{
    size_t bytes = l->b->dim * sizeof(float);
    c->state = state;
    c->sent = c->in_n = c->skip = c->got = 0;
    c->body = -1;
    int n;
    if (state == CHECKING)
        n = snprintf(c->head, sizeof(c->head), "POST /api/v1/federation/checkin?wait_ms=20000 "
                     "HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer %s\r\n"
                     "Content-Length: 0\r\n\r\n", c->token);
    else if (state == FETCHING)
        n = snprintf(c->head, sizeof(c->head), "GET /api/v1/blobs/%s HTTP/1.1\r\nHost: b\r\n"
                     "Authorization: Bearer %s\r\n\r\n", c->sha, c->token);
    else
        n = snprintf(c->head, sizeof(c->head), "PUT /api/v1/federation/updates HTTP/1.1\r\n"
                     "Host: b\r\nAuthorization: Bearer %s\r\nContent-Length: %zu\r\n"
                     "X-Octomil-Update: {\"protocol\":1,\"run_id\":\"bench\",\"round_number\":%u,"
                     "\"attempt\":%u,\"update_bytes\":%zu,\"update_crc64nvme\":\"%s\","
                     "\"sample_count\":1,\"loss\":1}\r\n\r\n", c->token, bytes, c->round,
                     c->attempt, bytes, c->sha);
    c->head_n = (size_t)n;
}

/* Whatever the socket takes now. */
static void push(load *l, client *c)
{
    size_t body = c->state == SENDING ? l->b->dim * sizeof(float) : 0;
    while (c->sent < c->head_n + body) {
        ssize_t n;
        if (c->sent < c->head_n)
            n = send(c->fd, c->head + c->sent, c->head_n - c->sent,
                     MSG_NOSIGNAL | (body ? MSG_MORE : 0));
        else { /* no copy on this side: what is measured is the other */
            off_t at = (off_t)(c->sent - c->head_n);
            n = sendfile(c->fd, l->update, &at, c->head_n + body - c->sent);
        }
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            fprintf(stderr, "bench: the coordinator hung up: %s\n", c->in);
            exit(1);
        }
        c->sent += (size_t)n;
    }
}

static void next(load *l, client *c)
{
    char number[32], sha[80];
    c->in[c->in_n] = '\0';
    if (c->state == CHECKING && field(c->in, "down_sha256", sha, sizeof(sha))) {
        field(c->in, "round_number", number, sizeof(number));
        c->round = (uint32_t)strtoul(number, NULL, 10);
        field(c->in, "attempt", number, sizeof(number));
        c->attempt = (uint32_t)strtoul(number, NULL, 10);
        snprintf(c->sha, sizeof(c->sha), "%.64s", sha);
        if (l->first <= 0)
            l->first = seconds();
        ask(l, c, FETCHING);
    } else if (c->state == FETCHING) {
        memcpy(c->sha, l->update_crc, sizeof(l->update_crc));
        ask(l, c, SENDING);
    } else if (c->state == SENDING && strstr(c->in, "\"accepted\"")) {
        l->updates++;
        l->last = seconds();
        ask(l, c, CHECKING);
    } else if (strstr(c->in, "\"end\"")) {
        c->state = OVER;
        close(c->fd);
        l->open--;
        return;
    } else if (c->state == CHECKING) {
        ask(l, c, CHECKING);
    } else {
        fprintf(stderr, "bench: unexpected answer: %s\n", c->in);
        exit(1);
    }
    push(l, c);
}

/* Header bytes are kept, of the body as much as fits. True when the answer is whole. */
static bool pull(client *c)
{
    for (;;) {
        if (c->body >= 0 && c->got >= (size_t)c->body)
            return true;
        bool keep = c->body < 0 || c->body < 4096;
        ssize_t n = keep ? recv(c->fd, c->in + c->in_n, sizeof(c->in) - 1 - c->in_n, 0)
                         : recv(c->fd, NULL, SCRATCH, MSG_TRUNC);
        if (n < 0 && errno == EAGAIN)
            return false;
        if (n <= 0) {
            fprintf(stderr, "bench: connection lost\n");
            exit(1);
        }
        if (c->body >= 0) {
            c->got += (size_t)n;
            c->in_n += keep ? (size_t)n : 0;
            continue;
        }
        c->in_n += (size_t)n;
        c->in[c->in_n] = '\0';
        const char *end = strstr(c->in, "\r\n\r\n"), *length = strcasestr(c->in,
                                                                       "content-length:");
        if (!end)
            continue;
        c->body = length && length < end ? strtol(length + 15, NULL, 10) : 0;
        c->got = c->in_n - (size_t)(end + 4 - c->in);
    }
}

static void drive(load *l)
{
    struct epoll_event e[64];
    l->epoll = epoll_create1(0);
    for (uint32_t i = 0; i < l->b->clients; i++) {
        struct epoll_event want = {EPOLLIN | EPOLLOUT | EPOLLET, {.u32 = i}};
        epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->client[i].fd, &want);
        ask(l, &l->client[i], CHECKING);
        push(l, &l->client[i]);
    }
    l->open = l->b->clients;
    while (l->open) {
        int n = epoll_wait(l->epoll, e, 64, 60000);
        if (n <= 0) {
            fprintf(stderr, "bench: nothing happens\n");
            exit(1);
        }
        for (int i = 0; i < n; i++) {
            client *c = &l->client[e[i].data.u32];
            if (c->state != OVER)
                push(l, c);
            while (c->state != OVER && pull(c))
                next(l, c);
        }
    }
    close(l->epoll);
}

static void remove_folder(const char *dir)
{
    char command[600];
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    if (system(command) != 0)
        fprintf(stderr, "bench: '%s' remains\n", dir);
}

/* Once: doing nothing includes not computing its checksum again. */
static void make_update(load *l, size_t bytes)
{
    uint8_t digest[WIRE_DIGEST];
    float *x = mem_alloc(bytes);
    for (size_t i = 0; i < bytes / sizeof(float); i++)
        x[i] = 1e-3f * (float)(i % 17);
    wire_crc_digest(x, bytes, digest);
    hex_encode(digest, 8, l->update_crc);
    l->update = memfd_create("update", MFD_CLOEXEC);
    for (size_t at = 0; at < bytes;) {
        ssize_t n = write(l->update, (const char *)x + at, bytes - at);
        if (n <= 0) {
            perror("bench: update");
            exit(1);
        }
        at += (size_t)n;
    }
    mem_free(x);
}

static int run(bench *b, const char *base, double peer)
{
    char dir[300];
    int pipes[2];
    report r;
    snprintf(dir, sizeof(dir), "%s/octomil-bench-%d", base, (int)getpid());
    b->dir = dir;
    if (pipe(pipes) != 0)
        return 1;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        _exit(coordinate(b, pipes[1]));
    if (read(pipes[0], &r, sizeof(r)) != (ssize_t)sizeof(r))
        return 1;
    size_t bytes = b->dim * sizeof(float);
    load l = {.b = b, .port = r.port};
    l.client = mem_array(b->clients, sizeof(*l.client));
    make_update(&l, bytes);
    for (uint32_t i = 0; i < b->clients; i++)
        register_client(&l, i);
    double cpu = cpu_seconds();
    drive(&l);
    cpu = cpu_seconds() - cpu;
    int ok = read(pipes[0], &r, sizeof(r)) == (ssize_t)sizeof(r);
    waitpid(pid, NULL, 0);
    double rate = l.updates / (l.last - l.first);
    printf("%4u clients x %9zu bytes, %3u rounds: %8.1f updates/s, %7.1f MB/s each way, "
           "peak RSS %6.1f MB (%.2f models), ms of CPU an update: %.2f + clients' %.2f",
           b->clients, bytes, b->rounds, rate, rate * (double)bytes / 1e6,
           (double)r.rss_peak / 1e6, (double)r.rss_peak / (double)bytes,
           1e3 * r.cpu_s / l.updates, 1e3 * cpu / l.updates);
    if (peer > 0)
        printf("; peer %.0f: %.1f x", peer, rate / peer);
    printf("\n");
    mem_free(l.client);
    close(l.update);
    close(pipes[0]);
    close(pipes[1]);
    remove_folder(dir);
    return ok ? 0 : 1;
}

static const char *value_of(int argc, char **argv, const char *name, const char *def)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    return def;
}

int main(int argc, char **argv)
{
    const char *algorithm = value_of(argc, argv, "--algorithm", "fedavg");
    const char *base = value_of(argc, argv, "--dir", "/tmp");
    if (value_of(argc, argv, "--clients", NULL)) {
        bench b = {.clients = (uint32_t)strtoul(value_of(argc, argv, "--clients", "8"), NULL, 10),
                   .rounds = (uint32_t)strtoul(value_of(argc, argv, "--rounds", "10"), NULL, 10),
                   .dim = strtoul(value_of(argc, argv, "--bytes", "4096"), NULL, 10) / 4,
                   .algorithm = algorithm};
        return run(&b, base, 0);
    }
    bench mib = {.clients = 64, .rounds = 20, .dim = 1 << 18, .algorithm = algorithm};
    bench small = {.clients = 256, .rounds = 50, .dim = 1 << 10, .algorithm = algorithm};
    bench large = {.clients = 64, .rounds = 2, .dim = 15000000, .algorithm = algorithm};
    return run(&mib, base, 150) | run(&small, base, 827) | run(&large, base, 0);
}
