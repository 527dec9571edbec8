/*
 * linux:userfaultfd: a page-migrating mirror whose pages move from the CPU to the device and back.
 * There is one page at a time, so nothing is copied, and each access of the other side brings it
 * there.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "svm.h"

/* Newer than many a header (Linux 6.8). */
struct move {
    uint64_t dst, src, len, mode;
    int64_t moved;
};

#ifndef UFFDIO_MOVE
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct move)
#define UFFD_FEATURE_MOVE (1 << 16)
#endif

enum { TRIES = 4 };

const char way_name[] = "userfaultfd", way_needs[] = "UFFDIO_MOVE needs Linux 6.8";
const uint64_t way_features = UFFD_FEATURE_MOVE, way_modes = UFFDIO_REGISTER_MODE_MISSING;

static int move(int fd, char *to, char *from)
{
    struct move move = {.dst = (uintptr_t)to, .src = (uintptr_t)from, .len = SMALL_PAGE};

    return svm_ioctl(fd, UFFDIO_MOVE, &move);
}

/* Have the CPU write what the page holds already: one that is shared with a child, or by KSM, is
 * then the process's own. */
static void make_own(uint32_t page)
{
    uint64_t old;
    struct run run = {.kind = LW_ADD, .words = (uint64_t *)small_page(page), .count = 1,
                      .data = (uint8_t *)&old};
    int error;

    access_run(&run, &error);
}

int way_take(uint32_t page, enum place place, struct memory *memory, unsigned frame, int write)
{
    char *from = small_page(page), *to = frame_address(memory, frame);

    (void)place;
    (void)write;
    for (unsigned i = 0; i < TRIES; i++) {
        if (move(memory->fd, to, from) == 0)
            return AT_DEVICE;
        if (errno == ENOENT)
            return svm_fill_zero(memory->fd, to) == 0 ? AT_DEVICE : -1;
        if (errno != EBUSY)
            return -1;
        make_own(page);
    }
    return -1;
}

int way_return(uint32_t page, const struct memory *memory, unsigned frame)
{
    return move(svm.fd, small_page(page), frame_address(memory, frame));
}

int way_release(uint32_t page)
{
    (void)page;
    return 0;
}
