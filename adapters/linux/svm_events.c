/*
 * A page-migrating mirror in user space: what userfaultfd tells, and who listens.
 *
 * A system call that changes mappings returns when its event was read, which is before anything
 * was done about it: so a word says that the thread is at work from before it reads until all is
 * done, and whoever is about to use the table waits for that.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "svm.h"

#define EVENTS                                                                       \
    (UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | \
     UFFD_FEATURE_EVENT_UNMAP)

static uint32_t at_work;

/* ---- userfaultfd itself ---- */

int svm_ioctl(int fd, unsigned long request, void *argument)
{
    int done;

    do
        done = ioctl(fd, request, argument);
    while (done < 0 && errno == EAGAIN && sched_yield() == 0);
    return done;
}

int svm_open(uint64_t features)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return -1;
    if (ioctl(fd, UFFDIO_API, &api) == 0)
        return fd;
    close(fd);
    return -1;
}

int svm_register(int fd, char *at, size_t size, uint64_t modes)
{
    struct uffdio_register range = {
        .range = {.start = (uintptr_t)at, .len = size},
        .mode = modes,
    };

    return ioctl(fd, UFFDIO_REGISTER, &range);
}

int svm_fill_zero(int fd, char *at)
{
    struct uffdio_zeropage zero = {.range = {.start = (uintptr_t)at, .len = SMALL_PAGE}};

    return svm_ioctl(fd, UFFDIO_ZEROPAGE, &zero);
}

/* ---- Which mappings can be watched ---- */

/* The part in the arena of the mapping at an address, if that is private anonymous memory to be
 * read and written; its size, or 0. */
static size_t find_mapping(const char *at, char **start)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    uintptr_t low = 0, high = 0, first = (uintptr_t)mirror.arena, end = first + ARENA_LIMIT;
    unsigned long inode = 1;
    char rights[5] = "";

    if (!maps)
        process_fatal("/proc/self/maps");
    while (high <= (uintptr_t)at)
        if (fscanf(maps, "%lx-%lx %4s %*s %*s %lu%*[^\n]", &low, &high, rights, &inode) != 4)
            break;
    fclose(maps);
    if (low > (uintptr_t)at || high <= (uintptr_t)at || inode || memcmp(rights, "rw-p", 4) != 0)
        return 0;
    low = low < first ? first : low;
    high = high > end ? end : high;
    *start = (char *)low;
    return high - low;
}

int svm_watch(uint32_t page)
{
    char *start;
    size_t size;

    if (svm.table[page].watched)
        return 1;
    size = find_mapping(small_page(page), &start);
    if (!size || svm_register(svm.fd, start, size, way_modes) < 0)
        return 0;
    page = (uint32_t)((size_t)(start - mirror.arena) / SMALL_PAGE);
    for (uint32_t i = 0; i < size / SMALL_PAGE; i++)
        svm.table[page + i].watched = 1;
    return 1;
}

/* ---- Events ---- */

/* Small pages of the arena, from a range that may lie elsewhere or reach beyond. */
struct pages {
    uint32_t first, end;
};

static struct pages pages_in(uint64_t start, uint64_t end)
{
    uint64_t low = (uintptr_t)mirror.arena, high = low + ARENA_LIMIT;

    if (start >= high || end <= low)
        return (struct pages){0, 0};
    start = start < low ? low : start;
    end = end > high ? high : end;
    return (struct pages){(uint32_t)((start - low) / SMALL_PAGE),
                          (uint32_t)((end - low) / SMALL_PAGE)};
}

/* Contents are gone; the mapping stays. */
static void on_remove(uint64_t start, uint64_t end)
{
    struct pages pages = pages_in(start, end);

    if (svm.discarding == pages.first + 1)
        return;
    for (uint32_t page = pages.first; page < pages.end; page++)
        svm_drop(page);
}

static void on_unmap(uint64_t start, uint64_t end)
{
    struct pages pages = pages_in(start, end);

    for (uint32_t page = pages.first; page < pages.end; page++) {
        svm_drop(page);
        svm.table[page].watched = 0;
    }
}

/* If the old place is unmapped, an event of its own says so. */
static void on_remap(uint64_t from, uint64_t to, uint64_t size)
{
    struct pages old = pages_in(from, from + size), new = pages_in(to, to + size);

    for (uint32_t i = 0; i < new.end - new.first; i++)
        svm_rename(old.first + i, new.first + i);
}

/* The child has no device and must not be without the pages that are at one: it gets copies.
 * Then nobody watches it any more: it finds zeros where there is nothing.  Until then it must not
 * run: a change of its mappings would wait for this event to be over, and the copies for the
 * change. */
static void on_fork(int child)
{
    for (unsigned d = 0; d < DEVICES; d++)
        for (unsigned frame = 0; frame < FRAMES; frame++) {
            const struct memory *memory = &svm.memories[d];
            struct uffdio_copy copy = {.src = (uintptr_t)frame_address(memory, frame),
                                       .len = SMALL_PAGE};
            uint32_t page = memory->pages[frame];
            if (!page || svm.table[page - 1].place != AT_DEVICE)
                continue;
            copy.dst = (uintptr_t)small_page(page - 1);
            if (svm_ioctl(child, UFFDIO_COPY, &copy) < 0 && errno != EEXIST)
                process_fatal("copying a page for a child");
        }
    close(child);
}

static void on_fault(uint64_t address, int protected)
{
    uint32_t page = pages_in(address, address + 1).first;

    if (protected && svm.table[page].place == AT_CPU) {
        if (way_release(page) < 0) /* the protection of a page that is shared no more */
            process_fatal("releasing a page");
    } else if (svm.table[page].place != AT_CPU) {
        svm_send_home(page);
    } else if (svm_fill_zero(svm.fd, small_page(page)) < 0 && errno != EEXIST) {
        process_fatal("filling a page");
    }
}

static void on_event(const struct uffd_msg *message)
{
    switch (message->event) {
    case UFFD_EVENT_PAGEFAULT:
        on_fault(message->arg.pagefault.address,
                 (message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0);
        break;
    case UFFD_EVENT_FORK:
        on_fork((int)message->arg.fork.ufd);
        break;
    case UFFD_EVENT_REMAP:
        on_remap(message->arg.remap.from, message->arg.remap.to, message->arg.remap.len);
        break;
    case UFFD_EVENT_REMOVE:
        on_remove(message->arg.remove.start, message->arg.remove.end);
        break;
    case UFFD_EVENT_UNMAP:
        on_unmap(message->arg.remove.start, message->arg.remove.end);
        break;
    }
}

/* ---- The thread ---- */

static void *listen(void *unused)
{
    struct pollfd arena = {.fd = svm.fd, .events = POLLIN};
    struct uffd_msg message;

    (void)unused;
    for (;;) {
        if (poll(&arena, 1, -1) < 0)
            continue;
        __atomic_store_n(&at_work, 1, __ATOMIC_SEQ_CST);
        while (read(svm.fd, &message, sizeof(message)) == sizeof(message))
            on_event(&message);
        __atomic_store_n(&at_work, 0, __ATOMIC_SEQ_CST);
        futex_wake(&at_work);
    }
    return NULL;
}

void svm_settle(void)
{
    /* In a child without a device of its own the word is what it was for its parent. */
    while (svm.fd && __atomic_load_n(&at_work, __ATOMIC_SEQ_CST))
        futex_wait(&at_work, 1);
}

int svm_events_start(void)
{
    at_work = 0;
    svm.fd = svm_open(way_features | EVENTS);
    if (svm.fd < 0)
        return svm.fd = 0, -1;
    if (thread_start(listen, NULL) == 0)
        return 0;
    close(svm.fd);
    svm.fd = 0;
    return -1;
}
