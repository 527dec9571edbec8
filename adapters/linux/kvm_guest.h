/*
 * A virtual machine whose only program does a device's accesses, command by command, from a ring.
 */
#ifndef LW_KVM_GUEST_H
#define LW_KVM_GUEST_H

#include <stddef.h>
#include <stdint.h>

struct kvm_run;

/* What a command does with its words, one after the other; the guest compares these numbers. */
enum guest_kind {
    GUEST_LOAD = 0,
    GUEST_STORE,
    GUEST_ADD,
    GUEST_EXCHANGE,
    GUEST_TOUCH,       /* one word of each small page, to read it */
    GUEST_TOUCH_WRITE, /* or to write what it holds */
};

/* All addresses are the guest's. */
struct guest_command {
    uint64_t kind;
    uint64_t address; /* of the first word */
    uint64_t count;   /* of words */
    uint64_t value;
    uint64_t expected;
    uint64_t data;    /* where old values go */
    uint64_t done;    /* words that were done; all of them unless there is a fault */
    uint64_t faulted;
};

enum { RING = 64 };

/* Numbers of commands, counted from 1 on; their low halves are futexes. */
struct guest_ring {
    uint64_t submitted; /* written by the host */
    uint64_t completed; /* written by the guest */
    uint64_t awaited;   /* somebody sleeps until the next completion: the guest stops for that */
    uint64_t resting;   /* the guest has stopped, since nothing was submitted */
    uint64_t padding[4];
    struct guest_command commands[RING]; /* number n is at n - 1, modulo RING */
};

struct guest {
    int kvm, vm, vcpu; /* 0: none */
    struct kvm_run *run;
    size_t run_size;
    uint8_t *memory; /* its own: code, page tables, ring */
    struct guest_ring *ring;
    size_t window; /* bytes of the arena that it sees */
};

/* How the guest came back to the host. */
enum guest_stop { STOP_IDLE, STOP_FAULT, STOP_SIGNAL, STOP_BROKEN };

/* Make one in this process, which alone can run it; 0, or -1 with errno.  It sees so many bytes
 * of the arena, at the addresses of the process, and the shared memory at guest_shared(). */
int guest_create(struct guest *guest, size_t window);
/* Let it see more of the arena; 0 or -1. */
int guest_widen(struct guest *guest, size_t window);
/* Run it until it stops.  After a fault the command at hand is marked and left. */
enum guest_stop guest_run(struct guest *guest);
/* Close it, here or in a child that has inherited its files. */
void guest_close(struct guest *guest);
/* Where the guest sees this offset of the shared memory. */
uint64_t guest_shared(size_t at);
/* Why it stopped as it should not have. */
const char *guest_complaint(const struct guest *guest);

/* A moment's rest between two looks at the ring. */
static inline void guest_relax(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

#endif
