/* serve.c - bytes from a client into a live server over a small model: HTTP, the JSON of
 * every route, schemas, grammars, tools, the engine and its answers.
 *
 * The first byte chooses: 'c', 'p' and 'e' post the rest to chat, completions and
 * embeddings; anything else goes to the socket as it is.  The law: the server lives, and
 * /health says so every now and then. */
#define _GNU_SOURCE
#include "serve/serve.h"
#include "fuzz.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 16384 };

static struct {
    kern k;
    llm_model *m;
    engine *e;
    server *s;
    unsigned calls;
} site; /* one for the process: starting it takes longer than an input */

static void finish(void)
{
    serve_close(site.s, 0);
    engine_close(site.e);
    llm_close(site.m);
}

static void start(void)
{
    om_err err = {0};
    kern_init(&site.k, 0);
    engine_config c = {.k = &site.k, .slots = 4, .queue = 16, .context = 48,
                       .kv_bytes = 64 << 20};
    FUZZ_CHECK(llm_open(OM_SOURCE_DIR "/demo/keyboard.gguf", &site.m, &err) == OM_OK);
    FUZZ_CHECK(engine_open(&c, &site.e, &err) == OM_OK);
    FUZZ_CHECK(engine_add_lane(site.e, site.m, "m", &err) == OM_OK);
    serve_config h = {.host = "127.0.0.1", .engine = site.e, .timeout_s = 5,
                      .chat = chat_template_find(STR("chatml"))};
    FUZZ_CHECK(serve_open(&h, &site.s, &err) == OM_OK);
    atexit(finish);
}

static int dial(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(serve_port(site.s)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    while (fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof(at)) != 0)
        poll(NULL, 0, 1);
    return fd;
}

/* Sends all, reads until silence of `ms` or the end; what came first into out. */
static void talk(const void *p, size_t n, int ms, char *out, size_t cap)
{
    char piece[4096];
    struct pollfd f = {dial(), POLLIN, 0};
    struct linger hard = {1, 0};
    size_t got = 0;
    setsockopt(f.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    ssize_t r = send(f.fd, p, n, MSG_NOSIGNAL);
    while (r > 0 && poll(&f, 1, ms) == 1 && (r = recv(f.fd, piece, sizeof(piece), 0)) > 0) {
        size_t keep = size_min((size_t)r, cap - 1 - got);
        memcpy(out + got, piece, keep);
        got += keep;
    }
    out[got] = '\0';
    close(f.fd);
}

static size_t request(const uint8_t *data, size_t n, char *out)
{
    const char *path = data[0] == 'c'   ? "chat/completions"
                       : data[0] == 'p' ? "completions"
                       : data[0] == 'e' ? "embeddings"
                                        : NULL;
    if (!path) {
        memcpy(out, data, n);
        return n;
    }
    int head = snprintf(out, MOST, "POST /v1/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                        "Content-Length: %zu\r\n\r\n", path, n - 1);
    memcpy(out + head, data + 1, n - 1);
    return (size_t)head + n - 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static char text[MOST + 8192], answer[8192];
    static const char health[] = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    if (n == 0 || n > 4096)
        return 0;
    if (!site.s)
        start();
    bool whole = strchr("cpe", data[0]) != NULL;
    size_t k = request(data, n, text);
    talk(text, k, whole ? 60000 : 4, answer, sizeof(answer));
    if (whole)
        FUZZ_CHECK(strncmp(answer, "HTTP/1.1 ", 9) == 0);
    if (++site.calls % 64 == 0) {
        talk(health, sizeof(health) - 1, 60000, answer, sizeof(answer));
        FUZZ_CHECK(strstr(answer, " 200 "));
    }
    return 0;
}
