/* Two open files of one device of lib/test_hmm.c, in one process: when one takes a page to the
 * device's memory, the other is not told.  Needs root and the module test_hmm. */
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
#define TO_DEVICE _IOWR('H', 2, struct command)

int main(void)
{
    static char data[PAGE];
    int one = open("/dev/hmm_dmirror0", O_RDWR), other = open("/dev/hmm_dmirror0", O_RDWR);
    char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct command command = {(uintptr_t)page, (uintptr_t)data, 1, 0, 0};

    if (one < 0 || other < 0 || page == MAP_FAILED)
        return perror("setup"), 1;
    page[0] = 'a';
    if (ioctl(other, READ, &command) < 0 || ioctl(one, TO_DEVICE, &command) < 0)
        return perror("read and migrate"), 1;
    data[0] = 'b';
    if (ioctl(one, WRITE, &command) < 0 || ioctl(other, READ, &command) < 0)
        return perror("write and read"), 1;
    return printf("the device holds 'b', the other file reads '%c'\n", data[0]) < 0;
}
