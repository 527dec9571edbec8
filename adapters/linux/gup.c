/*
 * linux:hmm/gup: the device is the kernel's own test of long-term pins, mm/gup_test.c.  It pins
 * one range at a time, in the process that asks for it, and copies the pinned pages out; nothing
 * can be written into them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "process.h"
#include "regions.h"

#define NODE "/sys/kernel/debug/gup_test"

/* As in mm/gup_test.h (Linux 6.12), which is not installed. */
struct pin_start {
    uint64_t address;
    uint64_t size;
    uint32_t flags;
};

#define PIN_TO_WRITE 1u
#define PIN_START _IOW('g', 7, struct pin_start)
#define PIN_STOP _IO('g', 8)
#define PIN_READ _IOW('g', 9, uint64_t) /* all of it, to this address */

const unsigned device_count = 1; /* the pins are the kernel's own, not those of a file */
const unsigned region_keys = 1;
const int regions_guarded = 0;

/* One open file serves all: whoever closes any drops all pins (gup_test_release() in
 * mm/gup_test.c). */
static int common; /* the coordinator's number of it */
static int file;   /* this process's; 0: none */
_Alignas(SMALL_PAGE) static uint8_t copied[MAX_LENGTH];

int region_start(void)
{
    common = open(NODE, O_RDWR | O_CLOEXEC);
    return common < 0 ? -1 : 0;
}

/* What a process that has ended had pinned is still there: nobody has closed the file. */
int region_open(unsigned device)
{
    (void)device;
    if (!file)
        file = files_take(mirror.control->coordinator, common);
    if (file < 0)
        return file = 0, -1;
    return ioctl(file, PIN_STOP);
}

void region_forget(unsigned device)
{
    (void)device;
    if (file)
        close(file);
    file = 0;
}

int region_pin(unsigned device, unsigned key, const struct region *region)
{
    struct pin_start start = {.address = (uintptr_t)region->at, .size = region->size};

    (void)device;
    (void)key;
    if (region->size > sizeof(copied))
        return EOPNOTSUPP;
    if (region->rights & LW_FLAG_WRITE)
        start.flags = PIN_TO_WRITE;
    return ioctl(file, PIN_START, &start) < 0 ? errno : 0;
}

int region_unpin(unsigned device, unsigned key)
{
    (void)device;
    (void)key;
    return ioctl(file, PIN_STOP) < 0 ? errno : 0;
}

int region_copy(unsigned device, unsigned key, char *at, uint8_t *data, size_t length, int write)
{
    uint64_t to = (uintptr_t)copied;

    if (write)
        return EOPNOTSUPP;
    if (ioctl(file, PIN_READ, &to) < 0)
        return errno == EFAULT ? EIO : errno; /* it was our own buffer that faulted */
    memcpy(data, copied + (at - region_of(device, key)->at), length);
    return 0;
}

/* ---- What it is ---- */

const char *device_unavailable(void)
{
    return access(NODE, R_OK | W_OK) < 0 ? region_unavailable(NODE) : NULL;
}

const char *region_lacks(unsigned kind)
{
    return kind == LW_DWRITE ? "the driver only reads" : NULL;
}

void device_describe(void)
{
    describe("\"name\":\"linux:hmm/gup\",\"model\":\"registration\",\"keyed\":true,"
             "\"keys\":%u,\"page_sizes\":[4096,65536,%lu],", region_keys, HUGE_PAGE);
}

void device_notes(void)
{
    describe_note("jobs are done within their submission");
    describe_note("the driver copies all that is pinned, of which a read gives its part");
    describe_note("which keys live, and what they cover and allow, is known to the agent alone");
}
