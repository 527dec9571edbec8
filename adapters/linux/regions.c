/*
 * Keys, accesses and jobs of registration mirrors whose pins a file of the kernel's holds.
 *
 * Everything is done in the process that the device is attached to, a job within its submission.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "process.h"
#include "regions.h"

const unsigned disk_files = 0; /* there are none in the machine */
const uint32_t write_unit = WORD;
const uint32_t atomicity = WORD;

static struct region regions[DEVICES][KEYS];

struct region *region_of(unsigned device, unsigned key)
{
    return &regions[device][key];
}

/* ---- Accesses ---- */

static int allows(const struct region *region, const lw_operation *op)
{
    char *at = page_address(op->page) + op->offset;
    unsigned right = is_read(op->kind) ? LW_FLAG_READ : LW_FLAG_WRITE;

    return region->rights & right && at >= region->at &&
           at + op->length <= region->at + region->size;
}

static int copy(const lw_operation *op, uint8_t *data)
{
    unsigned key = op->key - 1u;

    if (!op->key || (!regions_guarded && !allows(region_of(op->device, key), op)))
        return EFAULT;
    return region_copy(op->device, key, page_address(op->page) + op->offset, data, op->length,
                       !is_read(op->kind));
}

void device_access(const lw_operation *op, size_t at, lw_outcome *outcome)
{
    int error = mirror.self == COORDINATOR ? ESRCH : copy(op, mirror.shared + at);

    if (!error)
        outcome->done = op->length;
    else
        answer(outcome, error == EFAULT ? LW_STATUS_FAULT : LW_STATUS_ERROR, error);
}

void device_submit(unsigned device, struct job *job)
{
    job_perform(device, job);
    job->state = JOB_DONE;
}

void device_wait(unsigned device, struct job *job)
{
    (void)device;
    (void)job;
}

/* ---- Keys ---- */

static int pin(const lw_operation *op, struct region *region)
{
    struct region wanted = {.rights = op->flags & (LW_FLAG_READ | LW_FLAG_WRITE),
                            .at = page_address(op->page),
                            .size = page_bytes(op->pages)};
    int error;

    if (region->rights)
        return EEXIST;
    error = region_pin(op->device, op->key - 1u, &wanted);
    if (!error)
        *region = wanted;
    return error;
}

void device_register(const lw_operation *op, lw_outcome *outcome)
{
    struct region *region = region_of(op->device, op->key - 1u);
    int error = mirror.self == COORDINATOR ? ESRCH : pin(op, region);

    if (error)
        answer(outcome, error == EOPNOTSUPP ? LW_STATUS_UNSUPPORTED : LW_STATUS_ERROR, error);
}

static int unpin(unsigned device, unsigned key)
{
    struct region *region = region_of(device, key);
    int error = region->rights ? region_unpin(device, key) : EINVAL;

    if (!error)
        region->rights = 0;
    return error;
}

void device_unregister(const lw_operation *op, lw_outcome *outcome)
{
    int error = mirror.self == COORDINATOR ? ESRCH : unpin(op->device, op->key - 1u);

    if (error)
        answer(outcome, LW_STATUS_ERROR, error);
}

static void unpin_all(unsigned device)
{
    for (unsigned key = 0; key < region_keys; key++)
        if (region_of(device, key)->rights && (errno = unpin(device, key)))
            process_fatal("dropping a registration");
}

/* ---- Life ---- */

unsigned device_owner(const lw_operation *op)
{
    return owner_of_process(op);
}

void device_attach(const lw_operation *op, lw_outcome *outcome)
{
    if (region_open(op->device) < 0)
        answer(outcome, LW_STATUS_ERROR, errno);
}

void device_detach(const lw_operation *op, lw_outcome *outcome)
{
    (void)outcome;
    if (mirror.self != COORDINATOR)
        unpin_all(op->device);
}

void device_reset(void)
{
    for (unsigned d = 0; d < DEVICES; d++)
        unpin_all(d);
}

void device_parent(void)
{
}

void device_forked(void)
{
    for (unsigned d = 0; d < DEVICES; d++)
        region_forget(d);
    memset(regions, 0, sizeof(regions));
}

void device_leaving(void)
{
}

int device_start(void)
{
    return region_start();
}

void device_quiesce(void)
{
}

/* ---- What they are ---- */

const char *region_unavailable(const char *what)
{
    static char reason[96];

    snprintf(reason, sizeof(reason), "%s: %s", what, strerror(errno));
    return reason;
}

const char *device_lacks(unsigned kind)
{
    if (region_lacks(kind))
        return region_lacks(kind);
    if (kind == LW_DADD || kind == LW_DCAS)
        return "the driver has no atomic operations";
    return keyed_device_lacks(kind);
}
