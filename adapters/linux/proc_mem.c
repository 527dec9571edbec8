/*
 * linux:proc_mem: the device is another process that uses /proc/PID/mem.  That is a door for
 * debuggers: it follows the page tables as process_vm does, but reads what may not be read and
 * writes what may not be written (into private memory, by a copy), so it is no correct mirror.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "outside.h"
#include "process.h"

const char outside_name[] = "proc_mem";
const char *const outside_note = "a negative control: it must fail H3";

/* The kernel says EIO where nothing is mapped. */
ssize_t outside_transfer(pid_t pid, int read, char *there, void *here, size_t size)
{
    char path[32];
    int fd, error;
    ssize_t done;

    snprintf(path, sizeof(path), "/proc/%d/mem", pid);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -1;
    done = read ? pread(fd, here, size, (off_t)(uintptr_t)there)
                : pwrite(fd, here, size, (off_t)(uintptr_t)there);
    error = errno == EIO ? EFAULT : errno;
    close(fd);
    errno = error;
    return done;
}

/* Some kernels can be told to obey protections here, too. */
const char *outside_unavailable(pid_t pid)
{
    static char reason[128];
    static const char constant[WORD] = "constant";
    char *there = (char *)(uintptr_t)constant;
    char copy[WORD];

    if (outside_transfer(pid, 1, there, copy, WORD) != WORD)
        snprintf(reason, sizeof(reason), "/proc/PID/mem of a child: %s", strerror(errno));
    else if (outside_transfer(pid, 0, there, copy, WORD) != WORD)
        snprintf(reason, sizeof(reason), "this kernel's /proc/PID/mem obeys protections");
    return *reason ? reason : NULL;
}
