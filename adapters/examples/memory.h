/* A small memory manager for the example mirror: page frames, page tables with copy-on-write,
 * files, swap.  It stands for the kernel that a real mirror lives in, and is not the part that
 * one would copy; that is mirror.c.
 *
 * What matters is its bargain with the mirror.  memory_fault() gives the words of a page and the
 * caller may keep the pointer, without a reference, until notify() is called for that page.  A
 * frame that nobody refers to is overwritten and handed out again at once, so a pointer that is
 * kept for longer soon shows or destroys something else.
 */
#ifndef EXAMPLE_MEMORY_H
#define EXAMPLE_MEMORY_H

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "lastwriter.h"

enum { PROCESSES = 3, FILES = 4, POISON = 0x5a };

struct frame {
    struct frame *next_free;
    struct frame *allocated_before; /* every frame there is, for memory_close() */
    uint32_t references;            /* page table entries, and its object if it is in one */
    uint64_t words[];
};

/* What a shared or file mapping shows: a file, or memory shared between parent and child. */
struct object {
    uint32_t references; /* slots that show it, and one for a file as such */
    uint32_t size;       /* in pages */
    struct frame *pages[];
};

/* One page of an address space: what is mapped there, and its page table entry. */
struct slot {
    bool mapped, shared;
    uint8_t rights;
    struct object *object; /* NULL: private anonymous memory */
    uint32_t index;        /* page of the object */
    struct frame *frame;   /* NULL: not touched yet */
    bool swapped;          /* the frame is in swap: it moves back before it is used */
    bool lazily_free;      /* discarded with MADV_FREE: may be dropped until written */
};

/* Called whenever what a page allows or points to becomes less or other than it was, and before
 * the frame is used for anything else. */
typedef void (*notifier)(void *mirror, int process, uint32_t page, uint32_t pages);

struct memory {
    uint32_t page_size, pages, processes, files; /* as in the geometry */
    notifier notify;
    void *mirror;
    struct frame *free_frames, *all_frames;
    struct object *objects[FILES]; /* the files */
    struct slot *slots[PROCESSES]; /* an address space each */
};

/* Out of memory ends the process: the suite reports it as a crash, which is better than as a
 * verdict on half an operation. */
static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (!memory && count)
        abort();
    return memory;
}

/* ---- Page frames ---- */

static struct frame *get_frame(struct memory *m, const struct frame *contents)
{
    struct frame *frame = m->free_frames;
    if (frame) {
        m->free_frames = frame->next_free;
    } else {
        frame = allocate(1, sizeof *frame + m->page_size);
        frame->allocated_before = m->all_frames;
        m->all_frames = frame;
    }
    frame->references = 1;
    if (contents)
        memcpy(frame->words, contents->words, m->page_size);
    else
        memset(frame->words, 0, m->page_size);
    return frame;
}

static void put_frame(struct memory *m, struct frame *frame)
{
    if (--frame->references)
        return;
    memset(frame->words, POISON, m->page_size);
    frame->next_free = m->free_frames;
    m->free_frames = frame;
}

/* ---- Page tables ---- */

static void notify(struct memory *m, int process, uint32_t page, uint32_t pages)
{
    m->notify(m->mirror, process, page, pages);
}

static void zap(struct memory *m, int process, uint32_t page)
{
    struct slot *slot = &m->slots[process][page];
    if (!slot->frame)
        return;
    notify(m, process, page, 1);
    put_frame(m, slot->frame);
    slot->frame = NULL;
    slot->swapped = slot->lazily_free = false;
}

static void put_object(struct memory *m, struct object *object)
{
    if (!object || --object->references)
        return;
    for (uint32_t index = 0; index < m->pages; index++)
        if (object->pages[index])
            put_frame(m, object->pages[index]);
    free(object);
}

static struct object *new_object(struct memory *m, uint32_t size, uint32_t references)
{
    struct object *object = allocate(1, sizeof *object + m->pages * sizeof(void *));
    object->size = size;
    object->references = references;
    return object;
}

static void clear_slots(struct memory *m, int process, uint32_t page, uint32_t pages)
{
    for (uint32_t end = page + pages; page < end; page++) {
        struct slot *slot = &m->slots[process][page];
        zap(m, process, page);
        put_object(m, slot->object);
        memset(slot, 0, sizeof *slot);
    }
}

/* Drop pages of an object from every page table; copies that private mappings made of them only
 * go where the file itself ends. */
static void drop_object_pages(struct memory *m, struct object *object, uint32_t first,
                              uint32_t end, bool copies_too)
{
    for (uint32_t process = 0; process < m->processes; process++)
        for (uint32_t page = 0; page < m->pages; page++) {
            struct slot *slot = &m->slots[process][page];
            if (slot->object != object || slot->index < first || slot->index >= end)
                continue;
            if (copies_too || slot->frame == object->pages[slot->index])
                zap(m, process, page);
        }
    for (uint32_t index = first; index < end; index++)
        if (object->pages[index]) {
            put_frame(m, object->pages[index]);
            object->pages[index] = NULL;
        }
}

/* Move contents to another frame, wherever the old one is mapped, to swap or back or neither. */
static void move_frame(struct memory *m, struct frame *old, bool swapped)
{
    struct frame *frame = get_frame(m, old);
    frame->references = old->references;
    for (uint32_t process = 0; process < m->processes; process++)
        for (uint32_t page = 0; page < m->pages; page++) {
            struct slot *slot = &m->slots[process][page];
            if (slot->frame != old)
                continue;
            notify(m, process, page, 1);
            slot->frame = frame;
            slot->swapped = swapped;
            if (slot->object && slot->object->pages[slot->index] == old)
                slot->object->pages[slot->index] = frame;
        }
    old->references = 1;
    put_frame(m, old);
}

/* A private page whose frame others refer to as well is copied before it is written.  So the
 * frame changes under those who only read: that, too, is an invalidation. */
static void break_cow(struct memory *m, int process, uint32_t page)
{
    struct slot *slot = &m->slots[process][page];
    struct frame *shared = slot->frame;
    notify(m, process, page, 1);
    slot->frame = get_frame(m, shared);
    put_frame(m, shared);
}

/* The words of a page, made ready for reading or writing; NULL where that is not allowed. */
static uint64_t *memory_fault(struct memory *m, int process, uint32_t page, bool write)
{
    struct slot *slot = &m->slots[process][page];
    if (!slot->mapped || !(slot->rights & (write ? LW_FLAG_WRITE : LW_FLAG_READ)))
        return NULL;
    if (slot->object && slot->index >= slot->object->size)
        return NULL; /* behind the end of the file: SIGBUS */
    if (slot->frame && slot->swapped)
        move_frame(m, slot->frame, false);
    if (!slot->frame && slot->object) {
        struct frame **cached = &slot->object->pages[slot->index];
        if (!*cached)
            *cached = get_frame(m, NULL);
        slot->frame = *cached;
        slot->frame->references++;
    } else if (!slot->frame) {
        slot->frame = get_frame(m, NULL);
    }
    if (write) {
        if (!slot->shared && slot->frame->references > 1)
            break_cow(m, process, page);
        slot->lazily_free = false;
    }
    return slot->frame->words;
}

/* ---- Operations on mappings: each gives 0 or an errno ---- */

static int map(struct memory *m, const lw_operation *op)
{
    struct object *object = NULL;
    clear_slots(m, op->process, op->page, op->pages);
    if (op->flags & LW_FLAG_FILE) {
        object = m->objects[op->file];
        object->references += op->pages;
    } else if (op->flags & LW_FLAG_SHARED) {
        object = new_object(m, op->pages, op->pages);
    }
    for (uint32_t i = 0; i < op->pages; i++)
        m->slots[op->process][op->page + i] = (struct slot){
            .mapped = true,
            .shared = op->flags & LW_FLAG_SHARED,
            .rights = op->flags & (LW_FLAG_READ | LW_FLAG_WRITE),
            .object = object,
            .index = op->target + i, /* target is zero unless it is a file */
        };
    return 0;
}

static bool has_hole(const struct slot *slots, uint32_t pages)
{
    while (pages && slots->mapped)
        slots++, pages--;
    return pages != 0;
}

static int remap(struct memory *m, const lw_operation *op)
{
    struct slot *slots = m->slots[op->process];
    if (op->page < op->target + op->pages && op->target < op->page + op->pages)
        return EINVAL;
    if (has_hole(&slots[op->page], op->pages))
        return EFAULT;
    clear_slots(m, op->process, op->target, op->pages);
    notify(m, op->process, op->page, op->pages);
    for (uint32_t i = 0; i < op->pages; i++) {
        struct slot *from = &slots[op->page + i];
        slots[op->target + i] = *from;
        from->frame = NULL; /* its reference went along */
        from->swapped = from->lazily_free = false;
        if (!(op->flags & LW_FLAG_DONTUNMAP))
            memset(from, 0, sizeof *from);
        else if (from->object)
            from->object->references++;
    }
    return 0;
}

static int protect(struct memory *m, const lw_operation *op)
{
    for (uint32_t page = op->page; page < (uint32_t)op->page + op->pages; page++) {
        struct slot *slot = &m->slots[op->process][page];
        if (!slot->mapped)
            return ENOMEM;
        notify(m, op->process, page, 1);
        slot->rights = op->flags & (LW_FLAG_READ | LW_FLAG_WRITE);
    }
    return 0;
}

/* Discard, punch and free pass over holes, and say so at the end. */
static int advise(struct memory *m, const lw_operation *op)
{
    int error = 0;
    for (uint32_t page = op->page; page < (uint32_t)op->page + op->pages; page++) {
        struct slot *slot = &m->slots[op->process][page];
        if (!slot->mapped) {
            error = ENOMEM;
        } else if (op->kind == LW_DISCARD) {
            zap(m, op->process, page);
        } else if (op->kind == LW_PUNCH) {
            if (!slot->shared)
                return EINVAL;
            drop_object_pages(m, slot->object, slot->index, slot->index + 1, false);
        } else {
            if (slot->object)
                return EINVAL;
            notify(m, op->process, page, 1); /* so that a device's next write is noticed */
            slot->lazily_free = true;
        }
    }
    return error;
}

static int truncate_file(struct memory *m, const lw_operation *op)
{
    struct object *file = m->objects[op->file];
    file->size = op->pages;
    drop_object_pages(m, file, file->size, m->pages, true);
    return 0;
}

static int fork_process(struct memory *m, const lw_operation *op)
{
    struct slot *child = m->slots[op->target];
    memcpy(child, m->slots[op->process], m->pages * sizeof *child);
    for (uint32_t page = 0; page < m->pages; page++) {
        if (child[page].frame)
            child[page].frame->references++;
        if (child[page].object)
            child[page].object->references++;
    }
    notify(m, op->process, 0, m->pages); /* private pages are copy-on-write now */
    return 0;
}

/* Reclaim and migrate; an error is that there was no page to do it to. */
static int relocate(struct memory *m, const lw_operation *op)
{
    bool out = op->kind == LW_RECLAIM, happened = false;
    for (uint32_t page = op->page; page < (uint32_t)op->page + op->pages; page++) {
        struct slot *slot = &m->slots[op->process][page];
        if (!slot->frame || slot->swapped)
            continue;
        if (out && slot->lazily_free)
            zap(m, op->process, page);
        else
            move_frame(m, slot->frame, out);
        happened = true;
    }
    return happened ? 0 : ENOENT;
}

/* An operation on the memory itself; gives 0, an errno, or -1 if there is no such operation. */
static int memory_change(struct memory *m, const lw_operation *op)
{
    switch (op->kind) {
    case LW_MAP: return map(m, op);
    case LW_UNMAP: return clear_slots(m, op->process, op->page, op->pages), 0;
    case LW_REMAP: return remap(m, op);
    case LW_PROTECT: return protect(m, op);
    case LW_DISCARD:
    case LW_PUNCH:
    case LW_FREE: return advise(m, op);
    case LW_TRUNCATE: return truncate_file(m, op);
    case LW_FORK: return fork_process(m, op);
    case LW_EXIT: return clear_slots(m, op->process, 0, m->pages), 0;
    case LW_RECLAIM:
    case LW_MIGRATE: return relocate(m, op);
    default: return -1;
    }
}

static void memory_open(struct memory *m, const lw_geometry *geometry, notifier notifier,
                        void *mirror)
{
    *m = (struct memory){
        .page_size = geometry->page_size,
        .pages = geometry->pages,
        .processes = geometry->processes,
        .files = geometry->files,
        .notify = notifier,
        .mirror = mirror,
    };
    for (uint32_t file = 0; file < m->files; file++)
        m->objects[file] = new_object(m, m->pages, 1);
    for (uint32_t process = 0; process < m->processes; process++)
        m->slots[process] = allocate(m->pages, sizeof(struct slot));
}

static void memory_close(struct memory *m)
{
    for (uint32_t process = 0; process < m->processes; process++) {
        clear_slots(m, process, 0, m->pages);
        free(m->slots[process]);
    }
    for (uint32_t file = 0; file < m->files; file++)
        put_object(m, m->objects[file]);
    while (m->all_frames) {
        struct frame *frame = m->all_frames;
        m->all_frames = frame->allocated_before;
        free(frame);
    }
}

#endif
