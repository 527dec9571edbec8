/*
 * linux:hmm/udmabuf: the device reaches memory through DMA buffers that drivers/dma-buf/udmabuf.c
 * makes of pages of a memfd.  A registration makes a buffer of the pages of files that lie in its
 * range, which the driver holds from then on, and maps it; an access is a copy from or to that
 * mapping.  Memory that belongs to no file cannot be registered.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/udmabuf.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "process.h"
#include "regions.h"

#define NODE "/dev/udmabuf"
#define LARGEST_BUFFER (64ul << 20) /* the driver's limit */

enum { PIECES = 64 }; /* of mappings in one registration */

const unsigned device_count = DEVICES;
const unsigned region_keys = KEYS;
const int regions_guarded = 0;

/* What of which files lies in a range. */
struct pieces {
    uint32_t flags, count; /* as in struct udmabuf_create_list */
    struct udmabuf_create_item items[PIECES];
};

static int node; /* of this process; 0: none */
static uint8_t *buffers[DEVICES][KEYS];

int region_start(void)
{
    return 0;
}

int region_open(unsigned device)
{
    (void)device;
    for (unsigned i = 0; i < FILES; i++)
        if (fcntl(mirror.files[i], F_ADD_SEALS, F_SEAL_SHRINK) < 0)
            return -1;
    if (!node)
        node = open(NODE, O_RDWR | O_CLOEXEC);
    return node < 0 ? node = 0, -1 : 0;
}

/* The mappings are not inherited. */
void region_forget(unsigned device)
{
    if (node)
        close(node);
    node = 0;
    memset(buffers[device], 0, sizeof(buffers[device]));
}

/* ---- What lies in a range ---- */

/* The number of the file with these numbers of device and inode, or -1. */
static int file_of(unsigned major, unsigned minor, unsigned long inode)
{
    struct stat status;

    for (unsigned i = 0; i < FILES; i++)
        if (fstat(mirror.files[i], &status) == 0 && status.st_ino == inode &&
            status.st_dev == (dev_t)(major << 20 | minor))
            return mirror.files[i];
    return -1;
}

/* 0 or an errno. */
static int add_piece(struct pieces *pieces, int file, uint64_t offset, uint64_t size)
{
    struct stat status;

    if (file < 0 || pieces->count == PIECES || fstat(file, &status) < 0)
        return EOPNOTSUPP;
    if (offset + size > (uint64_t)status.st_size)
        return EFAULT; /* nothing is there to be held */
    pieces->items[pieces->count++] =
        (struct udmabuf_create_item){.memfd = (uint32_t)file, .offset = offset, .size = size};
    return 0;
}

static int read_maps(struct pieces *pieces, FILE *maps, uintptr_t from, uintptr_t end)
{
    unsigned long low, high, offset, inode;
    unsigned major, minor;
    char rights[5];
    int error = 0;

    while (!error && from < end && fscanf(maps, "%lx-%lx %4s %lx %x:%x %lu%*[^\n]", &low, &high,
                                          rights, &offset, &major, &minor, &inode) == 7) {
        if (high <= from || low > from)
            continue;
        uintptr_t until = high < end ? high : end;
        int file = rights[3] == 's' ? file_of(major, minor, inode) : -1;
        error = add_piece(pieces, file, offset + from - low, until - from);
        from = until;
    }
    return error;
}

/* 0 or an errno. */
static int find_pieces(struct pieces *pieces, const struct region *region)
{
    uintptr_t from = (uintptr_t)region->at;
    FILE *maps;
    int error;

    if (!pages_allow(region->at, region->size, 'r') ||
        (region->rights & LW_FLAG_WRITE && !pages_allow(region->at, region->size, 'w')))
        return EFAULT;
    maps = fopen("/proc/self/maps", "re");
    if (!maps)
        return errno;
    error = read_maps(pieces, maps, from, from + region->size);
    fclose(maps);
    return error;
}

/* ---- Buffers ---- */

int region_pin(unsigned device, unsigned key, const struct region *region)
{
    struct pieces pieces = {.flags = UDMABUF_FLAGS_CLOEXEC};
    int error = region->size > LARGEST_BUFFER ? EOPNOTSUPP : find_pieces(&pieces, region), buffer;
    int rights = region->rights & LW_FLAG_WRITE ? PROT_READ | PROT_WRITE : PROT_READ;
    void *at;

    if (error)
        return error;
    buffer = ioctl(node, UDMABUF_CREATE_LIST, &pieces);
    if (buffer < 0)
        return errno;
    at = mmap(NULL, region->size, rights, MAP_SHARED, buffer, 0);
    error = errno;
    close(buffer); /* the mapping has it */
    if (at == MAP_FAILED)
        return error;
    madvise(at, region->size, MADV_DONTFORK);
    buffers[device][key] = at;
    return 0;
}

int region_unpin(unsigned device, unsigned key)
{
    return munmap(buffers[device][key], region_of(device, key)->size) < 0 ? errno : 0;
}

int region_copy(unsigned device, unsigned key, char *at, uint8_t *data, size_t length, int write)
{
    uint8_t *there = buffers[device][key] + (at - region_of(device, key)->at);

    memcpy(write ? there : data, write ? data : there, length);
    return 0;
}

/* ---- What it is ---- */

const char *device_unavailable(void)
{
    return access(NODE, R_OK | W_OK) < 0 ? region_unavailable(NODE) : NULL;
}

const char *region_lacks(unsigned kind)
{
    return kind == LW_TRUNCATE ? "the driver takes only files that are sealed against shrinking" : NULL;
}

void device_describe(void)
{
    describe("\"name\":\"linux:hmm/udmabuf\",\"model\":\"registration\",\"keyed\":true,"
             "\"keys\":%u,\"page_sizes\":[4096,65536],", region_keys);
}

void device_notes(void)
{
    describe_note("jobs are done within their submission");
    describe_note("only shared mappings of files can be registered");
    describe_note("which keys live, and what they cover and allow, is known to the agent alone");
}
