/*
 * linux:io_uring: the device is an io_uring with registered buffers, in the process that it is
 * attached to.  A registration pins the pages, and an access through it goes to those pages,
 * whatever has become of the mapping since.
 *
 * A device read is a write from the registered buffer into a file, a device write a read from a
 * file into it; the file is the shared memory.  There is one ring for each device and process:
 * a child must not use the rings that it was forked with, which work on its parent's memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process.h"

enum { ENTRIES = 64 }; /* more than all jobs of a device have accesses */

#define IMMEDIATE UINT64_MAX
#define LARGEST_BUFFER (1ul << 30) /* the kernel's limit */

struct ring {
    int fd; /* 0: none yet */
    unsigned in_flight;
    uint32_t *sq_head, *sq_tail, *sq_mask, *cq_head, *cq_tail, *cq_mask;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    uint8_t rights[KEYS]; /* of live keys; 0: a dead one */
    int result;           /* of an immediate access */
    uint8_t finished;     /* it is there */
};

const unsigned disk_files = 0; /* the kernel does not pin pages of disk files */

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

/* 0, or -1 with errno: no io_uring, or one without a sparse buffer table. */
static int ring_open(struct ring *ring)
{
    struct io_uring_params params = {0};
    struct io_uring_rsrc_register table = {.nr = KEYS, .flags = IORING_RSRC_REGISTER_SPARSE};

    memset(ring, 0, sizeof(*ring));
    ring->fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &params);
    if (ring->fd < 0)
        return ring->fd = 0, -1;
    if (map_queues(ring, &params) < 0)
        return -1;
    return ring_register(ring, IORING_REGISTER_BUFFERS2, &table, sizeof(table));
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

static void ring_add(struct ring *ring, const lw_operation *op, size_t at, unsigned flags,
                     uint64_t tag)
{
    struct io_uring_sqe *sqe = ring_next(ring, flags);

    sqe->opcode = is_read(op->kind) ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
    sqe->fd = mirror.shared_fd;
    sqe->off = at;
    sqe->addr = (uint64_t)(uintptr_t)(page_address(op->page) + op->offset);
    sqe->len = op->length;
    sqe->user_data = tag;
    sqe->buf_index = (uint16_t)(op->key - 1u);
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

/* ---- Accesses ---- */

/* Only the helper knows that a key was asked for to read: pins are always for writing. */
static int may_access(const struct ring *ring, const lw_operation *op)
{
    return op->key && (is_read(op->kind) || ring->rights[op->key - 1] != LW_FLAG_READ);
}

void device_access(const lw_operation *op, size_t at, lw_outcome *outcome)
{
    struct ring *ring = &rings[op->device];

    if (mirror.self == COORDINATOR) {
        answer(outcome, LW_STATUS_ERROR, ESRCH);
    } else if (!may_access(ring, op)) {
        answer(outcome, LW_STATUS_FAULT, EFAULT);
    } else {
        ring->finished = 0;
        ring_add(ring, op, at, 0, IMMEDIATE);
        ring_enter(ring, 1, 1);
        reap(op->device);
        while (!ring->finished)
            reap_more(op->device);
        conclude(op, ring->result, outcome);
    }
}

/* The accesses that are not for the kernel get their outcomes; the number of the others.  A key
 * that is dead now may live when the kernel looks at it, with rights that it knows nothing of. */
static unsigned settle(const struct ring *ring, struct job *job)
{
    unsigned left = 0;

    for (unsigned i = 0; i < job->count; i++) {
        if (mirror.self == COORDINATOR)
            answer(&job->outcomes[i], LW_STATUS_ERROR, ESRCH);
        else if (!may_access(ring, &job->accesses[i]) || !ring->rights[job->accesses[i].key - 1])
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
    unsigned left = settle(ring, job), count = left;
    uint64_t tag = (uint64_t)(job - mirror.control->devices[device].jobs) * JOB_LENGTH;

    job->order = left; /* accesses to come */
    job->state = left ? JOB_SUBMITTED : JOB_DONE;
    for (unsigned i = 0; i < job->count && left; i++) {
        if (job->outcomes[i].status != LW_STATUS_OK)
            continue;
        unsigned flags = --left ? IOSQE_ASYNC | IOSQE_IO_HARDLINK : IOSQE_ASYNC;
        ring_add(ring, &job->accesses[i], job_place(device, job, i), flags, tag + i);
    }
    if (count)
        ring_enter(ring, count, 0);
}

void device_wait(unsigned device, struct job *job)
{
    while (job->state == JOB_SUBMITTED)
        reap_more(device);
}

/* ---- Registrations ---- */

/* Put a buffer under a key, or nothing. */
static int update(const struct ring *ring, unsigned key, void *at, size_t size)
{
    struct iovec buffer = {at, size};
    struct io_uring_rsrc_update2 argument = {
        .offset = key - 1, .data = (uint64_t)(uintptr_t)&buffer, .nr = 1};

    return ring_register(ring, IORING_REGISTER_BUFFERS_UPDATE, &argument, sizeof(argument));
}

static void forget_keys(struct ring *ring)
{
    for (unsigned key = 1; key <= KEYS; key++) {
        if (ring->rights[key - 1] && update(ring, key, NULL, 0) < 0)
            process_fatal("dropping a registered buffer");
        ring->rights[key - 1] = 0;
    }
}

/* The kernel pins for writing and refuses what could be registered for reading alone. */
static int cannot_pin(const lw_operation *op)
{
    char *at = page_address(op->page);
    size_t size = page_bytes(op->pages);

    if (size > LARGEST_BUFFER)
        return 1;
    return !(op->flags & LW_FLAG_WRITE) && pages_allow(at, size, 'r') &&
           !pages_allow(at, size, 'w');
}

static void do_register(const lw_operation *op, lw_outcome *outcome)
{
    struct ring *ring = &rings[op->device];

    if (ring->rights[op->key - 1])
        answer(outcome, LW_STATUS_ERROR, EEXIST);
    else if (cannot_pin(op))
        answer(outcome, LW_STATUS_UNSUPPORTED, EOPNOTSUPP);
    else if (update(ring, op->key, page_address(op->page), page_bytes(op->pages)) >= 0)
        ring->rights[op->key - 1] = op->flags & (LW_FLAG_READ | LW_FLAG_WRITE);
    else if (errno == ENOMEM) /* the limit on locked memory, which is not about the mapping */
        answer(outcome, LW_STATUS_UNSUPPORTED, ENOMEM);
    else
        answer(outcome, LW_STATUS_ERROR, errno);
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
    struct ring *ring = &rings[op->device];

    if (mirror.self == COORDINATOR)
        answer(outcome, LW_STATUS_ERROR, ESRCH);
    else if (!ring->rights[op->key - 1])
        answer(outcome, LW_STATUS_ERROR, EINVAL);
    else if (update(ring, op->key, NULL, 0) < 0)
        answer(outcome, LW_STATUS_ERROR, errno);
    else
        ring->rights[op->key - 1] = 0;
}

/* ---- Life ---- */

unsigned device_owner(const lw_operation *op)
{
    return owner_of_process(op);
}

void device_attach(const lw_operation *op, lw_outcome *outcome)
{
    if (rings[op->device].fd)
        return;
    if (ring_open(&rings[op->device]) < 0)
        answer(outcome, LW_STATUS_ERROR, errno);
    else
        start_worker(op->device);
}

void device_detach(const lw_operation *op, lw_outcome *outcome)
{
    (void)outcome;
    if (mirror.self != COORDINATOR)
        forget_keys(&rings[op->device]);
}

static void drain(unsigned device)
{
    while (rings[device].in_flight)
        reap_more(device);
}

void device_reset(void)
{
    for (unsigned d = 0; d < DEVICES; d++) {
        drain(d);
        forget_keys(&rings[d]);
    }
}

void device_parent(void)
{
}

void device_forked(void)
{
    for (unsigned d = 0; d < DEVICES; d++)
        if (rings[d].fd)
            close(rings[d].fd);
    memset(rings, 0, sizeof(rings));
}

/* The jobs in flight end here, while their outcomes can still be collected. */
void device_leaving(void)
{
    for (unsigned d = 0; d < DEVICES; d++)
        drain(d);
}

int device_start(void)
{
    return 0;
}

void device_quiesce(void)
{
}

/* ---- What it is ---- */

static const char *disabled(void)
{
    char value = '0';
    int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);

    if (fd >= 0) {
        if (read(fd, &value, 1) < 0)
            value = '0';
        close(fd);
    }
    return value == '0' ? "" : " (kernel.io_uring_disabled is not 0)";
}

/* Registers a buffer of this many bytes under every key; exits with what went wrong. */
static void try_buffers(unsigned size)
{
    struct ring *ring = &rings[0];
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (at == MAP_FAILED || ring_open(ring) < 0)
        _exit(errno);
    for (unsigned key = 1; key <= KEYS; key++)
        if (update(ring, key, at, size) < 0)
            _exit(errno);
}

/* 0 or an errno.  In a process that ends, so that no pins stay. */
static int can_pin(unsigned size)
{
    int status = 0;
    pid_t pid = process_helper(try_buffers, size);

    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD;
}

const char *device_unavailable(void)
{
    static char reason[128];
    struct rlimit limit;
    int error;

    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_MEMLOCK, &limit);
    }
    error = can_pin(16 * SMALL_PAGE);
    if (!error)
        return NULL;
    snprintf(reason, sizeof(reason), "registering buffers with io_uring: %s%s", strerror(error),
             error == ENOMEM ? " (see ulimit -l)" : disabled());
    return reason;
}

const char *device_lacks(unsigned kind)
{
    switch (kind) {
    case LW_DADD:
    case LW_DCAS:
        return "io_uring has no atomic operations on buffers";
    case LW_FAULT:
        return "pages are faulted in by a registration only";
    case LW_TO_DEVICE:
    case LW_TO_SYSTEM:
        return "the device has no memory of its own";
    case LW_EXCLUSIVE:
        return "the device has no exclusive access";
    case LW_INVALIDATE:
        return "user space cannot call the notifiers";
    default:
        return NULL;
    }
}

/* A program may well pin 16 slots under each of 8 keys. */
void device_describe(void)
{
    describe("\"name\":\"linux:io_uring\",\"model\":\"registration\",\"keyed\":true,\"keys\":%d,",
             KEYS);
    if (can_pin(HUGE_PAGE) == 0)
        describe("\"page_sizes\":[4096,65536,%lu],", HUGE_PAGE);
    else
        describe("\"page_sizes\":[4096],");
}

void device_notes(void)
{
    describe_note("a registration that allows only reads is kept by the helper, not the kernel");
}
