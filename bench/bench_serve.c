/* bench_serve.c - clients at once against servers that speak OpenAI's completions.
 *
 *     bench_serve                                a server in this process, over demo/keyboard.gguf
 *     bench_serve [-c N] [-p N] [-n N] [-r N] [-v N] NAME=HOST:PORT...
 *
 * Every client sends one prompt of -p token ids (random below -v, different every time, so
 * that no cache helps) and takes -n tokens, all clients at once.  Servers take turns, a
 * round each, -r rounds.  Per server: median and spread over rounds of the total tokens
 * per second, prompt and answer together, and of the answer's alone.  tools/bench-serve.sh
 * starts servers and calls it. */
#define _GNU_SOURCE
#include "serve/serve.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENTS = 64, SERVERS = 8, ROUNDS = 100, ANSWER = 1 << 20 };

typedef struct {
    const char *name;
    struct sockaddr_in at;
    double seconds[ROUNDS];
} peer;

typedef struct {
    uint32_t clients, prompt, answer, rounds, vocab;
    peer peer[SERVERS];
    uint32_t n;
} bench;

typedef struct {
    const bench *b;
    const peer *p;
    uint32_t round, index;
    bool ok;
} client;

static size_t write_request(const client *c, char *out)
{
    char *body = out + 256;
    const bench *b = c->b;
    rng r = rng_for(1, c->round, c->index, 77);
    int n = sprintf(body, "{\"prompt\":[");
    for (uint32_t i = 0; i < b->prompt; i++)
        n += sprintf(body + n, "%s%u", i ? "," : "", (unsigned)rng_below(&r, b->vocab - 300) + 290);
    n += sprintf(body + n, "],\"max_tokens\":%u,\"temperature\":0,\"ignore_eos\":true}",
                 (unsigned)b->answer);
    int head = sprintf(out, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                       "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n", n);
    memmove(out + head, body, (size_t)n);
    return (size_t)(head + n);
}

static void work(void *ctx)
{
    client *c = ctx;
    char *text = mem_alloc(ANSWER), want[64];
    size_t got = 0, n = write_request(c, text);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool sent = connect(fd, (const struct sockaddr *)&c->p->at, sizeof(c->p->at)) == 0 &&
                send(fd, text, n, MSG_NOSIGNAL) == (ssize_t)n;
    for (ssize_t k = sent; k > 0 && got + 1 < ANSWER; got += k > 0 ? (size_t)k : 0)
        k = recv(fd, text + got, ANSWER - 1 - got, 0);
    close(fd);
    text[got] = '\0';
    sprintf(want, "\"completion_tokens\":%u", (unsigned)c->b->answer);
    c->ok = strstr(text, want) != NULL;
    if (!c->ok)
        fprintf(stderr, "%s: %.300s\n", c->p->name, text);
    mem_free(text);
}

/* All clients at once; seconds until the last has its answer. */
static double run_round(const bench *b, const peer *p, uint32_t round)
{
    static client c[CLIENTS];
    os_thread *thread[CLIENTS];
    om_err err;
    uint64_t start = os_now_ns();
    for (uint32_t i = 0; i < b->clients; i++) {
        c[i] = (client){b, p, round, i, false};
        if (os_thread_start(&thread[i], work, &c[i], &err) != OM_OK)
            exit(1);
    }
    for (uint32_t i = 0; i < b->clients; i++)
        os_thread_join(thread[i]);
    for (uint32_t i = 0; i < b->clients; i++)
        if (!c[i].ok)
            exit(1);
    return (double)(os_now_ns() - start) * 1e-9;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const bench *b, peer *p)
{
    qsort(p->seconds, b->rounds, sizeof(double), by_size);
    double s = p->seconds[b->rounds / 2];
    double all = b->clients * (double)(b->prompt + b->answer), said = b->clients * (double)b->answer;
    printf("%-12s %8.1f tokens/s (%.1f .. %.1f), %.1f generated/s, %u clients, %u + %u, %u rounds\n",
           p->name, all / s, all / p->seconds[b->rounds - 1], all / p->seconds[0], said / s,
           (unsigned)b->clients, (unsigned)b->prompt, (unsigned)b->answer, (unsigned)b->rounds);
}

static void run_all(bench *b)
{
    for (uint32_t i = 0; i < b->n; i++) /* warm */
        run_round(b, &b->peer[i], 1000);
    for (uint32_t r = 0; r < b->rounds; r++)
        for (uint32_t i = 0; i < b->n; i++)
            b->peer[i].seconds[r] = run_round(b, &b->peer[i], r);
    for (uint32_t i = 0; i < b->n; i++)
        report(b, &b->peer[i]);
    for (uint32_t i = 1; i < b->n; i++)
        printf("%s / %s: %.2f\n", b->peer[0].name, b->peer[i].name,
               b->peer[i].seconds[b->rounds / 2] / b->peer[0].seconds[b->rounds / 2]);
}

static void add_peer(bench *b, char *arg)
{
    char *eq = strchr(arg, '='), *colon = eq ? strchr(eq, ':') : NULL;
    if (!colon || b->n == SERVERS) {
        fprintf(stderr, "bench_serve: write NAME=HOST:PORT\n");
        exit(2);
    }
    *eq = *colon = '\0';
    peer *p = &b->peer[b->n++];
    p->name = arg;
    p->at = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
    if (inet_pton(AF_INET, eq + 1, &p->at.sin_addr) != 1)
        exit(2);
}

static int run_here(bench *b)
{
    static char arg[64];
    kern k;
    pool *threads = NULL;
    llm_model *m = NULL;
    engine *e = NULL;
    server *s = NULL;
    om_err err = {0};
    kern_init(&k, 0);
    om_status st = pool_open(0, &threads, &err);
    if (st == OM_OK)
        st = llm_open(OM_SOURCE_DIR "/demo/keyboard.gguf", &m, &err);
    engine_config c = {.k = &k, .pool = threads, .slots = 8, .queue = 64};
    if (st == OM_OK)
        st = engine_open(&c, &e, &err);
    if (st == OM_OK)
        st = engine_add_lane(e, m, "keyboard", &err);
    serve_config h = {.host = "127.0.0.1", .engine = e};
    if (st == OM_OK)
        st = serve_open(&h, &s, &err);
    if (st == OM_OK) {
        b->vocab = m->h.vocab;
        b->prompt = m->h.context / 2;
        b->answer = m->h.context / 4;
        snprintf(arg, sizeof(arg), "here=127.0.0.1:%u", (unsigned)serve_port(s));
        add_peer(b, arg);
        run_all(b);
    } else {
        fprintf(stderr, "bench_serve: %s\n", err.msg);
    }
    serve_close(s, 0);
    engine_close(e);
    llm_close(m);
    pool_close(threads);
    return st != OM_OK;
}

int main(int argc, char **argv)
{
    static bench b = {.clients = 8, .prompt = 128, .answer = 64, .rounds = 5, .vocab = 4096};
    uint32_t *option[128] = {['c'] = &b.clients, ['p'] = &b.prompt, ['n'] = &b.answer,
                             ['r'] = &b.rounds, ['v'] = &b.vocab};
    for (int i = 1; i < argc; i++) {
        uint32_t *o = argv[i][0] == '-' ? option[argv[i][1] & 127] : NULL;
        if (o && i + 1 < argc) {
            *o = (uint32_t)atoi(argv[i + 1]);
            i++;
        } else {
            add_peer(&b, argv[i]);
        }
    }
    if (b.clients > CLIENTS || b.rounds > ROUNDS || b.vocab < 600 || b.prompt > 20000)
        return 2;
    if (b.n == 0)
        return run_here(&b);
    run_all(&b);
    return 0;
}
