/* MADV_FREE in a child takes the parent's page, once it has come back from zram.  As root:
 * modprobe zram; echo 64M > /sys/block/zram0/disksize; mkswap /dev/zram0; swapon /dev/zram0
 * cc -o free-in-child-after-swap-in free-in-child-after-swap-in.c && ./free-in-child-after-swap-in */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, TRIES = 20 };

/* Whether the parent still has its word after a child has freed and left. */
static int keeps(void)
{
    volatile unsigned long *page =
        mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned long word;
    pid_t child;

    page[0] = 0x200000;
    madvise((void *)page, PAGE, MADV_PAGEOUT);
    word = page[0]; /* comes back, and is mapped clean */
    child = fork();
    if (child == 0) {
        madvise((void *)page, PAGE, MADV_FREE);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    madvise((void *)page, PAGE, MADV_PAGEOUT);
    word = page[0];
    munmap((void *)page, PAGE);
    return word == 0x200000;
}

int main(void)
{
    int lost = 0;

    for (int i = 0; i < TRIES; i++)
        lost += !keeps();
    printf("%d of %d pages lost\n", lost, TRIES);
    return lost != 0;
}
