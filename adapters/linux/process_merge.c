/*
 * Having KSM merge pages: each gets a twin elsewhere with the same contents, which is all that it
 * takes, and is merged with it if both are in the same frame afterwards.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "process.h"

/* A bounded wait: KSM needs to see a page twice before it merges it. */
enum { SCANS = 6, WAITS = 5000, NANOSECONDS = 200000 };

#define KSM "/sys/kernel/mm/ksm/"

struct twins {
    char *pages, *copies;
    unsigned count;
    uint8_t made[CHUNK];
};

static long scans(void)
{
    return read_number(KSM "full_scans");
}

static int is_on_demand(void)
{
    return getenv("LASTWRITER_MERGE_ON_DEMAND") != NULL;
}

const char *merge_lacks(void)
{
    long run = read_number(KSM "run");

    if (run < 0)
        return "this kernel has no KSM";
    if (geteuid() != 0)
        return "without frame numbers, which are for root, nothing tells what KSM has merged";
    return run == 1 || is_on_demand() ? NULL : "KSM is off (" KSM "run is not 1)";
}

/* KSM rests where nobody waits for it: it would scan for as long as there is a page that it may
 * merge, which takes a CPU, and merge at any moment.  Whoever waits holds a lock on the switch, since
 * other agents have it too. */
static int wake(void)
{
    int ksm = is_on_demand() ? open(KSM "run", O_RDWR | O_CLOEXEC) : -1;

    if (ksm >= 0 && (flock(ksm, LOCK_SH) < 0 || pwrite(ksm, "1", 1, 0) < 0))
        process_fatal(KSM "run");
    return ksm;
}

static void rest(int ksm)
{
    if (ksm < 0)
        return;
    if (flock(ksm, LOCK_EX | LOCK_NB) == 0 && pwrite(ksm, "0", 1, 0) < 0)
        process_fatal(KSM "run");
    close(ksm);
}

static void make_twin(struct twins *twins, unsigned i)
{
    struct iovec from = {twins->pages + i * SMALL_PAGE, SMALL_PAGE};
    struct iovec to = {twins->copies + i * SMALL_PAGE, SMALL_PAGE};

    /* By a system call, which a page without rights makes fail; and by the one that pins only what
     * it writes to, since to pin a page that is shared with a child, or a parent, is to copy it. */
    twins->made[i] = process_vm_writev(getpid(), &from, 1, &to, 1, 0) == (ssize_t)SMALL_PAGE;
}

/* Of the pages that KSM may take: how many there are, or -1 with errno. */
static int make_twins(struct twins *twins)
{
    uint64_t entries[CHUNK];
    int made = 0;

    if (pages_look(twins->pages, twins->count, entries) < 0)
        return -1;
    for (unsigned i = 0; i < twins->count; i++) {
        if (!(entries[i] & PAGE_PRESENT) || entries[i] & PAGE_OF_FILE)
            continue;
        make_twin(twins, i);
        made += twins->made[i];
    }
    return madvise(twins->copies, twins->count * SMALL_PAGE, MADV_MERGEABLE) < 0 ? -1 : made;
}

static unsigned merged_now(const struct twins *twins)
{
    uint64_t pages[CHUNK], copies[CHUNK];
    unsigned merged = 0;

    if (pages_look(twins->pages, twins->count, pages) < 0 ||
        pages_look(twins->copies, twins->count, copies) < 0)
        return 0;
    for (unsigned i = 0; i < twins->count; i++)
        merged += twins->made[i] && pages[i] & copies[i] & PAGE_PRESENT && pages[i] & PAGE_FRAME &&
                  (pages[i] & PAGE_FRAME) == (copies[i] & PAGE_FRAME);
    return merged;
}

/* How many were merged when all were, or KSM has had its chance. */
static unsigned await_merge(const struct twins *twins, unsigned all)
{
    struct timespec pause = {.tv_nsec = NANOSECONDS};
    long last = scans() + SCANS;
    unsigned merged = 0;

    for (int i = 0; i < WAITS; i++) {
        int over = scans() >= last;
        merged = merged_now(twins);
        if (over || merged == all)
            break;
        nanosleep(&pause, NULL);
    }
    return merged;
}

static void merge_twins(struct twins *twins, struct happening *happening)
{
    int made = make_twins(twins), ksm;

    happening->error = made < 0 ? errno : made ? EAGAIN : ENODATA;
    if (made <= 0)
        return;
    ksm = wake();
    happening->hits = await_merge(twins, (unsigned)made);
    rest(ksm);
}

/* The twins are scanned before or after the pages, by turns: KSM keeps the frame that it meets
 * later, which becomes its own in every process that maps it, and replaces the other. */
static char *place_of(const struct twins *twins)
{
    size_t first = (size_t)(twins->pages - mirror.arena) / SMALL_PAGE;

    return first % 2 ? mirror.arena - twins->count * SMALL_PAGE : mirror.arena + ARENA_LIMIT;
}

void merge_pages(char *at, size_t size, struct happening *happening)
{
    struct twins twins = {.pages = at, .count = CHUNK};

    if (madvise(at, size, MADV_MERGEABLE) < 0) {
        happening->error = errno;
        return;
    }
    if (size / SMALL_PAGE < CHUNK)
        twins.count = (unsigned)(size / SMALL_PAGE);
    size = twins.count * SMALL_PAGE;
    twins.copies = mmap(place_of(&twins), size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (twins.copies == MAP_FAILED) {
        happening->error = errno;
        return;
    }
    merge_twins(&twins, happening);
    munmap(twins.copies, size);
}
