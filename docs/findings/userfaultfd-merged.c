/* The write protection of userfaultfd is gone once KSM has merged the page.  As root:
 * echo 1 > /sys/kernel/mm/ksm/run; cc -o userfaultfd-merged userfaultfd-merged.c && ./userfaultfd-merged */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096 };
#define FRAME ((1ULL << 55) - 1)

static uint64_t entry(const char *page)
{
    int pagemap = open("/proc/self/pagemap", O_RDONLY);
    uint64_t entry = 0;

    pread(pagemap, &entry, sizeof entry, (uintptr_t)page / PAGE * sizeof entry);
    close(pagemap);
    return entry;
}

/* Have KSM merge two pages of equal contents. */
static int merge(char *one, char *other)
{
    madvise(one, PAGE, MADV_MERGEABLE);
    madvise(other, PAGE, MADV_MERGEABLE);
    for (int i = 0; i < 1000 && (entry(one) & FRAME) != (entry(other) & FRAME); i++)
        usleep(20000);
    return (entry(one) & FRAME) == (entry(other) & FRAME);
}

int main(void)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
    int fd = syscall(SYS_userfaultfd, O_NONBLOCK | O_CLOEXEC);
    char *page[3];

    for (int i = 0; i < 3; i++) {
        page[i] = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(page[i], 7, PAGE);
    }
    struct uffdio_register watch = {{(uintptr_t)page[2], PAGE}, UFFDIO_REGISTER_MODE_WP, 0};
    struct uffdio_writeprotect protect = {{(uintptr_t)page[2], PAGE}, UFFDIO_WRITEPROTECT_MODE_WP};
    struct pollfd told = {.fd = fd, .events = POLLIN};
    if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &watch) ||
        ioctl(fd, UFFDIO_WRITEPROTECT, &protect))
        return perror("userfaultfd"), 2;
    /* The first two, so that the third is replaced by what they share. */
    printf("merged: %d\n", merge(page[0], page[1]));
    printf("protected: %d\n", (int)(entry(page[2]) >> 57 & 1));
    printf("merged: %d\n", merge(page[0], page[2]));
    printf("protected: %d\n", (int)(entry(page[2]) >> 57 & 1));
    fflush(stdout);
    alarm(5); /* As it should be, the write waits for somebody to lift the protection. */
    page[2][0] = 8;
    printf("written: %d, told: %d\n", page[2][0], poll(&told, 1, 0));
    return 0;
}
