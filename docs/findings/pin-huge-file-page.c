/* A long-term pin for reading of a huge page in a private mapping of a file does not come to an end.
 * Needs root, debugfs and a kernel with CONFIG_GUP_TEST, in whose place any user of such pins does
 * (a memory region for RDMA without the right to write, for one).  "Alarm clock": it was ended after
 * ten seconds. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE (2ul << 20)
#define COLLAPSE 25 /* MADV_COLLAPSE */

struct pin {
    uint64_t address, size;
    uint32_t flags; /* none: to read */
};

#define PIN _IOW('g', 7, struct pin)

int main(void)
{
    int pins = open("/sys/kernel/debug/gup_test", O_RDWR), file = memfd_create("file", 0);
    char *room = mmap(NULL, 2 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *at = (char *)(((uintptr_t)room + HUGE - 1) & ~(HUGE - 1));
    struct pin pin = {(uintptr_t)at, HUGE, 0};

    if (pins < 0 || file < 0 || room == MAP_FAILED || ftruncate(file, HUGE) < 0 ||
        mmap(at, HUGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, file, 0) == MAP_FAILED)
        return perror("setup"), 1;
    for (unsigned long i = 0; i < HUGE; i += 4096)
        (void)*(volatile char *)(at + i);
    if (madvise(at, HUGE, COLLAPSE) < 0)
        return perror("collapse"), 1;
    alarm(10);
    if (ioctl(pins, PIN, &pin) < 0)
        return perror("pin"), 1;
    return puts("pinned") < 0;
}
