/*
 * linux:hmm: the device is the kernel's own test driver for HMM, in the kernel of a virtual
 * machine.  It keeps a table of translations for the address space that opened its file, and
 * memory of its own to which pages can migrate.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hmm.h"
#include "hmm_driver.h"
#include "process.h"

const unsigned device_count = DEVICES;
const unsigned disk_files = 0;         /* the machine has no disk */
const uint32_t write_unit = SMALL_PAGE; /* the driver stores whole pages */
/* The kernel copies words as such on a processor without FSRM, which is what the machine has. */
const uint32_t atomicity = WORD;

enum { COMMAND_PAGES = MAX_LENGTH / SMALL_PAGE }; /* pages of one command */

enum { TRIES = 5, SPOILED = 4 };

#define TOUCHED (16 * SMALL_PAGE) /* bytes of a buffer that are in use most of the time */

/* One page more, for an access that is not aligned to pages. */
_Alignas(SMALL_PAGE) static uint8_t bounce[(COMMAND_PAGES + 1) * SMALL_PAGE];

/* ---- Commands ---- */

/* 0 or an errno. */
int hmm_do(int fd, unsigned long code, char *at, size_t pages, void *data)
{
    struct hmm_command it = {
        .address = (uintptr_t)at, .data = (uintptr_t)data, .pages = pages};

    return ioctl(fd, code, &it) < 0 ? errno : 0;
}

/* The driver copies what it writes through pages that it frees then, and that may have been the
 * device's memory before: a stale translation would find the right words in them.  So the kernel
 * is made to use them for something else at once, the pages of a pipe. */
static void spoil_freed(size_t pages)
{
    static uint8_t noise[SPOILED * SMALL_PAGE];
    static int ends[2];
    static pid_t whose; /* a child may have closed what it was born with */
    size_t size = (pages < SPOILED ? pages : SPOILED) * SMALL_PAGE;

    if (whose != getpid()) {
        memset(noise, 0xa5, sizeof(noise));
        if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) < 0)
            process_fatal("pipe");
        whose = getpid();
    }
    if (write(ends[1], noise, size) < (ssize_t)size)
        while (read(ends[0], noise, sizeof(noise)) > 0)
            ;
}

void hmm_touch_buffers(void)
{
    if (mirror.self == COORDINATOR) { /* where no program runs yet */
        memset(mirror.shared + WORDS_AT, 0xa5, TOUCHED);
        memset(mirror.shared + DATA_AT, 0xa5, TOUCHED);
    }
    memset(bounce, 0xa5, TOUCHED);
    spoil_freed(1);
}

/* The driver gives up after a second in which the range was invalidated again and again, or in
 * which the machine was held up.  What may not be done twice is not tried again. */
static int insist(int fd, unsigned long code, char *at, size_t pages, void *data)
{
    int again = code == HMM_READ || code == HMM_SNAPSHOT || pages == 1 || !jobs_in_flight(), error;

    for (int tries = 0; tries < TRIES; tries++) {
        error = hmm_do(fd, code, at, pages, data);
        if (error != EBUSY || !again)
            break;
    }
    if (code == HMM_WRITE)
        spoil_freed(pages);
    return error;
}

/* ---- Ranges, piece by piece ---- */

typedef int (*chunk_function)(int fd, char *at, size_t pages);

/* Up to the first error. */
static int each_chunk(int fd, const lw_operation *op, chunk_function act)
{
    size_t pages = page_bytes(op->pages) / SMALL_PAGE;
    char *at = page_address(op->page);
    int error = 0;

    for (size_t done = 0; done < pages && !error; done += COMMAND_PAGES) {
        size_t now = pages - done < COMMAND_PAGES ? pages - done : COMMAND_PAGES;
        error = act(fd, at + done * SMALL_PAGE, now);
    }
    return error;
}

/* ---- Accesses ---- */

/* The whole pages that an access lies in, and where in them it begins. */
struct span {
    int fd;
    char *at;
    size_t offset, pages;
};

static struct span span_of(const lw_operation *op)
{
    uintptr_t from = (uintptr_t)page_address(op->page) + op->offset;
    size_t offset = from % SMALL_PAGE;

    return (struct span){.fd = hmm_file(op->device),
                         .at = (char *)(from - offset),
                         .offset = offset,
                         .pages = (offset + op->length + SMALL_PAGE - 1) / SMALL_PAGE};
}

static int transfer(const struct span *span, unsigned long code, size_t page, size_t pages)
{
    size_t from = page * SMALL_PAGE;

    return insist(span->fd, code, span->at + from, pages, bounce + from);
}

/* After a command for several pages that failed: one by one, up to the first that fails. */
static size_t prefix(const struct span *span, unsigned long code)
{
    size_t page = 0;

    /* Never all of them: an access that failed was not done. */
    while (page + 1 < span->pages && !transfer(span, code, page, 1))
        page++;
    return page;
}

/* An access that failed behind so many pages. */
static void fail(const struct span *span, size_t pages, int error, lw_outcome *outcome)
{
    int clean = error == EFAULT || error == EPERM;

    answer(outcome, clean ? LW_STATUS_FAULT : LW_STATUS_ERROR, error);
    outcome->done = pages ? (uint32_t)(pages * SMALL_PAGE - span->offset) : 0;
}

static void do_read(const lw_operation *op, uint8_t *to, lw_outcome *outcome)
{
    struct span span = span_of(op);
    int error = transfer(&span, HMM_READ, 0, span.pages);

    outcome->done = op->length;
    if (error)
        fail(&span, prefix(&span, HMM_READ), error, outcome);
    memcpy(to, bounce + span.offset, outcome->done);
}

/* A page that is written in part: the rest of it is what is there.  Nothing else runs until it is
 * written back: step_device() sees to that. */
static int write_part(const struct span *span, size_t page, const uint8_t *words, size_t offset,
                      size_t length)
{
    int error = transfer(span, HMM_READ, page, 1);

    memcpy(bounce + page * SMALL_PAGE + offset, words, length);
    return error ? error : transfer(span, HMM_WRITE, page, 1);
}

/* Pages that are written as a whole.  How many it wrote before it failed is not said, but in pages
 * to come it did nothing: to do the ones before again, with the same words, changes nothing unless
 * something else runs. */
static int write_whole(const struct span *span, const uint8_t *words, size_t *page, size_t end)
{
    const struct span rest = {.fd = span->fd,
                              .at = span->at + *page * SMALL_PAGE,
                              .pages = end - *page};
    int error;

    memcpy(bounce, words, rest.pages * SMALL_PAGE);
    error = transfer(&rest, HMM_WRITE, 0, rest.pages);
    if (!error)
        *page = end;
    else if (!jobs_in_flight())
        *page += prefix(&rest, HMM_WRITE);
    return error;
}

/* In the order of the pages, of which two may be the same memory. */
static void do_write(const lw_operation *op, const uint8_t *words, lw_outcome *outcome)
{
    struct span span = span_of(op);
    size_t end = span.offset + op->length, head = SMALL_PAGE - span.offset, page = 0;
    int error = 0;

    if (head > op->length)
        head = op->length;
    if (head < SMALL_PAGE) {
        error = write_part(&span, 0, words, span.offset, head);
        page = !error;
    }
    if (!error && page < end / SMALL_PAGE)
        error = write_whole(&span, words + page * SMALL_PAGE - span.offset, &page,
                            end / SMALL_PAGE);
    if (!error && page < span.pages) {
        error = write_part(&span, page, words + page * SMALL_PAGE - span.offset, 0,
                           end % SMALL_PAGE);
        page += !error;
    }
    outcome->done = op->length;
    if (error)
        fail(&span, page, error, outcome);
}

/* ---- Operations on ranges ---- */

static int read_in(int fd, char *at, size_t pages)
{
    return insist(fd, HMM_READ, at, pages, bounce);
}

/* The driver faults for writing only to write: the contents that are there. */
static int write_back(int fd, char *at, size_t pages)
{
    int error = read_in(fd, at, pages);

    return error ? error : insist(fd, HMM_WRITE, at, pages, bounce);
}

static void do_fault(const lw_operation *op, lw_outcome *outcome)
{
    int writes = op->flags & LW_FLAG_WRITE, error;

    if (writes && jobs_in_flight()) {
        answer(outcome, LW_STATUS_UNSUPPORTED, EBUSY);
        return;
    }
    error = each_chunk(hmm_file(op->device), op, writes ? write_back : read_in);
    if (error)
        answer(outcome, LW_STATUS_ERROR, error);
}

static size_t local; /* pages in the memory of the device, in a snapshot */

static int count_local(int fd, char *at, size_t pages)
{
    int error = hmm_do(fd, HMM_SNAPSHOT, at, pages, bounce);

    for (size_t i = 0; i < pages && !error; i++)
        local += bounce[i] != HMM_SEEN_ERROR && (bounce[i] & HMM_SEEN_PLACE) == HMM_SEEN_HERE;
    return error;
}

static size_t pages_here(int fd, const lw_operation *op)
{
    local = 0;
    each_chunk(fd, op, count_local);
    return local;
}

/* Whether any page of the arena is in the memory of the device. */
int hmm_has_pages(unsigned number)
{
    const lw_operation arena = {.pages = mirror.control->geometry.pages};

    return pages_here(hmm_file(number), &arena) > 0;
}

static int send(int fd, char *at, size_t pages)
{
    return hmm_do(fd, HMM_TO_DEVICE, at, pages, bounce);
}

static int fetch(int fd, char *at, size_t pages)
{
    return hmm_do(fd, HMM_TO_SYSTEM, at, pages, NULL);
}

/* What the driver answers is not whether anything has moved. */
static void do_migrate(const lw_operation *op, lw_outcome *outcome)
{
    int fd = hmm_file(op->device), there = op->kind == LW_TO_DEVICE;
    size_t before = pages_here(fd, op);
    int error = each_chunk(fd, op, there ? send : fetch);
    size_t after = pages_here(fd, op);

    if (there ? after > before : after < before)
        return;
    if (!error || error == ENOENT) /* ENOENT: not all of it was there to be read */
        answer(outcome, LW_STATUS_SKIPPED, error ? error : ENODATA);
    else
        answer(outcome, LW_STATUS_ERROR, error);
}

static int seize(int fd, char *at, size_t pages)
{
    return hmm_do(fd, HMM_EXCLUSIVE, at, pages, bounce);
}

static int not_seized(int fd, char *at, size_t pages)
{
    return hmm_do(fd, HMM_CHECK_EXCLUSIVE, at, pages, NULL);
}

/* Where it failed, it may have taken what lies before. */
static void do_exclusive(const lw_operation *op, lw_outcome *outcome)
{
    int fd = hmm_file(op->device), error = each_chunk(fd, op, seize);

    if (error && each_chunk(fd, op, not_seized) != EPERM)
        answer(outcome, LW_STATUS_ERROR, error);
}

/* ---- Snapshots ---- */

/* What the driver sees of a page of 4 KiB. */
static unsigned seen_of(unsigned entry)
{
    unsigned seen;

    if (entry == HMM_SEEN_ERROR || !(entry & (HMM_SEEN_READ | HMM_SEEN_WRITE)))
        return 0;
    seen = entry & HMM_SEEN_WRITE ? LW_SEEN_READ | LW_SEEN_WRITE : LW_SEEN_READ;
    if (entry & HMM_SEEN_HUGE)
        seen |= LW_SEEN_HUGE;
    switch (entry & HMM_SEEN_PLACE) {
    case 0:
        return seen | LW_SEEN_SYSTEM;
    case HMM_SEEN_ZERO:
        return seen | LW_SEEN_SYSTEM | LW_SEEN_ZERO;
    case HMM_SEEN_HERE:
        return seen | LW_SEEN_HERE;
    case HMM_SEEN_ELSEWHERE:
        return seen | LW_SEEN_ELSEWHERE;
    default: /* there are no such devices */
        return UINT8_MAX;
    }
}

/* Of a page slot: rights and places of any of its pages, and what all of them are. */
static uint8_t seen_of_slot(const uint8_t *entries, size_t pages)
{
    unsigned any = 0, all = LW_SEEN_ZERO | LW_SEEN_HUGE, whole = all;

    for (size_t i = 0; i < pages; i++) {
        unsigned seen = seen_of(entries[i]);
        any |= seen;
        all &= seen;
    }
    return (uint8_t)((any & ~whole) | all);
}

static void do_snapshot(const lw_operation *op, uint8_t *to, lw_outcome *outcome)
{
    size_t each = page_bytes(1) / SMALL_PAGE;
    int error = insist(hmm_file(op->device), HMM_SNAPSHOT, page_address(op->page),
                       op->pages * each, bounce);

    if (error)
        answer(outcome, error == EBUSY ? LW_STATUS_SKIPPED : LW_STATUS_ERROR, error);
    for (size_t i = 0; i < op->pages && !error; i++)
        to[i] = seen_of_slot(bounce + i * each, each);
}

/* ---- What is done with a device ---- */

void device_access(const lw_operation *op, size_t at, lw_outcome *outcome)
{
    switch (op->kind) {
    case LW_DREAD:
        do_read(op, mirror.shared + at, outcome);
        break;
    case LW_DWRITE:
        do_write(op, mirror.shared + at, outcome);
        break;
    case LW_FAULT:
        do_fault(op, outcome);
        break;
    case LW_EXCLUSIVE:
        do_exclusive(op, outcome);
        break;
    case LW_SNAPSHOT:
        do_snapshot(op, mirror.shared + at, outcome);
        break;
    default:
        do_migrate(op, outcome);
    }
}

void device_submit(unsigned number, struct job *job)
{
    server_submit(number, job);
}

void device_wait(unsigned number, struct job *job)
{
    (void)number;
    server_wait(job);
}

unsigned device_owner(const lw_operation *op)
{
    return owner_of_process(op);
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

const char *device_unavailable(void)
{
    static char reason[80];
    char path[32];

    for (unsigned d = 0; d < DEVICES; d++) {
        hmm_node(d, path, sizeof(path));
        if (access(path, R_OK | W_OK) < 0) {
            snprintf(reason, sizeof(reason), "%s: %s", path, strerror(errno));
            return reason;
        }
    }
    return NULL;
}

const char *device_lacks(unsigned kind)
{
    switch (kind) {
    case LW_DADD:
    case LW_DCAS:
        return "the driver has no atomic operations";
    case LW_TO_DEVICE:
    case LW_TO_SYSTEM:
    case LW_EXCLUSIVE:
        return NULL;
    case LW_SNAPSHOT:
        return getenv("LASTWRITER_ONE_NODE") ? "both devices are one to the driver, which does "
                                               "not say which of them has a page" : NULL;
    default:
        return keyless_device_lacks(kind);
    }
}

void device_describe(void)
{
    describe("\"name\":\"linux:hmm\",\"model\":\"faulting\",\"keyed\":false,\"keys\":0,"
             "\"page_sizes\":[4096,65536,%lu],", HUGE_PAGE);
}

void device_notes(void)
{
    describe_note("the driver reads and writes whole pages: a part of one is read, changed and "
                  "written back, and never while a job is in flight");
    describe_note("to fault in for writing is to write what is there");
    if (getenv("LASTWRITER_ONE_NODE"))
        describe_note("both devices are one to the driver, each with a file of its own");
}
