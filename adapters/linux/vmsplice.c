/*
 * linux:vmsplice: the device is a pipe for each registration, which holds the pages as vmsplice
 * put them there: by a reference, not by a pin.  The kernel keeps the pages alive for it, but
 * knows of nobody who goes on using them with the process, and gives the process new ones when it
 * next writes to one that is shared.  So it is no correct registration mirror.
 *
 * A device read duplicates the pipe's contents with tee and reads the duplicate; there is no way
 * to write into the pages.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "process.h"

struct registration {
    int pipe[2]; /* zeros: a dead key */
    unsigned page, pages;
};

struct splicer {
    int scratch[2]; /* zeros: not attached in this process */
    struct registration keys[KEYS];
};

const unsigned device_count = DEVICES;
const unsigned disk_files = 0;
const uint32_t write_unit = WORD;
const uint32_t atomicity = WORD;

static struct splicer splicers[DEVICES];
static char *buffer; /* of all that a pipe can hold */

static size_t largest_pipe(void)
{
    long size = read_number("/proc/sys/fs/pipe-max-size");

    return size < (long)SMALL_PAGE ? 16 * SMALL_PAGE : (size_t)size;
}

/* A pipe with room for so many pages; 0 or -1. */
static int open_pipe(int ends[2], size_t size)
{
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        return ends[0] = 0, -1;
    return fcntl(ends[1], F_SETPIPE_SZ, (int)size) < 0 ? -1 : 0;
}

static void close_pipe(int ends[2])
{
    if (ends[0]) {
        close(ends[0]);
        close(ends[1]);
    }
    ends[0] = ends[1] = 0;
}

/* ---- Accesses ---- */

static int covers(const struct registration *key, const lw_operation *op)
{
    size_t first = page_bytes(op->page) + op->offset;

    return key->pipe[0] && first >= page_bytes(key->page) &&
           first + op->length <= page_bytes(key->page + key->pages);
}

/* The first so many bytes of the registration; 0, or -1 with errno. */
static int read_pages(struct splicer *splicer, const struct registration *key, size_t size)
{
    ssize_t got = tee(key->pipe[0], splicer->scratch[1], size, SPLICE_F_NONBLOCK);

    if (got >= 0)
        got = read(splicer->scratch[0], buffer, size);
    if (got == (ssize_t)size)
        return 0;
    errno = got < 0 ? errno : EIO;
    return -1;
}

void device_access(const lw_operation *op, size_t at, lw_outcome *outcome)
{
    struct splicer *splicer = &splicers[op->device];
    const struct registration *key = op->key ? &splicer->keys[op->key - 1] : NULL;
    size_t start;

    if (mirror.self == COORDINATOR) {
        answer(outcome, LW_STATUS_ERROR, ESRCH);
        return;
    }
    if (!key || !covers(key, op)) {
        answer(outcome, LW_STATUS_FAULT, EFAULT);
        return;
    }
    start = page_bytes(op->page - key->page) + op->offset;
    if (read_pages(splicer, key, start + op->length) < 0) {
        answer(outcome, LW_STATUS_ERROR, errno);
        return;
    }
    memcpy(mirror.shared + at, buffer + start, op->length);
    outcome->done = op->length;
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

/* ---- Registrations ---- */

/* All of the pages into the pipe; 0, or -1 with errno. */
static int fill_pipe(struct registration *key)
{
    struct iovec pages = {page_address(key->page), page_bytes(key->pages)};
    ssize_t put;

    while (pages.iov_len) {
        put = vmsplice(key->pipe[1], &pages, 1, SPLICE_F_NONBLOCK);
        if (put <= 0)
            return errno = put < 0 ? errno : EFAULT, -1;
        pages.iov_base = (char *)pages.iov_base + put;
        pages.iov_len -= (size_t)put;
    }
    return 0;
}

static void do_register(const lw_operation *op, lw_outcome *outcome)
{
    struct registration *key = &splicers[op->device].keys[op->key - 1];
    size_t size = page_bytes(op->pages);

    if (key->pipe[0]) {
        answer(outcome, LW_STATUS_ERROR, EEXIST);
        return;
    }
    if (size > largest_pipe()) {
        answer(outcome, LW_STATUS_UNSUPPORTED, E2BIG);
        return;
    }
    if (op->flags & LW_FLAG_WRITE && !pages_allow(page_address(op->page), size, 'w')) {
        answer(outcome, LW_STATUS_ERROR, EFAULT); /* the helper's word: a pipe only reads */
        return;
    }
    key->page = op->page;
    key->pages = op->pages;
    if (open_pipe(key->pipe, size) < 0 || fill_pipe(key) < 0) {
        answer(outcome, LW_STATUS_ERROR, errno);
        close_pipe(key->pipe);
    }
}

void device_register(const lw_operation *op, lw_outcome *outcome)
{
    if (mirror.self == COORDINATOR)
        answer(outcome, LW_STATUS_ERROR, ESRCH);
    else
        do_register(op, outcome);
}

void device_unregister(const lw_operation *op, lw_outcome *outcome)
{
    struct registration *key = &splicers[op->device].keys[op->key - 1];

    if (mirror.self == COORDINATOR)
        answer(outcome, LW_STATUS_ERROR, ESRCH);
    else if (!key->pipe[0])
        answer(outcome, LW_STATUS_ERROR, EINVAL);
    else
        close_pipe(key->pipe);
}

static void forget_keys(struct splicer *splicer)
{
    for (unsigned key = 0; key < KEYS; key++)
        close_pipe(splicer->keys[key].pipe);
}

/* ---- Life ---- */

unsigned device_owner(const lw_operation *op)
{
    return owner_of_process(op);
}

void device_attach(const lw_operation *op, lw_outcome *outcome)
{
    struct splicer *splicer = &splicers[op->device];

    if (!buffer)
        buffer = malloc(largest_pipe());
    if (!buffer || (!splicer->scratch[0] && open_pipe(splicer->scratch, largest_pipe()) < 0))
        answer(outcome, LW_STATUS_ERROR, errno);
}

void device_detach(const lw_operation *op, lw_outcome *outcome)
{
    (void)outcome;
    if (mirror.self != COORDINATOR)
        forget_keys(&splicers[op->device]);
}

void device_reset(void)
{
    for (unsigned d = 0; d < DEVICES; d++)
        forget_keys(&splicers[d]);
}

void device_parent(void)
{
}

void device_forked(void)
{
    device_reset();
    for (unsigned d = 0; d < DEVICES; d++)
        close_pipe(splicers[d].scratch);
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

/* ---- What it is ---- */

const char *device_unavailable(void)
{
    static char reason[128];
    uint64_t word = 0;
    struct iovec one = {&word, sizeof(word)};
    int ends[2];

    if (open_pipe(ends, largest_pipe()) < 0 || vmsplice(ends[1], &one, 1, SPLICE_F_NONBLOCK) < 0)
        snprintf(reason, sizeof(reason), "vmsplice into a pipe: %s", strerror(errno));
    close_pipe(ends);
    return *reason ? reason : NULL;
}

const char *device_lacks(unsigned kind)
{
    if (kind == LW_DWRITE || kind == LW_DADD || kind == LW_DCAS)
        return "what is in a pipe cannot be written to";
    return keyed_device_lacks(kind);
}

void device_describe(void)
{
    describe("\"name\":\"linux:vmsplice\",\"model\":\"registration\",\"keyed\":true,"
             "\"keys\":%d,\"page_sizes\":[4096],", KEYS);
}

void device_notes(void)
{
    describe_note("a negative control: it must fail C1");
    describe_note("jobs are done within their submission");
    describe_note("a registration that asks to write is granted by the helper, not the kernel");
}
