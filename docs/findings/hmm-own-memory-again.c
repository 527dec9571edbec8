/* A device meets a page in its own memory again: lib/test_hmm.c reads where no memory is.
 * Needs root and the module test_hmm; ends in an Oops where the fault is. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define PAGE 4096

struct command {
    uint64_t address, data, pages, done, faults;
};

#define READ _IOWR('H', 0, struct command)
#define TO_DEVICE _IOWR('H', 2, struct command)

int main(void)
{
    static char data[PAGE];
    int fd = open("/dev/hmm_dmirror0", O_RDWR);
    char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct command command = {(uintptr_t)page, (uintptr_t)data, 1, 0, 0};

    if (fd < 0 || page == MAP_FAILED || ioctl(fd, TO_DEVICE, &command) < 0)
        return perror("setup"), 1;
    /* The device's entry is invalidated, the page stays where it is. */
    mprotect(page, PAGE, PROT_READ);
    return printf("read: %d\n", ioctl(fd, READ, &command)) < 0;
}
