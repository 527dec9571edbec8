/*
 * Devices that are io_urings with registered buffers, and what the file with their registrations
 * provides.  ring.c has the accesses and jobs, ring_keys.c the keys of programs, ring_probe.c what
 * can be done here.
 */
#ifndef LW_RING_H
#define LW_RING_H

#include <stddef.h>

#include "process.h"

enum { NO_BUFFER = -1 };

/* ---- What the file with the registrations provides ---- */

/* Whether each key has the buffer of its own number, with the memory that was asked for and no
 * more: then it is left to the kernel what is dead or out of range. */
extern const int pins_one_each;
/* Make a device ready in this process, which attaches it; 0, or -1 with errno. */
int pins_open(unsigned device);
/* Put memory under a key, to read it or also to write to it: the buffer, or NO_BUFFER with
 * errno. */
int pins_take(const lw_operation *op, char *at, size_t size);
/* Take it away; 0, or -1 with errno. */
int pins_give(unsigned device, unsigned key);
/* In a child: give up what its parent has. */
void pins_forked(unsigned device);
/* Why something of a process cannot be done beside such a device, or NULL. */
const char *pins_lack(unsigned kind);

/* ---- ring.c ---- */

/* Have a ring with room for so many buffers, in this process: 0, or -1 with errno if there is no
 * io_uring, or one without a sparse buffer table. */
int ring_open(unsigned device, unsigned buffers);
/* Put memory into a buffer, pinned, or nothing; less than 0 with errno if that fails. */
int ring_update(unsigned device, unsigned buffer, void *at, size_t size);
/* Wait for all that is in flight. */
void ring_drain(unsigned device);
/* In a child: give up the ring of its parent. */
void ring_forget(unsigned device);

/* ---- ring_keys.c ---- */

/* The buffer through which an access goes, or NO_BUFFER if it may not.  A job may not through a
 * dead key: that may live when the kernel looks at it. */
int keys_buffer(const lw_operation *op);

/* ---- ring_probe.c ---- */

/* Whether so many bytes can be pinned under every key. */
int ring_can_pin(unsigned size);

#endif
