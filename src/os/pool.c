/* pool.c - worker threads for data-parallel loops, and single threads for servers.
 *
 * A job is cut into ceil(n/grain) chunks taken from one atomic counter.  Workers
 * spin for a short while before sleeping on a condition variable, because a training
 * step or a token is hundreds of small jobs in a row and waking a sleeper costs more
 * than the job.  A job ends when its chunks are done and no worker is inside: one that
 * wakes too late finds the door shut and is not waited for, which matters when there are
 * fewer processors than threads.  A worker counts itself in before it looks at the door
 * and the caller shuts the door before it looks at the count, so one of them sees the
 * other.  Chunk boundaries depend on n and grain alone: no result can depend
 * on the number of threads. */
#define _GNU_SOURCE
#include "os/os.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

enum { SPINS = 4000 /* some 20 to 100 microseconds */, REST_NS = 50000 };

struct pool {
    int n_threads;
    int n_started;
    pthread_t *thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_uint generation; /* odd/even irrelevant: changes when a job is posted */
    atomic_int sleeping;
    atomic_bool open;       /* chunks may be taken */
    atomic_int active;      /* workers between looking at `open` and their last chunk */
    atomic_bool quit;
    atomic_int spins;
    size_t n_items, grain, n_chunks;
    atomic_size_t next;
    pool_fn *fn;
    void *ctx;
};

typedef struct {
    pool *p;
    int worker;
} start;

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void take_chunks(pool *p, int worker)
{
    for (;;) {
        size_t c = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (c >= p->n_chunks)
            return;
        size_t beg = c * p->grain;
        p->fn(p->ctx, beg, size_min(beg + p->grain, p->n_items), worker);
    }
}

/* Wait until the generation differs from `seen`; returns the new one. */
static unsigned await_job(pool *p, unsigned seen)
{
    int spins = atomic_load_explicit(&p->spins, memory_order_relaxed);
    for (int i = 0; i < spins; i++) {
        unsigned g = atomic_load_explicit(&p->generation, memory_order_acquire);
        if (g != seen)
            return g;
        relax();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleeping, 1);
    while (atomic_load(&p->generation) == seen)
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleeping, 1);
    pthread_mutex_unlock(&p->lock);
    return atomic_load(&p->generation);
}

static void *work(void *arg)
{
    start s = *(start *)arg;
    mem_free(arg);
    unsigned seen = 0;
    for (;;) {
        seen = await_job(s.p, seen);
        if (atomic_load(&s.p->quit))
            return NULL;
        atomic_fetch_add(&s.p->active, 1);
        if (atomic_load(&s.p->open))
            take_chunks(s.p, s.worker);
        atomic_fetch_sub(&s.p->active, 1);
    }
}

static void post(pool *p)
{
    atomic_fetch_add(&p->generation, 1);
    if (atomic_load(&p->sleeping)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
}

om_status pool_open(int n_threads, pool **out, om_err *err)
{
    *out = NULL;
    if (n_threads == 0)
        n_threads = os_cpu_count();
    if (n_threads < 1 || n_threads > 1024)
        return fail(err, OM_EARG, "threads is %d; it must lie between 1 and 1024", n_threads);
    pool *p = mem_alloc(sizeof(*p));
    if (p)
        p->thread = mem_array((size_t)n_threads, sizeof(*p->thread));
    if (!p || !p->thread) {
        mem_free(p);
        return fail(err, OM_ENOMEM, "no memory for %d threads", n_threads);
    }
    p->n_threads = n_threads;
    atomic_init(&p->spins, SPINS);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    for (int i = 1; i < n_threads; i++) {
        start *s = mem_alloc(sizeof(*s));
        if (s)
            *s = (start){p, i};
        if (!s || pthread_create(&p->thread[p->n_started], NULL, work, s) != 0) {
            mem_free(s);
            pool_close(p);
            return fail(err, OM_ENOMEM, "could not start thread %d of %d", i + 1, n_threads);
        }
        p->n_started++;
    }
    *out = p;
    return OM_OK;
}

void pool_close(pool *p)
{
    if (!p)
        return;
    atomic_store(&p->quit, true);
    post(p);
    for (int i = 0; i < p->n_started; i++)
        pthread_join(p->thread[i], NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    mem_free(p->thread);
    mem_free(p);
}

int pool_threads(const pool *p) { return p ? p->n_threads : 1; }

void pool_rest(pool *p) { atomic_store(&p->spins, 0); }

static void await_workers(pool *p)
{
    int spins = atomic_load_explicit(&p->spins, memory_order_relaxed);
    for (int i = 0; atomic_load(&p->active) > 0; i++) {
        relax();
        if (!spins) {
            nanosleep(&(struct timespec){0, REST_NS}, NULL);
        } else if (i > spins) { /* fewer cores than threads: let the others run */
            sched_yield();
            i = 0;
        }
    }
}

void pool_run(pool *p, size_t n_items, size_t grain, pool_fn *fn, void *ctx)
{
    if (n_items == 0)
        return;
    grain = size_max(grain, 1);
    if (!p || p->n_started == 0 || n_items <= grain) {
        for (size_t beg = 0; beg < n_items; beg += grain)
            fn(ctx, beg, size_min(beg + grain, n_items), 0);
        return;
    }
    p->n_items = n_items;
    p->grain = grain;
    p->n_chunks = (n_items + grain - 1) / grain;
    p->fn = fn;
    p->ctx = ctx;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store(&p->open, true);
    post(p);
    take_chunks(p, 0);
    atomic_store(&p->open, false);
    await_workers(p);
}

/* ---- one thread, one lock ---------------------------------------------------------- */

struct os_thread {
    pthread_t id;
    void (*fn)(void *);
    void *ctx;
};
struct os_mutex {
    pthread_mutex_t m;
};

static void *thread_main(void *arg)
{
    os_thread *t = arg;
    t->fn(t->ctx);
    return NULL;
}

om_status os_thread_start(os_thread **out, void (*fn)(void *), void *ctx, om_err *err)
{
    os_thread *t = mem_alloc(sizeof(*t));
    *out = NULL;
    if (t)
        *t = (os_thread){.fn = fn, .ctx = ctx};
    if (!t || pthread_create(&t->id, NULL, thread_main, t) != 0) {
        mem_free(t);
        return fail(err, OM_ENOMEM, "could not start a thread");
    }
    *out = t;
    return OM_OK;
}

void os_thread_join(os_thread *t)
{
    if (!t)
        return;
    pthread_join(t->id, NULL);
    mem_free(t);
}

om_status os_mutex_open(os_mutex **out, om_err *err)
{
    *out = mem_alloc(sizeof(**out));
    if (!*out)
        return fail(err, OM_ENOMEM, "no memory for a lock");
    pthread_mutex_init(&(*out)->m, NULL);
    return OM_OK;
}

void os_mutex_close(os_mutex *m)
{
    if (!m)
        return;
    pthread_mutex_destroy(&m->m);
    mem_free(m);
}

void os_lock(os_mutex *m) { pthread_mutex_lock(&m->m); }
void os_unlock(os_mutex *m) { pthread_mutex_unlock(&m->m); }
