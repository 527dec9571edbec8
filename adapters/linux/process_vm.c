/*
 * linux:process_vm: the device is another process that reaches into the memory of the one that
 * it is attached to.  It keeps no translation of its own: every access asks the page tables.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "outside.h"

const char outside_name[] = "process_vm";
const char *const outside_note = NULL;

ssize_t outside_transfer(pid_t pid, int read, char *there, void *here, size_t size)
{
    struct iovec local = {here, size}, remote = {there, size};

    return read ? process_vm_readv(pid, &local, 1, &remote, 1, 0)
                : process_vm_writev(pid, &local, 1, &remote, 1, 0);
}

const char *outside_unavailable(pid_t pid)
{
    static char reason[128];
    uint64_t word = 0, copy = 0;

    if (outside_transfer(pid, 1, (char *)&word, &copy, sizeof(copy)) >= 0 &&
        outside_transfer(pid, 0, (char *)&word, &copy, sizeof(copy)) >= 0)
        return NULL;
    snprintf(reason, sizeof(reason), "process_vm_readv of a child: %s", strerror(errno));
    return reason;
}
