/*
 * linux:io_uring: the device is an io_uring with registered buffers, in the process that it is
 * attached to.  A registration pins the pages, and an access through it goes to those pages,
 * whatever has become of the mapping since.
 *
 * Each key has a buffer of its own.
 */
#include "process.h"
#include "ring.h"

const int pins_one_each = 1;

int pins_open(unsigned device)
{
    return ring_open(device, KEYS);
}

int pins_take(const lw_operation *op, char *at, size_t size)
{
    int buffer = op->key - 1;

    return ring_update(op->device, (unsigned)buffer, at, size) < 0 ? NO_BUFFER : buffer;
}

int pins_give(unsigned device, unsigned key)
{
    return ring_update(device, key - 1, NULL, 0) < 0 ? -1 : 0;
}

void pins_forked(unsigned device)
{
    (void)device;
}

const char *pins_lack(unsigned kind)
{
    (void)kind;
    return NULL;
}

/* A program may well pin 16 slots under each of 8 keys. */
void device_describe(void)
{
    describe("\"name\":\"linux:io_uring\",\"model\":\"registration\",\"keyed\":true,\"keys\":%d,",
             KEYS);
    if (ring_can_pin(HUGE_PAGE))
        describe("\"page_sizes\":[4096,65536,%lu],", HUGE_PAGE);
    else
        describe("\"page_sizes\":[4096],");
}

void device_notes(void)
{
    describe_note("a registration that allows only reads is kept by the helper, not the kernel");
}
