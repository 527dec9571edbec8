/*
 * Registration mirrors whose pins a file of the kernel's holds, in the process that the device is
 * attached to: what they share, in regions.c, and what the file with their pins provides.
 */
#ifndef LW_REGIONS_H
#define LW_REGIONS_H

#include <stddef.h>
#include <stdint.h>

#include "process.h"

/* What lies under a key of a device, counted from 0 here. */
struct region {
    uint8_t rights; /* 0: a dead key */
    char *at;
    size_t size;
};

/* ---- What the file with the pins provides ---- */

/* Keys of a device. */
extern const unsigned region_keys;
/* Whether the kernel itself knows which keys live, what they cover and allow.  Otherwise an access
 * that they do not allow comes to its end in regions.c. */
extern const int regions_guarded;
/* In the coordinator, once, before there are processes; 0, or -1 with errno. */
int region_start(void);
/* Make a device ready in this process, which attaches it; 0, or -1 with errno. */
int region_open(unsigned device);
/* In a child: give up what the parent has open. */
void region_forget(unsigned device);
/* Pin memory; 0 or an errno, EOPNOTSUPP for what the mirror cannot do at all. */
int region_pin(unsigned device, unsigned key, const struct region *region);
/* Let it go; 0 or an errno. */
int region_unpin(unsigned device, unsigned key);
/* Copy `length` bytes from the pages of this address to `data`, or the other way round; 0 or an
 * errno, and then nothing was done. */
int region_copy(unsigned device, unsigned key, char *at, uint8_t *data, size_t length, int write);
/* Why it cannot do this kind, beside what none of these mirrors can, or NULL. */
const char *region_lacks(unsigned kind);

/* ---- regions.c ---- */

struct region *region_of(unsigned device, unsigned key);
/* Why the mirror cannot work: what has failed, and errno. */
const char *region_unavailable(const char *what);

#endif
