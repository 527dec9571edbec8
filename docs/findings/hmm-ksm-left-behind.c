/* A child's pages are merged by KSM in place, while the parent has them mapped, too.  When the
 * parent's migrate, migration entries are put in its page table that nobody finds again.  Needs
 * root and the module test_hmm; ends in a BUG when the parent touches the page or exits. */
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
    int fd = open("/dev/hmm_dmirror0", O_RDWR), told[2];
    char *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct command command = {(uintptr_t)pages, (uintptr_t)data, 2, 0, 0};

    number("/sys/kernel/mm/ksm/run", "1");
    if (fd < 0 || pages == MAP_FAILED || pipe(told) < 0)
        return perror("setup"), 1;
    memset(pages, 5, 2 * PAGE);
    if (fork() == 0) {
        merge(pages, 2 * PAGE);
        printf("merged in the child: %ld\n", number("/proc/self/ksm_merging_pages", NULL));
        fflush(stdout);
        close(told[1]);
        pause();
    }
    close(told[1]);
    if (read(told[0], data, 1) < 0)
        return 1;
    printf("to the device: %d\n", ioctl(fd, TO_DEVICE, &command));
    fflush(stdout);
    return printf("%d %d\n", pages[0], pages[PAGE]) < 0;
}
