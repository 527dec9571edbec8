/*
 * Handing the turn from owner to owner.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "process.h"

enum { IDLE = 0, GIVEN, ASLEEP };

void futex_wait(uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
}

void futex_wake(uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

void turn_give(unsigned owner)
{
    uint32_t *state = &mirror.control->turns[owner].state;

    if (__atomic_exchange_n(state, GIVEN, __ATOMIC_SEQ_CST) == ASLEEP)
        futex_wake(state);
}

void turn_wait(void)
{
    uint32_t *state = &mirror.control->turns[mirror.self].state;
    uint32_t idle = IDLE;

    if (__atomic_compare_exchange_n(state, &idle, ASLEEP, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        while (__atomic_load_n(state, __ATOMIC_SEQ_CST) == ASLEEP)
            futex_wait(state, ASLEEP);
    __atomic_store_n(state, IDLE, __ATOMIC_SEQ_CST);
}

unsigned owner_of_process(const lw_operation *op)
{
    const struct device *device = &mirror.control->devices[op->device];
    unsigned process = op->kind == LW_ATTACH ? op->process : device->attached - 1u;

    return process_alive(process) ? process + 1 : COORDINATOR;
}

/* An operation of a process that is not there goes to the coordinator, which says so. */
static unsigned owner_of(const lw_operation *op)
{
    if (is_on_device(op->kind))
        return device_owner(op);
    return process_alive(op->process) ? op->process + 1u : COORDINATOR;
}

static void step(const lw_operation *op, lw_outcome *outcome)
{
    memset(outcome, 0, sizeof(*outcome));
    outcome->data = mirror.control->used;
    if (is_on_device(op->kind))
        step_device(op, outcome);
    else if (mirror.self == COORDINATOR)
        answer(outcome, LW_STATUS_ERROR, ESRCH);
    else
        step_memory(op, outcome);
    mirror.control->used += outcome->size;
}

int turn_run(void)
{
    struct control *control = mirror.control;
    unsigned next = COORDINATOR;

    while (control->cursor < control->count && !control->full) {
        const lw_operation *op = &control->operations[control->cursor];
        next = owner_of(op);
        if (next != mirror.self)
            break;
        next = COORDINATOR;
        if (step_room(op) > control->capacity - control->used) {
            control->full = 1;
            break;
        }
        step(op, &control->outcomes[control->cursor]);
        control->cursor++;
        /* The coordinator looks after births and deaths before anyone goes on. */
        if (op->kind == LW_FORK && mirror.self != COORDINATOR)
            break;
        if (op->kind == LW_EXIT && mirror.self != COORDINATOR)
            process_exit();
    }
    if (next == mirror.self)
        return 1;
    turn_give(next);
    return 0;
}
