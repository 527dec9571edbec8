/*
 * What the kernel tells of the pages behind an address: the witness that an event has happened.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "process.h"

/* ioctl PAGEMAP_SCAN, newer than many a header (Linux 6.7). */
struct scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

struct scanned {
    uint64_t start, end, categories;
};

#define SCAN _IOWR('f', 16, struct scan)
#define SCAN_IS_HUGE (1u << 6)

static int scan_huge(int pagemap, char *at, size_t size, struct scanned *found)
{
    struct scan scan = {
        .size = sizeof(scan),
        .start = (uintptr_t)at,
        .end = (uintptr_t)at + size,
        .vec = (uintptr_t)found,
        .vec_len = 1,
        .category_mask = SCAN_IS_HUGE,
        .return_mask = SCAN_IS_HUGE,
    };

    return ioctl(pagemap, SCAN, &scan);
}

int pages_can_tell_huge(void)
{
    struct scanned found;
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    int done = scan_huge(pagemap, mirror.arena, HUGE_PAGE, &found);

    close(pagemap);
    return done >= 0;
}

int pages_are_huge(char *at)
{
    struct scanned found;

    return scan_huge(mirror.pagemap, at, HUGE_PAGE, &found) == 1 &&
           found.start == (uintptr_t)at && found.end == (uintptr_t)at + HUGE_PAGE;
}

int pages_look(char *at, unsigned count, uint64_t *entries)
{
    size_t size = count * sizeof(*entries);
    off_t offset = (off_t)((uintptr_t)at / SMALL_PAGE * sizeof(*entries));

    return pread(mirror.pagemap, entries, size, offset) == (ssize_t)size ? 0 : -1;
}

int pages_cached(char *at)
{
    unsigned char resident = 1;

    return mincore(at, SMALL_PAGE, &resident) < 0 || resident & 1;
}

int pages_allow(char *at, size_t size, char right)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    uintptr_t from = (uintptr_t)at, end = from + size, low, high;
    char rights[5];

    if (!maps)
        process_fatal("/proc/self/maps");
    while (from < end && fscanf(maps, "%lx-%lx %4s%*[^\n]", &low, &high, rights) == 3)
        if (low <= from && from < high && (rights[0] == right || rights[1] == right))
            from = high;
    fclose(maps);
    return from >= end;
}

long read_number(const char *path)
{
    FILE *file = fopen(path, "re");
    long number = -1;

    if (!file)
        return -1;
    if (fscanf(file, "%ld", &number) != 1)
        number = -1;
    fclose(file);
    return number;
}
