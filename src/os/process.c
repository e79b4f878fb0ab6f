/* process.c - other programs: start, listen to, stop, and never leave behind.
 *
 * A child gets SIGTERM from the kernel when we die, whatever the reason.  Between fork
 * and exec only calls that are safe there are made. */
#define _GNU_SOURCE
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

om_status os_exe_path(char *out, size_t cap, om_err *err)
{
    ssize_t n = readlink("/proc/self/exe", out, cap - 1);
    if (n <= 0)
        return fail(err, OM_EIO, "cannot tell where this program lies: %s", strerror(errno));
    out[n] = '\0';
    return OM_OK;
}

om_status os_absolute(const char *path, char *out, size_t cap, om_err *err)
{
    char full[PATH_MAX];
    if (!realpath(path, full))
        return fail(err, errno == ENOENT ? OM_ENOTFOUND : OM_EIO, "cannot find '%s': %s", path,
                    strerror(errno));
    size_t n = strlen(full);
    if (n >= cap)
        return fail(err, OM_ELIMIT, "the path of '%.80s' is too long", path);
    memcpy(out, full, n + 1);
    return OM_OK;
}

static void become(const char *const *argv, int out, int log)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    dup2(out, 1);
    dup2(log, 2);
    int null = open("/dev/null", O_RDONLY);
    if (null >= 0)
        dup2(null, 0);
    execv(argv[0], (char *const *)(uintptr_t)argv);
    _Exit(127);
}

om_status os_spawn(const char *const *argv, const char *log_path, os_child *out, om_err *err)
{
    int ends[2];
    *out = (os_child){.pid = -1, .out = -1};
    int log = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log < 0)
        return fail(err, OM_EIO, "cannot open '%s': %s", log_path, strerror(errno));
    if (pipe2(ends, O_CLOEXEC) != 0) {
        close(log);
        return fail(err, OM_EIO, "cannot make a pipe: %s", strerror(errno));
    }
    pid_t pid = fork();
    if (pid == 0)
        become(argv, ends[1], log);
    close(log);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return fail(err, OM_EIO, "cannot start '%s': %s", argv[0], strerror(errno));
    }
    *out = (os_child){.pid = pid, .out = ends[0]};
    return OM_OK;
}

om_status os_child_line(os_child *c, char *line, size_t cap, int wait_ms, om_err *err)
{
    for (;;) {
        char *end = memchr(c->pending, '\n', c->n_pending);
        if (end) {
            size_t n = (size_t)(end - c->pending), keep = size_min(n, cap - 1);
            memcpy(line, c->pending, keep);
            line[keep] = '\0';
            c->n_pending -= n + 1;
            memmove(c->pending, end + 1, c->n_pending);
            return OM_OK;
        }
        if (c->n_pending == sizeof(c->pending))
            return fail(err, OM_ELIMIT, "the other program printed too long a line");
        struct pollfd p = {.fd = c->out, .events = POLLIN};
        int ready = poll(&p, 1, wait_ms);
        if (ready == 0 || (ready < 0 && errno == EINTR))
            return OM_EAGAIN;
        ssize_t n = read(c->out, c->pending + c->n_pending, sizeof(c->pending) - c->n_pending);
        if (n <= 0)
            return fail(err, OM_ENOTFOUND, "the other program has ended");
        c->n_pending += (size_t)n;
    }
}

bool os_child_ended(os_child *c, int *status)
{
    int how = 0;
    if (c->pid < 0)
        return true;
    if (waitpid((pid_t)c->pid, &how, WNOHANG) != c->pid)
        return false;
    *status = WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
    c->pid = -1;
    return true;
}

void os_child_close(os_child *c, uint64_t patience_ms)
{
    int status;
    uint64_t until = os_now_ns() + patience_ms * 1000000u;
    if (c->pid > 0)
        kill((pid_t)c->pid, SIGTERM);
    while (c->pid > 0 && !os_child_ended(c, &status)) {
        if (os_now_ns() > until)
            kill((pid_t)c->pid, SIGKILL);
        os_sleep_ms(5);
    }
    if (c->out >= 0)
        close(c->out);
    *c = (os_child){.pid = -1, .out = -1};
}
