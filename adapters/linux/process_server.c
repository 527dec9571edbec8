/*
 * A process of its own for each device, which does the device's jobs in the order of their
 * submission while the processes of the program go on.
 */
#define _GNU_SOURCE
#include <stddef.h>

#include "process.h"

static void (*serve_call)(unsigned device, unsigned call);

static struct job *first_submitted(struct device *device)
{
    struct job *first = NULL;

    for (unsigned j = 0; j < JOBS; j++) {
        struct job *job = &device->jobs[j];
        if (__atomic_load_n(&job->state, __ATOMIC_ACQUIRE) == JOB_SUBMITTED &&
            (!first || job->order < first->order))
            first = job;
    }
    return first;
}

static void store_and_wake(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
    futex_wake(word);
}

/* Whether there was anything to do. */
static int serve_one(unsigned number)
{
    struct device *device = &mirror.control->devices[number];
    uint32_t call = __atomic_load_n(&device->call, __ATOMIC_ACQUIRE);
    struct job *job;

    if (call) {
        serve_call(number, call);
        store_and_wake(&device->call, 0);
        return 1;
    }
    job = first_submitted(device);
    if (!job)
        return 0;
    job_perform(number, job);
    store_and_wake(&job->state, JOB_DONE);
    return 1;
}

static void serve(unsigned number)
{
    struct device *device = &mirror.control->devices[number];

    mirror.self = SERVER;
    for (;;) {
        uint32_t seen = __atomic_load_n(&device->asked, __ATOMIC_ACQUIRE);
        if (!serve_one(number))
            futex_wait(&device->asked, seen);
    }
}

static void ask(struct device *device)
{
    __atomic_add_fetch(&device->asked, 1, __ATOMIC_RELEASE);
    futex_wake(&device->asked);
}

void server_submit(unsigned number, struct job *job)
{
    struct device *device = &mirror.control->devices[number];

    job->order = device->asked;
    __atomic_store_n(&job->state, JOB_SUBMITTED, __ATOMIC_RELEASE);
    ask(device);
}

void server_wait(struct job *job)
{
    while (__atomic_load_n(&job->state, __ATOMIC_ACQUIRE) == JOB_SUBMITTED)
        futex_wait(&job->state, JOB_SUBMITTED);
}

void server_quiesce(void)
{
    for (unsigned d = 0; d < DEVICES; d++)
        for (unsigned j = 0; j < JOBS; j++)
            server_wait(&mirror.control->devices[d].jobs[j]);
}

void server_call(unsigned number, unsigned call)
{
    struct device *device = &mirror.control->devices[number];

    __atomic_store_n(&device->call, call, __ATOMIC_RELEASE);
    ask(device);
    while (__atomic_load_n(&device->call, __ATOMIC_ACQUIRE) == call)
        futex_wait(&device->call, call);
}

int server_start(void (*calls)(unsigned, unsigned))
{
    serve_call = calls;
    for (unsigned d = 0; d < DEVICES; d++) {
        pid_t pid = process_helper(serve, d);
        if (pid < 0)
            return -1;
        mirror.control->devices[d].server = pid;
    }
    return 0;
}
