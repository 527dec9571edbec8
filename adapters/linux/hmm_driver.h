/*
 * What the kernel's test driver for HMM, lib/test_hmm.c, takes and gives (Linux 6.12).  It
 * installs no header of its own.
 */
#ifndef LW_HMM_DRIVER_H
#define LW_HMM_DRIVER_H

#include <stdint.h>
#include <sys/ioctl.h>

/* Everything is about whole pages of 4 KiB.  Where a command fails nothing is written back. */
struct hmm_command {
    uint64_t address; /* in the address space that opened the file */
    uint64_t data;    /* buffer of the caller: pages, or for a snapshot a byte for each */
    uint64_t pages;
    uint64_t done;   /* out: pages copied or migrated */
    uint64_t faults; /* out: how often the device had to fault */
};

#define HMM_COMMAND(number) _IOWR('H', number, struct hmm_command)

#define HMM_READ HMM_COMMAND(0)
#define HMM_WRITE HMM_COMMAND(1)
#define HMM_TO_DEVICE HMM_COMMAND(2)       /* and read, where all of it is there */
#define HMM_TO_SYSTEM HMM_COMMAND(3)
#define HMM_SNAPSHOT HMM_COMMAND(4)        /* what hmm_range_fault() sees, without faulting */
#define HMM_EXCLUSIVE HMM_COMMAND(5)       /* and read */
#define HMM_CHECK_EXCLUSIVE HMM_COMMAND(6) /* EPERM if any page is held exclusively */
#define HMM_RELEASE HMM_COMMAND(7)         /* give up all of the device's memory */

/* A byte of a snapshot. */
#define HMM_SEEN_ERROR 0xff
#define HMM_SEEN_READ 0x01  /* and no more */
#define HMM_SEEN_WRITE 0x02 /* and read */
#define HMM_SEEN_HUGE 0x0c  /* either: of a mapping as large as an entry of a higher table */
#define HMM_SEEN_PLACE 0x70 /* these bits; none of them is ordinary memory: */
#define HMM_SEEN_ZERO 0x10
#define HMM_SEEN_HERE 0x20      /* in the memory of this device, which CPUs do not reach */
#define HMM_SEEN_ELSEWHERE 0x30 /* in that of another */

#endif
