/*
 * Memory management events: made to happen, and checked to have happened.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "process.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static void note_error(struct happening *happening, int error)
{
    if (!happening->error)
        happening->error = error;
}

/* ---- Reclaim ---- */

/* Anonymous pages go to swap, or to nothing after MADV_FREE; all others must leave the page
 * cache, not only the page table. */
static int has_left(char *at, uint64_t before, uint64_t after)
{
    if (!(before & PAGE_PRESENT) || after & PAGE_PRESENT)
        return 0;
    return !(before & PAGE_OF_FILE) || !pages_cached(at);
}

static void reclaim(char *at, struct happening *happening)
{
    uint64_t before[CHUNK], after[CHUNK];
    unsigned count = page_bytes(1) < HUGE_PAGE ? (unsigned)(page_bytes(1) / SMALL_PAGE) : CHUNK;
    unsigned present = 0;

    if (pages_look(at, count, before) < 0 || madvise(at, page_bytes(1), MADV_PAGEOUT) < 0 ||
        pages_look(at, count, after) < 0)
        note_error(happening, errno);
    else
        for (unsigned i = 0; i < count; i++) {
            present += (before[i] & PAGE_PRESENT) != 0;
            happening->hits += (unsigned)has_left(at + i * SMALL_PAGE, before[i], after[i]);
        }
    note_error(happening, present ? EBUSY : ENODATA);
}

/* ---- Huge pages ---- */

static void collapse(char *at, struct happening *happening)
{
    if (pages_are_huge(at))
        note_error(happening, EALREADY);
    else if (madvise(at, HUGE_PAGE, MADV_COLLAPSE) < 0)
        note_error(happening, errno);
    else
        happening->hits += (unsigned)pages_are_huge(at);
    note_error(happening, EAGAIN);
}

/* A boundary between two mappings may not run through a huge page: one that differs in whether
 * it belongs in a core dump splits it, and no access is denied meanwhile, as mprotect would. */
static void split(char *at, struct happening *happening)
{
    char *piece = at + HUGE_PAGE / 2;

    if (!pages_are_huge(at))
        note_error(happening, ENODATA);
    else if (madvise(piece, SMALL_PAGE, MADV_DONTDUMP) < 0 ||
             madvise(piece, SMALL_PAGE, MADV_DODUMP) < 0)
        note_error(happening, errno);
    else
        happening->hits += !pages_are_huge(at);
    note_error(happening, EAGAIN);
}

/* Whether a page has another frame.  Where the kernel hides their numbers, the collapse itself
 * says so for anonymous memory, which it copies; huge pages of files may just be mapped. */
static int has_moved(uint64_t before, uint64_t after)
{
    if (!(before & after & PAGE_PRESENT))
        return 0;
    if (before & PAGE_FRAME)
        return (before & PAGE_FRAME) != (after & PAGE_FRAME);
    return !(before & PAGE_OF_FILE);
}

static void migrate(char *at, struct happening *happening)
{
    struct happening ignored = {0};
    uint64_t before[CHUNK], after[CHUNK];

    if (pages_look(at, CHUNK, before) < 0)
        note_error(happening, errno);
    split(at, &ignored); /* a huge page counts as collapsed already, and would stay */
    if (madvise(at, HUGE_PAGE, MADV_COLLAPSE) < 0 || pages_look(at, CHUNK, after) < 0)
        note_error(happening, errno);
    else if (pages_are_huge(at))
        for (unsigned i = 0; i < CHUNK; i++)
            happening->hits += (unsigned)has_moved(before[i], after[i]);
    note_error(happening, EAGAIN);
}

/* ---- All of them ---- */

static void happen(const lw_operation *op, unsigned page, struct happening *happening)
{
    switch (op->kind) {
    case LW_RECLAIM:
        reclaim(page_address(page), happening);
        break;
    case LW_MIGRATE:
        migrate(page_address(page), happening);
        break;
    case LW_COLLAPSE:
        collapse(page_address(page), happening);
        break;
    default:
        split(page_address(page), happening);
    }
}

void event_do(const lw_operation *op, lw_outcome *outcome)
{
    struct happening happening = {0};

    if (event_lacks(op->kind) ||
        (op->kind >= LW_MIGRATE && op->kind <= LW_SPLIT && page_bytes(1) != HUGE_PAGE)) {
        answer(outcome, LW_STATUS_UNSUPPORTED, ENOSYS);
        return;
    }
    if (op->kind == LW_RECLAIM)
        files_clean();
    if (op->kind == LW_MERGE)
        merge_pages(page_address(op->page), page_bytes(op->pages), &happening);
    else
        for (unsigned i = 0; i < op->pages; i++)
            happen(op, op->page + i, &happening);
    if (!happening.hits)
        answer(outcome, LW_STATUS_SKIPPED, happening.error);
}

/* ---- What can happen here ---- */

static int has_swap(void)
{
    FILE *file = fopen("/proc/swaps", "re");
    char line[256];
    int lines = 0;

    if (!file)
        return 0;
    while (fgets(line, sizeof(line), file))
        lines++;
    fclose(file);
    return lines > 1; /* the first is a heading */
}

static const char *huge_lacks(void)
{
    if (access("/sys/kernel/mm/transparent_hugepage", F_OK) < 0)
        return "this kernel has no transparent huge pages";
    return pages_can_tell_huge() ? NULL : "this kernel cannot tell which pages are huge";
}

static const char *find_lack(unsigned kind)
{
    if (kind == LW_RECLAIM)
        return NULL;
    return kind == LW_MERGE ? merge_lacks() : huge_lacks();
}

/* Asked once, in the coordinator: what is said and what is done must not differ. */
const char *event_lacks(unsigned kind)
{
    static const char *lacks[LW_MERGE - LW_RECLAIM + 1];
    static int known;

    if (!known)
        for (unsigned k = LW_RECLAIM; k <= LW_MERGE; k++)
            lacks[k - LW_RECLAIM] = find_lack(k);
    known = 1;
    return lacks[kind - LW_RECLAIM];
}

void event_notes(void)
{
    if (!has_swap())
        describe_note(files_on_disk()
                          ? "no swap: reclaim takes pages of disk files and freed ones only"
                          : "no swap: reclaim takes freed pages only");
    if (geteuid() != 0)
        describe_note("frame numbers are hidden: only anonymous memory is known to migrate");
}
