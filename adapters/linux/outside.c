/*
 * Devices outside of the process that they are attached to, and without state in it.
 *
 * Immediate accesses are made by the coordinator, jobs by a process of the device's own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "outside.h"
#include "process.h"

const unsigned device_count = DEVICES;
const unsigned disk_files = 2;
const uint32_t write_unit = WORD;
const uint32_t atomicity = 1; /* the kernel may copy with "rep movsb" */

/* The kernel stops at the first page that it cannot reach: what it did before is a prefix, and
 * only if there is none does it say why. */
void device_access(const lw_operation *op, size_t at, lw_outcome *outcome)
{
    unsigned process = mirror.control->devices[op->device].attached - 1u;
    ssize_t done = outside_transfer(mirror.control->pids[process], is_read(op->kind),
                                    page_address(op->page) + op->offset, mirror.shared + at,
                                    op->length);

    if (done < 0 && errno != EFAULT) {
        answer(outcome, LW_STATUS_ERROR, errno);
        return;
    }
    outcome->done = done < 0 ? 0 : (uint32_t)done;
    if (outcome->done < op->length)
        answer(outcome, LW_STATUS_FAULT, EFAULT);
}

/* ---- The device's own process ---- */

void device_submit(unsigned number, struct job *job)
{
    server_submit(number, job);
}

void device_wait(unsigned number, struct job *job)
{
    (void)number;
    server_wait(job);
}

void device_quiesce(void)
{
    server_quiesce();
}

int device_start(void)
{
    return server_start(NULL);
}

/* ---- No state in the processes, no keys ---- */

unsigned device_owner(const lw_operation *op)
{
    (void)op;
    return COORDINATOR;
}

void device_attach(const lw_operation *op, lw_outcome *outcome)
{
    (void)op;
    (void)outcome;
}

void device_detach(const lw_operation *op, lw_outcome *outcome)
{
    (void)op;
    (void)outcome;
}

void device_register(const lw_operation *op, lw_outcome *outcome)
{
    (void)op;
    answer(outcome, LW_STATUS_UNSUPPORTED, ENOSYS);
}

void device_unregister(const lw_operation *op, lw_outcome *outcome)
{
    device_register(op, outcome);
}

void device_reset(void)
{
}

void device_parent(void)
{
}

void device_forked(void)
{
}

void device_leaving(void)
{
}

/* ---- What it is ---- */

_Noreturn static void do_nothing(unsigned unused)
{
    (void)unused;
    for (;;)
        pause();
}

/* Whether it works, and is allowed towards a child (seccomp, Yama). */
const char *device_unavailable(void)
{
    static char reason[160];
    const char *why = NULL;
    pid_t pid = process_helper(do_nothing, 0);

    if (pid < 0)
        return "fork failed";
    why = outside_unavailable(pid);
    if (why)
        snprintf(reason, sizeof(reason), "%s", why);
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    return *reason ? reason : NULL;
}

const char *device_lacks(unsigned kind)
{
    switch (kind) {
    case LW_DADD:
    case LW_DCAS:
        return "such a device has no atomic operations";
    case LW_FAULT:
        return "such a device has no way to fault pages in without an access";
    default:
        return keyless_device_lacks(kind);
    }
}

void device_describe(void)
{
    describe("\"name\":\"linux:%s\",\"model\":\"faulting\",\"keyed\":false,\"keys\":0,"
             "\"page_sizes\":[4096,65536,%lu],", outside_name, HUGE_PAGE);
}

void device_notes(void)
{
    describe_note(outside_note);
    describe_note("immediate accesses come from the coordinator, jobs from a process per device");
}
