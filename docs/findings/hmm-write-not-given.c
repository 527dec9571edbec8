/* hmm_range_fault() is asked for write access to a page in the device's own memory that lost it
 * once, and answers that it is done, without it.  Needs root and the module test_hmm, which warns
 * in the kernel's log and gives EFAULT for memory that may be written. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define PAGE 4096

struct command {
    uint64_t address, data, pages, done, faults;
};

#define WRITE _IOWR('H', 1, struct command)
#define TO_DEVICE _IOWR('H', 2, struct command)

int main(void)
{
    static char data[PAGE];
    int fd = open("/dev/hmm_dmirror0", O_RDWR);
    char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct command command = {(uintptr_t)page, (uintptr_t)data, 1, 0, 0};

    if (fd < 0 || page == MAP_FAILED || ioctl(fd, TO_DEVICE, &command) < 0)
        return perror("setup"), 1;
    mprotect(page, PAGE, PROT_READ);
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
    if (ioctl(fd, WRITE, &command) < 0)
        perror("write");
    return 0;
}
