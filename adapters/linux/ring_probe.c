/*
 * What io_uring can do here, and what devices that are made of it cannot.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process.h"
#include "ring.h"

static const char *disabled(void)
{
    char value = '0';
    int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);

    if (fd >= 0) {
        if (read(fd, &value, 1) < 0)
            value = '0';
        close(fd);
    }
    return value == '0' ? "" : " (kernel.io_uring_disabled is not 0)";
}

/* Registers a buffer of this many bytes for each key; exits with what went wrong. */
static void try_buffers(unsigned size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (at == MAP_FAILED || ring_open(0, KEYS) < 0)
        _exit(errno);
    for (unsigned buffer = 0; buffer < KEYS; buffer++)
        if (ring_update(0, buffer, at, size) < 0)
            _exit(errno);
}

/* 0 or an errno.  In a process that ends, so that no pins stay. */
static int error_of_pinning(unsigned size)
{
    int status = 0;
    pid_t pid = process_helper(try_buffers, size);

    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD;
}

int ring_can_pin(unsigned size)
{
    return error_of_pinning(size) == 0;
}

const char *device_unavailable(void)
{
    static char reason[128];
    struct rlimit limit;
    int error;

    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_MEMLOCK, &limit);
    }
    error = error_of_pinning(16 * SMALL_PAGE);
    if (!error)
        return NULL;
    snprintf(reason, sizeof(reason), "registering buffers with io_uring: %s%s", strerror(error),
             error == ENOMEM ? " (see ulimit -l)" : disabled());
    return reason;
}

const char *device_lacks(unsigned kind)
{
    if (kind == LW_DADD || kind == LW_DCAS)
        return "io_uring has no atomic operations on buffers";
    return keyed_device_lacks(kind) ? keyed_device_lacks(kind) : pins_lack(kind);
}
