/*
 * The agent as the first process of a virtual machine.
 *
 * It prepares the machine, and then starts itself again as a child, which serves the client at
 * the first virtio port; at the second one it takes lines from the host:
 *
 *     ready?               "ready" once the agent waits for its client
 *     swap-module BYTES    put the module that follows in the place of the last one
 *
 * each answered by one line, "ok" or "error: TEXT" where nothing else is said.  A child that
 * breaks down takes the machine with it: the client is told so first.
 *
 * Parameters of the kernel's command line:
 *
 *     lastwriter.modules=A,B   modules of the kernel to be loaded in this order
 *     lastwriter.nodes=1       hmm: both devices are one to the driver
 *     lastwriter.merge=off     no merging of pages of equal contents
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define AGENT_PORT "/dev/vport0p1"
#define CONTROL_PORT "/dev/vport0p2"
#define AGENT_FILE 10 /* the number under which the agent finds its port */
#define PAGE 4096u
#define MOST_MODULE (64ul << 20)

enum { FRAME_ERROR = 8, HEADER = 5 };

static pid_t agent;

_Noreturn __attribute__((format(printf, 1, 2)))
static void give_up(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fputs("guest: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    sync();
    reboot(RB_AUTOBOOT); /* the host's machine ends where it would start again */
    for (;;)
        pause();
}

/* ---- File systems and settings ---- */

static void mount_at(const char *kind, const char *place)
{
    mkdir(place, 0755);
    if (mount(kind, place, kind, 0, "") < 0 && errno != EBUSY)
        give_up("%s: %s", place, strerror(errno));
}

static void mount_all(void)
{
    mount_at("devtmpfs", "/dev");
    int console = open("/dev/console", O_RDWR);
    for (int fd = 0; fd < 3 && console >= 0; fd++)
        dup2(console, fd);
    if (console > 2)
        close(console);
    mount_at("proc", "/proc");
    mount_at("sysfs", "/sys");
    mount_at("tmpfs", "/tmp");
    mount_at("debugfs", "/sys/kernel/debug");
}

/* Not every kernel has every setting. */
static void set(const char *path, const char *value)
{
    int fd = open(path, O_WRONLY);

    if (fd < 0)
        return;
    if (write(fd, value, strlen(value)) < 0)
        fprintf(stderr, "guest: %s: %s\n", path, strerror(errno));
    close(fd);
}

/* What happens to pages is what a program asks for, each time in the same way: nothing comes by
 * itself, and what is asked for comes at once. */
static void set_all(void)
{
    set("/proc/sys/vm/overcommit_memory", "1");
    set("/sys/kernel/mm/transparent_hugepage/enabled", "always");
    set("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs", "4294967295");
    set("/sys/kernel/mm/transparent_hugepage/khugepaged/alloc_sleep_millisecs", "4294967295");
    set("/sys/kernel/mm/ksm/pages_to_scan", "5000");
    set("/sys/kernel/mm/ksm/sleep_millisecs", "0");
    set("/sys/kernel/mm/ksm/smart_scan", "0");
}

/* The value of a parameter of the kernel's command line, or nothing. */
static void find_parameter(const char *name, char *value, size_t size)
{
    char line[4096] = "", *word, *rest = line;
    FILE *file = fopen("/proc/cmdline", "re");

    if (!file || !fgets(line, sizeof(line), file))
        give_up("/proc/cmdline: %s", strerror(errno));
    fclose(file);
    while ((word = strsep(&rest, " \n")))
        if (strncmp(word, name, strlen(name)) == 0 && word[strlen(name)] == '=')
            snprintf(value, size, "%s", word + strlen(name) + 1);
}

/* ---- Swap ---- */

/* What mkswap(8) writes into the first page of an area. */
struct swap_header {
    uint8_t boot[1024];
    uint32_t version, last_page, bad_pages;
    uint8_t rest[PAGE - 1024 - 3 * 4 - 10];
    char magic[10];
};

_Static_assert(sizeof(struct swap_header) == PAGE, "swap header");

static int swap_on(const char *path)
{
    static struct swap_header header = {.version = 1, .magic = "SWAPSPACE2"};
    int fd = open(path, O_WRONLY);
    off_t size;

    if (fd < 0)
        return -1;
    size = lseek(fd, 0, SEEK_END);
    header.last_page = (uint32_t)((uint64_t)size / PAGE - 1);
    if (pwrite(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header))
        give_up("%s: %s", path, strerror(errno));
    close(fd);
    return swapon(path, 0);
}

/* All disks in memory that there are. */
static void swap_on_all(void)
{
    char path[32];

    for (unsigned number = 0; number < 16; number++) {
        snprintf(path, sizeof(path), "/dev/ram%u", number);
        if (swap_on(path) < 0 && errno != ENOENT)
            fprintf(stderr, "guest: %s: %s\n", path, strerror(errno));
    }
}

/* ---- Modules ---- */

/* The last one that was loaded. */
static char last_module[64];

static void load_module(const char *name)
{
    char path[96];
    int fd;

    snprintf(path, sizeof(path), "/lib/modules/%s.ko", name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0)
        give_up("%s: %s", path, strerror(errno));
    close(fd);
    snprintf(last_module, sizeof(last_module), "%s", name);
}

static void load_modules(void)
{
    char names[256] = "", *name, *rest = names;

    find_parameter("lastwriter.modules", names, sizeof(names));
    while ((name = strsep(&rest, ",")))
        if (*name)
            load_module(name);
}

/* ---- Ports ---- */

/* Opens a device as soon as the kernel has found it. */
static int await_device(const char *path)
{
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
    int news = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT), fd;
    char event[4096];

    if (news < 0 || bind(news, (struct sockaddr *)&address, sizeof(address)) < 0)
        give_up("the kernel's events: %s", strerror(errno));
    while ((fd = open(path, O_RDWR | O_CLOEXEC)) < 0) {
        if (errno != ENOENT && errno != ENXIO && errno != ENODEV)
            give_up("%s: %s", path, strerror(errno));
        if (recv(news, event, sizeof(event), 0) < 0 && errno != ENOBUFS && errno != EINTR)
            give_up("the kernel's events: %s", strerror(errno));
    }
    close(news);
    return fd;
}

/* The kernel signals when the host opens or closes its end. */
static void want_signals(int fd)
{
    fcntl(fd, F_SETOWN, getpid());
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC);
}

static int is_connected(int fd)
{
    struct pollfd port = {.fd = fd, .events = POLLIN};

    return poll(&port, 1, 0) >= 0 && !(port.revents & POLLHUP);
}

static void put(int fd, const void *from, size_t size)
{
    for (const char *at = from; size;) {
        ssize_t done = write(fd, at, size);
        if (done <= 0)
            return; /* nobody is there to be told */
        at += done;
        size -= (size_t)done;
    }
}

/* ---- The agent ---- */

/* Its port, open for as long as it has not been handed to the agent. */
static int agent_port = -1;

_Noreturn static void become_agent(void)
{
    char file[16];
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    fcntl(agent_port, F_SETFL, O_RDWR);
    if (dup2(agent_port, AGENT_FILE) < 0)
        _exit(127);
    snprintf(file, sizeof(file), "%d", AGENT_FILE);
    execl("/proc/self/exe", "agent", "--fd", file, NULL);
    _exit(127);
}

/* Start the agent when there is somebody to serve and it does not run. */
static void start_agent(void)
{
    if (agent)
        return;
    if (agent_port < 0) {
        agent_port = await_device(AGENT_PORT);
        want_signals(agent_port);
    }
    if (!is_connected(agent_port))
        return;
    agent = fork();
    if (agent == 0)
        become_agent();
    if (agent < 0)
        give_up("fork: %s", strerror(errno));
    close(agent_port); /* of all processes, when it ends: what was not read is gone then */
    agent_port = -1;
}

/* As the agent would have sent it. */
static void tell_client(const char *text)
{
    int fd = open(AGENT_PORT, O_RDWR | O_CLOEXEC);
    uint32_t length = (uint32_t)strlen(text);
    char header[HEADER];

    memcpy(header, &length, sizeof(length));
    header[4] = FRAME_ERROR;
    put(fd, header, sizeof(header));
    put(fd, text, length);
    close(fd);
}

/* An agent that has said goodbye, or refused its client, is no trouble. */
static void agent_ended(int status)
{
    char text[96];

    agent = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) <= 1)
        return;
    if (WIFSIGNALED(status))
        snprintf(text, sizeof(text), "crash: the agent was killed by signal %d (%s)",
                 WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(text, sizeof(text), "crash: the agent exited with status %d",
                 WEXITSTATUS(status));
    tell_client(text);
    give_up("%s", text);
}

/* Its children die with it, and then are ours. */
static void bury(void)
{
    int status;

    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        if (pid == agent)
            agent_ended(status);
}

static void end_agent(void)
{
    if (agent)
        kill(agent, SIGKILL);
    agent = 0;
    while (wait(NULL) > 0 || errno == EINTR)
        ;
}

/* Whether it sleeps in a read from its port: what comes before that is done then. */
static int is_waiting(void)
{
    char path[64], line[128] = "";
    unsigned long number, file;
    FILE *stream;

    snprintf(path, sizeof(path), "/proc/%d/syscall", (int)agent);
    stream = fopen(path, "re");
    if (!stream)
        return 1; /* a kernel that does not tell */
    if (!fgets(line, sizeof(line), stream))
        line[0] = 0;
    fclose(stream);
    return sscanf(line, "%lu 0x%lx", &number, &file) == 2 && number == SYS_read &&
           file == AGENT_FILE;
}

/* ---- The host's lines ---- */

static const char *swap_module(FILE *control, size_t size)
{
    void *module = size && size <= MOST_MODULE ? malloc(size) : NULL;
    const char *error = NULL;

    if (!module || !*last_module)
        return "no such module";
    if (fread(module, 1, size, control) != size)
        return "the module is cut off";
    end_agent();
    if (syscall(SYS_delete_module, last_module, 0) < 0 ||
        syscall(SYS_init_module, module, size, "") < 0)
        error = strerror(errno);
    free(module);
    return error;
}

static void take_line(FILE *control)
{
    char line[64], answer[128] = "ok\n";
    const char *error = NULL;
    size_t size;

    if (!fgets(line, sizeof(line), control)) {
        clearerr(control);
        return;
    }
    if (strcmp(line, "ready?\n") == 0) {
        start_agent();
        while (agent && !is_waiting())
            bury(), sched_yield();
        strcpy(answer, "ready\n");
    } else if (sscanf(line, "swap-module %zu", &size) == 1) {
        error = swap_module(control, size);
    } else {
        error = "no such command";
    }
    if (error)
        snprintf(answer, sizeof(answer), "error: %s\n", error);
    put(fileno(control), answer, strlen(answer));
}

/* ---- All of it ---- */

static int watch_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGIO);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void prepare(void)
{
    char nodes[8] = "", merge[8] = "";

    mount_all();
    find_parameter("lastwriter.nodes", nodes, sizeof(nodes));
    find_parameter("lastwriter.merge", merge, sizeof(merge));
    if (strcmp(nodes, "1") == 0)
        setenv("LASTWRITER_ONE_NODE", "1", 1);
    setenv("LASTWRITER_MARKS", "/dev/kmsg", 1);
    set_all();
    if (strcmp(merge, "off"))
        setenv("LASTWRITER_MERGE_ON_DEMAND", "1", 1);
    swap_on_all();
    load_modules();
}

_Noreturn static void supervise(void)
{
    int signals = watch_signals(), port = await_device(CONTROL_PORT);
    FILE *control = fdopen(port, "r+e");
    struct signalfd_siginfo info;

    if (signals < 0 || !control)
        give_up("the control port: %s", strerror(errno));
    setvbuf(control, NULL, _IONBF, 0); /* so that poll() knows of all that there is */
    want_signals(port);
    for (;;) {
        start_agent();
        /* A port that nobody is connected to would be ready all the time. */
        struct pollfd files[] = {{.fd = signals, .events = POLLIN},
                                 {.fd = is_connected(port) ? port : -1, .events = POLLIN}};
        if (poll(files, 2, -1) < 0 && errno != EINTR)
            give_up("poll: %s", strerror(errno));
        while (read(signals, &info, sizeof(info)) > 0)
            ;
        bury();
        if (files[1].revents & POLLIN)
            take_line(control);
    }
}

/* Before main(), which is the agent's. */
__attribute__((constructor)) static void begin(void)
{
    if (getpid() != 1)
        return;
    prepare();
    supervise();
}
