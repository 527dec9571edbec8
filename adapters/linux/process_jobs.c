/*
 * What all devices do alike: queues of accesses, and who is attached to what.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "process.h"

static struct job *job_of(const lw_operation *op)
{
    return &mirror.control->devices[op->device].jobs[op->job - 1];
}

size_t job_place(unsigned device, const struct job *job, unsigned access)
{
    size_t index = (size_t)(job - mirror.control->devices[device].jobs);

    return JOBS_AT + ((device * JOBS + index) * JOB_LENGTH + access) * MAX_LENGTH;
}

/* The words that a write stores. */
static void fill_words(const lw_operation *op, size_t at)
{
    uint64_t *words = (uint64_t *)(mirror.shared + at);

    for (uint64_t k = 0; k < op->length / WORD; k++)
        words[k] = op->value + k;
}

static void access_at(const lw_operation *op, size_t at, lw_outcome *outcome)
{
    device_access(op, at, outcome);
    if (op->kind == LW_SNAPSHOT)
        outcome->size = outcome->status == LW_STATUS_OK ? op->pages : 0;
    else
        outcome->size = gives_data(op->kind) ? outcome->done : 0;
}

void job_perform(unsigned device, struct job *job)
{
    for (unsigned i = 0; i < job->count; i++)
        access_at(&job->accesses[i], job_place(device, job, i), &job->outcomes[i]);
}

int jobs_in_flight(void)
{
    for (unsigned d = 0; d < DEVICES; d++)
        for (unsigned j = 0; j < JOBS; j++)
            if (mirror.control->devices[d].jobs[j].state >= JOB_SUBMITTED)
                return 1;
    return 0;
}

/* A device that can only write more at once reads the rest and writes it back.  That must not
 * undo what others write at the same time. */
static int is_torn(const lw_operation *op)
{
    return op->kind == LW_DWRITE && (op->offset % write_unit || op->length % write_unit);
}

static void queue(const lw_operation *op, lw_outcome *outcome)
{
    struct job *job = job_of(op);

    if (is_torn(op)) {
        answer(outcome, LW_STATUS_UNSUPPORTED, EINVAL);
        return;
    }
    if (job->state > JOB_QUEUED || job->count == JOB_LENGTH) {
        answer(outcome, LW_STATUS_ERROR, EBUSY);
        return;
    }
    job->state = JOB_QUEUED;
    memset(&job->outcomes[job->count], 0, sizeof(job->outcomes[0]));
    job->accesses[job->count++] = *op;
}

static void access_now(const lw_operation *op, lw_outcome *outcome)
{
    size_t at = step_room(op) ? DATA_AT + outcome->data : WORDS_AT;

    if (is_torn(op) && jobs_in_flight()) {
        answer(outcome, LW_STATUS_UNSUPPORTED, EBUSY);
        return;
    }
    if (op->kind == LW_DWRITE)
        fill_words(op, at);
    access_at(op, at, outcome);
}

static void submit(const lw_operation *op, lw_outcome *outcome)
{
    struct job *job = job_of(op);

    if (job->state != JOB_QUEUED) {
        answer(outcome, LW_STATUS_ERROR, EINVAL);
        return;
    }
    for (unsigned i = 0; i < job->count; i++)
        if (job->accesses[i].kind == LW_DWRITE)
            fill_words(&job->accesses[i], job_place(op->device, job, i));
    device_submit(op->device, job);
}

/* The records of the job's accesses, then their data. */
static uint32_t pack_job(unsigned device, struct job *job, uint8_t *to)
{
    uint32_t used = 0, head = job->count * (uint32_t)sizeof(lw_outcome);

    for (unsigned i = 0; i < job->count; i++) {
        lw_outcome *outcome = &job->outcomes[i];
        outcome->data = used;
        memcpy(to + head + used, mirror.shared + job_place(device, job, i), outcome->size);
        used += outcome->size;
    }
    memcpy(to, job->outcomes, head);
    return head + used;
}

static void wait_for(const lw_operation *op, lw_outcome *outcome)
{
    struct job *job = job_of(op);

    if (job->state < JOB_SUBMITTED) {
        answer(outcome, LW_STATUS_ERROR, EINVAL);
        return;
    }
    device_wait(op->device, job);
    outcome->size = pack_job(op->device, job, mirror.shared + DATA_AT + outcome->data);
    job->state = JOB_EMPTY;
    job->count = 0;
}

static void attach(const lw_operation *op, lw_outcome *outcome)
{
    if (!process_alive(op->process))
        answer(outcome, LW_STATUS_ERROR, ESRCH);
    else if (mirror.control->devices[op->device].attached)
        answer(outcome, LW_STATUS_ERROR, EBUSY);
    else
        device_attach(op, outcome);
    if (outcome->status == LW_STATUS_OK)
        mirror.control->devices[op->device].attached = (uint8_t)(op->process + 1);
}

static void detach(const lw_operation *op, lw_outcome *outcome)
{
    device_detach(op, outcome);
    mirror.control->devices[op->device].attached = 0;
}

static void do_attached(const lw_operation *op, lw_outcome *outcome)
{
    switch (op->kind) {
    case LW_DETACH:
        detach(op, outcome);
        break;
    case LW_SUBMIT:
        submit(op, outcome);
        break;
    case LW_WAIT:
        wait_for(op, outcome);
        break;
    case LW_REGISTER:
        device_register(op, outcome);
        break;
    case LW_UNREGISTER:
        device_unregister(op, outcome);
        break;
    default:
        if (op->job)
            queue(op, outcome);
        else
            access_now(op, outcome);
    }
}

void step_device(const lw_operation *op, lw_outcome *outcome)
{
    if (device_lacks(op->kind))
        answer(outcome, LW_STATUS_UNSUPPORTED, ENOSYS);
    else if (op->kind == LW_ATTACH)
        attach(op, outcome);
    else if (!mirror.control->devices[op->device].attached)
        answer(outcome, LW_STATUS_ERROR, ENODEV);
    else
        do_attached(op, outcome);
}

static uint32_t job_room(const struct job *job)
{
    uint32_t room = 0;

    for (unsigned i = 0; i < job->count; i++)
        room += (uint32_t)sizeof(lw_outcome) +
                (gives_data(job->accesses[i].kind) ? job->accesses[i].length : 0);
    return room;
}

uint32_t step_room(const lw_operation *op)
{
    if (op->kind == LW_WAIT)
        return job_room(job_of(op));
    if (op->kind == LW_SNAPSHOT)
        return op->pages;
    return gives_data(op->kind) && !op->job ? op->length : 0;
}
