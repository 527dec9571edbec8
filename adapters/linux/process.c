/*
 * The coordinator, and the life and death of processes.
 *
 * All processes are children of the coordinator (a program's fork() asks for its parent to be
 * the parent), so that it hears of every death, and all ask to die with it, so that nothing
 * outlives it however it ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process.h"

#ifndef SYS_process_mrelease
#define SYS_process_mrelease 448
#endif

struct mirror mirror;

static int started;
static int opened;

void process_fatal(const char *what)
{
    char line[160];
    int size = snprintf(line, sizeof(line), "lastwriter mirror: %s: %s\n", what, strerror(errno));

    if (write(STDERR_FILENO, line, (size_t)size) < 0)
        _exit(71);
    _exit(70);
}

/* ---- Deaths that nobody asked for ---- */

static int has_died(pid_t pid)
{
    siginfo_t info = {0};

    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

static void die_of(const char *line)
{
    if (write(STDERR_FILENO, line, strlen(line)) < 0)
        _exit(71);
    _exit(70);
}

/* Runs at any moment, as a signal handler: the coordinator may be waiting for the turn of a
 * process that will never hand it over. */
static void check_children(int signal)
{
    const struct control *control = mirror.control;
    int saved = errno;

    (void)signal;
    for (unsigned p = 0; p < PROCESSES; p++)
        if (control->pids[p] && !control->leaving[p] && has_died(control->pids[p]))
            die_of("lastwriter mirror: an arena process died\n");
    for (unsigned d = 0; d < DEVICES; d++)
        if (control->devices[d].server && has_died(control->devices[d].server))
            die_of("lastwriter mirror: a device process died\n");
    errno = saved;
}

/* ---- In the child ---- */

/* The client must see the end of its stream when the coordinator closes it. */
static void close_other_files(void)
{
    int kept[FILES + 1], null = open("/dev/null", O_RDWR), last = STDERR_FILENO;

    memcpy(kept, mirror.files, sizeof(mirror.files));
    kept[FILES] = mirror.shared_fd;
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
    }
    for (unsigned i = 0; i < FILES + 1; i++)
        last = kept[i] > last ? kept[i] : last;
    for (int fd = STDERR_FILENO + 1; fd <= last; fd++) {
        int keep = 0;
        for (unsigned i = 0; i < FILES + 1; i++)
            keep |= fd == kept[i];
        if (!keep)
            close(fd);
    }
    syscall(SYS_close_range, last + 1, ~0u, 0);
}

static void bind_life(const char *name)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != mirror.control->coordinator)
        _exit(0); /* it ended before the line above */
    prctl(PR_SET_NAME, name);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY); /* for the device processes, under Yama */
}

_Noreturn static void process_main(unsigned process)
{
    mirror.self = process + 1;
    mirror.control->pids[process] = getpid();
    bind_life("lw-process");
    mirror.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    for (;;) {
        turn_wait();
        turn_run();
    }
}

/* An interrupt from the terminal is for the coordinator; they follow it. */
static void drop_signals(void)
{
    signal(SIGCHLD, SIG_DFL);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
}

/* ---- Births ---- */

pid_t process_helper(void (*body)(unsigned), unsigned argument)
{
    pid_t pid = fork();

    if (pid)
        return pid;
    drop_signals();
    close_other_files();
    bind_life("lw-device");
    body(argument);
    _exit(0);
}

static int start_first(void)
{
    pid_t pid;

    mirror.control->leaving[0] = 0;
    pid = fork();
    if (pid == 0) {
        drop_signals();
        close_other_files();
        access_prepare();
        process_main(0);
    }
    mirror.control->pids[0] = pid < 0 ? 0 : pid;
    return pid < 0 ? -1 : 0;
}

void process_fork(const lw_operation *op, lw_outcome *outcome)
{
    unsigned child = op->target; /* the batch may be another when the child gets to run */
    long pid;

    if (child >= PROCESSES || mirror.control->pids[child]) {
        answer(outcome, LW_STATUS_ERROR, EEXIST);
        return;
    }
    pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid < 0) {
        answer(outcome, LW_STATUS_ERROR, errno);
        return;
    }
    if (pid == 0) {
        close(mirror.pagemap);
        device_forked();
        process_main(child);
    }
    device_parent();
    mirror.control->pids[child] = (pid_t)pid;
    mirror.control->places[child] = mirror.control->places[mirror.self - 1];
    mirror.control->born = 1;
}

/* ---- Deaths that are part of a program ---- */

/* Every other process ends by itself.  The rest are killed, and their memory is taken away while
 * they are still there, as the OOM reaper does it: from user space nothing else leads to an
 * invalidation that may not block. */
static int is_reaped(unsigned process)
{
    return process % 2;
}

_Noreturn void process_exit(void)
{
    unsigned process = mirror.self - 1;

    device_leaving();
    mirror.control->leaving[process] = 1;
    turn_give(COORDINATOR);
    while (is_reaped(process))
        pause();
    _exit(0);
}

int process_alive(unsigned process)
{
    return process < PROCESSES && mirror.control->pids[process] &&
           !mirror.control->leaving[process];
}

/* Where the kernel cannot (before Linux 5.15), or it has come to its end already, the kill does. */
static void reap(pid_t pid)
{
    int process = (int)syscall(SYS_pidfd_open, pid, 0);

    kill(pid, SIGKILL);
    if (process >= 0) {
        syscall(SYS_process_mrelease, process, 0);
        close(process);
    }
}

/* Until its memory is gone.  It stays a zombie, so that a device that is still attached to it
 * meets nobody else under its number. */
static void await_leaving(void)
{
    siginfo_t info;

    for (unsigned p = 0; p < PROCESSES; p++) {
        pid_t pid = mirror.control->pids[p];
        if (mirror.control->leaving[p] != 1)
            continue;
        if (is_reaped(p))
            reap(pid);
        while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) < 0)
            if (errno != EINTR)
                process_fatal("waitid");
        mirror.control->leaving[p] = 2;
    }
}

static void bury(unsigned process)
{
    struct control *control = mirror.control;

    if (!control->pids[process])
        return;
    control->leaving[process] = 1;
    kill(control->pids[process], SIGKILL);
    while (waitpid(control->pids[process], NULL, 0) < 0)
        if (errno != EINTR)
            process_fatal("waitpid");
    control->pids[process] = 0;
    control->leaving[process] = 0;
    control->places[process] = 0;
    control->turns[process + 1].state = 0;
}

/* ---- The coordinator ---- */

/* Only one of us ever runs.  On one CPU handing the turn over is a plain switch; to wake another
 * CPU for it takes ten times as long, and reclaim sees only the pages of its own CPU at once.
 * Which CPU it is may be another one at the next batch. */
static void gather(void)
{
    struct control *control = mirror.control;
    int cpu = sched_getcpu();
    cpu_set_t here;

    CPU_ZERO(&here);
    CPU_SET((unsigned)cpu, &here);
    sched_setaffinity(0, sizeof(here), &here);
    for (unsigned p = 0; p < PROCESSES; p++)
        if (process_alive(p) && control->places[p] != cpu + 1) {
            sched_setaffinity(control->pids[p], sizeof(here), &here);
            control->places[p] = cpu + 1;
        }
}

static void disperse(void)
{
    sched_setaffinity(0, sizeof(mirror.everywhere), &mirror.everywhere);
}

static void run_batch(void)
{
    struct control *control = mirror.control;

    control->full = 0;
    gather();
    /* Whoever was given the turn may be through before we look: what counts is that it is ours. */
    while (!turn_run()) {
        turn_wait();
        await_leaving();
        if (control->born)
            check_children(0); /* it may have died before its number was known */
        control->born = 0;
    }
    disperse();
}

static void run_reset(void)
{
    struct control *control = mirror.control;

    control->operations[0] = (lw_operation){.kind = KIND_RESET};
    control->cursor = control->used = 0;
    control->count = 1;
    run_batch();
}

static int start(void)
{
    struct sigaction action = {.sa_handler = check_children, .sa_flags = SA_RESTART | SA_NOCLDSTOP};

    if (started)
        return 0;
    if (files_start() < 0)
        return -1;
    mirror.self = COORDINATOR;
    mirror.control->coordinator = getpid();
    sigaction(SIGCHLD, &action, NULL);
    sched_getaffinity(0, sizeof(mirror.everywhere), &mirror.everywhere);
    started = 1;
    return 0;
}

static void clear_devices(void)
{
    for (unsigned d = 0; d < DEVICES; d++) {
        mirror.control->devices[d].attached = 0;
        memset(mirror.control->devices[d].jobs, 0, sizeof(mirror.control->devices[d].jobs));
    }
}

static int start_processes(void)
{
    if (!opened && device_start() < 0)
        return -1;
    opened = 1;
    if (mirror.control->pids[0] && !mirror.control->leaving[0])
        return 0;
    bury(0);
    return start_first();
}

static int renew_files(const lw_geometry *before)
{
    if (!files_outgrown(before))
        return 0;
    bury(0);
    return files_renew();
}

uint32_t lw_abi_version(void)
{
    return LW_ABI_VERSION;
}

/* So that the kernel's log tells what in it belongs to which program. */
static void mark_program(void)
{
    static unsigned long long programs;
    const char *path = getenv("LASTWRITER_MARKS");
    FILE *marks = path ? fopen(path, "ae") : NULL;

    if (!marks)
        return;
    fprintf(marks, "lastwriter: program %llu\n", ++programs);
    fclose(marks);
}

void *lw_open(const lw_geometry *geometry)
{
    lw_geometry before;

    if (start() < 0)
        return NULL;
    mark_program();
    device_quiesce();
    for (unsigned p = 1; p < PROCESSES; p++)
        bury(p);
    before = mirror.control->geometry;
    mirror.control->geometry = *geometry;
    if (renew_files(&before) < 0 || start_processes() < 0)
        return NULL;
    run_reset();
    files_reset(&before);
    clear_devices();
    return &mirror;
}

uint32_t lw_run(void *opened_mirror, const lw_operation *operations, uint32_t count,
                lw_outcome *outcomes, uint8_t *data, uint32_t capacity)
{
    struct control *control = mirror.control;
    uint32_t done = 0;

    (void)opened_mirror;
    control->used = 0;
    control->capacity = capacity < DATA_ROOM ? capacity : DATA_ROOM;
    do {
        control->cursor = 0;
        control->count = count - done < BATCH ? count - done : BATCH;
        memcpy(control->operations, operations + done, control->count * sizeof(*operations));
        run_batch();
        memcpy(outcomes + done, control->outcomes, control->cursor * sizeof(*outcomes));
        done += control->cursor;
    } while (done < count && !control->full);
    memcpy(data, mirror.shared + DATA_AT, control->used);
    return done;
}

/* The processes stay for the next mirror; what is mapped and stored goes at its reset. */
void lw_close(void *opened_mirror)
{
    (void)opened_mirror;
}

const char *lw_describe(void)
{
    static char unavailable[256];
    const char *reason = start() < 0 ? strerror(errno) : device_unavailable();

    if (!reason)
        return describe_mirror();
    snprintf(unavailable, sizeof(unavailable), "unavailable: %s", reason);
    return unavailable;
}
