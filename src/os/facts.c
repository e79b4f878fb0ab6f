/* facts.c - time, entropy and what the machine is. */
#define _GNU_SOURCE
#include "os/os.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

uint64_t os_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t os_wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

void os_sleep_ms(uint64_t ms)
{
    struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    while (nanosleep(&t, &t) != 0 && errno == EINTR)
        ;
}

om_status os_entropy(void *p, size_t n, om_err *err)
{
    uint8_t *out = p;
    while (n) {
        ssize_t got = getrandom(out, size_min(n, 256), 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail(err, OM_EIO, "no entropy from the system: %s", strerror(errno));
        out += got;
        n -= (size_t)got;
    }
    return OM_OK;
}

uint64_t os_peak_rss_bytes(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (uint64_t)r.ru_maxrss * 1024u;
}

/* The number on the line of `path` that starts with `label` ("" = first line). */
static bool read_number(const char *path, const char *label, uint64_t *out)
{
    char line[256];
    FILE *f = fopen(path, "re");
    bool found = false;
    while (f && !found && fgets(line, sizeof(line), f)) {
        unsigned long long v;
        if (strncmp(line, label, strlen(label)) == 0 &&
            sscanf(line + strlen(label), "%llu", &v) == 1) {
            *out = v;
            found = true;
        }
    }
    if (f)
        fclose(f);
    return found;
}

/* Where the files of this process's memory group lie: /proc/self/cgroup says "0::PATH" of
 * the one hierarchy there is now, "N:memory:PATH" of the older kind. */
typedef struct {
    const char *root, *limit, *used, *stat_cache;
    char path[512];
} memory_group;

static bool find_group(memory_group *g)
{
    char line[640];
    FILE *f = fopen("/proc/self/cgroup", "re");
    bool found = false;
    while (f && fgets(line, sizeof(line), f)) {
        const char *v1 = strstr(line, ":memory:");
        bool v2 = strncmp(line, "0::", 3) == 0;
        if (!v1 && (!v2 || found))
            continue;
        *g = v1 ? (memory_group){"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                 "memory.usage_in_bytes", "total_cache ", {0}}
                : (memory_group){"/sys/fs/cgroup", "memory.max", "memory.current", "file ",
                                 {0}};
        const char *from = v1 ? v1 + 8 : line + 3;
        snprintf(g->path, sizeof(g->path), "%.*s", (int)strcspn(from, "\n"), from);
        found = true;
    }
    if (f)
        fclose(f);
    return found;
}

static bool group_number(const memory_group *g, const char *file, const char *label,
                         uint64_t *out)
{
    char path[700];
    snprintf(path, sizeof(path), "%s%s/%s", g->root, g->path, file);
    return read_number(path, label, out);
}

/* The smallest limit of our group and those around it, and the least that is left in one;
 * the cache of files gives way and does not count as used.  In a container the groups are
 * seen from inside, where the root's files are the container's. */
static void group_memory(uint64_t *limit, uint64_t *left)
{
    memory_group g;
    *limit = *left = UINT64_MAX;
    if (!find_group(&g))
        return;
    for (;;) {
        uint64_t most, used = 0, cache = 0;
        if (group_number(&g, g.limit, "", &most)) {
            group_number(&g, g.used, "", &used);
            group_number(&g, "memory.stat", g.stat_cache, &cache);
            used -= cache < used ? cache : used;
            uint64_t rest = used < most ? most - used : 0;
            *limit = most < *limit ? most : *limit;
            *left = rest < *left ? rest : *left;
        }
        char *up = strrchr(g.path, '/');
        if (!up)
            return;
        *up = '\0';
    }
}

uint64_t os_memory_bytes(void)
{
    uint64_t kib = 0, limit, left;
    group_memory(&limit, &left);
    read_number("/proc/meminfo", "MemTotal:", &kib);
    return kib * 1024 < limit ? kib * 1024 : limit;
}

uint64_t os_available_bytes(void)
{
    uint64_t kib = 0, limit, left;
    group_memory(&limit, &left);
    read_number("/proc/meminfo", "MemAvailable:", &kib);
    return kib * 1024 < left ? kib * 1024 : left;
}

int os_cpu_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

const char *os_cpu_name(char *out, size_t cap)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "re");
    snprintf(out, cap, "unknown");
    while (f && fgets(line, sizeof(line), f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            snprintf(out, cap, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (f)
        fclose(f);
    return out;
}
