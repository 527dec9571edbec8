/* A page that KSM has merged migrates to the memory of a device; ksmd goes on to compare others
 * with it, and reads where no memory is.  Needs root and the module test_hmm; ends in an Oops of
 * ksmd where the fault is. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096

struct command {
    uint64_t address, data, pages, done, faults;
};

#define TO_DEVICE _IOWR('H', 2, struct command)

static long number(const char *path, const char *set)
{
    FILE *file = fopen(path, set ? "w" : "r");
    long value = -1;

    if (file && set)
        fputs(set, file);
    else if (file && fscanf(file, "%ld", &value) != 1)
        value = -1;
    if (file)
        fclose(file);
    return value;
}

/* Have KSM see the pages at least three times. */
static void merge(char *pages, size_t size)
{
    long scans = number("/sys/kernel/mm/ksm/full_scans", NULL);

    madvise(pages, size, MADV_MERGEABLE);
    while (number("/sys/kernel/mm/ksm/full_scans", NULL) < scans + 3)
        usleep(1000);
}

int main(void)
{
    static char data[2 * PAGE];
    int fd = open("/dev/hmm_dmirror0", O_RDWR);
    char *pages = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct command command = {(uintptr_t)pages, (uintptr_t)data, 2, 0, 0};

    number("/sys/kernel/mm/ksm/run", "1");
    if (fd < 0 || pages == MAP_FAILED)
        return perror("setup"), 1;
    memset(pages, 5, 4 * PAGE);
    merge(pages, 2 * PAGE);
    if (number("/proc/self/ksm_merging_pages", NULL) < 2)
        return fputs("nothing was merged\n", stderr), 1;
    ioctl(fd, TO_DEVICE, &command); /* an error for the second address of the one page */
    merge(pages + 2 * PAGE, 2 * PAGE);
    return puts("ksmd lives") < 0;
}
