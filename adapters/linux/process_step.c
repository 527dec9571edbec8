/*
 * Operations on a process's own memory: the system calls that a program would make.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "process.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

static int protection(const lw_operation *op)
{
    return (op->flags & LW_FLAG_READ ? PROT_READ : 0) |
           (op->flags & LW_FLAG_WRITE ? PROT_WRITE : 0);
}

static int do_map(const lw_operation *op)
{
    int on_file = op->flags & LW_FLAG_FILE;
    int flags = MAP_FIXED | (op->flags & LW_FLAG_SHARED ? MAP_SHARED : MAP_PRIVATE) |
                (on_file ? 0 : MAP_ANONYMOUS);
    void *at;

    if (on_file)
        mirror.control->touched[op->file] = 1;
    at = mmap(page_address(op->page), page_bytes(op->pages), protection(op), flags,
              on_file ? mirror.files[op->file] : -1, (off_t)page_bytes(op->target));
    return at == MAP_FAILED ? -1 : 0;
}

static int do_remap(const lw_operation *op)
{
    int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    size_t size = page_bytes(op->pages);

    if (op->flags & LW_FLAG_DONTUNMAP)
        flags |= MREMAP_DONTUNMAP;
    void *at = mremap(page_address(op->page), size, size, flags, page_address(op->target));
    return at == MAP_FAILED ? -1 : 0;
}

static int do_truncate(const lw_operation *op)
{
    mirror.control->touched[op->file] = 1;
    return ftruncate(mirror.files[op->file], (off_t)page_bytes(op->pages));
}

static int do_call(const lw_operation *op)
{
    char *at = page_address(op->page);
    size_t size = page_bytes(op->pages);

    switch (op->kind) {
    case LW_MAP:
        return do_map(op);
    case LW_UNMAP:
        return munmap(at, size);
    case LW_REMAP:
        return do_remap(op);
    case LW_PROTECT:
        return mprotect(at, size, protection(op));
    case LW_DISCARD:
        return madvise(at, size, MADV_DONTNEED);
    case LW_PUNCH:
        return madvise(at, size, MADV_REMOVE);
    case LW_FREE:
        return madvise(at, size, MADV_FREE);
    default:
        return do_truncate(op);
    }
}

static void do_reset(void)
{
    device_reset();
    if (munmap(mirror.arena, ARENA_LIMIT) < 0)
        process_fatal("munmap of the arena");
}

void step_memory(const lw_operation *op, lw_outcome *outcome)
{
    switch (op->kind) {
    case LW_READ:
    case LW_WRITE:
    case LW_ADD:
    case LW_CAS:
        access_words(op, outcome);
        break;
    case LW_FORK:
        process_fork(op, outcome);
        break;
    case LW_EXIT: /* when the turn is handed over */
        break;
    case KIND_RESET:
        do_reset();
        break;
    default:
        if (op->kind >= LW_RECLAIM && op->kind <= LW_MERGE)
            event_do(op, outcome);
        else if (op->kind < LW_MAP || op->kind > LW_TRUNCATE)
            answer(outcome, LW_STATUS_UNSUPPORTED, ENOSYS);
        else if (do_call(op) < 0)
            answer(outcome, LW_STATUS_ERROR, errno);
    }
}
