/*
 * linux:hmm/rxe: what its files offer each other.
 *
 * A link is what a process has of the RDMA device for one of a program's devices: a file of
 * uverbs, and in it a protection domain, a queue of completions, two queue pairs that are
 * connected with each other, and memory to copy from and to.
 */
#ifndef LW_RXE_H
#define LW_RXE_H

#include <rdma/rdma_user_rxe.h>
#include <stddef.h>
#include <stdint.h>

#define RXE_NODE "/dev/infiniband/uverbs0"

/* ---- rxe_setup.c ---- */

/* Have the RDMA device and its network interface, unless they are there; NULL, or what failed,
 * with errno. */
const char *rxe_set_up(void);
/* Its own address in the network: a GID, and where that stands in the device's table. */
extern const uint8_t rxe_address[16];
extern uint8_t rxe_address_index;

/* ---- rxe_verbs.c ---- */

struct rxe_pair {
    uint32_t handle, number;
};

/* A queue that the driver and we share, within a mapping of so many bytes. */
struct rxe_ring {
    struct rxe_queue_buf *buffer; /* NULL: none */
    size_t size;
};

struct rxe_link {
    int file; /* 0: none */
    uint32_t domain, completion_queue;
    struct rxe_ring requests, completions;
    struct rxe_pair asking, answering;
    uint8_t *bounce; /* MAX_LENGTH bytes */
    uint32_t bounce_key;
};

struct rxe_region {
    uint32_t handle;
    uint32_t key; /* by which others reach it */
};

/* 0, or -1 with errno; then nothing is left of it. */
int rxe_open(struct rxe_link *link);
void rxe_close(struct rxe_link *link);
/* Pin memory of this process, with rights of IB_UVERBS_ACCESS_*; 0 or an errno. */
int rxe_register(const struct rxe_link *link, const void *at, size_t size, uint32_t rights,
                 struct rxe_region *region);
int rxe_unregister(const struct rxe_link *link, const struct rxe_region *region);
/* Copy between the link's own memory and that under a key; 0 or an errno, EFAULT if the key does
 * not allow it. */
int rxe_copy(struct rxe_link *link, uint32_t key, const void *at, size_t length, int write);

#endif
