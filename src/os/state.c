/* state.c - state as large as a model, in a mapped file.
 *
 * The blocks are allocated before the map is used: writing through a map into a hole of
 * a full disk would be a SIGBUS, and there is no error path out of a store. */
#define _GNU_SOURCE
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

static om_status create_anonymous(size_t n, os_state *out, om_err *err)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *p = mmap(NULL, n ? n : 1, PROT_READ | PROT_WRITE, flags, -1, 0);
    *out = (os_state){.fd_ = -1};
    if (p == MAP_FAILED)
        return fail(err, OM_ENOMEM, "cannot reserve %zu bytes of memory", n);
    *out = (os_state){p, n ? n : 1, -1};
    return OM_OK;
}

om_status os_state_create(const char *path, size_t n, os_state *out, om_err *err)
{
    if (!path)
        return create_anonymous(n, out, err);
    *out = (os_state){.fd_ = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
    if (out->fd_ < 0)
        return fail(err, OM_EIO, "cannot create '%s': %s", path, strerror(errno));
    int e = n ? posix_fallocate(out->fd_, 0, (off_t)n) : EINVAL;
    void *p = MAP_FAILED;
    if (e == 0) {
        p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, out->fd_, 0);
        e = p == MAP_FAILED ? errno : 0;
    }
    if (e != 0) {
        close(out->fd_);
        unlink(path);
        *out = (os_state){.fd_ = -1};
        return fail(err, e == ENOMEM ? OM_ENOMEM : OM_EIO,
                    "cannot allocate %zu bytes in '%s': "
                    "%s",
                    n, path, strerror(e));
    }
    out->p = p;
    out->n = n;
    return OM_OK;
}

om_status os_state_sync(os_state *s, om_err *err)
{
    if (msync(s->p, s->n, MS_SYNC) != 0 || fsync(s->fd_) != 0)
        return fail(err, OM_EIO, "cannot sync a state of %zu bytes: %s", s->n,
                    strerror(errno));
    return OM_OK;
}

void os_state_release(os_state *s) { madvise(s->p, s->n, MADV_DONTNEED); }

void os_state_release_part(os_state *s, const void *p, size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), from = (size_t)((const uint8_t *)p - s->p);
    size_t beg = size_align(from, page), end = (from + n) & ~(page - 1);
    if (end > beg)
        madvise(s->p + beg, end - beg, MADV_DONTNEED);
}

void os_state_close(os_state *s)
{
    if (s->p) {
        munmap(s->p, s->n);
        os_close(s->fd_);
    }
    *s = (os_state){.fd_ = -1};
}
