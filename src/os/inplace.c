/* inplace.c - files written in place and lock files. */
#define _GNU_SOURCE
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static om_status sys_fail(om_err *err, const char *what, const char *path)
{
    int e = errno;
    return fail(err, e == ENOENT ? OM_ENOTFOUND : OM_EIO, "cannot %s '%s': %s", what, path,
                strerror(e));
}

om_status os_open_rw(const char *path, int *fd, uint64_t *size, om_err *err)
{
    struct stat st;
    *size = 0;
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (*fd < 0)
        return sys_fail(err, "open", path);
    if (fstat(*fd, &st) != 0) {
        om_status s = sys_fail(err, "stat", path);
        os_close(*fd);
        *fd = -1;
        return s;
    }
    *size = (uint64_t)st.st_size;
    return OM_OK;
}

om_status os_pwrite(int fd, uint64_t offset, const void *p, size_t n, const char *path,
                    om_err *err)
{
    const char *src = p;
    while (n) {
        ssize_t w = pwrite(fd, src, n, (off_t)offset);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return sys_fail(err, "write", path);
        src += w;
        offset += (uint64_t)w;
        n -= (size_t)w;
    }
    return OM_OK;
}

om_status os_pread(int fd, uint64_t offset, void *p, size_t n, const char *path, om_err *err)
{
    char *dst = p;
    while (n) {
        ssize_t r = pread(fd, dst, n, (off_t)offset);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return sys_fail(err, "read", path);
        if (r == 0)
            return fail(err, OM_EIO, "'%s' ends at %llu, %zu bytes early", path,
                        (unsigned long long)offset, n);
        dst += r;
        offset += (uint64_t)r;
        n -= (size_t)r;
    }
    return OM_OK;
}

enum { DIRECT = 4096 }; /* what offset, size and memory of a direct read are multiples of */

om_status os_open_direct(const char *path, int *fd, om_err *err)
{
#ifdef O_DIRECT
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (*fd >= 0)
        return OM_OK;
#endif
    *fd = open(path, O_RDONLY | O_CLOEXEC); /* a file system in memory */
    return *fd >= 0 ? OM_OK : sys_fail(err, "open", path);
}

size_t os_direct_room(size_t n) { return size_align(n, DIRECT) + DIRECT; }

om_status os_read_direct(int fd, uint64_t offset, size_t n, uint8_t *room, const void **at,
                         const char *path, om_err *err)
{
    uint64_t from = offset / DIRECT * DIRECT;
    size_t before = (size_t)(offset - from), all = size_align(before + n, DIRECT), got = 0;
    *at = room + before;
    while (got < before + n) {
        ssize_t r = pread(fd, room + got, all - got, (off_t)(from + got));
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return sys_fail(err, "read", path);
        got += (size_t)r;
        if (got < before + n && (r == 0 || got % DIRECT)) /* only the file's end is ragged */
            return fail(err, OM_EIO, "'%s' ends at %llu, before %llu + %zu bytes", path,
                        (unsigned long long)(from + got), (unsigned long long)offset, n);
    }
    return OM_OK;
}

/* Starts the disk early, so that the sync that must be waited for is short. */
void os_sync_start(int fd, uint64_t offset, uint64_t n)
{
#ifdef __linux__
    sync_file_range(fd, (off_t)offset, (off_t)n, SYNC_FILE_RANGE_WRITE);
#else
    (void)fd, (void)offset, (void)n;
#endif
}

om_status os_sync(int fd, const char *path, om_err *err)
{
    return fdatasync(fd) == 0 ? OM_OK : sys_fail(err, "sync", path);
}

void os_close(int fd)
{
    if (fd >= 0)
        close(fd);
}

om_status os_lock_file(const char *path, int *fd, om_err *err)
{
    uint64_t size;
    TRY(os_open_rw(path, fd, &size, err));
    if (flock(*fd, LOCK_EX | LOCK_NB) == 0)
        return OM_OK;
    bool taken = errno == EWOULDBLOCK;
    om_status s = taken ? fail(err, OM_EEXIST, "'%s' is locked by another process", path)
                        : sys_fail(err, "lock", path);
    os_close(*fd);
    *fd = -1;
    return s;
}
