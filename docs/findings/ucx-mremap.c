/*
 * UCX's memory hooks lose the last argument of mremap (openucx/ucx issue 8820).
 *
 *     cc ucx-mremap.c -o ucx-mremap -lucm -lucs && ./ucx-mremap
 *
 * Exits with 0 if the memory is where it was told to go, and with 1 if it is anywhere else.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>
#include <ucm/api/ucm.h>

static void ignore(ucm_event_type_t type, ucm_event_t *event, void *argument)
{
    (void)type;
    (void)event;
    (void)argument;
}

int main(void)
{
    char *from = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *to = from + 4096, *at;

    if (ucm_set_event_handler(UCM_EVENT_VM_UNMAPPED, 1000, ignore, NULL) != UCS_OK)
        return 2;
    at = mremap(from, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, to);
    printf("told to go to %p, went to %p\n", (void *)to, (void *)at);
    return at != to;
}
