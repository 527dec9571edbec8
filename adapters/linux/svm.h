/*
 * Shared virtual memory in user space: a device with memory of its own, and pages that live at
 * the CPU or at a device.
 *
 * svm.c has the device's side: where each page lives, and what an access of the device does.
 * svm_events.c has the CPU's side: a thread that hears from userfaultfd of faults and of changes
 * of the mapping.  A page goes to a device and back in one of two ways, each a file of its own.
 *
 * The table is used by two threads, but never at once: the thread of events works while the
 * process waits for it in a fault or a system call, or the process waits in svm_settle().
 */
#ifndef LW_SVM_H
#define LW_SVM_H

#include <stdint.h>

#include "process.h"

/* Small pages of a device's memory: few, so that it is full at times. */
enum { FRAMES = 64 };

/* The places of a page of the arena.  SHARED: at the CPU, write-protected, and a copy at the
 * device to be read. */
enum place { AT_CPU = 0, SHARED, AT_DEVICE };

struct entry {
    uint8_t place;
    uint8_t device;
    uint8_t frame;
    uint8_t watched; /* registered with the arena's userfaultfd */
};

/* The memory of one device, for one process. */
struct memory {
    int fd; /* the userfaultfd through which its frames are filled; 0: no memory yet */
    char *frames;
    uint32_t pages[FRAMES]; /* the small page of the arena in each, plus 1; 0: free */
    unsigned next;          /* the frame to be freed if all are taken */
};

/* That of this process. */
struct svm {
    int fd;              /* the arena's userfaultfd; 0: no device was ever attached */
    uint32_t discarding; /* the page that the mirror itself drops at the CPU, plus 1 */
    struct memory memories[DEVICES];
    struct entry *table; /* of all small pages of the arena */
};

extern struct svm svm;

static inline char *small_page(uint32_t page)
{
    return mirror.arena + (size_t)page * SMALL_PAGE;
}

static inline char *frame_address(const struct memory *memory, unsigned frame)
{
    return memory->frames + (size_t)frame * SMALL_PAGE;
}

/* ---- svm.c ---- */

/* The page goes home to the CPU, from whichever device. */
void svm_send_home(uint32_t page);
/* What the device has of the page is void. */
void svm_drop(uint32_t page);
/* The page is at another address now, or was there. */
void svm_rename(uint32_t from, uint32_t to);

/* ---- svm_events.c ---- */

/* Open the arena's userfaultfd and start the thread; 0, or -1 with errno, and nothing done. */
int svm_events_start(void);
/* A userfaultfd without events, for frames; or -1 with errno. */
int svm_open(uint64_t features);
/* Have faults in a range reported. */
int svm_register(int fd, char *at, size_t size, uint64_t modes);
/* Have faults of this page's mapping reported, if it is one that can be: whether they are. */
int svm_watch(uint32_t page);
/* Wait until all that has happened to mappings is known. */
void svm_settle(void);
/* An ioctl of userfaultfd, which has to be tried again while mappings change. */
int svm_ioctl(int fd, unsigned long request, void *argument);
/* A page of zeros where there is none. */
int svm_fill_zero(int fd, char *at);

/* ---- The way of a page, userfaultfd.c or userfaultfd_copy.c ---- */

extern const char way_name[], way_needs[];
extern const uint64_t way_features, way_modes;

/* Fill the frame with the page, for the device to read or to write; a write may find it SHARED
 * there.  The page's new place, or -1 where it has to stay. */
int way_take(uint32_t page, enum place place, struct memory *memory, unsigned frame, int write);
/* Give the page its contents from the frame where it lives; 0, or -1 with errno. */
int way_return(uint32_t page, const struct memory *memory, unsigned frame);
/* Let the CPU write again to a page that was SHARED. */
int way_release(uint32_t page);

#endif
