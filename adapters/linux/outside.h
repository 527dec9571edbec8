/*
 * What a device outside of the process (outside.c) asks of the file that is linked with it.
 */
#ifndef LW_OUTSIDE_H
#define LW_OUTSIDE_H

#include <stddef.h>
#include <sys/types.h>

extern const char outside_name[];
/* A note for the description, or NULL. */
extern const char *const outside_note;

/* Read or write so many bytes at an address of that process: how many were done, or -1 with
 * errno, which is EFAULT where the process has nothing to access. */
ssize_t outside_transfer(pid_t pid, int read, char *there, void *here, size_t size);

/* Why this does not work, towards a child that was just forked and does nothing, or NULL. */
const char *outside_unavailable(pid_t pid);

#endif
