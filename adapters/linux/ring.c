/*
 * Devices that are io_urings with registered buffers, in the process that they are attached to.
 *
 * A device read is a write from a registered buffer into a file, a device write a read from a
 * file into it; the file is the shared memory.  There is one ring for each device and process:
 * a child must not use the rings that it was forked with, which work on its parent's memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "process.h"
#include "ring.h"

enum { ENTRIES = 64 }; /* more than all jobs of a device have accesses */

#define IMMEDIATE UINT64_MAX

struct ring {
    int fd; /* 0: none yet */
    unsigned in_flight;
    uint32_t *sq_head, *sq_tail, *sq_mask, *cq_head, *cq_tail, *cq_mask;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    int result;       /* of an immediate access */
    uint8_t finished; /* it is there */
};

const unsigned device_count = DEVICES;
const unsigned disk_files = 0; /* the kernel does not pin pages of disk files */
const uint32_t write_unit = WORD;
const uint32_t atomicity = 1; /* the kernel may copy with "rep movsb" */

static struct ring rings[DEVICES];

/* ---- The ring itself ---- */

static int ring_register(const struct ring *ring, unsigned code, void *argument, unsigned size)
{
    return (int)syscall(SYS_io_uring_register, ring->fd, code, argument, size);
}

static void ring_enter(struct ring *ring, unsigned submit, unsigned wait)
{
    while (syscall(SYS_io_uring_enter, ring->fd, submit, wait, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
        if (errno != EINTR && errno != EAGAIN && errno != EBUSY)
            process_fatal("io_uring_enter");
}

/* Not for children: they would use up this ring's entries. */
static void *ring_map(const struct ring *ring, size_t size, off_t offset)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, offset);

    if (at != MAP_FAILED)
        madvise(at, size, MADV_DONTFORK);
    return at;
}

static int map_queues(struct ring *ring, const struct io_uring_params *p)
{
    size_t sq_size = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
    size_t cq_size = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    char *queues = ring_map(ring, sq_size > cq_size ? sq_size : cq_size, IORING_OFF_SQ_RING);

    ring->sqes = ring_map(ring, p->sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
    if (queues == MAP_FAILED || ring->sqes == MAP_FAILED)
        return -1;
    ring->sq_head = (uint32_t *)(queues + p->sq_off.head);
    ring->sq_tail = (uint32_t *)(queues + p->sq_off.tail);
    ring->sq_mask = (uint32_t *)(queues + p->sq_off.ring_mask);
    ring->cq_head = (uint32_t *)(queues + p->cq_off.head);
    ring->cq_tail = (uint32_t *)(queues + p->cq_off.tail);
    ring->cq_mask = (uint32_t *)(queues + p->cq_off.ring_mask);
    ring->cqes = (struct io_uring_cqe *)(queues + p->cq_off.cqes);
    uint32_t *array = (uint32_t *)(queues + p->sq_off.array);
    for (uint32_t i = 0; i < p->sq_entries; i++)
        array[i] = i;
    return 0;
}

int ring_update(unsigned device, unsigned buffer, void *at, size_t size)
{
    struct iovec range = {at, size};
    struct io_uring_rsrc_update2 argument = {
        .offset = buffer, .data = (uint64_t)(uintptr_t)&range, .nr = 1};

    return ring_register(&rings[device], IORING_REGISTER_BUFFERS_UPDATE, &argument,
                         sizeof(argument));
}

/* The next submission entry, to be filled before the kernel is entered. */
static struct io_uring_sqe *ring_next(struct ring *ring, unsigned flags)
{
    uint32_t tail = *ring->sq_tail;
    struct io_uring_sqe *sqe = &ring->sqes[tail & *ring->sq_mask];

    memset(sqe, 0, sizeof(*sqe));
    sqe->flags = (uint8_t)flags;
    sqe->user_data = IMMEDIATE;
    __atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_RELEASE);
    ring->in_flight++;
    return sqe;
}

static void ring_add(struct ring *ring, const lw_operation *op, int buffer, size_t at,
                     unsigned flags, uint64_t tag)
{
    struct io_uring_sqe *sqe = ring_next(ring, flags);

    sqe->opcode = is_read(op->kind) ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
    sqe->fd = mirror.shared_fd;
    sqe->off = at;
    sqe->addr = (uint64_t)(uintptr_t)(page_address(op->page) + op->offset);
    sqe->len = op->length;
    sqe->user_data = tag;
    sqe->buf_index = (uint16_t)buffer;
}

/* ---- Completions ---- */

/* A registered buffer is there or not: there are no partial transfers, but none is made up. */
static void conclude(const lw_operation *op, int result, lw_outcome *outcome)
{
    outcome->done = result < 0 ? 0 : (uint32_t)result;
    if (result == -EFAULT)
        answer(outcome, LW_STATUS_FAULT, EFAULT);
    else if (outcome->done < op->length)
        answer(outcome, LW_STATUS_ERROR, result < 0 ? -result : EIO);
}

static void complete(unsigned device, const struct io_uring_cqe *cqe)
{
    struct ring *ring = &rings[device];

    ring->in_flight--;
    if (cqe->user_data == IMMEDIATE) {
        ring->result = cqe->res;
        ring->finished = 1;
        return;
    }
    struct job *job = &mirror.control->devices[device].jobs[cqe->user_data / JOB_LENGTH];
    unsigned i = cqe->user_data % JOB_LENGTH;
    conclude(&job->accesses[i], cqe->res, &job->outcomes[i]);
    job->outcomes[i].size = is_read(job->accesses[i].kind) ? job->outcomes[i].done : 0;
    if (--job->order == 0)
        job->state = JOB_DONE;
}

static void reap(unsigned device)
{
    struct ring *ring = &rings[device];
    uint32_t head = *ring->cq_head;

    while (head != __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE)) {
        complete(device, &ring->cqes[head & *ring->cq_mask]);
        __atomic_store_n(ring->cq_head, ++head, __ATOMIC_RELEASE);
    }
}

static void reap_more(unsigned device)
{
    ring_enter(&rings[device], 0, 1); /* at once, if there are completions already */
    reap(device);
}

/* ---- Accesses ---- */

void device_access(const lw_operation *op, size_t at, lw_outcome *outcome)
{
    struct ring *ring = &rings[op->device];
    int buffer = mirror.self == COORDINATOR ? NO_BUFFER : keys_buffer(op);

    if (mirror.self == COORDINATOR) {
        answer(outcome, LW_STATUS_ERROR, ESRCH);
    } else if (buffer == NO_BUFFER) {
        answer(outcome, LW_STATUS_FAULT, EFAULT);
    } else {
        ring->finished = 0;
        ring_add(ring, op, buffer, at, 0, IMMEDIATE);
        ring_enter(ring, 1, 1);
        reap(op->device);
        while (!ring->finished)
            reap_more(op->device);
        conclude(op, ring->result, outcome);
    }
}

/* The accesses that are not for the kernel get their outcomes; the number of the others.  A key
 * that is dead now may live when the kernel looks at it, with rights that it knows nothing of. */
static unsigned settle(struct job *job)
{
    unsigned left = 0;

    for (unsigned i = 0; i < job->count; i++) {
        if (mirror.self == COORDINATOR)
            answer(&job->outcomes[i], LW_STATUS_ERROR, ESRCH);
        else if (keys_buffer(&job->accesses[i]) == NO_BUFFER)
            answer(&job->outcomes[i], LW_STATUS_FAULT, EFAULT);
        else
            left++;
    }
    return left;
}

/* Hard links keep the order, and go on behind an access that failed.  ASYNC: a job is to run
 * while the processes go on, not inside its submission. */
void device_submit(unsigned device, struct job *job)
{
    struct ring *ring = &rings[device];
    unsigned left = settle(job), count = left;
    uint64_t tag = (uint64_t)(job - mirror.control->devices[device].jobs) * JOB_LENGTH;

    job->order = left; /* accesses to come */
    job->state = left ? JOB_SUBMITTED : JOB_DONE;
    for (unsigned i = 0; i < job->count && left; i++) {
        if (job->outcomes[i].status != LW_STATUS_OK)
            continue;
        unsigned flags = --left ? IOSQE_ASYNC | IOSQE_IO_HARDLINK : IOSQE_ASYNC;
        ring_add(ring, &job->accesses[i], keys_buffer(&job->accesses[i]), job_place(device, job, i),
                 flags, tag + i);
    }
    if (count)
        ring_enter(ring, count, 0);
}

void device_wait(unsigned device, struct job *job)
{
    while (job->state == JOB_SUBMITTED)
        reap_more(device);
}

/* ---- Life ---- */

/* A worker of the ring inherits the CPUs of the process, which is bound to one: where jobs are to
 * run beside it, the first one must be born before that. */
static void start_worker(unsigned device)
{
    cpu_set_t bound;

    sched_getaffinity(0, sizeof(bound), &bound);
    sched_setaffinity(0, sizeof(mirror.everywhere), &mirror.everywhere);
    ring_next(&rings[device], IOSQE_ASYNC)->opcode = IORING_OP_NOP;
    ring_enter(&rings[device], 1, 1);
    reap(device);
    sched_setaffinity(0, sizeof(bound), &bound);
}

int ring_open(unsigned device, unsigned buffers)
{
    struct ring *ring = &rings[device];
    struct io_uring_params params = {0};
    struct io_uring_rsrc_register table = {.nr = buffers, .flags = IORING_RSRC_REGISTER_SPARSE};

    if (ring->fd)
        return 0;
    ring->fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &params);
    if (ring->fd < 0)
        return ring->fd = 0, -1;
    if (map_queues(ring, &params) < 0)
        return -1;
    if (ring_register(ring, IORING_REGISTER_BUFFERS2, &table, sizeof(table)) < 0)
        return -1;
    start_worker(device);
    return 0;
}

void ring_drain(unsigned device)
{
    while (rings[device].in_flight)
        reap_more(device);
}

void ring_forget(unsigned device)
{
    if (rings[device].fd)
        close(rings[device].fd);
    memset(&rings[device], 0, sizeof(rings[device]));
}

unsigned device_owner(const lw_operation *op)
{
    return owner_of_process(op);
}

/* The jobs in flight end here, while their outcomes can still be collected. */
void device_leaving(void)
{
    for (unsigned d = 0; d < DEVICES; d++)
        ring_drain(d);
}

void device_parent(void)
{
}

int device_start(void)
{
    return 0;
}

void device_quiesce(void)
{
}
