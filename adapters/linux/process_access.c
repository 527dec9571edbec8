/*
 * CPU accesses of the arena, word by word, with the faults caught.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>

#include "process.h"

static sigjmp_buf landing;
static volatile sig_atomic_t expected;
static volatile sig_atomic_t caught;

/* SIGBUS is a page behind the end of its file (or a disk that is full). */
static void on_fault(int signal, siginfo_t *info, void *context)
{
    uintptr_t offset = (uintptr_t)info->si_addr - (uintptr_t)mirror.arena;

    (void)context;
    if (!expected || offset >= ARENA_LIMIT) {
        /* Not an access of a program: fault again, for good. */
        struct sigaction fatal = {.sa_handler = SIG_DFL};
        sigaction(signal, &fatal, NULL);
        return;
    }
    caught = signal == SIGBUS ? ENXIO : EFAULT;
    siglongjmp(landing, 1);
}

void access_prepare(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};

    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}

static uint64_t compare_exchange(uint64_t *word, uint64_t old, uint64_t new)
{
    __atomic_compare_exchange_n(word, &old, new, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return old;
}

/* Word `k` of a run: the value before. */
static inline uint64_t touch(const struct run *run, uint64_t k)
{
    uint64_t *word = &run->words[k];

    switch (run->kind) {
    case LW_READ:
        return __atomic_load_n(word, __ATOMIC_RELAXED);
    case LW_ADD:
        return __atomic_fetch_add(word, run->value, __ATOMIC_SEQ_CST);
    case LW_CAS:
        return compare_exchange(word, run->expected + k, run->value + k);
    default:
        __atomic_store_n(word, run->value + k, __ATOMIC_RELAXED);
        return 0;
    }
}

uint64_t access_run(const struct run *run, int *error)
{
    volatile uint64_t k = 0; /* survives the jump */

    *error = 0;
    if (sigsetjmp(landing, 0) == 0) {
        expected = 1;
        for (; k < run->count; k++) {
            uint64_t old = touch(run, k);
            if (run->kind != LW_WRITE)
                memcpy(run->data + k * WORD, &old, WORD);
        }
    } else {
        *error = caught;
    }
    expected = 0;
    return k;
}

void access_words(const lw_operation *op, lw_outcome *outcome)
{
    struct run run = {
        .kind = op->kind,
        .words = (uint64_t *)(page_address(op->page) + op->offset),
        .count = op->length / WORD,
        .value = op->value,
        .expected = op->expected,
        .data = mirror.shared + DATA_AT + outcome->data,
    };
    int error;

    outcome->done = (uint32_t)(access_run(&run, &error) * WORD);
    if (error)
        answer(outcome, LW_STATUS_FAULT, error);
    outcome->size = op->kind == LW_WRITE ? 0 : outcome->done;
}
