/*
 * The mirror's description: JSON, checked by whoever reads it.  No text in it needs escapes.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "process.h"

static const struct {
    unsigned char kind;
    const char *name;
} kinds[] = {
    {LW_MAP, "map"},
    {LW_UNMAP, "unmap"},
    {LW_REMAP, "remap"},
    {LW_PROTECT, "protect"},
    {LW_DISCARD, "discard"},
    {LW_PUNCH, "punch"},
    {LW_FREE, "free"},
    {LW_TRUNCATE, "truncate"},
    {LW_FORK, "fork"},
    {LW_EXIT, "exit"},
    {LW_READ, "read"},
    {LW_WRITE, "write"},
    {LW_ADD, "add"},
    {LW_CAS, "cas"},
    {LW_RECLAIM, "reclaim"},
    {LW_MIGRATE, "migrate"},
    {LW_COLLAPSE, "collapse"},
    {LW_SPLIT, "split"},
    {LW_MERGE, "merge"},
    {LW_ATTACH, "attach"},
    {LW_DETACH, "detach"},
    {LW_DREAD, "dread"},
    {LW_DWRITE, "dwrite"},
    {LW_DADD, "dadd"},
    {LW_DCAS, "dcas"},
    {LW_FAULT, "fault"},
    {LW_TO_DEVICE, "to_device"},
    {LW_TO_SYSTEM, "to_system"},
    {LW_EXCLUSIVE, "exclusive"},
    {LW_REGISTER, "register"},
    {LW_UNREGISTER, "unregister"},
    {LW_SUBMIT, "submit"},
    {LW_WAIT, "wait"},
    {LW_INVALIDATE, "invalidate"},
    {LW_SNAPSHOT, "snapshot"},
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static char text[16384];
static size_t used;
static unsigned notes;

void describe(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    used += (size_t)vsnprintf(text + used, sizeof(text) - used, format, arguments);
    va_end(arguments);
    if (used >= sizeof(text))
        process_fatal("the description is too long");
}

void describe_note(const char *note)
{
    if (note)
        describe("%s\"%s\"", notes++ ? "," : "", note);
}

static const char *most_devices_lack(unsigned kind)
{
    switch (kind) {
    case LW_TO_DEVICE:
    case LW_TO_SYSTEM:
        return "the device has no memory of its own";
    case LW_EXCLUSIVE:
        return "the device has no exclusive access";
    case LW_SNAPSHOT:
        return "the device does not show what it sees";
    case LW_INVALIDATE:
        return "user space cannot call the notifiers";
    default:
        return NULL;
    }
}

const char *keyed_device_lacks(unsigned kind)
{
    return kind == LW_FAULT ? "pages are faulted in by a registration only"
                            : most_devices_lack(kind);
}

const char *keyless_device_lacks(unsigned kind)
{
    return kind == LW_REGISTER || kind == LW_UNREGISTER ? "the device needs no registration"
                                                        : most_devices_lack(kind);
}

static const char *lacks(unsigned kind)
{
    if (device_lacks(kind))
        return device_lacks(kind);
    return kind >= LW_RECLAIM && kind <= LW_MERGE ? event_lacks(kind) : NULL;
}

static void describe_operations(void)
{
    const char *comma = "";

    describe("\"operations\":[");
    for (size_t i = 0; i < KINDS; i++)
        if (!lacks(kinds[i].kind)) {
            describe("%s\"%s\"", comma, kinds[i].name);
            comma = ",";
        }
    describe("],\"left_out\":{");
    comma = "";
    for (size_t i = 0; i < KINDS; i++)
        if (lacks(kinds[i].kind)) {
            describe("%s\"%s\":\"%s\"", comma, kinds[i].name, lacks(kinds[i].kind));
            comma = ",";
        }
    describe("},");
}

static void describe_huge(void)
{
    const char *comma = "";

    describe("\"only_at\":{");
    for (size_t i = 0; i < KINDS; i++)
        if (kinds[i].kind >= LW_MIGRATE && kinds[i].kind <= LW_SPLIT && !lacks(kinds[i].kind)) {
            describe("%s\"%s\":[%lu]", comma, kinds[i].name, HUGE_PAGE);
            comma = ",";
        }
    describe("},");
}

const char *describe_mirror(void)
{
    struct utsname system;

    used = notes = 0;
    uname(&system);
    describe("{\"version\":\"%s %s %s\",", system.sysname, system.release, system.machine);
    describe("\"processes\":%d,\"devices\":%u,\"files\":%d,\"jobs\":%d,", PROCESSES, device_count,
             FILES, JOBS);
    describe_operations();
    describe_huge();
    describe("\"write_unit\":%u,\"atomicity\":%u,", write_unit, atomicity);
    device_describe();
    describe("\"notes\":[");
    device_notes();
    event_notes();
    describe_note(files_note());
    describe("]}");
    return text;
}
