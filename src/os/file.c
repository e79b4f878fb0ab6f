/* file.c - files and maps.  Every failure names the path and the system's reason. */
#define _GNU_SOURCE
#include "os/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static om_status sys_fail(om_err *err, const char *what, const char *path)
{
    int e = errno;
    om_status s = e == ENOENT ? OM_ENOTFOUND : e == ENOMEM ? OM_ENOMEM : OM_EIO;
    return fail(err, s, "%s '%s': %s", what, path, strerror(e));
}

static om_status map_file(const char *path, int prot, int flags, os_map *out, om_err *err)
{
    struct stat st;
    *out = (os_map){(const uint8_t *)"", 0, -1};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return sys_fail(err, "cannot open", path);
    if (fstat(fd, &st) != 0) {
        close(fd);
        return sys_fail(err, "cannot stat", path);
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return fail(err, OM_EARG, "'%s' is not a regular file", path);
    }
    if (st.st_size == 0) {
        close(fd);
        return OM_OK;
    }
    void *p = mmap(NULL, (size_t)st.st_size, prot, flags, fd, 0);
    if (p == MAP_FAILED) {
        close(fd);
        return sys_fail(err, "cannot map", path);
    }
    *out = (os_map){p, (size_t)st.st_size, fd};
    return OM_OK;
}

om_status os_map_open(const char *path, os_map *out, om_err *err)
{
    return map_file(path, PROT_READ, MAP_SHARED, out, err);
}

om_status os_map_open_private(const char *path, os_map *out, om_err *err)
{
    return map_file(path, PROT_READ | PROT_WRITE, MAP_PRIVATE, out, err);
}

om_status os_map_part(int fd, uint64_t offset, size_t n, const char *path, os_map *out,
                      om_err *err)
{
    struct stat st;
    *out = (os_map){.fd_ = -1};
    if (n == 0 || fstat(fd, &st) != 0 || (uint64_t)st.st_size < offset ||
        (uint64_t)st.st_size - offset < n)
        return fail(err, OM_EIO, "'%s' ends before %llu + %zu bytes", path,
                    (unsigned long long)offset, n);
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    void *p = mmap(NULL, n, PROT_READ, MAP_SHARED, fd, (off_t)offset);
    if (own < 0 || p == MAP_FAILED) {
        if (own >= 0)
            close(own);
        return fail(err, OM_EIO, "cannot map '%s': %s", path, strerror(errno));
    }
    *out = (os_map){p, n, own};
    return OM_OK;
}

void os_map_fill(const os_map *m)
{
#ifdef MADV_POPULATE_READ
    if (m->fd_ >= 0 && m->n)
        madvise((void *)(uintptr_t)m->p, m->n, MADV_POPULATE_READ);
#else
    (void)m;
#endif
}

void os_map_forget(const void *p, size_t n)
{
#ifdef MADV_PAGEOUT /* writes back what was changed, so it is safe on any memory */
    uintptr_t page = 4096, beg = ((uintptr_t)p + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)p + n) & ~(page - 1);
    if (end > beg)
        madvise((void *)beg, end - beg, MADV_PAGEOUT);
#else
    (void)p, (void)n;
#endif
}

void os_map_close(os_map *m)
{
    if (m->fd_ >= 0 && m->n) {
        munmap((void *)(uintptr_t)m->p, m->n);
        close(m->fd_);
    }
    *m = (os_map){(const uint8_t *)"", 0, -1};
}

om_status os_read_file(const char *path, size_t max, buf *out, om_err *err)
{
    max = size_min(max, SIZE_MAX - 1);
    *out = buf_growing(max + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return sys_fail(err, "cannot open", path);
    for (;;) {
        size_t room = size_min(65536, max + 1 - out->len);
        om_status s = buf_reserve(out, room);
        if (s != OM_OK) {
            close(fd);
            buf_free(out);
            return fail(err, s, "'%s': %s", path, om_status_text(s));
        }
        ssize_t n = read(fd, out->data + out->len, room);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            sys_fail(err, "cannot read", path);
            close(fd);
            buf_free(out);
            return OM_EIO;
        }
        if (n == 0)
            break;
        out->len += (size_t)n;
        if (out->len > max) {
            close(fd);
            buf_free(out);
            return fail(err, OM_ELIMIT, "'%s' is larger than %zu bytes", path, max);
        }
    }
    close(fd);
    return OM_OK;
}

/* ---- atomic replacement --------------------------------------------------------- */

om_status os_fsync_dir(const char *path, om_err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return sys_fail(err, "cannot open folder", path);
    int bad = fsync(fd) != 0 && errno != EINVAL;
    om_status s = bad ? sys_fail(err, "cannot sync folder", path) : OM_OK;
    close(fd);
    return s;
}

static om_status fsync_parent(const char *path, om_err *err)
{
    char dir[4096] = ".";
    const char *slash = strrchr(path, '/');
    size_t n = slash ? size_max((size_t)(slash - path), 1) : 0; /* "/x" lies in "/" */
    if (n >= sizeof(dir))
        return fail(err, OM_ELIMIT, "path too long: %.80s...", path);
    if (n) {
        memcpy(dir, path, n);
        dir[n] = '\0';
    }
    return os_fsync_dir(dir, err);
}

om_status os_put_open(const char *path, os_put *f, om_err *err)
{
    *f = (os_put){.fd = -1};
    buf name = buf_growing(8192);
    om_status s = buf_fmt(&name, "%s.part", path);
    f->temp = s == OM_OK ? mem_strdup((str){(char *)name.data, name.len}) : NULL;
    f->path = mem_strdup(str_of(path));
    buf_free(&name);
    if (!f->temp || !f->path) {
        os_put_abort(f);
        return fail(err, OM_ENOMEM, "cannot prepare to write '%s'", path);
    }
    f->fd = open(f->temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (f->fd < 0) {
        s = sys_fail(err, "cannot create", f->temp);
        os_put_abort(f);
        return s;
    }
    return OM_OK;
}

om_status os_put_write(os_put *f, const void *p, size_t n, om_err *err)
{
    const char *src = p;
    while (n) {
        ssize_t w = write(f->fd, src, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return sys_fail(err, "cannot write", f->temp);
        src += w;
        n -= (size_t)w;
    }
    return OM_OK;
}

om_status os_put_at(os_put *f, uint64_t offset, const void *p, size_t n, om_err *err)
{
    const char *src = p;
    while (n) {
        ssize_t w = pwrite(f->fd, src, n, (off_t)offset);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return sys_fail(err, "cannot write", f->temp);
        src += w;
        offset += (uint64_t)w;
        n -= (size_t)w;
    }
    return OM_OK;
}

om_status os_put_commit(os_put *f, om_err *err)
{
    om_status s = OM_OK;
    if (fsync(f->fd) != 0)
        s = sys_fail(err, "cannot sync", f->temp);
    if (close(f->fd) != 0 && s == OM_OK)
        s = sys_fail(err, "cannot close", f->temp);
    f->fd = -1;
    if (s == OM_OK)
        s = os_rename(f->temp, f->path, err);
    if (s != OM_OK)
        unlink(f->temp);
    else
        s = fsync_parent(f->path, err);
    os_put_abort(f);
    return s;
}

om_status os_truncate(int fd, uint64_t size, const char *path, om_err *err)
{
    return ftruncate(fd, (off_t)size) == 0 ? OM_OK : sys_fail(err, "cannot shorten", path);
}

void os_put_abort(os_put *f)
{
    if (f->fd >= 0) {
        close(f->fd);
        unlink(f->temp);
    }
    mem_free(f->temp);
    mem_free(f->path);
    *f = (os_put){.fd = -1};
}

om_status os_write_file_atomic(const char *path, const void *p, size_t n, om_err *err)
{
    os_put f;
    TRY(os_put_open(path, &f, err));
    om_status s = os_put_write(&f, p, n, err);
    if (s != OM_OK) {
        os_put_abort(&f);
        return s;
    }
    return os_put_commit(&f, err);
}

om_status os_append(const char *path, const void *p, size_t n, om_err *err)
{
    struct stat before = {0};
    os_put f = {.fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)};
    if (f.fd < 0)
        return sys_fail(err, "cannot open", path);
    f.temp = (char *)(uintptr_t)path; /* named in the message only */
    om_status s = fstat(f.fd, &before) == 0 ? os_put_write(&f, p, n, err)
                                            : sys_fail(err, "cannot stat", path);
    /* a full disk must not leave half a record; a device cannot be cut, nor need be */
    if (s != OM_OK && S_ISREG(before.st_mode) && ftruncate(f.fd, before.st_size) != 0)
        s = sys_fail(err, "cannot take back a part written to", path);
    close(f.fd);
    return s;
}

/* ---- names ------------------------------------------------------------------------ */

om_status os_mkdirs(const char *path, om_err *err)
{
    char part[4096];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof(part))
        return fail(err, OM_EARG, "cannot make folder '%.80s': bad length", path);
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (part[i] != '/' && part[i] != '\0')
            continue;
        char kept = part[i];
        part[i] = '\0';
        if (mkdir(part, 0755) != 0 && errno != EEXIST)
            return sys_fail(err, "cannot make folder", part);
        part[i] = kept;
    }
    return os_is_dir(path) ? OM_OK : fail(err, OM_EIO, "'%s' is not a folder", path);
}

om_status os_rename(const char *from, const char *to, om_err *err)
{
    return rename(from, to) == 0 ? OM_OK : sys_fail(err, "cannot rename to", to);
}

om_status os_remove(const char *path, om_err *err)
{
    return unlink(path) == 0 || errno == ENOENT ? OM_OK
                                                : sys_fail(err, "cannot remove", path);
}

bool os_exists(const char *path) { return access(path, F_OK) == 0; }

bool os_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

om_status os_file_size(const char *path, uint64_t *out, om_err *err)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return sys_fail(err, "cannot stat", path);
    *out = (uint64_t)st.st_size;
    return OM_OK;
}

static int not_dots(const struct dirent *e)
{
    return strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
}

om_status os_list_dir(const char *path,
                      om_status (*fn)(void *ctx, const char *name, om_err *err), void *ctx,
                      om_err *err)
{
    struct dirent **list;
    int n = scandir(path, &list, not_dots, alphasort);
    if (n < 0)
        return sys_fail(err, "cannot list folder", path);
    om_status s = OM_OK;
    for (int i = 0; i < n; i++) {
        if (s == OM_OK)
            s = fn(ctx, list[i]->d_name, err);
        free(list[i]);
    }
    free(list);
    return s;
}

om_status os_join(char *out, size_t cap, const char *dir, const char *name)
{
    int n = snprintf(out, cap, "%s/%s", dir, name);
    return n >= 0 && (size_t)n < cap ? OM_OK : OM_ELIMIT;
}
