/*
 * What is made once, in the coordinator: the shared memory, the place of the arena, the files.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "process.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

/* Shared memory that a long access filled is given back at the next reset above this. */
#define KEEP_BLOCKS ((16ul << 20) / 512)

static char note[256];

static int open_shared(void)
{
    mirror.shared_fd = memfd_create("lastwriter-shared", MFD_CLOEXEC);
    if (mirror.shared_fd < 0 || ftruncate(mirror.shared_fd, SHARED_SIZE) < 0)
        return -1;
    mirror.shared = mmap(NULL, SHARED_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                         mirror.shared_fd, 0);
    if (mirror.shared == MAP_FAILED)
        return -1;
    mirror.control = (struct control *)mirror.shared;
    return 0;
}

/* The first of some addresses, far from where the kernel and sanitizers put things, around which
 * nothing lies.  Nothing stays mapped: a hole must be a hole. */
static int place_arena(void)
{
    static const uintptr_t places[] = {0x200000000000, 0x100000000000, 0x6000000000, 0x2000000000};

    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        void *at = mmap((void *)places[i], ARENA_LIMIT, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (at == MAP_FAILED)
            continue;
        munmap(at, ARENA_LIMIT);
        if (at == (void *)places[i]) { /* an old kernel takes the address as a hint */
            mirror.arena = at;
            return 0;
        }
    }
    errno = ENOMEM;
    return -1;
}

static int in_memory(int fd)
{
    struct statfs status;

    return fstatfs(fd, &status) < 0 || status.f_type == TMPFS_MAGIC || status.f_type == RAMFS_MAGIC;
}

/* A nameless file on a disk, or -1. */
static int open_disk(void)
{
    const char *directory = getenv("TMPDIR");
    int fd;

    if (!directory || !*directory)
        directory = "/var/tmp";
    fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        snprintf(note, sizeof(note), "no disk files: %s cannot hold nameless files", directory);
    if (fd >= 0 && in_memory(fd)) {
        snprintf(note, sizeof(note), "no disk files: %s is in memory", directory);
        close(fd);
        fd = -1;
    }
    return fd;
}

static int open_file(unsigned file)
{
    int fd = file + disk_files >= FILES ? open_disk() : -1;

    return fd >= 0 ? fd : memfd_create("lastwriter-file", MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

int files_start(void)
{
    if (open_shared() < 0 || place_arena() < 0)
        return -1;
    for (unsigned file = 0; file < FILES; file++) {
        mirror.files[file] = open_file(file);
        if (mirror.files[file] < 0)
            return -1;
        mirror.control->touched[file] = 1;
    }
    return 0;
}

/* A device may need files that cannot shrink. */
static int is_sealed(int fd)
{
    int seals = fcntl(fd, F_GET_SEALS);

    return seals > 0 && seals & F_SEAL_SHRINK;
}

/* 0 or -1. */
static int empty(int fd, off_t size)
{
    if (is_sealed(fd))
        return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, size);
    return ftruncate(fd, 0);
}

int files_outgrown(const lw_geometry *before)
{
    size_t size = (size_t)before->pages * before->page_size;

    for (unsigned file = 0; file < FILES; file++)
        if (is_sealed(mirror.files[file]) && page_bytes(mirror.control->geometry.pages) < size)
            return 1;
    return 0;
}

int files_renew(void)
{
    for (unsigned file = 0; file < FILES; file++) {
        int fd = open_file(file);
        if (fd < 0)
            return -1;
        dup3(fd, mirror.files[file], O_CLOEXEC);
        close(fd);
        mirror.control->touched[file] = 1;
    }
    return 0;
}

static void trim_shared(void)
{
    struct stat status;

    if (fstat(mirror.shared_fd, &status) == 0 && (size_t)status.st_blocks > KEEP_BLOCKS)
        madvise(mirror.shared + DATA_AT, SHARED_SIZE - DATA_AT, MADV_REMOVE);
}

void files_reset(const lw_geometry *before)
{
    struct control *control = mirror.control;
    off_t size = (off_t)page_bytes(control->geometry.pages);
    int same = size == (off_t)before->pages * before->page_size;

    for (unsigned file = 0; file < FILES; file++) {
        if (same && !control->touched[file])
            continue;
        if (empty(mirror.files[file], size) < 0 || ftruncate(mirror.files[file], size) < 0)
            process_fatal("ftruncate of a file");
        control->touched[file] = 0;
    }
    trim_shared();
}

int files_take(pid_t pid, int number)
{
    int process = (int)syscall(SYS_pidfd_open, pid, 0), fd = -1;

    if (process >= 0) {
        fd = (int)syscall(SYS_pidfd_getfd, process, number, 0);
        close(process);
    }
    return fd;
}

int files_on_disk(void)
{
    return disk_files && !*note;
}

const char *files_note(void)
{
    return *note ? note : NULL;
}

/* Not msync: pages need to reach the disk's queue, not a journal on stable storage. */
void files_clean(void)
{
    if (files_on_disk())
        for (unsigned file = FILES - disk_files; file < FILES; file++)
            sync_file_range(mirror.files[file], 0, 0,
                            SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                SYNC_FILE_RANGE_WAIT_AFTER);
}
