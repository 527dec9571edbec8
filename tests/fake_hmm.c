/*
 * A driver for linux:hmm without a kernel that has one: linked with --wrap, it answers where the
 * device files would be opened and commanded.  It reaches into the process that opened the file,
 * page by page, and keeps no translations; that a page is in its memory is only noted.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "hmm_driver.h"

#define PAGE 4096u
#define NODE "/dev/hmm_dmirror"

enum { NOTED = 16384 };

/* An open file, which any process may have. */
struct opened {
    pid_t pid;
    uint8_t here[NOTED]; /* by page number, modulo */
};

int __real_open(const char *path, int flags, ...);
int __real_access(const char *path, int mode);
int __real_ioctl(int fd, unsigned long code, void *argument);

int __wrap_access(const char *path, int mode)
{
    return strncmp(path, NODE, strlen(NODE)) ? __real_access(path, mode) : 0;
}

int __wrap_open(const char *path, int flags, ...)
{
    struct opened opened = {.pid = getpid()};
    va_list more;
    int fd, mode;

    va_start(more, flags);
    mode = va_arg(more, int);
    va_end(more);
    if (strncmp(path, NODE, strlen(NODE)))
        return __real_open(path, flags, mode);
    fd = memfd_create("fake-hmm", MFD_CLOEXEC);
    if (pwrite(fd, &opened, sizeof(opened), 0) != (ssize_t)sizeof(opened))
        abort();
    return fd;
}

static int transfer(const struct opened *file, int reads, uint64_t at, uint8_t *here)
{
    struct iovec local = {here, PAGE}, remote = {(void *)(uintptr_t)at, PAGE};
    ssize_t done = reads ? process_vm_readv(file->pid, &local, 1, &remote, 1, 0)
                         : process_vm_writev(file->pid, &local, 1, &remote, 1, 0);

    return done == PAGE ? 0 : EFAULT;
}

/* Where one page fails nothing is copied. */
static int read_all(const struct opened *file, const struct hmm_command *it)
{
    uint8_t *copy = malloc(it->pages * PAGE);
    int error = 0;

    for (uint64_t i = 0; i < it->pages && !error; i++)
        error = transfer(file, 1, it->address + i * PAGE, copy + i * PAGE);
    if (!error)
        memcpy((void *)(uintptr_t)it->data, copy, it->pages * PAGE);
    free(copy);
    return error;
}

static int write_all(const struct opened *file, const struct hmm_command *it)
{
    int error = 0;

    for (uint64_t i = 0; i < it->pages && !error; i++)
        error = transfer(file, 0, it->address + i * PAGE, (uint8_t *)it->data + i * PAGE);
    return error;
}

static int migrate(struct opened *file, const struct hmm_command *it, uint8_t here)
{
    uint8_t page[PAGE];

    for (uint64_t i = 0; i < it->pages; i++) {
        if (transfer(file, 1, it->address + i * PAGE, page))
            return EINVAL;
        file->here[(it->address / PAGE + i) % NOTED] = here;
    }
    return 0;
}

static int look(const struct opened *file, const struct hmm_command *it)
{
    uint8_t page[PAGE], *seen = (uint8_t *)it->data;

    for (uint64_t i = 0; i < it->pages; i++) {
        int error = transfer(file, 1, it->address + i * PAGE, page);
        int here = file->here[(it->address / PAGE + i) % NOTED];
        seen[i] = error ? HMM_SEEN_ERROR : here ? HMM_SEEN_HERE | HMM_SEEN_READ : HMM_SEEN_READ;
    }
    return 0;
}

static int obey(struct opened *file, unsigned long code, const struct hmm_command *it)
{
    if (it->address % PAGE || !it->pages)
        return EINVAL;
    switch (code) {
    case HMM_READ:
        return read_all(file, it);
    case HMM_WRITE:
        return write_all(file, it);
    case HMM_TO_DEVICE:
        return migrate(file, it, 1);
    case HMM_TO_SYSTEM:
        return migrate(file, it, 0);
    case HMM_SNAPSHOT:
        return look(file, it);
    case HMM_EXCLUSIVE:
        return read_all(file, it) ? EBUSY : 0;
    default:
        return 0;
    }
}

int __wrap_ioctl(int fd, unsigned long code, void *argument)
{
    struct opened file;
    int error;

    if (_IOC_TYPE(code) != 'H')
        return __real_ioctl(fd, code, argument);
    if (pread(fd, &file, sizeof(file), 0) != (ssize_t)sizeof(file))
        return errno = EBADF, -1;
    error = obey(&file, code, argument);
    if (pwrite(fd, &file, sizeof(file), 0) != (ssize_t)sizeof(file))
        abort();
    errno = error;
    return error ? -1 : 0;
}
