/*
 * linux:userfaultfd_copy: a page-migrating mirror whose pages are write-protected at the CPU and
 * copied to the device.  Both may then read; who writes has the only copy afterwards.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "svm.h"

const char way_name[] = "userfaultfd_copy", way_needs[] = "write protection needs Linux 5.7";
const uint64_t way_features = UFFD_FEATURE_PAGEFAULT_FLAG_WP,
               way_modes = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP;

static int copy(int fd, char *to, char *from)
{
    struct uffdio_copy copy = {.dst = (uintptr_t)to, .src = (uintptr_t)from, .len = SMALL_PAGE};

    return svm_ioctl(fd, UFFDIO_COPY, &copy);
}

static int protect(uint32_t page, uint64_t mode)
{
    struct uffdio_writeprotect range = {
        .range = {.start = (uintptr_t)small_page(page), .len = SMALL_PAGE},
        .mode = mode,
    };

    return svm_ioctl(svm.fd, UFFDIO_WRITEPROTECT, &range);
}

/* There is nothing to protect or to copy where no page is: the fault of a read puts one there. */
static void make_present(uint32_t page)
{
    uint64_t old;
    struct run run = {.kind = LW_READ, .words = (uint64_t *)small_page(page), .count = 1,
                      .data = (uint8_t *)&old};
    int error;

    access_run(&run, &error);
}

/* Without the event being taken for one of the program's. */
static int discard(uint32_t page)
{
    int done;

    svm.discarding = page + 1;
    done = madvise(small_page(page), SMALL_PAGE, MADV_DONTNEED);
    svm_settle();
    svm.discarding = 0;
    return done;
}

int way_take(uint32_t page, enum place place, struct memory *memory, unsigned frame, int write)
{
    if (place == AT_CPU) {
        make_present(page);
        if (protect(page, UFFDIO_WRITEPROTECT_MODE_WP) < 0)
            return -1;
        if (copy(memory->fd, frame_address(memory, frame), small_page(page)) < 0)
            return protect(page, 0), -1;
    }
    if (!write)
        return SHARED;
    if (discard(page) < 0)
        process_fatal("discarding a page that was copied");
    return AT_DEVICE;
}

int way_return(uint32_t page, const struct memory *memory, unsigned frame)
{
    return copy(svm.fd, small_page(page), frame_address(memory, frame));
}

int way_release(uint32_t page)
{
    return protect(page, 0);
}
