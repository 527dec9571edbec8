/* lib/test_hmm.c does not mark the pages dirty that its device writes to: reclaim drops them.
 * Needs root and the module test_hmm; prints what is left of an 'x' that the device wrote. */
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
#define WRITE _IOWR('H', 1, struct command)

int main(void)
{
    static char data[PAGE];
    int fd = open("/dev/hmm_dmirror0", O_RDWR);
    char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct command command = {(uintptr_t)page, (uintptr_t)data, 1, 0, 0};

    if (fd < 0 || page == MAP_FAILED || ioctl(fd, READ, &command) < 0)
        return perror("setup"), 1;
    data[0] = 'x';
    if (ioctl(fd, WRITE, &command) < 0 || madvise(page, PAGE, MADV_PAGEOUT) < 0)
        return perror("write and reclaim"), 1;
    return printf("wrote 'x', the page holds %#x\n", page[0]) < 0;
}
