/*
 * The keys of programs, for devices that are io_urings.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "process.h"
#include "ring.h"

#define LARGEST_BUFFER (1ul << 30) /* the kernel's limit */

struct key {
    uint8_t rights; /* 0: dead */
    int buffer;
    unsigned page, pages;
};

static struct key keys[DEVICES][KEYS];

static struct key *key_of(const lw_operation *op)
{
    return &keys[op->device][op->key - 1];
}

static int covers(const struct key *key, const lw_operation *op)
{
    size_t first = page_bytes(op->page) + op->offset;

    return first >= page_bytes(key->page) &&
           first + op->length <= page_bytes(key->page + key->pages);
}

/* Only the helper knows that a key was asked for to read: pins are always for writing. */
int keys_buffer(const lw_operation *op)
{
    const struct key *key = op->key ? key_of(op) : NULL;

    if (!key || (!is_read(op->kind) && key->rights == LW_FLAG_READ))
        return NO_BUFFER;
    if (!key->rights)
        return pins_one_each && !op->job ? op->key - 1 : NO_BUFFER;
    return pins_one_each || covers(key, op) ? key->buffer : NO_BUFFER;
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

static void pin(const lw_operation *op, lw_outcome *outcome)
{
    struct key *key = key_of(op);
    int buffer = pins_take(op, page_address(op->page), page_bytes(op->pages));

    if (buffer == NO_BUFFER) {
        /* The limit on locked memory is not about the mapping. */
        answer(outcome, errno == ENOMEM ? LW_STATUS_UNSUPPORTED : LW_STATUS_ERROR, errno);
        return;
    }
    key->rights = op->flags & (LW_FLAG_READ | LW_FLAG_WRITE);
    key->buffer = buffer;
    key->page = op->page;
    key->pages = op->pages;
}

void device_register(const lw_operation *op, lw_outcome *outcome)
{
    if (mirror.self == COORDINATOR)
        answer(outcome, LW_STATUS_ERROR, ESRCH);
    else if (key_of(op)->rights)
        answer(outcome, LW_STATUS_ERROR, EEXIST);
    else if (cannot_pin(op))
        answer(outcome, LW_STATUS_UNSUPPORTED, EOPNOTSUPP);
    else
        pin(op, outcome);
}

void device_unregister(const lw_operation *op, lw_outcome *outcome)
{
    if (mirror.self == COORDINATOR)
        answer(outcome, LW_STATUS_ERROR, ESRCH);
    else if (!key_of(op)->rights)
        answer(outcome, LW_STATUS_ERROR, EINVAL);
    else if (pins_give(op->device, op->key) < 0)
        answer(outcome, LW_STATUS_ERROR, errno);
    else
        key_of(op)->rights = 0;
}

static void forget_keys(unsigned device)
{
    for (unsigned key = 1; key <= KEYS; key++) {
        if (keys[device][key - 1].rights && pins_give(device, key) < 0)
            process_fatal("dropping a registered buffer");
        keys[device][key - 1].rights = 0;
    }
}

/* ---- Life ---- */

void device_attach(const lw_operation *op, lw_outcome *outcome)
{
    if (pins_open(op->device) < 0)
        answer(outcome, LW_STATUS_ERROR, errno);
}

void device_detach(const lw_operation *op, lw_outcome *outcome)
{
    (void)outcome;
    if (mirror.self != COORDINATOR)
        forget_keys(op->device);
}

void device_reset(void)
{
    for (unsigned d = 0; d < DEVICES; d++) {
        ring_drain(d);
        forget_keys(d);
    }
}

void device_forked(void)
{
    for (unsigned d = 0; d < DEVICES; d++) {
        pins_forked(d);
        ring_forget(d);
    }
    memset(keys, 0, sizeof(keys));
}
