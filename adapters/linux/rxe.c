/*
 * linux:hmm/rxe: the device is RDMA in software, drivers/infiniband/sw/rxe.  A registration is a
 * memory region of the process, which the driver pins, and an access is an RDMA READ or WRITE of
 * it, from one queue pair of the process to another one.
 *
 * In the region a page has the address that it has in the arena.  So the kernel itself knows
 * which keys live, what they cover and what they allow.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <rdma/ib_user_ioctl_verbs.h>
#include <string.h>

#include "process.h"
#include "regions.h"
#include "rxe.h"

#define LARGEST_REGION (8 * HUGE_PAGE) /* the machine has to hold that much under every key */

const unsigned device_count = DEVICES;
const unsigned region_keys = KEYS;
const int regions_guarded = 1;

/* Of this process.  The kernel's key stays when a region goes, so that it is the kernel that says
 * it is dead. */
static struct rxe_link links[DEVICES];
static struct rxe_region keys[DEVICES][KEYS];

int region_start(void)
{
    return rxe_set_up() ? -1 : 0;
}

int region_open(unsigned device)
{
    memset(keys[device], 0, sizeof(keys[device]));
    return links[device].file ? 0 : rxe_open(&links[device]);
}

void region_forget(unsigned device)
{
    rxe_close(&links[device]);
    memset(keys[device], 0, sizeof(keys[device]));
}

int region_pin(unsigned device, unsigned key, const struct region *region)
{
    uint32_t rights = 0;

    if (region->size > LARGEST_REGION)
        return EOPNOTSUPP;
    if (region->rights & LW_FLAG_READ)
        rights |= IB_UVERBS_ACCESS_REMOTE_READ;
    if (region->rights & LW_FLAG_WRITE)
        rights |= IB_UVERBS_ACCESS_LOCAL_WRITE | IB_UVERBS_ACCESS_REMOTE_WRITE;
    return rxe_register(&links[device], region->at, region->size, rights, &keys[device][key]);
}

int region_unpin(unsigned device, unsigned key)
{
    return rxe_unregister(&links[device], &keys[device][key]);
}

int region_copy(unsigned device, unsigned key, char *at, uint8_t *data, size_t length, int write)
{
    struct rxe_link *link = &links[device];
    int error;

    if (write)
        memcpy(link->bounce, data, length);
    error = rxe_copy(link, keys[device][key].key, at, length, write);
    if (!error && !write)
        memcpy(data, link->bounce, length);
    return error;
}

/* ---- What it is ---- */

const char *device_unavailable(void)
{
    const char *failed = rxe_set_up();

    return failed ? region_unavailable(failed) : NULL;
}

const char *region_lacks(unsigned kind)
{
    if (kind == LW_DADD || kind == LW_DCAS)
        return "atomic operations are atomic among those of the device only";
    return NULL;
}

void device_describe(void)
{
    describe("\"name\":\"linux:hmm/rxe\",\"model\":\"registration\",\"keyed\":true,"
             "\"keys\":%u,\"page_sizes\":[4096,65536,%lu],", region_keys, HUGE_PAGE);
}

void device_notes(void)
{
    describe_note("jobs are done within their submission");
    describe_note("a copy goes through the driver's packets, between two queue pairs of the "
                  "process");
}
