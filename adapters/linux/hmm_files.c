/*
 * A file is opened by the process that the device is attached to, which also does the immediate
 * operations.  Whoever else needs it takes it from there: the device's own process for jobs, and
 * the coordinator once the process has exited.
 *
 * To close a file is slow, since the driver then walks all of its memory.  So a device without
 * pages of the arena in its memory is detached without that: its process keeps the file for when
 * it is attached again, the first process also for the next program.  Files that other processes
 * have open at the end of a program are closed together when there are many, the driver's memory
 * first.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "hmm.h"
#include "hmm_driver.h"
#include "process.h"

/* What the coordinator, or a process, asks of the device's own process. */
enum { CALL_KEEP = 1, CALL_DROP };

enum { OLD_FILES = 64 };

/* The files of this process. */
static struct {
    int fd; /* 0: none */
    uint32_t opened;
} held[DEVICES];

static struct device *device_of(unsigned number)
{
    return &mirror.control->devices[number];
}

static void let_go(unsigned number)
{
    if (held[number].fd)
        close(held[number].fd);
    held[number].fd = 0;
    if (mirror.self == SERVER)
        device_of(number)->kept = 0;
}

/* The file of the device as it is attached now. */
int hmm_file(unsigned number)
{
    struct device *device = device_of(number);

    if (held[number].fd && held[number].opened == device->opened)
        return held[number].fd;
    let_go(number);
    held[number].fd = files_take(device->holder, device->file);
    if (held[number].fd < 0)
        process_fatal("taking the file of a device");
    held[number].opened = device->opened;
    if (mirror.self == SERVER)
        device->kept = 1;
    return held[number].fd;
}

/* From now on it is this process that others take the file from. */
static void offer(unsigned number)
{
    struct device *device = device_of(number);

    device->file = held[number].fd;
    device->holder = getpid();
}

static void serve_call(unsigned number, unsigned call)
{
    if (call == CALL_DROP) {
        let_go(number);
    } else {
        hmm_file(number);
        offer(number);
    }
}

static void drop(unsigned number)
{
    let_go(number);
    if (device_of(number)->kept)
        server_call(number, CALL_DROP);
}

/* Files of processes that are about to end. */
static struct {
    int fds[OLD_FILES];
    unsigned char devices[OLD_FILES];
    unsigned count;
} old;

static void close_old(void)
{
    unsigned released = 0;

    while (old.count) {
        unsigned last = --old.count, bit = 1u << old.devices[last];
        if (!(released & bit))
            hmm_do(old.fds[last], HMM_RELEASE, mirror.arena, 1, NULL);
        released |= bit;
        close(old.fds[last]);
    }
}

/* Before the process that it belongs to ends, and closes it. */
static void put_off_closing(unsigned number)
{
    if (old.count == OLD_FILES)
        close_old();
    old.devices[old.count] = (unsigned char)number;
    old.fds[old.count++] = hmm_file(number);
    held[number].fd = 0;
}

/* Both devices may be one to the driver, each with a file of its own. */
void hmm_node(unsigned number, char *path, size_t size)
{
    snprintf(path, size, "/dev/hmm_dmirror%u", getenv("LASTWRITER_ONE_NODE") ? 0 : number);
}

static int open_file(unsigned number)
{
    char path[32];

    hmm_node(number, path, sizeof(path));
    return open(path, O_RDWR | O_CLOEXEC);
}

void device_attach(const lw_operation *op, lw_outcome *outcome)
{
    unsigned number = op->device;

    if (!held[number].fd) {
        int fd = open_file(number);
        if (fd < 0) {
            answer(outcome, LW_STATUS_ERROR, errno);
            return;
        }
        held[number].fd = fd;
        hmm_touch_buffers();
    }
    held[number].opened = ++device_of(number)->opened;
    device_of(number)->owner = (uint8_t)mirror.self;
    offer(number);
}

/* The last to close the file brings the pages home. */
void device_detach(const lw_operation *op, lw_outcome *outcome)
{
    struct device *device = device_of(op->device);

    (void)outcome;
    if (mirror.self == COORDINATOR || hmm_has_pages(op->device)) {
        drop(op->device);
        device->owner = 0;
    }
}

/* ---- Life ---- */

int device_start(void)
{
    hmm_touch_buffers();
    return server_start(serve_call);
}

void device_quiesce(void)
{
    server_quiesce();
    for (unsigned d = 0; d < DEVICES; d++) {
        unsigned owner = device_of(d)->owner;
        if (owner > 1 || (owner == 1 && !process_alive(0)))
            put_off_closing(d);
        drop(d);
        device_of(d)->owner = 0;
    }
}

void device_reset(void)
{
}

void device_parent(void)
{
}

void device_forked(void)
{
    for (unsigned d = 0; d < DEVICES; d++)
        let_go(d);
}

/* A device stays attached to a process that has exited. */
void device_leaving(void)
{
    for (unsigned d = 0; d < DEVICES; d++)
        if (device_of(d)->attached == mirror.self)
            server_call(d, CALL_KEEP);
        else if (device_of(d)->owner == mirror.self)
            device_of(d)->owner = 0;
}
