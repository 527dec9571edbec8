/*
 * The agent: serves the mirror it is linked with over the wire protocol of lastwriter.
 *
 *     agent --fd N                        one client on an inherited stream, both ways
 *     agent --fds IN,OUT                  one client on two inherited descriptors
 *     agent --listen unix:PATH            one client after another
 *     agent --listen tcp:127.0.0.1:PORT   the same; port 0 takes a free one and prints it
 *     agent --probe                       print the mirror's description
 *
 * It needs POSIX and nothing else.  A mirror that cannot work on this machine gives
 * "unavailable: REASON" in place of its description: the agent prints that and exits with 3.
 * Wrong arguments exit with 2, and a client that breaks the protocol makes --fd exit with 1.
 *
 * There is no encryption here, so it listens on the loopback only.
 */
#define _POSIX_C_SOURCE 200809L

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "lastwriter.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "records are little-endian and are used in place"
#endif

enum frame_type { HELLO = 1, DESCRIBE, DESCRIPTION, RESET, READY, RUN, RESULT, ERROR, BYE };

#define MAX_PAYLOAD (64u << 20)
#define MAX_LENGTH (4u << 20)
#define WORD 8u
#define BACKLOG 8
#define HEADER 5u
/* Where a payload starts in a buffer: behind its header, and so that the records behind the
 * count of a RUN or a RESULT are aligned. */
#define START 12u
#define RECORDS (START + 4u)

static const struct hello {
    char magic[4];
    uint16_t version, operation, outcome, zero;
} hello = {{'L', 'W', 'R', 'T'}, LW_ABI_VERSION, sizeof(lw_operation), sizeof(lw_outcome), 0};

struct buffer {
    uint8_t *bytes;
    size_t room;
};

struct client {
    int in, out;
    struct buffer request, reply;
    lw_geometry geometry;
    void *mirror;
};

static const char *description;

static int reserve(struct buffer *buffer, size_t room)
{
    if (room <= buffer->room)
        return 0;
    uint8_t *bytes = realloc(buffer->bytes, room);
    if (!bytes)
        return -1;
    buffer->bytes = bytes;
    buffer->room = room;
    return 0;
}

/* Bytes read: fewer than asked for only at the end of the stream, or -1. */
static ssize_t read_all(int fd, uint8_t *to, size_t size)
{
    size_t done = 0;

    while (done < size) {
        ssize_t got = read(fd, to + done, size - done);
        if (got == 0)
            break;
        if (got < 0 && errno != EINTR)
            return -1;
        if (got > 0)
            done += (size_t)got;
    }
    return (ssize_t)done;
}

static int write_all(int fd, const uint8_t *from, size_t size)
{
    while (size) {
        ssize_t put = write(fd, from, size);
        if (put < 0 && errno != EINTR)
            return -1;
        if (put > 0) {
            from += put;
            size -= (size_t)put;
        }
    }
    return 0;
}

/* Send the payload that lies at START in the reply buffer. */
static int send_reply(struct client *client, enum frame_type type, uint32_t length)
{
    uint8_t *header = client->reply.bytes + START - HEADER;

    memcpy(header, &length, sizeof(length));
    header[4] = (uint8_t)type;
    return write_all(client->out, header, HEADER + length);
}

static int send_bytes(struct client *client, enum frame_type type, const char *bytes, size_t size)
{
    if (reserve(&client->reply, START + size) < 0)
        return -1;
    memcpy(client->reply.bytes + START, bytes, size);
    return send_reply(client, type, (uint32_t)size);
}

/* Tell the client why it is being dropped; always -1. */
__attribute__((format(printf, 2, 3)))
static int refuse(struct client *client, const char *format, ...)
{
    char text[256];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    fprintf(stderr, "agent: refused a client: %s\n", text);
    send_bytes(client, ERROR, text, strlen(text));
    return -1;
}

/* Receive a frame into the request buffer: its type, 0 at the end of the stream, or -1. */
static int receive(struct client *client, uint32_t *length)
{
    uint8_t header[HEADER];
    ssize_t got = read_all(client->in, header, HEADER);

    if (got <= 0)
        return (int)got;
    if (got < (ssize_t)HEADER)
        return refuse(client, "the stream ends inside a frame header");
    memcpy(length, header, sizeof(*length));
    if (*length > MAX_PAYLOAD)
        return refuse(client, "a frame of %u bytes is longer than %u", *length, MAX_PAYLOAD);
    if (reserve(&client->request, START + (size_t)*length) < 0)
        return refuse(client, "no memory for a frame of %u bytes", *length);
    if (read_all(client->in, client->request.bytes + START, *length) != (ssize_t)*length)
        return refuse(client, "the stream ends inside a frame of %u bytes", *length);
    if (header[4] < HELLO || header[4] > BYE)
        return refuse(client, "unknown frame type %u", header[4]);
    return header[4];
}

/* 1 when both sides speak the same version, 0 if the client left at once, -1 if refused. */
static int greet(struct client *client)
{
    struct hello theirs = {0};
    uint32_t length;
    int type = receive(client, &length);

    if (type <= 0)
        return type;
    /* Another version may say more, or less, behind its number. */
    memcpy(&theirs, client->request.bytes + START,
           length < sizeof(theirs) ? length : sizeof(theirs));
    if (type != HELLO || memcmp(theirs.magic, hello.magic, sizeof(hello.magic)))
        return refuse(client, "expected a hello first");
    if (theirs.version != hello.version)
        return refuse(client, "protocol version %u, this is %u", theirs.version, hello.version);
    if (length != sizeof(hello) || memcmp(&theirs, &hello, sizeof(hello)))
        return refuse(client, "other record sizes than %u and %u", hello.operation, hello.outcome);
    return send_bytes(client, HELLO, (const char *)&hello, sizeof(hello)) < 0 ? -1 : 1;
}

static int valid_geometry(const lw_geometry *g)
{
    return (g->page_size == 4096 || g->page_size == 65536 || g->page_size == 2u << 20) &&
           g->pages >= 1 && g->pages <= 1024 && g->processes >= 1 && g->processes <= 3 &&
           g->devices <= 2 && g->files <= 4 && g->keys <= 8 && g->jobs <= 4;
}

static int reset(struct client *client, uint32_t length)
{
    lw_geometry geometry;

    if (length != sizeof(geometry))
        return refuse(client, "a reset of %u bytes, expected %zu", length, sizeof(geometry));
    memcpy(&geometry, client->request.bytes + START, sizeof(geometry));
    if (!valid_geometry(&geometry))
        return refuse(client, "a geometry outside its limits");
    if (client->mirror)
        lw_close(client->mirror);
    client->geometry = geometry;
    client->mirror = lw_open(&client->geometry);
    if (!client->mirror)
        return refuse(client, "cannot open the mirror: %s", strerror(errno));
    return send_bytes(client, READY, "", 0);
}

/* What an operation's page, and what belongs to it, is about. */
enum shape { UNKNOWN = 0, NO_PAGES, RANGE, TWO_RANGES, SPAN };

static const unsigned char shapes[UINT8_MAX + 1] = {
    [LW_MAP] = TWO_RANGES, [LW_UNMAP] = RANGE, [LW_REMAP] = TWO_RANGES, [LW_PROTECT] = RANGE,
    [LW_DISCARD] = RANGE, [LW_PUNCH] = RANGE, [LW_FREE] = RANGE, [LW_TRUNCATE] = NO_PAGES,
    [LW_FORK] = NO_PAGES, [LW_EXIT] = NO_PAGES, [LW_READ] = SPAN, [LW_WRITE] = SPAN,
    [LW_ADD] = SPAN, [LW_CAS] = SPAN, [LW_RECLAIM] = RANGE, [LW_MIGRATE] = RANGE,
    [LW_COLLAPSE] = RANGE, [LW_SPLIT] = RANGE, [LW_MERGE] = RANGE, [LW_ATTACH] = NO_PAGES,
    [LW_DETACH] = NO_PAGES, [LW_DREAD] = SPAN, [LW_DWRITE] = SPAN, [LW_DADD] = SPAN,
    [LW_DCAS] = SPAN, [LW_FAULT] = RANGE, [LW_TO_DEVICE] = RANGE, [LW_TO_SYSTEM] = RANGE,
    [LW_EXCLUSIVE] = RANGE, [LW_REGISTER] = RANGE, [LW_UNREGISTER] = NO_PAGES,
    [LW_SUBMIT] = NO_PAGES, [LW_WAIT] = NO_PAGES, [LW_INVALIDATE] = RANGE, [LW_SNAPSHOT] = RANGE,
};

static const char *bad_pages(const lw_operation *op, const lw_geometry *g)
{
    uint64_t end = (uint64_t)op->page * g->page_size + op->offset + op->length;

    if (shapes[op->kind] == SPAN) {
        if (op->offset % WORD || op->offset >= g->page_size)
            return "offset";
        return op->length % WORD || op->length == 0 || op->length > MAX_LENGTH ||
               end > (uint64_t)g->pages * g->page_size ? "length" : NULL;
    }
    if (shapes[op->kind] != NO_PAGES && (op->pages == 0 || op->page + op->pages > g->pages))
        return "pages";
    return shapes[op->kind] == TWO_RANGES && op->target + op->pages > g->pages ? "target" : NULL;
}

/* The first field that names something outside the geometry, or NULL.  Whether it makes sense
 * where it stands (is that process alive?) is for the mirror: it answers with a status. */
static const char *bad_field(const lw_operation *op, const lw_geometry *g)
{
    int on_device = op->kind >= LW_ATTACH && op->kind != LW_INVALIDATE;
    int on_file = op->kind == LW_TRUNCATE || (op->kind == LW_MAP && op->flags & LW_FLAG_FILE);

    if (shapes[op->kind] == UNKNOWN)
        return "kind";
    if (op->process >= g->processes)
        return "process";
    if (on_device && op->device >= g->devices)
        return "device";
    if (on_file && op->file >= g->files)
        return "file";
    if (op->key > g->keys || (op->key == 0 && op->kind >= LW_REGISTER && op->kind < LW_SUBMIT))
        return "key";
    if (op->job > g->jobs || (op->job == 0 && (op->kind == LW_SUBMIT || op->kind == LW_WAIT)))
        return "job";
    if (op->kind == LW_FORK && op->target >= g->processes)
        return "target";
    if (op->kind == LW_TRUNCATE && op->pages > g->pages)
        return "pages";
    return bad_pages(op, g);
}

/* Bytes of data that these outcomes lead to, with their offsets moved by `base`; -1 if an
 * outcome lies outside `room` bytes. */
static int64_t rebase(lw_outcome *outcomes, uint32_t count, uint32_t base, uint32_t room)
{
    uint64_t used = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint64_t end = (uint64_t)outcomes[i].data + outcomes[i].size;
        if (end > room)
            return -1;
        if (outcomes[i].size && end > used)
            used = end;
        outcomes[i].data += base;
    }
    return (int64_t)used;
}

/* More room for data, up to the longest frame: -1 when there is no more. */
static int grow_reply(struct client *client)
{
    size_t most = START + (size_t)MAX_PAYLOAD, room = client->reply.room;

    return room < most ? reserve(&client->reply, room > most / 2 ? most : room * 2) : -1;
}

/* Do all the operations; the length of the RESULT payload built in the reply buffer, or -1. */
static int64_t perform(struct client *client, const lw_operation *operations, uint32_t count)
{
    size_t head = RECORDS + (size_t)count * sizeof(lw_outcome);
    uint32_t done = 0, used = 0;

    if (head - START > MAX_PAYLOAD || reserve(&client->reply, head + 65536) < 0)
        return refuse(client, "no memory for the outcomes of %u operations", count);
    while (done < count) {
        lw_outcome *outcomes = (lw_outcome *)(client->reply.bytes + RECORDS) + done;
        uint32_t room = (uint32_t)(client->reply.room - head - used);
        uint32_t now = lw_run(client->mirror, operations + done, count - done, outcomes,
                              client->reply.bytes + head + used, room);
        int64_t more = now > count - done ? -1 : rebase(outcomes, now, used, room);
        if (more < 0)
            return refuse(client, "the mirror answered outside its buffers");
        if (now == 0 && grow_reply(client) < 0)
            return refuse(client, "the outcomes of %u operations do not fit in %u bytes", count,
                          MAX_PAYLOAD);
        done += now;
        used += (uint32_t)more;
    }
    memcpy(client->reply.bytes + START, &count, sizeof(count));
    return (int64_t)(head - START + used);
}

static int run(struct client *client, uint32_t length)
{
    const lw_operation *operations = (lw_operation *)(client->request.bytes + RECORDS);
    uint32_t count = 0;

    if (length >= sizeof(count))
        memcpy(&count, client->request.bytes + START, sizeof(count));
    if (!client->mirror)
        return refuse(client, "a run before the first reset");
    if (length < 4 || (uint64_t)count * sizeof(lw_operation) != length - 4)
        return refuse(client, "a run of %u operations in %u bytes", count, length);
    for (uint32_t i = 0; i < count; i++) {
        const char *field = bad_field(&operations[i], &client->geometry);
        if (field)
            return refuse(client, "operation %u of kind %u: bad %s", i, operations[i].kind, field);
    }
    int64_t size = perform(client, operations, count);
    if (size < 0)
        return -1;
    if (size > MAX_PAYLOAD)
        return refuse(client, "a result of %lld bytes is longer than %u", (long long)size,
                      MAX_PAYLOAD);
    return send_reply(client, RESULT, (uint32_t)size);
}

/* 1 to go on, 0 when the client is done, -1 when it was refused or has gone. */
static int answer(struct client *client)
{
    uint32_t length = 0;
    int type = receive(client, &length);

    switch (type) {
    case DESCRIBE:
        return send_bytes(client, DESCRIPTION, description, strlen(description)) < 0 ? -1 : 1;
    case RESET:
        return reset(client, length) < 0 ? -1 : 1;
    case RUN:
        return run(client, length) < 0 ? -1 : 1;
    case BYE:
        return 0;
    case -1:
    case 0:
        return type;
    default:
        return refuse(client, "unexpected frame type %d", type);
    }
}

static int serve(int in, int out)
{
    struct client client = {.in = in, .out = out};
    int state = greet(&client);

    while (state > 0)
        state = answer(&client);
    if (client.mirror)
        lw_close(client.mirror);
    free(client.request.bytes);
    free(client.reply.bytes);
    return state;
}

__attribute__((format(printf, 2, 3), noreturn))
static void quit(int status, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fputs("agent: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(status);
}

static int bind_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    if (strlen(path) == 0 || strlen(path) >= sizeof(address.sun_path))
        quit(2, "unix:%s: the path is empty or too long", path);
    strcpy(address.sun_path, path);
    mode_t mask = umask(077); /* whoever may connect may run programs here */
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(fd, BACKLOG) < 0)
        quit(1, "unix:%s: %s", path, strerror(errno));
    umask(mask);
    printf("listening on unix:%s\n", path);
    return fd;
}

static struct sockaddr_in parse_loopback(const char *text)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    char host[INET_ADDRSTRLEN], rest;
    unsigned port;

    if (sscanf(text, "%15[0-9.]:%5u%c", host, &port, &rest) != 2 || port > 65535)
        quit(2, "tcp:%s: expected 127.0.0.1:PORT", text);
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1 ||
        ntohl(address.sin_addr.s_addr) >> 24 != 127)
        quit(2, "tcp:%s: not a loopback address, and there is no encryption here", text);
    address.sin_port = htons((uint16_t)port);
    return address;
}

static int bind_tcp(const char *text)
{
    struct sockaddr_in address = parse_loopback(text);
    socklen_t size = sizeof(address);
    char host[INET_ADDRSTRLEN];
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, BACKLOG) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) < 0)
        quit(1, "tcp:%s: %s", text, strerror(errno));
    inet_ntop(AF_INET, &address.sin_addr, host, sizeof(host));
    printf("listening on tcp:%s:%u\n", host, ntohs(address.sin_port));
    return fd;
}

static void listen_on(const char *where)
{
    int on_unix = strncmp(where, "unix:", 5) == 0;

    if (!on_unix && strncmp(where, "tcp:", 4))
        quit(2, "%s: expected unix:PATH or tcp:127.0.0.1:PORT", where);
    int fd = on_unix ? bind_unix(where + 5) : bind_tcp(where + 4);
    fflush(stdout);
    for (;;) {
        int client = accept(fd, NULL, NULL);
        if (client < 0 && errno != EINTR && errno != ECONNABORTED)
            quit(1, "%s: %s", where, strerror(errno));
        if (client >= 0) {
            serve(client, client);
            close(client);
        }
    }
}

static int parse_fd(const char *text, char stop)
{
    char *end;
    long fd = strtol(text, &end, 10);

    if (end == text || *end != stop || fd < 0 || fd > 65535)
        quit(2, "%s: expected a file descriptor", text);
    return (int)fd;
}

static void check_mirror(void)
{
    if (lw_abi_version() != LW_ABI_VERSION)
        quit(3, "the mirror is of version %u, this is %u", lw_abi_version(), LW_ABI_VERSION);
    description = lw_describe();
    if (strncmp(description, "unavailable: ", 13) == 0) {
        fprintf(stderr, "%s\n", description);
        exit(3);
    }
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "", *where = argc > 2 ? argv[2] : "";
    const char *comma = strchr(where, ',');

    signal(SIGPIPE, SIG_IGN);
    check_mirror();
    if (argc == 2 && strcmp(mode, "--probe") == 0)
        return puts(description) < 0 || fflush(stdout);
    if (argc == 3 && strcmp(mode, "--listen") == 0)
        listen_on(where);
    if (argc == 3 && strcmp(mode, "--fd") == 0)
        return serve(parse_fd(where, 0), parse_fd(where, 0)) < 0;
    if (argc == 3 && strcmp(mode, "--fds") == 0 && comma)
        return serve(parse_fd(where, ','), parse_fd(comma + 1, 0)) < 0;
    quit(2, "expected --fd N, --fds IN,OUT, --listen WHERE or --probe");
}
