/*
 * The schedule that a busy machine shows now and then: whoever the coordinator wakes is through
 * with the turn before the coordinator does anything else.  A turn that is still given to somebody
 * when a batch is over would have two of them at work on the next.
 *
 * Linked with --wrap for the functions that are wrapped here.
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/syscall.h>

#include "process.h"

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
uint32_t __real_lw_run(void *opened, const lw_operation *operations, uint32_t count,
                       lw_outcome *outcomes, uint8_t *data, uint32_t capacity);
uint32_t __wrap_lw_run(void *opened, const lw_operation *operations, uint32_t count,
                       lw_outcome *outcomes, uint8_t *data, uint32_t capacity);

enum { GIVEN = 1 }; /* as in process_turn.c */

static uint32_t turn_of(unsigned owner)
{
    return __atomic_load_n(&mirror.control->turns[owner].state, __ATOMIC_SEQ_CST);
}

static int is_turn(const uint32_t *word)
{
    const struct control *control = mirror.control;

    for (unsigned owner = 0; owner < OWNERS; owner++)
        if (word == &control->turns[owner].state)
            return 1;
    return 0;
}

static void await_own_turn(void)
{
    while (turn_of(COORDINATOR) != GIVEN)
        sched_yield();
}

long __wrap_syscall(long number, ...)
{
    long given[6], result;
    va_list arguments;

    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        given[i] = va_arg(arguments, long);
    va_end(arguments);
    result = __real_syscall(number, given[0], given[1], given[2], given[3], given[4], given[5]);
    if (number == SYS_futex && (int)given[1] == FUTEX_WAKE && mirror.self == COORDINATOR &&
        is_turn((const uint32_t *)given[0]))
        await_own_turn();
    return result;
}

uint32_t __wrap_lw_run(void *opened, const lw_operation *operations, uint32_t count,
                       lw_outcome *outcomes, uint8_t *data, uint32_t capacity)
{
    uint32_t done = __real_lw_run(opened, operations, count, outcomes, data, capacity);

    for (unsigned owner = 0; owner < OWNERS; owner++)
        if (turn_of(owner) == GIVEN)
            process_fatal("a turn is left over");
    return done;
}
