/*
 * A page-migrating mirror in user space: the device's side.
 *
 * Only private anonymous memory with both rights goes to a device.  All other pages stay where
 * they are, and the device accesses them there, with the rights that the CPU has.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "svm.h"

const unsigned device_count = DEVICES;
const unsigned disk_files = 2;
const uint32_t write_unit = WORD;
const uint32_t atomicity = WORD;

struct svm svm;

/* ---- Frames ---- */

static void free_frame(struct memory *memory, unsigned frame)
{
    memory->pages[frame] = 0;
    if (madvise(frame_address(memory, frame), SMALL_PAGE, MADV_DONTNEED) < 0)
        process_fatal("dropping a frame");
}

void svm_drop(uint32_t page)
{
    struct entry *entry = &svm.table[page];

    if (entry->place != AT_CPU)
        free_frame(&svm.memories[entry->device], entry->frame);
    entry->place = AT_CPU;
}

void svm_send_home(uint32_t page)
{
    struct entry *entry = &svm.table[page];
    const struct memory *memory = &svm.memories[entry->device];

    if (entry->place == AT_CPU)
        return;
    if (entry->place == SHARED ? way_release(page) < 0 : way_return(page, memory, entry->frame) < 0)
        process_fatal("sending a page home");
    svm_drop(page);
}

void svm_rename(uint32_t from, uint32_t to)
{
    struct entry *old = &svm.table[from], *new = &svm.table[to];

    *new = *old;
    if (old->place != AT_CPU)
        svm.memories[old->device].pages[old->frame] = to + 1;
    old->place = AT_CPU;
}

/* A free one, after some page has made room if need be. */
static unsigned take_frame(struct memory *memory)
{
    unsigned frame = memory->next;

    for (unsigned i = 0; i < FRAMES; i++)
        if (!memory->pages[(frame + i) % FRAMES]) {
            frame = (frame + i) % FRAMES;
            break;
        }
    if (memory->pages[frame])
        svm_send_home(memory->pages[frame] - 1);
    memory->next = (frame + 1) % FRAMES;
    return frame;
}

/* ---- Migration ---- */

/* Bring a page into the memory of a device: whether it could be done, or was there. */
static int bring(unsigned device, uint32_t page, int write)
{
    struct entry *entry = &svm.table[page];
    struct memory *memory = &svm.memories[device];
    int place;

    if (entry->place != AT_CPU && entry->device != device)
        svm_send_home(page);
    if (entry->place == AT_DEVICE || (entry->place == SHARED && !write))
        return 1;
    if (!svm_watch(page))
        return 0;
    if (entry->place == AT_CPU)
        entry->frame = (uint8_t)take_frame(memory);
    place = way_take(page, entry->place, memory, entry->frame, write);
    if (place < 0)
        return 0;
    entry->place = (uint8_t)place;
    entry->device = (uint8_t)device;
    memory->pages[entry->frame] = page + 1;
    return 1;
}

/* Where the device finds a page: in its memory, or where it is. */
static char *find(unsigned device, uint32_t page, int write)
{
    if (bring(device, page, write))
        return frame_address(&svm.memories[device], svm.table[page].frame);
    return small_page(page);
}

static int is_here(unsigned device, uint32_t page)
{
    return svm.table[page].place != AT_CPU && svm.table[page].device == device;
}

/* As many pages as can be had; SKIPPED if there was none that could move. */
static void migrate(const lw_operation *op, lw_outcome *outcome)
{
    uint32_t page = (uint32_t)(page_bytes(op->page) / SMALL_PAGE);
    uint32_t end = page + (uint32_t)(page_bytes(op->pages) / SMALL_PAGE);
    unsigned moved = 0;

    for (; page < end; page++) {
        int here = is_here(op->device, page);
        if (op->kind == LW_TO_SYSTEM && here) {
            svm_send_home(page);
            moved++;
        } else if (op->kind == LW_TO_DEVICE && !here) {
            moved += (unsigned)bring(op->device, page, 1);
        }
    }
    if (!moved)
        answer(outcome, LW_STATUS_SKIPPED, ENODATA);
}

/* ---- Accesses ---- */

/* The CPU's kind of access that does the same. */
static unsigned cpu_kind(unsigned kind)
{
    return kind - LW_DREAD + LW_READ;
}

static int writes(unsigned kind)
{
    return kind != LW_DREAD;
}

/* The words of an access from `done` on, as far as its small page goes: how many were done. */
static uint64_t access_piece(const lw_operation *op, uint64_t done, uint8_t *data, int *error)
{
    size_t at = page_bytes(op->page) + op->offset + done * WORD, inside = at % SMALL_PAGE;
    uint64_t count = op->length / WORD - done, room = (SMALL_PAGE - inside) / WORD;
    char *page = find(op->device, (uint32_t)(at / SMALL_PAGE), writes(op->kind));
    struct run run = {
        .kind = cpu_kind(op->kind),
        .words = (uint64_t *)(page + inside),
        .count = count < room ? count : room,
        .value = op->kind == LW_DADD ? op->value : op->value + done,
        .expected = op->expected + done,
        .data = data + done * WORD,
    };

    return access_run(&run, error);
}

static void access_pieces(const lw_operation *op, size_t at, lw_outcome *outcome)
{
    uint64_t done = 0;
    int error = 0;

    while (!error && done < op->length / WORD)
        done += access_piece(op, done, mirror.shared + at, &error);
    outcome->done = (uint32_t)(done * WORD);
    if (error)
        answer(outcome, LW_STATUS_FAULT, error);
}

/* An access to one word of each small page. */
static void fault_in(const lw_operation *op, lw_outcome *outcome)
{
    lw_operation touch = {
        .kind = op->flags & LW_FLAG_WRITE ? LW_DADD : LW_DREAD,
        .device = op->device,
        .page = op->page,
        .length = WORD,
    };
    size_t end = page_bytes(op->pages);
    uint8_t ignored[WORD];
    int error = 0;

    for (; touch.offset < end && !error; touch.offset += SMALL_PAGE)
        access_piece(&touch, 0, ignored, &error);
    if (error)
        answer(outcome, LW_STATUS_FAULT, error);
}

void device_access(const lw_operation *op, size_t at, lw_outcome *outcome)
{
    if (mirror.self == COORDINATOR) {
        answer(outcome, LW_STATUS_ERROR, ESRCH);
        return;
    }
    svm_settle();
    if (op->kind == LW_FAULT)
        fault_in(op, outcome);
    else if (is_device_access(op->kind))
        access_pieces(op, at, outcome);
    else
        migrate(op, outcome);
}

void device_submit(unsigned device, struct job *job)
{
    job_perform(device, job);
    job->state = JOB_DONE;
}

void device_wait(unsigned device, struct job *job)
{
    (void)device;
    (void)job;
}

/* ---- Life ---- */

unsigned device_owner(const lw_operation *op)
{
    return owner_of_process(op);
}

/* Children get neither table nor frames: they start with all pages at the CPU. */
static void *map_alone(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (at == MAP_FAILED)
        return NULL;
    madvise(at, size, MADV_DONTFORK);
    return at;
}

static int start_table(void)
{
    if (!svm.table)
        svm.table = map_alone(ARENA_LIMIT / SMALL_PAGE * sizeof(*svm.table));
    if (!svm.table)
        return -1;
    return svm.fd ? 0 : svm_events_start();
}

static int start_memory(struct memory *memory)
{
    if (memory->fd)
        return 0;
    if (!memory->frames)
        memory->frames = map_alone(FRAMES * SMALL_PAGE);
    if (!memory->frames)
        return -1;
    memory->fd = svm_open(way_features);
    if (memory->fd < 0)
        return memory->fd = 0, -1;
    return svm_register(memory->fd, memory->frames, FRAMES * SMALL_PAGE, UFFDIO_REGISTER_MODE_MISSING);
}

void device_attach(const lw_operation *op, lw_outcome *outcome)
{
    if (start_table() < 0 || start_memory(&svm.memories[op->device]) < 0)
        answer(outcome, LW_STATUS_ERROR, errno);
}

static void empty_memory(struct memory *memory, void (*leave)(uint32_t))
{
    for (unsigned frame = 0; frame < FRAMES; frame++)
        if (memory->pages[frame])
            leave(memory->pages[frame] - 1);
}

void device_detach(const lw_operation *op, lw_outcome *outcome)
{
    (void)outcome;
    if (mirror.self == COORDINATOR)
        return;
    svm_settle();
    empty_memory(&svm.memories[op->device], svm_send_home);
}

void device_reset(void)
{
    svm_settle();
    for (unsigned d = 0; d < DEVICES; d++)
        empty_memory(&svm.memories[d], svm_drop);
}

/* The child does not run before it has got its pages. */
void device_parent(void)
{
    svm_settle();
}

void device_forked(void)
{
    if (svm.fd)
        close(svm.fd);
    for (unsigned d = 0; d < DEVICES; d++)
        if (svm.memories[d].fd)
            close(svm.memories[d].fd);
    memset(&svm, 0, sizeof(svm)); /* table and frames are not mapped here */
}

void device_leaving(void)
{
}

int device_start(void)
{
    return 0;
}

void device_quiesce(void)
{
}

void device_register(const lw_operation *op, lw_outcome *outcome)
{
    (void)op;
    answer(outcome, LW_STATUS_UNSUPPORTED, ENOSYS);
}

void device_unregister(const lw_operation *op, lw_outcome *outcome)
{
    device_register(op, outcome);
}

/* ---- What it is ---- */

/* Attach a device to this process, and give up. */
static void try_attach(unsigned unused)
{
    const lw_operation op = {.kind = LW_ATTACH};
    lw_outcome outcome = {0};

    (void)unused;
    device_attach(&op, &outcome);
    _exit(outcome.error);
}

const char *device_unavailable(void)
{
    static char reason[160];
    int status = 0;
    pid_t pid = process_helper(try_attach, 0);

    if (pid < 0)
        return "fork failed";
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (status == 0)
        return NULL;
    snprintf(reason, sizeof(reason), "userfaultfd: %s (%s)", strerror(WEXITSTATUS(status)),
             WEXITSTATUS(status) == EPERM ? "events of fork need CAP_SYS_PTRACE" : way_needs);
    return reason;
}

const char *device_lacks(unsigned kind)
{
    switch (kind) {
    case LW_PROTECT:
        return "userfaultfd does not tell of mprotect";
    case LW_TO_DEVICE:
    case LW_TO_SYSTEM:
        return NULL;
    default:
        return keyless_device_lacks(kind);
    }
}

void device_describe(void)
{
    describe("\"name\":\"linux:%s\",\"model\":\"faulting\",\"keyed\":false,\"keys\":0,"
             "\"page_sizes\":[4096,65536,%lu],", way_name, HUGE_PAGE);
}

void device_notes(void)
{
    describe_note("private anonymous memory moves to the device, all other stays at the CPU");
    describe_note("jobs are done within their submission");
}
