/* event.c - a bell between threads: a flag, a lock, a condition on the monotonic clock
 * (a set-back wall clock must not stretch a timeout). */
#include "os/os.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

struct os_event {
    pthread_mutex_t lock;
    pthread_cond_t rung;
    bool ringing;
};

om_status os_event_open(os_event **out, om_err *err)
{
    pthread_condattr_t attr;
    *out = mem_alloc(sizeof(**out));
    if (!*out)
        return fail(err, OM_ENOMEM, "no memory for an event");
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&(*out)->lock, NULL);
    pthread_cond_init(&(*out)->rung, &attr);
    pthread_condattr_destroy(&attr);
    return OM_OK;
}

void os_event_close(os_event *e)
{
    if (!e)
        return;
    pthread_cond_destroy(&e->rung);
    pthread_mutex_destroy(&e->lock);
    mem_free(e);
}

void os_event_ring(os_event *e)
{
    pthread_mutex_lock(&e->lock);
    e->ringing = true;
    pthread_cond_signal(&e->rung);
    pthread_mutex_unlock(&e->lock);
}

bool os_event_wait(os_event *e, uint64_t timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + timeout_ms % 1000 * 1000000;
    until.tv_sec += (time_t)(timeout_ms / 1000 + ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
    pthread_mutex_lock(&e->lock);
    int late = 0;
    while (!e->ringing && late != ETIMEDOUT)
        late = pthread_cond_timedwait(&e->rung, &e->lock, &until);
    bool rung = e->ringing;
    e->ringing = false;
    pthread_mutex_unlock(&e->lock);
    return rung;
}
