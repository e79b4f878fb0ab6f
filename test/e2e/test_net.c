/* test_net.c - the federation over the network: real processes on loopback, killed,
 * cut off and lied to; the model they end with is the simulator's, bit by bit.
 *
 * OM_SOAK_KILLS=200 makes the killing tests go on until so many kills have happened
 * (make soak); the default is a handful. */
#define _GNU_SOURCE
#include "fl/oracle/quadratic.h"
#include "net/http_client.h"
#include "proto/wire.h"
#include "sim/sim.h"
#include "test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DIM = 500, LARGE = 20000, CLIENTS = 8, MAX_ARGS = 64 };

/* ---- processes ------------------------------------------------------------------------- */

/* file_limit: bytes a file may have, 0: any; what a full disk looks like from inside. */
static pid_t spawn(char *const *argv, const char *log, uint64_t file_limit)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    struct rlimit limit = {file_limit, file_limit};
    if (file_limit) {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
    }
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
    dup2(fd, 1);
    dup2(fd, 2);
    execv(argv[0], argv);
    _exit(127);
}

/* Exit status, or -1 when it was killed or took longer. */
static int wait_for(pid_t pid, int ms)
{
    int status;
    for (int waited = 0; waited < ms; waited += 5) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        os_sleep_ms(5);
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return -1;
}

static void kill_now(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* ---- one federation -------------------------------------------------------------------- */

typedef struct {
    const char *algorithm, *codec, *codec_set, *cohort;
    int rounds;
    uint32_t cohort_n, dim;
    const char *set; /* a key of the algorithm; NULL: local_steps=3 */
} setup;

static const setup plain = {"fedavg", "identity", NULL, "8", 6, 8, DIM, NULL};
static const setup compressed = {"fedadam", "topk", "codec.k=50", "5", 6, 5, DIM, NULL};
static const setup more[] = {
    {"ef21-bc", "topk", "codec.k=50", "8", 6, 8, DIM, "algorithm.down_ratio=0.2"},
    {"marina", "permk", NULL, "8", 6, 8, DIM, "algorithm.p=0.3"},
    {"scaffold", "identity", NULL, "5", 6, 5, DIM, "algorithm.local_steps=2"},
    {"diana", "randk", "codec.k=50", "5", 6, 5, DIM, "algorithm.alpha=0.1"},
    {"locodl", "natural", NULL, "8", 6, 8, DIM, "algorithm.p=0.4"},
    {"saga", "identity", NULL, "5", 6, 5, DIM, "algorithm.blocks=4"},
};
static const setup in_files = {"fedavg", "identity", NULL, "8", 6, 8, LARGE, NULL}; /* 80 kB each */

typedef struct {
    char dir[200], log[256], url[64], listen[64], out[256];
    const setup *s;
    int rounds;
    uint64_t file_limit; /* of the coordinator's files */
    pid_t server, agent[CLIENTS];
} federation;

static void federation_open(federation *f, const setup *s, const char *name, int rounds)
{
    *f = (federation){.s = s, .rounds = rounds, .server = -1};
    snprintf(f->dir, sizeof(f->dir), "%s/%s", test_temp_dir(), name);
    om_err err;
    if (os_mkdirs(f->dir, &err) != OM_OK)
        exit(2);
    snprintf(f->log, sizeof(f->log), "%s/server.log", f->dir);
    snprintf(f->out, sizeof(f->out), "%s/model.bin", f->dir);
    snprintf(f->listen, sizeof(f->listen), "127.0.0.1:0");
}

static const char *of_algorithm(const setup *s)
{
    return s->set ? s->set : "algorithm.local_steps=3";
}

/* Waits until it listens; remembers the port for the next start. */
static bool start_server(federation *f)
{
    char dir[256], rounds[16], algorithm[64], up[64], task[32], min[32];
    const char *argv[MAX_ARGS] = {OM_BINARY_DIR "/octomil", "server", "--dir", dir, "--listen",
                                  f->listen, "--kind", "quadratic", "--task", task,
                                  "--clients", "8", "--cohort", f->s->cohort, "--rounds", rounds,
                                  "--set", algorithm, "--set", of_algorithm(f->s),
                                  "--set", "algorithm.lr=0.05", "--set", up, "--seed", "11",
                                  "--retry", "10", "--linger", "400", "--deadline", "60",
                                  "--token", "sesame", "--threads", "1", "--out", f->out};
    int n = 0;
    while (argv[n])
        n++;
    if (f->s->codec_set) {
        argv[n++] = "--set";
        argv[n++] = f->s->codec_set;
    }
    if (f->s->set) { /* some bear no absence */
        snprintf(min, sizeof(min), "cohort.min=%s", f->s->cohort);
        argv[n++] = "--set";
        argv[n++] = min;
    }
    char names[CLIENTS][16];
    for (int i = 0; i < CLIENTS; i++) {
        snprintf(names[i], sizeof(names[i]), "dev-%d", i);
        argv[n++] = "--device";
        argv[n++] = names[i];
    }
    BUG_IF(n >= MAX_ARGS);
    snprintf(dir, sizeof(dir), "%s/server", f->dir);
    snprintf(rounds, sizeof(rounds), "%d", f->rounds);
    snprintf(algorithm, sizeof(algorithm), "algorithm.name=%s", f->s->algorithm);
    snprintf(up, sizeof(up), "codec.name=%s", f->s->codec);
    snprintf(task, sizeof(task), "{\"dim\":%u}", (unsigned)f->s->dim);
    unlink(f->log);
    f->server = spawn((char *const *)(uintptr_t)argv, f->log, f->file_limit);
    for (int i = 0; i < 2000; i++) {
        buf b;
        if (os_read_file(f->log, 1 << 20, &b, NULL) == OM_OK) {
            const char *at = b.len ? memmem(b.data, b.len, "http://", 7) : NULL;
            const char *end = at ? memchr(at, '\n', b.len - (size_t)(at - (char *)b.data)) : NULL;
            if (end) {
                snprintf(f->url, sizeof(f->url), "%.*s", (int)(end - at), at);
                snprintf(f->listen, sizeof(f->listen), "%s", f->url + 7);
            }
            buf_free(&b);
            if (end)
                return true;
        }
        os_sleep_ms(5);
    }
    return false;
}

static void start_agent(federation *f, int i, const char *url)
{
    char name[16], dir[256], log[256];
    snprintf(name, sizeof(name), "dev-%d", i);
    snprintf(dir, sizeof(dir), "%s/%s", f->dir, name);
    snprintf(log, sizeof(log), "%s/%s.log", f->dir, name);
    char *argv[] = {OM_BINARY_DIR "/octomil-agent", "--server", (char *)(uintptr_t)url,
                    "--name", name, "--dir", dir, "--token", "sesame", "--threads", "1",
                    "--give-up", "20", NULL};
    f->agent[i] = spawn(argv, log, 0);
}

static void start_agents(federation *f, const char *url)
{
    for (int i = 0; i < CLIENTS; i++)
        start_agent(f, i, url);
}

static void show_log(const char *path)
{
    buf b;
    if (os_read_file(path, 1 << 20, &b, NULL) != OM_OK)
        return;
    fprintf(stderr, "--- %s\n%.*s\n", path, (int)b.len, (const char *)b.data);
    buf_free(&b);
}

static void finish_agents(test *t, federation *f)
{
    for (int i = 0; i < CLIENTS; i++)
        CHECK_INT(t, wait_for(f->agent[i], 30000), 0);
}

static void model_hex(test *t, const federation *f, char hex[65])
{
    buf b;
    uint8_t sha[32];
    om_err err = {0};
    hex[0] = '\0';
    om_status st = os_read_file(f->out, 1 << 24, &b, &err);
    CHECK_OK(t, st, err);
    if (st != OM_OK) {
        show_log(f->log);
        return;
    }
    CHECK_INT(t, b.len, f->s->dim * sizeof(float));
    sha256(b.data, b.len, sha);
    hex_encode(sha, 32, hex);
    buf_free(&b);
}

/* ---- the simulator's answer -------------------------------------------------------------- */

static om_status sim_oracle(void *ctx, uint32_t client, int worker, fl_oracle *out, om_err *err)
{
    (void)worker, (void)err;
    quadratic_oracle(ctx, client, out);
    return OM_OK;
}

static void simulated_hex(test *t, const setup *s, int rounds, char hex[65], uint64_t *up,
                          uint64_t *down)
{
    om_err err = {0};
    quadratic *q = NULL;
    sim *m = NULL;
    kern k;
    kern_init(&k, 0);
    static const float x0[LARGE];
    quadratic_config qc = {.dim = s->dim, .n_clients = CLIENTS, .mu = 1, .smooth = 10,
                           .heterogeneity = 1, .seed = 11};
    CHECK_OK(t, quadratic_open(&qc, &q, &err), err);
    sim_config c = {.dim = s->dim, .n_clients = CLIENTS, .cohort = s->cohort_n, .seed = 11, .k = &k,
                    .make_oracle = sim_oracle, .ctx = q};
    const char *codec_params = s->codec_set ? strchr(s->codec_set, '.') + 1 : "";
    char params[100];
    snprintf(params, sizeof(params), "%s,lr=0.05", strchr(of_algorithm(s), '.') + 1);
    CHECK_OK(t, fl_recipe_of(str_of(s->algorithm), str_of(params), str_of(s->codec),
                             str_of(codec_params), &c.recipe, &err), err);
    CHECK_OK(t, sim_open(&c, x0, &m, &err), err);
    sim_row row = {0};
    for (int i = 0; i < rounds; i++)
        CHECK_OK(t, sim_round(m, &row, &err), err);
    uint8_t sha[32];
    sha256(sim_model(m), s->dim * sizeof(float), sha);
    hex_encode(sha, 32, hex);
    *up = row.total_up_bytes;
    *down = row.total_down_bytes;
    sim_close(m);
    quadratic_close(q);
}

/* ---- undisturbed -------------------------------------------------------------------------- */

static void run_and_compare(test *t, const setup *s, const char *name)
{
    char got[65], want[65];
    uint64_t up, down;
    federation f;
    federation_open(&f, s, name, s->rounds);
    CHECK(t, start_server(&f));
    start_agents(&f, f.url);
    CHECK_INT(t, wait_for(f.server, 60000), 0);
    finish_agents(t, &f);
    model_hex(t, &f, got);
    simulated_hex(t, s, s->rounds, want, &up, &down);
    CHECK_STR(t, got, want);
    CHECK(t, up > 0 && down > 0);
}

static void as_simulated(test *t) { run_and_compare(t, &plain, "plain"); }
static void compressed_too(test *t) { run_and_compare(t, &compressed, "compressed"); }

static void state_and_coins(test *t)
{
    for (size_t i = 0; i < countof(more); i++)
        run_and_compare(t, &more[i], more[i].algorithm);
}

/* ---- kill -9 ------------------------------------------------------------------------------- */

static int kills_wanted(void)
{
    const char *env = getenv("OM_SOAK_KILLS");
    uint64_t n;
    return env && str_u64(str_of(env), &n) && n > 0 && n < 100000 ? (int)n : 4;
}

static rng luck_of(test *t, uint32_t use)
{
    uint64_t seed;
    om_err err;
    if (os_entropy(&seed, sizeof(seed), &err) != OM_OK)
        seed = 1;
    (void)t;
    return rng_for(seed, 0, 0, use);
}

/* Kills until the run is over; returns the kills. The run is long enough to have some. */
static int killed_run(test *t, const setup *s, int rounds, bool agents_too, int trial, rng *luck)
{
    char name[32], got[65], want[65];
    uint64_t up, down;
    int kills = 0, status = -1;
    federation f;
    snprintf(name, sizeof(name), "killed-%d", trial);
    federation_open(&f, s, name, rounds);
    CHECK(t, start_server(&f));
    start_agents(&f, f.url);
    for (int i = 0; i < 400 && status != 0; i++) {
        uint32_t ms = 5 + rng_below(luck, 400);
        for (uint32_t at = 0; at < ms; at += 2) {
            int raw;
            if (waitpid(f.server, &raw, WNOHANG) == f.server) {
                status = WIFEXITED(raw) ? WEXITSTATUS(raw) : -2;
                break;
            }
            os_sleep_ms(2);
        }
        if (status >= 0)
            break;
        kills++;
        if (agents_too && rng_below(luck, 2)) {
            int a = (int)rng_below(luck, CLIENTS);
            kill_now(f.agent[a]);
            start_agent(&f, a, f.url);
        } else {
            kill_now(f.server);
            CHECK(t, start_server(&f));
        }
    }
    CHECK_INT(t, status, 0);
    for (int i = 0; i < CLIENTS; i++) /* one may just have been started: too late to hear */
        kill_now(f.agent[i]);
    model_hex(t, &f, got);
    simulated_hex(t, s, rounds, want, &up, &down);
    CHECK_STR(t, got, want);
    return kills;
}

static const setup *const kinds[] = {&in_files, &plain, &compressed, &more[0]};

static void server_killed(test *t)
{
    rng luck = luck_of(t, 1);
    int kills = 0;
    for (int trial = 0; kills < kills_wanted() && t->failures == 0; trial++)
        kills += killed_run(t, kinds[trial % (int)countof(kinds)], 15, false, trial, &luck);
    CHECK(t, kills >= kills_wanted());
}

static void everybody_killed(test *t)
{
    rng luck = luck_of(t, 2);
    int kills = 0;
    for (int trial = 1002; kills < kills_wanted() && t->failures == 0; trial++)
        kills += killed_run(t, kinds[trial % (int)countof(kinds)], 15, true, trial, &luck);
    CHECK(t, kills >= kills_wanted());
}

/* ---- a wire that breaks ------------------------------------------------------------------------ */

typedef struct {
    int a, b;      /* device, coordinator */
    long budget;   /* bytes until it breaks */
} link_pair;

typedef struct { /* of all links, in memory shared with the wire's process */
    atomic_uint_least64_t up, down;
} traffic;

static int listen_on(uint16_t *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, n) != 0 || listen(fd, 64) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &n) != 0)
        return -1;
    *port = ntohs(at.sin_port);
    return fd;
}

static int dial(uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0)
        return fd;
    close(fd);
    return -1;
}

/* Breaks with a reset, not a polite end. */
static void cut(link_pair *l)
{
    struct linger hard = {1, 0};
    setsockopt(l->a, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    setsockopt(l->b, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close(l->a);
    close(l->b);
    l->a = l->b = -1;
}

static void pass_on(link_pair *l, int from, int to, traffic *count)
{
    char piece[1500];
    ssize_t n = recv(from, piece, (size_t)(l->budget < 1500 ? l->budget : 1500), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0 && count)
        atomic_fetch_add(from == l->a ? &count->up : &count->down, (uint64_t)n);
    if (n <= 0 || send(to, piece, (size_t)n, MSG_NOSIGNAL) != n || (l->budget -= n) <= 0)
        cut(l);
}

/* Runs in a process of its own until killed.  It breaks links, or counts when told to. */
static void proxy(int listener, uint16_t to, uint64_t seed, traffic *count)
{
    enum { LINKS = 64 };
    static link_pair link[LINKS];
    rng luck = rng_for(seed, 0, 0, 3);
    for (int i = 0; i < LINKS; i++)
        link[i].a = link[i].b = -1;
    for (;;) {
        struct pollfd p[1 + 2 * LINKS] = {{listener, POLLIN, 0}};
        for (int i = 0; i < LINKS; i++) {
            p[1 + 2 * i] = (struct pollfd){link[i].a, POLLIN, 0};
            p[2 + 2 * i] = (struct pollfd){link[i].b, POLLIN, 0};
        }
        poll(p, 1 + 2 * LINKS, 1000);
        for (int i = 0; i < LINKS; i++) {
            if (link[i].a >= 0 && p[1 + 2 * i].revents)
                pass_on(&link[i], link[i].a, link[i].b, count);
            if (link[i].a >= 0 && p[2 + 2 * i].revents)
                pass_on(&link[i], link[i].b, link[i].a, count);
        }
        for (int i = 0; i < LINKS && (p[0].revents & POLLIN); i++) {
            if (link[i].a >= 0)
                continue;
            link[i] = (link_pair){accept(listener, NULL, NULL), dial(to),
                                  count ? LONG_MAX : 1 + (long)rng_below(&luck, 9000)};
            if (link[i].a < 0 || link[i].b < 0)
                cut(&link[i]);
            break;
        }
    }
}

static uint16_t port_of(const char *listen)
{
    uint64_t port = 0;
    return str_u64(str_of(strrchr(listen, ':') + 1), &port) ? (uint16_t)port : 0;
}

static void cut_off(test *t)
{
    char got[65], want[65], url[64];
    uint64_t up, down, seed = 0;
    uint16_t port = 0;
    om_err err;
    federation f;
    federation_open(&f, &plain, "cut", 5);
    CHECK(t, start_server(&f));
    CHECK(t, os_entropy(&seed, sizeof(seed), &err) == OM_OK);
    int listener = listen_on(&port);
    CHECK(t, listener >= 0);
    pid_t wire = fork();
    if (wire == 0)
        proxy(listener, port_of(f.listen), seed, NULL);
    close(listener);
    snprintf(url, sizeof(url), "http://127.0.0.1:%u", (unsigned)port);
    start_agents(&f, url);
    CHECK_INT(t, wait_for(f.server, 60000), 0);
    for (int i = 0; i < CLIENTS; i++) /* the last word may be lost with the server gone */
        kill_now(f.agent[i]);
    kill_now(wire);
    model_hex(t, &f, got);
    simulated_hex(t, &plain, 5, want, &up, &down);
    CHECK_STR(t, got, want);
}

/* The bytes on the sockets are the messages the simulator counts and an envelope: all of
 * HTTP, tokens, check-ins and registration, by update.  docs/protocol.md names the bounds. */
static void count_wire(test *t, const setup *s, const char *name, int rounds)
{
    enum { ENVELOPE_UP = 1300, ENVELOPE_DOWN = 1700 };
    char got[65], want[65], url[64];
    uint64_t up, down;
    uint16_t port = 0;
    federation f;
    federation_open(&f, s, name, rounds);
    traffic *count = mmap(NULL, sizeof(*count), PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int listener = listen_on(&port);
    CHECK(t, start_server(&f) && listener >= 0 && count != MAP_FAILED);
    pid_t wire = fork();
    if (wire == 0)
        proxy(listener, port_of(f.listen), 1, count);
    close(listener);
    snprintf(url, sizeof(url), "http://127.0.0.1:%u", (unsigned)port);
    start_agents(&f, url);
    CHECK_INT(t, wait_for(f.server, 60000), 0);
    finish_agents(t, &f);
    kill_now(wire);
    model_hex(t, &f, got);
    simulated_hex(t, s, rounds, want, &up, &down);
    CHECK_STR(t, got, want);
    uint64_t updates = (uint64_t)rounds * s->cohort_n, wire_up = count->up,
             wire_down = count->down;
    CHECK(t, wire_up > up && wire_down > down);
    uint64_t more_up = (wire_up - up) / updates, more_down = (wire_down - down) / updates;
    printf("%s: %llu payload + %llu up, %llu payload + %llu down, by update\n", name,
           (unsigned long long)(up / updates), (unsigned long long)more_up,
           (unsigned long long)(down / updates), (unsigned long long)more_down);
    CHECK(t, more_up > 300 && more_up <= ENVELOPE_UP);
    CHECK(t, more_down > 300 && more_down <= ENVELOPE_DOWN);
    munmap(count, sizeof(*count));
}

static void bytes_counted(test *t)
{
    count_wire(t, &plain, "counted", 12);
    count_wire(t, &compressed, "counted-topk", 12);
}

/* ---- lies ------------------------------------------------------------------------------------ */

typedef struct {
    test *t;
    http_client *h;
    char *url;
    wire_task task;
    float *update; /* (DIM) */
    buf answer;
} liar;

static wire_result put_update(liar *l, const wire_update *m, const void *p, size_t n)
{
    om_err err = {0};
    unsigned status = 0;
    wire_result r = {0};
    buf line = buf_growing(4096);
    CHECK(l->t, buf_str(&line, STR("X-Octomil-Update: ")) == OM_OK);
    CHECK(l->t, wire_put_update(m, &line) == OM_OK && buf_u8(&line, 0) == OM_OK);
    http_call call = {.method = "PUT", .path = "/api/v1/federation/updates", .body = p,
                      .body_n = n, .header = (const char *)line.data};
    om_status st = http_do(l->h, &call, &status, &l->answer, &err);
    CHECK_OK(l->t, st, err);
    CHECK_OK(l->t, wire_get_result(&r, l->answer.data, l->answer.len, &err), err);
    buf_free(&line);
    return r;
}

static wire_update honest(const liar *l)
{
    wire_update m = {.round = l->task.round, .attempt = l->task.attempt, .samples = 100,
                     .bytes = DIM * sizeof(float), .loss = 1};
    memcpy(m.run, l->task.run, sizeof(m.run));
    sha256(l->update, DIM * sizeof(float), m.digest);
    return m;
}

static void lies(liar *l)
{
    test *t = l->t;
    size_t n = DIM * sizeof(float);
    wire_update m = honest(l);
    m.samples = UINT64_C(1) << 63;
    CHECK_INT(t, put_update(l, &m, l->update, n).reason, WIRE_ABSURD_SAMPLES);
    m = honest(l);
    m.samples = 0;
    CHECK_INT(t, put_update(l, &m, l->update, n).reason, WIRE_ABSURD_SAMPLES);
    m = honest(l);
    m.round++;
    CHECK_INT(t, put_update(l, &m, l->update, n).reason, WIRE_WRONG_ROUND);
    m = honest(l);
    m.bytes = n + 4;
    CHECK_INT(t, put_update(l, &m, l->update, n).reason, WIRE_WRONG_LENGTH);
    m = honest(l);
    m.bytes = n - 4; /* announced short, and short indeed */
    sha256(l->update, n - 4, m.digest);
    CHECK_INT(t, put_update(l, &m, l->update, n - 4).reason, WIRE_BAD_UPDATE);
    m = honest(l);
    memset(m.digest, 1, 32);
    CHECK_INT(t, put_update(l, &m, l->update, n).reason, WIRE_CHECKSUM);
    l->update[7] = (float)NAN;
    m = honest(l);
    wire_result r = put_update(l, &m, l->update, n);
    CHECK_INT(t, r.reason, WIRE_BAD_UPDATE);
    CHECK(t, strstr(r.message, "NaN") != NULL);
    l->update[7] = INFINITY;
    m = honest(l);
    CHECK_INT(t, put_update(l, &m, l->update, n).reason, WIRE_BAD_UPDATE);
    l->update[7] = 0;
    m = honest(l);
    snprintf(m.run, sizeof(m.run), "other");
    CHECK_INT(t, put_update(l, &m, l->update, n).reason, WIRE_NO_RUN);
    m = honest(l);
    CHECK(t, put_update(l, &m, l->update, n).complete);  /* the truth is taken, */
    CHECK(t, put_update(l, &m, l->update, n).complete);  /* twice the same is once, */
    l->update[7] = 2;
    m = honest(l);
    CHECK_INT(t, put_update(l, &m, l->update, n).reason, WIRE_REPLAY); /* another is not */
}

static unsigned raw_call(liar *l, const char *method, const char *path, const char *body)
{
    om_err err = {0};
    unsigned status = 0;
    http_call call = {.method = method, .path = path, .body = body,
                      .body_n = body ? strlen(body) : 0};
    CHECK_OK(l->t, http_do(l->h, &call, &status, &l->answer, &err), err);
    return status;
}

static void register_all(liar *l)
{
    test *t = l->t;
    om_err err = {0};
    wire_registered made = {0};
    CHECK_INT(t, raw_call(l, "POST", "/api/v1/devices/register", "{}"), 401);
    CHECK_OK(t, http_client_token(l->h, "sesame", &err), err);
    CHECK_INT(t, raw_call(l, "POST", "/api/v1/devices/register", "{}"), 400);
    for (int i = CLIENTS; i >= 0; i--) { /* dev-8 is not on the list */
        char body[128];
        snprintf(body, sizeof(body), "{\"protocol\":1,\"device_id\":\"dev-%d\",\"platform\":\"x\"}",
                 i);
        CHECK_INT(t, raw_call(l, "POST", "/api/v1/devices/register", body), i < 8 ? 200 : 403);
    }
    CHECK_OK(t, wire_get_registered(&made, l->answer.data, l->answer.len, &err), err);
    CHECK_INT(t, made.index, 0);
    CHECK_OK(t, http_client_token(l->h, made.token, &err), err);
}

static void hostile_updates(test *t)
{
    om_err err = {0};
    wire_answer a;
    federation f;
    static float update[DIM];
    liar l = {.t = t, .update = update, .answer = buf_growing(1 << 20)};
    federation_open(&f, &plain, "lies", 3);
    CHECK(t, start_server(&f));
    http_client_config hc = {.url = f.url};
    CHECK_OK(t, http_client_open(&hc, &l.h, &err), err);
    register_all(&l);
    CHECK_INT(t, raw_call(&l, "POST", "/api/v1/federation/checkin", NULL), 200);
    CHECK_OK(t, wire_get_answer(&a, l.answer.data, l.answer.len, &err), err);
    CHECK_INT(t, a.work, WIRE_TASK);
    l.task = a.task;
    lies(&l);
    CHECK_INT(t, raw_call(&l, "GET", "/nowhere", NULL), 404);
    CHECK_INT(t, raw_call(&l, "DELETE", "/health", NULL), 405);
    CHECK_INT(t, raw_call(&l, "GET", "/api/v1/blobs/00", NULL), 404);
    CHECK_INT(t, raw_call(&l, "PUT", "/api/v1/federation/updates", "x"), 400);
    CHECK_INT(t, raw_call(&l, "GET", "/health", NULL), 200);
    kill(f.server, SIGTERM);
    CHECK_INT(t, wait_for(f.server, 5000), 130); /* interrupted, in good order */
    http_client_close(l.h);
    buf_free(&l.answer);
}

/* ---- a full disk --------------------------------------------------------------------- */

static bool log_says(const federation *f, const char *what)
{
    buf b;
    bool yes = false;
    if (os_read_file(f->log, 1 << 24, &b, NULL) == OM_OK) {
        yes = b.len && memmem(b.data, b.len, what, strlen(what));
        buf_free(&b);
    }
    return yes;
}

/* The coordinator's files stop growing in mid-run: it says so and goes on asking; with
 * room again the run ends as if nothing had been. */
static void disk_full(test *t)
{
    char got[65], want[65];
    uint64_t up, down;
    federation f;
    federation_open(&f, &plain, "full", 12);
    f.file_limit = 200000;
    CHECK(t, start_server(&f));
    start_agents(&f, f.url);
    for (int i = 0; i < 400 && !log_says(&f, "store"); i++)
        os_sleep_ms(20);
    CHECK(t, log_says(&f, "store"));
    kill(f.server, SIGTERM);
    CHECK_INT(t, wait_for(f.server, 8000), 130);
    f.file_limit = 0;
    CHECK(t, start_server(&f));
    CHECK_INT(t, wait_for(f.server, 60000), 0);
    for (int i = 0; i < CLIENTS; i++)
        kill_now(f.agent[i]);
    model_hex(t, &f, got);
    simulated_hex(t, &plain, 12, want, &up, &down);
    CHECK_STR(t, got, want);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"as_simulated", "8 processes give the simulator's bits", as_simulated},
        {"compressed_too", "with partial cohorts, Adam and error feedback", compressed_too},
        {"state_and_coins", "client state, shared coins, compressed ways down", state_and_coins},
        {"hostile_updates", "each lie is refused with its reason", hostile_updates},
        {"bytes_counted", "the wire carries what the simulator counts and a small envelope",
         bytes_counted},
        {"cut_off", "connections break at random bytes", cut_off},
        {"disk_full", "it says so, keeps what it accepted, goes on", disk_full},
        {"server_killed", "kill -9 of the coordinator: same bits", server_killed},
        {"everybody_killed", "and of devices", everybody_killed},
        {0}};
    signal(SIGPIPE, SIG_IGN);
    return test_main(argc, argv, cases);
}
