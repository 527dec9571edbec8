/*
 * RDMA as the kernel offers it to processes, without a library: commands are written to a file
 * (include/uapi/rdma/ib_user_verbs.h), and work and completions lie in queues that are mapped
 * (rdma_user_rxe.h).
 *
 * A copy is one RDMA READ or WRITE, which one queue pair asks for and the other one answers, so
 * that it is the driver that looks the key up.  There is never more than one at a time.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <rdma/ib_user_ioctl_verbs.h>
#include <rdma/ib_user_verbs.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "process.h"
#include "rxe.h"

/* What include/rdma/ib_verbs.h has for both sides, and no installed header. */
enum { STATE_RESET, STATE_INIT, STATE_TO_RECEIVE, STATE_TO_SEND, STATE_ERROR = 6 };
enum {
    SET_STATE = 1 << 0,
    SET_RIGHTS = 1 << 3,
    SET_PARTITION = 1 << 4,
    SET_PORT = 1 << 5,
    SET_ADDRESS = 1 << 7,
    SET_PACKET = 1 << 8,
    SET_TIMEOUT = 1 << 9,
    SET_RETRIES = 1 << 10,
    SET_READY_RETRIES = 1 << 11,
    SET_NUMBER_TO_RECEIVE = 1 << 12,
    SET_READS = 1 << 13,
    SET_READY_TIMER = 1 << 15,
    SET_NUMBER_TO_SEND = 1 << 16,
    SET_READS_ANSWERED = 1 << 17,
    SET_PEER = 1 << 20,
};
enum { COMPLETED = 0, REMOTE_ACCESS_ERROR = 10 };

#define PORT 1
#define PACKET_4096 5
#define WITHOUT_END 7   /* retries */
#define A_SECOND 18     /* 4.096 microseconds, doubled so often */
#define SIGNALED 2u

/* ---- Commands ---- */

/* 0 or an errno.  `room` is that of the answer, whose place the request says. */
static int command(int file, uint32_t number, const void *request, size_t size, size_t room)
{
    struct {
        struct ib_uverbs_cmd_hdr header;
        uint8_t request[sizeof(struct ib_uverbs_modify_qp)];
    } message = {.header = {.command = number,
                            .in_words = (uint16_t)((sizeof(message.header) + size) / 4),
                            .out_words = (uint16_t)(room / 4)}};

    memcpy(message.request, request, size);
    return write(file, &message, sizeof(message.header) + size) < 0 ? errno : 0;
}

static uint64_t place(const void *at)
{
    return (uintptr_t)at;
}

/* Nobody asks for what happens by itself. */
static int open_context(const struct rxe_link *link)
{
    struct ib_uverbs_get_context_resp context;
    struct ib_uverbs_get_context request = {.response = place(&context)};
    int error = command(link->file, IB_USER_VERBS_CMD_GET_CONTEXT, &request, sizeof(request),
                        sizeof(context));

    if (!error)
        close((int)context.async_fd);
    return error;
}

static int make_domain(struct rxe_link *link)
{
    struct ib_uverbs_alloc_pd_resp domain = {0};
    struct ib_uverbs_alloc_pd request = {.response = place(&domain)};
    int error = command(link->file, IB_USER_VERBS_CMD_ALLOC_PD, &request, sizeof(request),
                        sizeof(domain));

    link->domain = domain.pd_handle;
    return error;
}

int rxe_register(const struct rxe_link *link, const void *at, size_t size, uint32_t rights,
                 struct rxe_region *region)
{
    struct ib_uverbs_reg_mr_resp made;
    struct ib_uverbs_reg_mr request = {
        .response = place(&made),
        .start = place(at),
        .length = size,
        .hca_va = place(at),
        .pd_handle = link->domain,
        .access_flags = rights,
    };
    int error = command(link->file, IB_USER_VERBS_CMD_REG_MR, &request, sizeof(request),
                        sizeof(made));

    if (!error)
        *region = (struct rxe_region){.handle = made.mr_handle, .key = made.rkey};
    return error;
}

int rxe_unregister(const struct rxe_link *link, const struct rxe_region *region)
{
    struct ib_uverbs_dereg_mr request = {.mr_handle = region->handle};

    return command(link->file, IB_USER_VERBS_CMD_DEREG_MR, &request, sizeof(request), 0);
}

/* ---- Queues ---- */

/* Not for children: they open a link of their own. */
static int map_ring(const struct rxe_link *link, const struct mminfo *where, struct rxe_ring *ring)
{
    void *at = mmap(NULL, where->size, PROT_READ | PROT_WRITE, MAP_SHARED, link->file,
                    (off_t)where->offset);

    if (at == MAP_FAILED)
        return errno;
    ring->buffer = at;
    ring->size = where->size;
    return madvise(at, where->size, MADV_DONTFORK) < 0 ? errno : 0;
}

static void *slot(const struct rxe_ring *ring, uint32_t index)
{
    return ring->buffer->data + ((size_t)index << ring->buffer->log2_elem_size);
}

static uint32_t following(const struct rxe_ring *ring, uint32_t index)
{
    return (index + 1) & ring->buffer->index_mask;
}

static int make_completions(struct rxe_link *link)
{
    struct {
        struct ib_uverbs_create_cq_resp queue;
        struct rxe_create_cq_resp ring;
    } made = {0};
    struct ib_uverbs_create_cq request = {.response = place(&made), .cqe = 1, .comp_channel = -1};
    int error = command(link->file, IB_USER_VERBS_CMD_CREATE_CQ, &request, sizeof(request),
                        sizeof(made));

    link->completion_queue = made.queue.cq_handle;
    return error ? error : map_ring(link, &made.ring.mi, &link->completions);
}

/* `ring` is where its requests go, or NULL if there will be none. */
static int make_pair(const struct rxe_link *link, struct rxe_pair *pair, struct rxe_ring *ring)
{
    struct {
        struct ib_uverbs_create_qp_resp pair;
        struct rxe_create_qp_resp rings;
    } made = {0};
    struct ib_uverbs_create_qp request = {
        .response = place(&made),
        .pd_handle = link->domain,
        .send_cq_handle = link->completion_queue,
        .recv_cq_handle = link->completion_queue,
        .max_send_wr = 1,
        .max_send_sge = 1,
        .qp_type = IB_UVERBS_QPT_RC,
    };
    int error = command(link->file, IB_USER_VERBS_CMD_CREATE_QP, &request, sizeof(request),
                        sizeof(made));

    *pair = (struct rxe_pair){.handle = made.pair.qp_handle, .number = made.pair.qpn};
    return error || !ring ? error : map_ring(link, &made.rings.sq_mi, ring);
}

/* ---- Connecting ---- */

static int change(const struct rxe_link *link, struct ib_uverbs_modify_qp *to, uint8_t state,
                  uint32_t mask)
{
    to->qp_state = state;
    to->attr_mask = SET_STATE | mask;
    return command(link->file, IB_USER_VERBS_CMD_MODIFY_QP, to, sizeof(*to), 0);
}

static int connect_pair(const struct rxe_link *link, const struct rxe_pair *pair,
                        const struct rxe_pair *peer)
{
    struct ib_uverbs_modify_qp to = {
        .dest = {.sgid_index = rxe_address_index, .hop_limit = 1, .is_global = 1, .port_num = PORT},
        .qp_handle = pair->handle,
        .dest_qp_num = peer->number,
        .qp_access_flags = IB_UVERBS_ACCESS_REMOTE_READ | IB_UVERBS_ACCESS_REMOTE_WRITE,
        .path_mtu = PACKET_4096,
        .max_rd_atomic = 1,
        .max_dest_rd_atomic = 1,
        .min_rnr_timer = 1,
        .port_num = PORT,
        .timeout = A_SECOND,
        .retry_cnt = WITHOUT_END,
        .rnr_retry = WITHOUT_END,
    };
    int error = change(link, &to, STATE_RESET, 0);

    memcpy(to.dest.dgid, rxe_address, sizeof(to.dest.dgid));
    if (!error)
        error = change(link, &to, STATE_INIT, SET_PARTITION | SET_PORT | SET_RIGHTS);
    if (!error)
        error = change(link, &to, STATE_TO_RECEIVE,
                       SET_ADDRESS | SET_PACKET | SET_PEER | SET_NUMBER_TO_RECEIVE |
                           SET_READS_ANSWERED | SET_READY_TIMER);
    if (!error)
        error = change(link, &to, STATE_TO_SEND,
                       SET_TIMEOUT | SET_RETRIES | SET_READY_RETRIES | SET_NUMBER_TO_SEND |
                           SET_READS);
    return error;
}

/* Anew, too, after an error, which ends a connection. */
static int connect_both(const struct rxe_link *link)
{
    int error = connect_pair(link, &link->answering, &link->asking);

    return error ? error : connect_pair(link, &link->asking, &link->answering);
}

/* ---- A link ---- */

static int make_bounce(struct rxe_link *link)
{
    void *at = mmap(NULL, MAX_LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct rxe_region region = {0};
    int error;

    if (at == MAP_FAILED)
        return errno;
    link->bounce = at;
    if (madvise(at, MAX_LENGTH, MADV_DONTFORK) < 0)
        return errno;
    error = rxe_register(link, at, MAX_LENGTH, IB_UVERBS_ACCESS_LOCAL_WRITE, &region);
    link->bounce_key = region.key; /* the driver has the same one for both sides */
    return error;
}

static int fill(struct rxe_link *link)
{
    int error = open_context(link);

    if (!error)
        error = make_domain(link);
    if (!error)
        error = make_completions(link);
    if (!error)
        error = make_pair(link, &link->asking, &link->requests);
    if (!error)
        error = make_pair(link, &link->answering, NULL);
    if (!error)
        error = make_bounce(link);
    return error ? error : connect_both(link);
}

int rxe_open(struct rxe_link *link)
{
    int file = open(RXE_NODE, O_RDWR | O_CLOEXEC), error;

    if (file < 0)
        return -1;
    link->file = file;
    error = fill(link);
    if (!error)
        return 0;
    rxe_close(link);
    errno = error;
    return -1;
}

static void unmap_ring(const struct rxe_ring *ring)
{
    if (ring->buffer)
        munmap(ring->buffer, ring->size);
}

/* What is in the file goes with it. */
void rxe_close(struct rxe_link *link)
{
    unmap_ring(&link->requests);
    unmap_ring(&link->completions);
    if (link->bounce)
        munmap(link->bounce, MAX_LENGTH);
    if (link->file)
        close(link->file);
    memset(link, 0, sizeof(*link));
}

/* ---- Copying ---- */

static void put_request(const struct rxe_link *link, uint32_t key, const void *at, uint32_t length,
                        int write)
{
    struct rxe_queue_buf *buffer = link->requests.buffer;
    uint32_t index = buffer->producer_index;
    struct rxe_send_wqe *request = slot(&link->requests, index);

    memset(request, 0, sizeof(*request));
    request->wr.opcode = write ? IB_UVERBS_WR_RDMA_WRITE : IB_UVERBS_WR_RDMA_READ;
    request->wr.send_flags = SIGNALED;
    request->wr.wr.rdma.remote_addr = request->iova = place(at);
    request->wr.wr.rdma.rkey = key;
    request->dma.length = request->dma.resid = length;
    request->dma.num_sge = 1;
    request->dma.sge[0] = (struct rxe_sge){
        .addr = place(link->bounce), .length = length, .lkey = link->bounce_key};
    __atomic_store_n(&buffer->producer_index, following(&link->requests, index), __ATOMIC_RELEASE);
}

/* The driver looks into the queue when it is told to. */
static int ring_bell(const struct rxe_link *link)
{
    struct ib_uverbs_post_send_resp done;
    struct ib_uverbs_post_send request = {.response = place(&done),
                                          .qp_handle = link->asking.handle,
                                          .wqe_size = sizeof(struct ib_uverbs_send_wr)};

    return command(link->file, IB_USER_VERBS_CMD_POST_SEND, &request, sizeof(request),
                   sizeof(done));
}

/* The status of the next completion.  A thread of the kernel does the work: it gets the CPU. */
static uint32_t await_completion(const struct rxe_link *link)
{
    struct rxe_queue_buf *buffer = link->completions.buffer;
    uint32_t index = buffer->consumer_index, status;

    while (__atomic_load_n(&buffer->producer_index, __ATOMIC_ACQUIRE) == index)
        sched_yield();
    status = ((const struct ib_uverbs_wc *)slot(&link->completions, index))->status;
    __atomic_store_n(&buffer->consumer_index, following(&link->completions, index),
                     __ATOMIC_RELEASE);
    return status;
}

/* A pair goes into its error state only after the completion that says so (rxe_completer: first
 * do_complete, then rxe_qp_error), and the one that answers after its answer.  If it was reset in
 * between, the new connection is the one that fails. */
static int await_error(const struct rxe_link *link, const struct rxe_pair *pair)
{
    struct ib_uverbs_query_qp_resp is = {0};
    struct ib_uverbs_query_qp request = {
        .response = place(&is), .qp_handle = pair->handle, .attr_mask = SET_STATE};

    for (;;) {
        int error = command(link->file, IB_USER_VERBS_CMD_QUERY_QP, &request, sizeof(request),
                            sizeof(is));
        if (error || is.qp_state == STATE_ERROR)
            return error;
        sched_yield();
    }
}

static int connect_again(const struct rxe_link *link, uint32_t status)
{
    int error = await_error(link, &link->asking);

    if (!error && status == REMOTE_ACCESS_ERROR)
        error = await_error(link, &link->answering);
    return error ? error : connect_both(link);
}

int rxe_copy(struct rxe_link *link, uint32_t key, const void *at, size_t length, int write)
{
    uint32_t status;
    int error;

    put_request(link, key, at, (uint32_t)length, write);
    error = ring_bell(link);
    if (error)
        return error;
    status = await_completion(link);
    if (status == COMPLETED)
        return 0;
    error = connect_again(link, status);
    if (error)
        return error;
    return status == REMOTE_ACCESS_ERROR ? EFAULT : EIO;
}
