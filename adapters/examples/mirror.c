/* A worked example: a correct mirror of the faulting model, in C.
 *
 *     cc -std=c11 -O2 -fPIC -shared -Iadapters/include adapters/examples/mirror.c -o mirror.so
 *     lastwriter certify ./mirror.so
 *
 * Each device caches translations from page to words, holds no reference on the memory behind
 * them, and counts on invalidate() to drop them in time.  memory.h is the memory manager that
 * calls invalidate(), in place of the kernel.  Take out any line of invalidate(), or any call of
 * notify() in memory.h, and certify shows the program that notices.
 *
 * The suite never sends what makes no sense where it stands (a page behind the arena, a process
 * that was never forked), so that is not checked.
 */
#include "memory.h"

enum { DEVICES = 2, JOBS = 4, JOB_LENGTH = 8 };

struct translation {
    uint64_t *words; /* NULL: ask the page table */
    bool writable;
};

struct job {
    uint32_t count, performed, data_size;
    lw_operation accesses[JOB_LENGTH];
    lw_outcome outcomes[JOB_LENGTH];
    uint8_t *data;
};

struct device {
    int process; /* -1: not attached */
    struct translation *tlb;
    struct job jobs[JOBS];
};

struct mirror {
    struct memory memory;
    uint32_t device_count;
    struct device devices[DEVICES];
};

/* ---- Translations ---- */

/* The notifier.  Everything hangs on this: when it returns, no device may go on using what it
 * knew of these pages. */
static void invalidate(void *mirror, int process, uint32_t page, uint32_t pages)
{
    struct mirror *m = mirror;
    for (uint32_t d = 0; d < m->device_count; d++)
        if (m->devices[d].process == process)
            memset(&m->devices[d].tlb[page], 0, pages * sizeof(struct translation));
}

/* A device only asks the page table what its own table cannot answer.  One that was filled by a
 * read does not allow a write: the page table must see that, to break copy-on-write. */
static uint64_t *translate(struct mirror *m, struct device *device, uint32_t page, bool write)
{
    struct translation *cached = &device->tlb[page];
    if (!cached->words || (write && !cached->writable)) {
        uint64_t *words = memory_fault(&m->memory, device->process, page, write);
        *cached = (struct translation){words, write};
    }
    return cached->words;
}

/* ---- Accesses, by the CPU or a device ---- */

/* Fills in the outcome; old values go to `data`, which may not be aligned. */
static void access_words(struct mirror *m, const lw_operation *op, lw_outcome *outcome,
                         uint8_t *data)
{
    struct device *device = op->kind >= LW_DREAD ? &m->devices[op->device] : NULL;
    int kind = device ? op->kind - LW_DREAD + LW_READ : op->kind;
    uint64_t address = (uint64_t)op->page * m->memory.page_size + op->offset;
    while (outcome->done < op->length) {
        uint64_t at = address + outcome->done, k = outcome->done / sizeof(uint64_t), old;
        uint32_t page = at / m->memory.page_size;
        uint64_t *words = device ? translate(m, device, page, kind != LW_READ)
                                 : memory_fault(&m->memory, op->process, page, kind != LW_READ);
        if (!words) {
            outcome->status = LW_STATUS_FAULT;
            outcome->error = EFAULT;
            break;
        }
        uint64_t *word = &words[at % m->memory.page_size / sizeof(uint64_t)];
        old = *word;
        if (kind == LW_WRITE || (kind == LW_CAS && old == op->expected + k))
            *word = op->value + k;
        else if (kind == LW_ADD)
            *word = old + op->value;
        if (kind != LW_WRITE)
            memcpy(data + outcome->done, &old, sizeof old);
        outcome->done += sizeof old;
    }
    outcome->size = kind == LW_WRITE ? 0 : outcome->done;
}

/* ---- Jobs ---- */

static struct job *job_of(struct mirror *m, const lw_operation *op)
{
    return &m->devices[op->device].jobs[op->job - 1];
}

static uint32_t longest_data(const struct job *job)
{
    uint32_t size = 0;
    for (uint32_t i = 0; i < job->count; i++)
        size += job->accesses[i].length;
    return size;
}

/* A job's accesses happen in order, whenever it suits the device between submit and wait. */
static void perform_until(struct mirror *m, struct job *job, uint32_t end)
{
    for (; job->performed < end; job->performed++) {
        lw_outcome *outcome = &job->outcomes[job->performed];
        *outcome = (lw_outcome){.data = job->data_size};
        access_words(m, &job->accesses[job->performed], outcome, job->data + job->data_size);
        job->data_size += outcome->size;
    }
}

static void submit(struct mirror *m, struct job *job)
{
    job->data = allocate(1, longest_data(job));
    job->performed = job->data_size = 0;
    perform_until(m, job, job->count / 2); /* half of them now, half of them at the wait */
}

static uint32_t wait_for(struct mirror *m, struct job *job, uint8_t *data)
{
    uint32_t records = job->count * sizeof(lw_outcome);
    perform_until(m, job, job->count);
    memcpy(data, job->outcomes, records);
    memcpy(data + records, job->data, job->data_size);
    free(job->data);
    job->data = NULL;
    job->count = 0;
    return records + job->data_size;
}

/* ---- Devices ---- */

static int attach(struct mirror *m, const lw_operation *op, int process)
{
    struct device *device = &m->devices[op->device];
    device->process = process;
    memset(device->tlb, 0, m->memory.pages * sizeof(struct translation));
    return 0;
}

static int fault_range(struct mirror *m, const lw_operation *op)
{
    for (uint32_t page = op->page; page < (uint32_t)op->page + op->pages; page++)
        if (!translate(m, &m->devices[op->device], page, op->flags & LW_FLAG_WRITE))
            return EFAULT;
    return 0;
}

/* ---- The interface ---- */

/* Operations other than accesses, submit and wait; gives 0, an errno, or -1 if unknown. */
static int change(struct mirror *m, const lw_operation *op)
{
    switch (op->kind) {
    case LW_ATTACH: return attach(m, op, op->process);
    case LW_DETACH: return attach(m, op, -1);
    case LW_FAULT: return fault_range(m, op);
    case LW_INVALIDATE: return invalidate(m, op->process, op->page, op->pages), 0;
    default: return memory_change(&m->memory, op);
    }
}

static bool is_access(int kind)
{
    return (kind >= LW_READ && kind <= LW_CAS) || (kind >= LW_DREAD && kind <= LW_DCAS);
}

static void perform(struct mirror *m, const lw_operation *op, lw_outcome *outcome, uint8_t *data)
{
    if (is_access(op->kind) && op->job) {
        struct job *job = job_of(m, op);
        job->accesses[job->count++] = *op;
    } else if (is_access(op->kind)) {
        access_words(m, op, outcome, data);
    } else if (op->kind == LW_SUBMIT) {
        submit(m, job_of(m, op));
    } else if (op->kind == LW_WAIT) {
        outcome->size = wait_for(m, job_of(m, op), data);
    } else {
        int error = change(m, op);
        bool event = op->kind == LW_RECLAIM || op->kind == LW_MIGRATE;
        if (error < 0)
            outcome->status = LW_STATUS_UNSUPPORTED;
        else if (error)
            outcome->status = event ? LW_STATUS_SKIPPED : LW_STATUS_ERROR;
        outcome->error = error > 0 ? error : 0;
    }
}

/* Bytes of side buffer that an operation may need. */
static uint32_t need(struct mirror *m, const lw_operation *op)
{
    if (op->kind == LW_WAIT)
        return job_of(m, op)->count * sizeof(lw_outcome) + longest_data(job_of(m, op));
    return is_access(op->kind) && !op->job ? op->length : 0;
}

uint32_t lw_abi_version(void) { return LW_ABI_VERSION; }

const char *lw_describe(void)
{
    return "{\"name\": \"example mirror in C\", \"model\": \"faulting\","
           " \"operations\": [\"map\", \"unmap\", \"remap\", \"protect\", \"discard\", \"punch\","
           " \"free\", \"truncate\", \"fork\", \"exit\", \"read\", \"write\", \"add\", \"cas\","
           " \"reclaim\", \"migrate\", \"attach\", \"detach\", \"dread\", \"dwrite\", \"dadd\","
           " \"dcas\", \"fault\", \"submit\", \"wait\", \"invalidate\"],"
           " \"page_sizes\": [4096, 65536, 2097152],"
           " \"processes\": 3, \"devices\": 2, \"files\": 4, \"jobs\": 4}";
}

void *lw_open(const lw_geometry *geometry)
{
    if (geometry->processes > PROCESSES || geometry->devices > DEVICES ||
        geometry->files > FILES || geometry->jobs > JOBS) {
        errno = EINVAL;
        return NULL;
    }
    struct mirror *m = allocate(1, sizeof *m);
    memory_open(&m->memory, geometry, invalidate, m);
    m->device_count = geometry->devices;
    for (uint32_t d = 0; d < m->device_count; d++) {
        m->devices[d].process = -1;
        m->devices[d].tlb = allocate(geometry->pages, sizeof(struct translation));
    }
    return m;
}

uint32_t lw_run(void *mirror, const lw_operation *operations, uint32_t count,
                lw_outcome *outcomes, uint8_t *data, uint32_t capacity)
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (need(mirror, &operations[i]) > capacity - used)
            return i;
        outcomes[i] = (lw_outcome){.data = used};
        perform(mirror, &operations[i], &outcomes[i], data + used);
        used += outcomes[i].size;
    }
    return count;
}

void lw_close(void *mirror)
{
    struct mirror *m = mirror;
    memory_close(&m->memory);
    for (uint32_t d = 0; d < m->device_count; d++) {
        for (int job = 0; job < JOBS; job++)
            free(m->devices[d].jobs[job].data);
        free(m->devices[d].tlb);
    }
    free(m);
}
