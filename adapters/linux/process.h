/*
 * What the real Linux mirrors share: up to three processes with real mappings, driven by one
 * coordinator (the agent's process) over shared memory.
 *
 * Whoever an operation belongs to does it: a process those on its own memory, a device those of
 * the device, which may live in the coordinator or in the process that it is attached to.  The
 * turn to go on is handed over only where the owner changes.
 *
 * A mirror is the process*.c files, one file with its device (the device_ functions below), and
 * the agent's main().
 */
#ifndef LW_PROCESS_H
#define LW_PROCESS_H

#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lastwriter.h"

enum {
    PROCESSES = 3,
    DEVICES = 2,
    FILES = 4,
    KEYS = 8,
    JOBS = 4,
    JOB_LENGTH = 8,
    BATCH = 2048,
};

#define WORD 8u
#define SMALL_PAGE 4096u
#define HUGE_PAGE (2ul << 20)
#define MAX_LENGTH (4ul << 20)
#define ARENA_LIMIT (1024 * HUGE_PAGE)

/* Who has the turn: the coordinator, or process p as p + 1.  A device's own process never has. */
enum { COORDINATOR = 0, OWNERS = PROCESSES + 1, SERVER = OWNERS };

/* Beside the kinds of lastwriter.h: process 0 goes back to an empty arena. */
#define KIND_RESET 255

/* The shared memory is one memfd, so that a device can also get at it as a file.  Behind the
 * control block lie, at these offsets, the outcomes' data, room for the words of a device's
 * write, and for each device, job and access in it the data or words of that access. */
#define CONTROL_ROOM (1ul << 20)
#define DATA_AT CONTROL_ROOM
#define DATA_ROOM (40ul << 20)
#define WORDS_AT (DATA_AT + DATA_ROOM)
#define JOBS_AT (WORDS_AT + MAX_LENGTH)
#define SHARED_SIZE (JOBS_AT + DEVICES * JOBS * JOB_LENGTH * MAX_LENGTH)

enum job_state { JOB_EMPTY = 0, JOB_QUEUED, JOB_SUBMITTED, JOB_DONE };

struct job {
    uint32_t state; /* also a futex */
    uint32_t count;
    uint32_t order; /* of submission, per device */
    lw_operation accesses[JOB_LENGTH];
    lw_outcome outcomes[JOB_LENGTH];
};

struct device {
    uint8_t attached; /* process + 1, or 0 */
    pid_t server;       /* a process of the device's own, or 0 */
    uint32_t asked;     /* how often anything was ever asked of it; also a futex */
    uint32_t call;      /* what it is to do beside jobs, or 0; also a futex */
    /* For a device that is an open file: */
    uint32_t opened; /* how often it was attached */
    uint8_t owner;   /* the process that has it open for this, or 0 */
    pid_t holder;    /* who others take it from, and its number there */
    int file;
    uint8_t kept; /* by the device's process, too */
    struct job jobs[JOBS];
};

struct control {
    lw_geometry geometry;
    pid_t coordinator;
    pid_t pids[PROCESSES];      /* 0: not alive; a zombie keeps its number until the reset */
    uint8_t leaving[PROCESSES]; /* 1: its end is no surprise, 2: it has come */
    int places[PROCESSES];      /* CPU that it is bound to, plus 1 */
    uint8_t born;               /* a process, since the coordinator last looked */
    uint8_t touched[FILES];     /* mapped or resized since the reset */
    struct {
        _Alignas(64) uint32_t state;
    } turns[OWNERS];
    uint32_t cursor, count;  /* in the batch below */
    uint32_t used, capacity; /* bytes of the outcomes' data */
    uint8_t full;            /* the operation at the cursor has no room for its data */
    struct device devices[DEVICES];
    lw_operation operations[BATCH];
    lw_outcome outcomes[BATCH];
};

_Static_assert(sizeof(struct control) <= CONTROL_ROOM, "control block");

/* What every process knows, inherited over fork. */
struct mirror {
    struct control *control;
    uint8_t *shared; /* the same memory, as bytes */
    char *arena;
    unsigned self; /* the owner that this process is, or SERVER */
    int shared_fd;
    int files[FILES];
    int pagemap; /* of the process itself */
    cpu_set_t everywhere; /* the CPUs that we may use */
};

extern struct mirror mirror;

/* ---- What a device file provides ---- */

/* Why the mirror cannot work here at all, or NULL. */
const char *device_unavailable(void);
/* Why the mirror cannot do this kind because of its device, or NULL. */
const char *device_lacks(unsigned kind);
/* The same for most devices that need registrations, and most that need none. */
const char *keyed_device_lacks(unsigned kind);
const char *keyless_device_lacks(unsigned kind);
/* Adds name, model and limits to the description, and its notes. */
void device_describe(void);
void device_notes(void);
/* How many devices there are. */
extern const unsigned device_count;
/* How many of the files are on a disk, from the last one down. */
extern const unsigned disk_files;
/* Bytes: the device's writes begin and end at multiples of this while a job is in flight, and
 * those of jobs always do.  A word, unless the device can only write more at once. */
extern const uint32_t write_unit;
/* Bytes that a job reads or writes as one while somebody else does: 1, or a word. */
extern const uint32_t atomicity;

/* In the coordinator, once, before process 0 exists; 0 or -1 with errno. */
int device_start(void);
/* In the coordinator: wait for the jobs that a program left in flight, before a reset. */
void device_quiesce(void);
/* In a process: a fresh start, after fork as the parent and as the child, and before it exits. */
void device_reset(void);
void device_parent(void);
void device_forked(void);
void device_leaving(void);

/* Who does the operations of a device (in its present state) and who attaches it: the
 * coordinator, or the process that it is attached to. */
unsigned device_owner(const lw_operation *op);

/* One access, at once, or a fault-in.  `at` is the offset in the shared memory where the data of a
 * read or an atomic goes, or where the words of a write lie. */
void device_access(const lw_operation *op, size_t at, lw_outcome *outcome);
void device_attach(const lw_operation *op, lw_outcome *outcome);
void device_detach(const lw_operation *op, lw_outcome *outcome);
void device_register(const lw_operation *op, lw_outcome *outcome);
void device_unregister(const lw_operation *op, lw_outcome *outcome);
/* Start a job, and wait until its outcomes and data are there. */
void device_submit(unsigned device, struct job *job);
void device_wait(unsigned device, struct job *job);

/* ---- process.c: the coordinator and the life of processes ---- */

/* Whether a process has not exited; `process` is any number that a program can name. */
int process_alive(unsigned process);
void process_fork(const lw_operation *op, lw_outcome *outcome);
_Noreturn void process_exit(void);
/* A helper process of the coordinator, which runs `body` and dies with the coordinator. */
pid_t process_helper(void (*body)(unsigned), unsigned argument);
/* Something in the mirror itself failed: say so and end everything. */
_Noreturn void process_fatal(const char *what);

/* ---- process_turn.c ---- */

void turn_give(unsigned owner);
void turn_wait(void);
/* Do what is ours from the cursor on, then hand the turn over.  Whether it is kept: the coordinator
 * keeps it when all is done. */
int turn_run(void);
/* The process that a device is attached to or is to be, or the coordinator if it has exited. */
unsigned owner_of_process(const lw_operation *op);
void futex_wait(uint32_t *word, uint32_t value);
void futex_wake(uint32_t *word);

/* ---- process_thread.c ---- */

/* A thread of this process, which takes no signals and runs on any CPU; 0, or -1 with errno. */
int thread_start(void *(*body)(void *), void *argument);

/* ---- process_step.c: operations on a process's own memory ---- */

void step_memory(const lw_operation *op, lw_outcome *outcome);

/* ---- process_access.c: loads and stores that may fault ---- */

/* Words in a row, in the arena or not: what to do with them, as the CPU's kinds of access do. */
struct run {
    unsigned kind;
    uint64_t *words;
    uint64_t count;
    uint64_t value;
    uint64_t expected;
    uint8_t *data; /* where old values go */
};

void access_prepare(void);
/* How many words were done, and the error if one of them, in the arena, faulted; or 0. */
uint64_t access_run(const struct run *run, int *error);
void access_words(const lw_operation *op, lw_outcome *outcome);

/* ---- process_events.c ---- */

void event_do(const lw_operation *op, lw_outcome *outcome);
/* Why this event can never happen here, or NULL. */
const char *event_lacks(unsigned kind);
void event_notes(void);
/* An event that may have happened, to how many pages, and why not where it did not. */
struct happening {
    unsigned hits;
    int error;
};
/* What keeps KSM from merging pages, or NULL, and having it merge those of a range; in
 * process_merge.c. */
const char *merge_lacks(void);
void merge_pages(char *at, size_t size, struct happening *happening);

/* ---- process_pages.c: needs mirror.pagemap, so only in a process ---- */

/* Bits of an entry of the page map. */
#define PAGE_PRESENT (1ull << 63)
#define PAGE_OF_FILE (1ull << 61) /* or of shared anonymous memory */
#define PAGE_FRAME ((1ull << 55) - 1) /* zero where hidden */
/* Small pages that are looked at in one go. */
#define CHUNK (HUGE_PAGE / SMALL_PAGE)

/* The entries of `count` small pages; 0 or -1. */
int pages_look(char *at, unsigned count, uint64_t *entries);
/* Whether the page of a file at this address is in memory. */
int pages_cached(char *at);
/* Whether a huge page is mapped at this multiple of its size. */
int pages_are_huge(char *at);
/* Whether that can be told; anywhere. */
int pages_can_tell_huge(void);
/* Whether all of a range is mapped with this right, 'r' or 'w'. */
int pages_allow(char *at, size_t size, char right);
/* A number at the start of a file, or -1. */
long read_number(const char *path);

/* ---- process_jobs.c: what all devices do alike ---- */

void step_device(const lw_operation *op, lw_outcome *outcome);
/* Bytes of data that the operation may give. */
uint32_t step_room(const lw_operation *op);
size_t job_place(unsigned device, const struct job *job, unsigned access);
/* Whether any job was submitted and not waited for yet. */
int jobs_in_flight(void);
/* Do all accesses of a job, one after the other. */
void job_perform(unsigned device, struct job *job);

/* ---- process_server.c: a process for each device, for those that want one ---- */

/* Start them, in the coordinator; `calls` does in the device's process what server_call() asks
 * for.  0 or -1 with errno. */
int server_start(void (*calls)(unsigned device, unsigned call));
void server_submit(unsigned device, struct job *job);
void server_wait(struct job *job);
/* Wait for all jobs that were submitted. */
void server_quiesce(void);
/* Have the device's process do something (not 0) before its next job, and wait for it. */
void server_call(unsigned device, unsigned call);

/* ---- process_files.c ---- */

/* Shared memory, arena and files: 0 or -1 with errno. */
int files_start(void);
void files_reset(const lw_geometry *before);
/* Whether files of before are larger than they are to be now and may not shrink.  Then they are
 * made anew, once no process has them any more; 0 or -1 with errno. */
int files_outgrown(const lw_geometry *before);
int files_renew(void);
/* The file that has this number in another process, or -1 with errno. */
int files_take(pid_t pid, int number);
/* A note on the files for the description, or NULL. */
const char *files_note(void);
/* Whether any file is on a disk. */
int files_on_disk(void);
/* Write dirty pages of the disk files back. */
void files_clean(void);

/* ---- process_describe.c ---- */

void describe(const char *format, ...) __attribute__((format(printf, 1, 2)));
void describe_note(const char *note);
const char *describe_mirror(void);

/* ---- small helpers ---- */

static inline int is_read(unsigned kind)
{
    return kind == LW_READ || kind == LW_DREAD;
}

static inline int is_device_access(unsigned kind)
{
    return kind >= LW_DREAD && kind <= LW_DCAS;
}

/* Whether a device does it. */
static inline int is_on_device(unsigned kind)
{
    return kind >= LW_ATTACH && kind <= LW_SNAPSHOT && kind != LW_INVALIDATE;
}

/* Whether an access gives the old values of its words. */
static inline int gives_data(unsigned kind)
{
    return kind == LW_READ || kind == LW_ADD || kind == LW_CAS || kind == LW_DREAD ||
           kind == LW_DADD || kind == LW_DCAS;
}

static inline char *page_address(unsigned page)
{
    return mirror.arena + (size_t)page * mirror.control->geometry.page_size;
}

static inline size_t page_bytes(unsigned pages)
{
    return (size_t)pages * mirror.control->geometry.page_size;
}

static inline void answer(lw_outcome *outcome, unsigned status, int error)
{
    outcome->status = (uint8_t)status;
    outcome->error = (uint16_t)error;
}

#endif
