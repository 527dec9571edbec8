/*
 * linux:kvm: the device is a virtual machine, in the process that it is attached to.  Its guest
 * makes the accesses with instructions of its own, through the second set of page tables that
 * the kernel keeps in step with the process's by its MMU notifiers.
 *
 * There is one virtual machine for each device and process: a child cannot run the machine of
 * its parent.  A machine is run by a thread and does commands from a ring: accesses of jobs as
 * well as immediate ones, in order.  Guest and process first spin for each other, which takes a
 * fraction of a microsecond while both have a CPU, and then sleep.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvm_guest.h"
#include "process.h"

const unsigned device_count = DEVICES;
const unsigned disk_files = 2;
const uint32_t write_unit = WORD;
const uint32_t atomicity = WORD;

/* Checks for a completion before it is slept for: most accesses that meet no fault take no longer.
 * Ten times as many make the candidate quicker by a fifth when it is alone, and slower by as much
 * beside a suite that needs the CPU. */
enum { SPINS = 400 };

/* A larger window costs memory and time for every machine; few arenas need one. */
#define LEAST_WINDOW (16 * HUGE_PAGE)

struct machine {
    struct guest guest;
    uint64_t reaped; /* number of the last command whose outcome was taken */
    uint64_t last[JOBS]; /* number of the last command of each job */
    struct {
        lw_outcome *outcome;
        uint8_t kind;
        uint32_t length;
    } entries[RING]; /* as in the ring */
};

static struct machine *machines[DEVICES]; /* of this process */

/* ---- The ring, on the side of the process ---- */

static uint32_t *low_half(uint64_t *number)
{
    return (uint32_t *)number; /* the only processors with a guest are little-endian */
}

static uint64_t load(const uint64_t *number)
{
    return __atomic_load_n(number, __ATOMIC_SEQ_CST);
}

static void store(uint64_t *number, uint64_t value)
{
    __atomic_store_n(number, value, __ATOMIC_SEQ_CST);
}

static void await(struct guest_ring *ring, uint64_t number)
{
    for (unsigned i = 0; i < SPINS; i++) {
        if (load(&ring->completed) >= number)
            return;
        guest_relax();
    }
    store(&ring->awaited, 1);
    for (;;) {
        uint64_t completed = load(&ring->completed);
        if (completed >= number)
            break;
        futex_wait(low_half(&ring->completed), (uint32_t)completed);
    }
    store(&ring->awaited, 0);
}

static void submit(struct guest_ring *ring)
{
    store(&ring->submitted, ring->submitted + 1);
    if (load(&ring->resting))
        futex_wake(low_half(&ring->submitted));
}

/* ---- The thread that runs a machine ---- */

static void rest(struct guest_ring *ring)
{
    if (load(&ring->awaited))
        futex_wake(low_half(&ring->completed));
    store(&ring->resting, 1);
    for (;;) {
        uint64_t submitted = load(&ring->submitted);
        if (submitted != load(&ring->completed))
            break;
        futex_wait(low_half(&ring->submitted), (uint32_t)submitted);
    }
    store(&ring->resting, 0);
}

static void *run_machine(void *argument)
{
    struct machine *machine = argument;

    for (;;) {
        enum guest_stop stop = guest_run(&machine->guest);
        if (stop == STOP_IDLE)
            rest(machine->guest.ring);
        else if (stop == STOP_BROKEN)
            process_fatal(guest_complaint(&machine->guest));
    }
    return NULL;
}

static struct machine *make_machine(size_t window)
{
    struct machine *machine = calloc(1, sizeof(*machine));

    if (!machine)
        return NULL;
    if (guest_create(&machine->guest, window) == 0 && thread_start(run_machine, machine) == 0)
        return machine;
    guest_close(&machine->guest);
    free(machine);
    return NULL;
}

/* ---- Accesses ---- */

static uint64_t command_kind(const lw_operation *op)
{
    switch (op->kind) {
    case LW_DREAD:
        return GUEST_LOAD;
    case LW_DWRITE:
        return GUEST_STORE;
    case LW_DADD:
        return GUEST_ADD;
    case LW_DCAS:
        return GUEST_EXCHANGE;
    default:
        return op->flags & LW_FLAG_WRITE ? GUEST_TOUCH_WRITE : GUEST_TOUCH;
    }
}

/* What a fault-in touches is all of its pages. */
static uint64_t command_words(const lw_operation *op)
{
    return (op->kind == LW_FAULT ? page_bytes(op->pages) : op->length) / WORD;
}

static void add_command(struct machine *machine, const lw_operation *op, size_t at,
                        lw_outcome *outcome)
{
    struct guest_ring *ring = machine->guest.ring;
    unsigned entry = ring->submitted % RING;

    ring->commands[entry] = (struct guest_command){
        .kind = command_kind(op),
        .address = (uintptr_t)(page_address(op->page) + op->offset),
        .count = command_words(op),
        .value = op->value,
        .expected = op->expected,
        .data = guest_shared(at),
    };
    machine->entries[entry].outcome = outcome;
    machine->entries[entry].kind = op->kind;
    machine->entries[entry].length = op->length;
    submit(ring);
}

static void take_outcome(struct machine *machine, unsigned entry)
{
    const struct guest_command *command = &machine->guest.ring->commands[entry];
    lw_outcome *outcome = machine->entries[entry].outcome;
    unsigned kind = machine->entries[entry].kind;

    if (command->faulted)
        answer(outcome, LW_STATUS_FAULT, EFAULT);
    if (kind == LW_FAULT)
        return;
    outcome->done = (uint32_t)(command->done * WORD);
    outcome->size = gives_data(kind) ? outcome->done : 0;
}

/* Take the outcomes of all commands up to this one, which others may lie before. */
static void finish(struct machine *machine, uint64_t number)
{
    await(machine->guest.ring, number);
    for (; machine->reaped < number; machine->reaped++)
        take_outcome(machine, machine->reaped % RING);
}

void device_access(const lw_operation *op, size_t at, lw_outcome *outcome)
{
    struct machine *machine = machines[op->device];

    if (mirror.self == COORDINATOR) {
        answer(outcome, LW_STATUS_ERROR, ESRCH);
        return;
    }
    add_command(machine, op, at, outcome);
    finish(machine, machine->guest.ring->submitted);
}

static unsigned index_of(unsigned device, const struct job *job)
{
    return (unsigned)(job - mirror.control->devices[device].jobs);
}

void device_submit(unsigned device, struct job *job)
{
    struct machine *machine = machines[device];

    job->state = JOB_SUBMITTED;
    for (unsigned i = 0; i < job->count; i++)
        if (mirror.self == COORDINATOR)
            answer(&job->outcomes[i], LW_STATUS_ERROR, ESRCH);
        else
            add_command(machine, &job->accesses[i], job_place(device, job, i), &job->outcomes[i]);
    if (mirror.self != COORDINATOR)
        machine->last[index_of(device, job)] = machine->guest.ring->submitted;
}

/* A job of a process that has exited was finished then. */
void device_wait(unsigned device, struct job *job)
{
    if (mirror.self != COORDINATOR)
        finish(machines[device], machines[device]->last[index_of(device, job)]);
}

/* ---- Life ---- */

unsigned device_owner(const lw_operation *op)
{
    return owner_of_process(op);
}

void device_attach(const lw_operation *op, lw_outcome *outcome)
{
    struct machine **machine = &machines[op->device];
    size_t window = page_bytes(mirror.control->geometry.pages);

    if (window < LEAST_WINDOW)
        window = LEAST_WINDOW;
    if (!*machine)
        *machine = make_machine(window);
    if (!*machine || guest_widen(&(*machine)->guest, window) < 0)
        answer(outcome, LW_STATUS_ERROR, errno);
}

void device_detach(const lw_operation *op, lw_outcome *outcome)
{
    (void)op;
    (void)outcome;
}

static void drain(void)
{
    for (unsigned d = 0; d < DEVICES; d++)
        if (machines[d])
            finish(machines[d], machines[d]->guest.ring->submitted);
}

void device_reset(void)
{
    drain();
}

void device_parent(void)
{
}

/* The child has the files of its parent's machines, and neither their memory nor their threads. */
void device_forked(void)
{
    for (unsigned d = 0; d < DEVICES; d++)
        if (machines[d]) {
            guest_close(&machines[d]->guest);
            free(machines[d]);
            machines[d] = NULL;
        }
}

/* The outcomes of jobs in flight can be had as long as their machine is there. */
void device_leaving(void)
{
    drain();
}

int device_start(void)
{
    return 0;
}

void device_quiesce(void)
{
}

void device_register(const lw_operation *op, lw_outcome *outcome)
{
    (void)op;
    answer(outcome, LW_STATUS_UNSUPPORTED, ENOSYS);
}

void device_unregister(const lw_operation *op, lw_outcome *outcome)
{
    device_register(op, outcome);
}

/* ---- What it is ---- */

enum { TRIAL_SECONDS = 5 };

/* Have a guest add to a word.  Says what went wrong in the shared memory. */
static void try_machine(unsigned unused)
{
    struct guest guest;
    uint64_t *word = mmap(mirror.arena, SMALL_PAGE, PROT_READ | PROT_WRITE,
                          MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *reason = (char *)mirror.shared + DATA_AT;
    enum guest_stop stop = STOP_SIGNAL;

    (void)unused;
    alarm(TRIAL_SECONDS);
    if (guest_create(&guest, LEAST_WINDOW) < 0) {
        snprintf(reason, 128, "creating a virtual machine: %s",
                 errno == ENOEXEC ? "there is no guest for this processor" : strerror(errno));
        return;
    }
    guest.ring->commands[0] = (struct guest_command){.kind = GUEST_ADD,
                                                     .address = (uintptr_t)word,
                                                     .count = 1,
                                                     .value = 1,
                                                     .data = guest_shared(WORDS_AT)};
    guest.ring->submitted = 1;
    while (stop == STOP_SIGNAL)
        stop = guest_run(&guest);
    if (stop == STOP_BROKEN)
        snprintf(reason, 128, "%s", guest_complaint(&guest));
    else if (stop != STOP_IDLE || *word != 1)
        snprintf(reason, 128, "a guest's access went wrong");
}

static const char *cannot_open(void)
{
    static char reason[128];
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd >= 0) {
        close(fd);
        return NULL;
    }
    snprintf(reason, sizeof(reason), "/dev/kvm: %s%s", strerror(errno),
             errno == EACCES ? " (see group kvm)" : "");
    return reason;
}

const char *device_unavailable(void)
{
    static char reason[128];
    int status = 0;
    pid_t pid;

    if (cannot_open())
        return cannot_open();
    pid = process_helper(try_machine, 0);
    if (pid < 0)
        return "fork failed";
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    snprintf(reason, sizeof(reason), "%.127s", (char *)mirror.shared + DATA_AT);
    *(mirror.shared + DATA_AT) = 0;
    if (!*reason && status)
        snprintf(reason, sizeof(reason), "a guest did not come to its end");
    return *reason ? reason : NULL;
}

const char *device_lacks(unsigned kind)
{
    return keyless_device_lacks(kind);
}

void device_describe(void)
{
    describe("\"name\":\"linux:kvm\",\"model\":\"faulting\",\"keyed\":false,\"keys\":0,"
             "\"page_sizes\":[4096,65536,%lu],", HUGE_PAGE);
}

/* What the kernel keeps in step with the process: tables that the processor walks beside the
 * guest's own, or ones that it walks in their place. */
static const char *paging_note(void)
{
    static const char *const switches[] = {"/sys/module/kvm_amd/parameters/npt",
                                           "/sys/module/kvm_intel/parameters/ept"};

    for (unsigned i = 0; i < 2; i++) {
        FILE *file = fopen(switches[i], "re");
        int set = file ? getc(file) : EOF;
        if (file)
            fclose(file);
        if (set != EOF)
            return set == 'Y' ? "nested paging" : "shadow page tables";
    }
    return NULL;
}

void device_notes(void)
{
    describe_note(paging_note());
    describe_note("fault is an access of the guest to a word of each page");
    describe_note("once a process has exited, the agent refuses the accesses of its devices");
}
