/*
 * linux:hmm/iommufd: the device is what iommufd's own test has for one.  An I/O address space has
 * the mock of an IOMMU attached to it, so that what is mapped there is pinned, and an access of
 * the kernel's goes to it.
 *
 * Each key has a window of I/O addresses, in which a page lies where it lies in the arena.  So
 * the kernel itself knows which keys live, where they begin and what they allow.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "iommufd_driver.h"
#include "process.h"
#include "regions.h"

#define NODE "/dev/iommu"
#define WINDOW ((IOMMUFD_END - IOMMUFD_FIRST) / KEYS / HUGE_PAGE * HUGE_PAGE)
#define LARGEST_REGION (8 * HUGE_PAGE) /* the machine has to hold that much under every key */

const unsigned device_count = DEVICES;
const unsigned region_keys = KEYS;
const int regions_guarded = 1;

static struct space {
    int file, access; /* 0: none */
    uint32_t number;
} spaces[DEVICES]; /* of this process */

static uint64_t iova_of(unsigned key, const char *at)
{
    return IOMMUFD_FIRST + key * WINDOW + (uint64_t)(at - mirror.arena);
}

static int test(const struct space *space, unsigned what, struct iommufd_test *test)
{
    test->size = sizeof(*test);
    test->what = what;
    return ioctl(space->file, IOMMUFD_TEST, test);
}

/* The addresses, the mock behind them, and what makes accesses. */
static int fill(struct space *space)
{
    struct iommufd_alloc alloc = {.size = sizeof(alloc)};
    struct iommufd_test domain = {0}, user = {0};

    space->file = open(NODE, O_RDWR | O_CLOEXEC);
    if (space->file < 0)
        return space->file = 0, -1;
    if (ioctl(space->file, IOMMUFD_ALLOC, &alloc) < 0)
        return -1;
    space->number = domain.about = user.about = alloc.space;
    if (test(space, IOMMUFD_TEST_DOMAIN, &domain) < 0 ||
        test(space, IOMMUFD_TEST_ACCESS, &user) < 0)
        return -1;
    space->access = (int)user.access.file;
    return 0;
}

int region_start(void)
{
    return 0;
}

void region_forget(unsigned device)
{
    struct space *space = &spaces[device];

    if (space->access)
        close(space->access);
    if (space->file)
        close(space->file);
    memset(space, 0, sizeof(*space));
}

int region_open(unsigned device)
{
    int error;

    if (spaces[device].file || fill(&spaces[device]) == 0)
        return 0;
    error = errno;
    region_forget(device);
    errno = error;
    return -1;
}

int region_pin(unsigned device, unsigned key, const struct region *region)
{
    struct iommufd_map map = {
        .size = sizeof(map),
        .flags = IOMMUFD_MAP_HERE | IOMMUFD_MAP_READ,
        .space = spaces[device].number,
        .address = (uintptr_t)region->at,
        .length = region->size,
        .iova = iova_of(key, region->at),
    };

    if (region->size > LARGEST_REGION || region->at + region->size > mirror.arena + WINDOW)
        return EOPNOTSUPP;
    if (region->rights & LW_FLAG_WRITE)
        map.flags |= IOMMUFD_MAP_WRITE;
    return ioctl(spaces[device].file, IOMMUFD_MAP, &map) < 0 ? errno : 0;
}

int region_unpin(unsigned device, unsigned key)
{
    const struct region *region = region_of(device, key);
    struct iommufd_unmap unmap = {
        .size = sizeof(unmap),
        .space = spaces[device].number,
        .iova = iova_of(key, region->at),
        .length = region->size,
    };

    return ioctl(spaces[device].file, IOMMUFD_UNMAP, &unmap) < 0 ? errno : 0;
}

/* An access that leaves what is mapped is done up to there (iommufd_access_rw() goes from area to
 * area), where a key allows all or nothing: that is ours to see to. */
static int leaves(const struct region *region, const char *at, size_t length)
{
    const char *end = region->at + region->size;

    return region->rights && at >= region->at && at < end && at + length > end;
}

/* ENOENT: nothing is mapped there.  EPERM: not to be written to. */
int region_copy(unsigned device, unsigned key, char *at, uint8_t *data, size_t length, int write)
{
    struct iommufd_test copy = {
        .about = (uint32_t)spaces[device].access,
        .copy = {.iova = iova_of(key, at), .data = (uintptr_t)data, .length = length,
                 .flags = IOMMUFD_COPY_PINNED | (write ? IOMMUFD_COPY_WRITE : 0)},
    };

    if (at + length > mirror.arena + WINDOW || leaves(region_of(device, key), at, length))
        return EFAULT;
    if (test(&spaces[device], IOMMUFD_TEST_COPY, &copy) == 0)
        return 0;
    return errno == ENOENT || errno == EPERM ? EFAULT : errno;
}

/* ---- What it is ---- */

const char *device_unavailable(void)
{
    const char *reason = region_open(0) < 0 ? region_unavailable(NODE) : NULL;

    region_forget(0);
    return reason;
}

const char *region_lacks(unsigned kind)
{
    (void)kind;
    return NULL;
}

void device_describe(void)
{
    describe("\"name\":\"linux:hmm/iommufd\",\"model\":\"registration\",\"keyed\":true,"
             "\"keys\":%u,\"page_sizes\":[4096,65536,%lu],", region_keys, HUGE_PAGE);
}

void device_notes(void)
{
    describe_note("jobs are done within their submission");
    describe_note("an access within one page looks it up afresh; one to several goes to what is "
                  "pinned");
}
