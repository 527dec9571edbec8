/*
 * ucx:rcache: the registration cache of UCX (ucs_rcache), with io_uring's registered buffers in
 * the place of a network card's memory regions.
 *
 * A program's registration gets a region from the cache and holds it until it is unregistered.
 * The cache keeps what is not held, for the next one who asks, and drops it when its hooks on the
 * C library's functions (UCM) tell that the memory was unmapped.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucm/api/ucm.h>
#include <ucp/api/ucp_version.h>
#include <sys/wait.h>
#include <ucs/memory/rcache.h>
#include <unistd.h>

#include "process.h"
#include "ring.h"

/* More buffers than the cache has regions, as it may hold back some that are void. */
enum { REGIONS = 16, BUFFERS = 64 };

struct region {
    ucs_rcache_region_t super;
    unsigned buffer;
};

/* Its copy in a child stays, since destroying it waits for a thread that is not there; it hears
 * of the child's memory, and must not touch the ring for it. */
struct cache {
    ucs_rcache_t *rcache;
    unsigned device;
    int inherited;
    uint64_t used; /* buffers, a bit for each */
    ucs_rcache_region_t *held[KEYS];
};

const int pins_one_each = 0;

static struct cache *caches[DEVICES]; /* of this process */
static int refusal;                   /* the errno of the last registration that was refused */

/* ---- What the cache calls ---- */

static ucs_status_t register_region(void *context, ucs_rcache_t *rcache, void *argument,
                                    ucs_rcache_region_t *super, uint16_t flags)
{
    struct cache *cache = context;
    struct region *region = (struct region *)super;
    void *at = (void *)super->super.start;
    size_t size = super->super.end - super->super.start;

    (void)rcache;
    (void)argument;
    (void)flags;
    if (cache->used == UINT64_MAX) {
        refusal = ENOBUFS;
        return UCS_ERR_NO_RESOURCE;
    }
    region->buffer = (unsigned)__builtin_ctzll(~cache->used);
    if (ring_update(cache->device, region->buffer, at, size) < 0) {
        refusal = errno;
        return UCS_ERR_IO_ERROR;
    }
    cache->used |= 1ull << region->buffer;
    return UCS_OK;
}

static void deregister_region(void *context, ucs_rcache_t *rcache, ucs_rcache_region_t *super)
{
    struct cache *cache = context;
    const struct region *region = (const struct region *)super;

    (void)rcache;
    if (cache->inherited)
        return;
    if (ring_update(cache->device, region->buffer, NULL, 0) < 0)
        process_fatal("dropping a registered buffer");
    cache->used &= ~(1ull << region->buffer);
}

static void describe_region(void *context, ucs_rcache_t *rcache, ucs_rcache_region_t *region,
                            char *text, size_t size)
{
    (void)context;
    (void)rcache;
    (void)region;
    if (size)
        *text = 0;
}

static const ucs_rcache_ops_t operations = {
    .mem_reg = register_region,
    .mem_dereg = deregister_region,
    .dump_region = describe_region,
};

/* ---- What the keys call ---- */

static struct cache *make_cache(unsigned device)
{
    struct cache *cache = calloc(1, sizeof(*cache));
    ucs_rcache_params_t parameters = {
        .region_struct_size = sizeof(struct region),
        .alignment = SMALL_PAGE,
        .max_alignment = SMALL_PAGE,
        .ucm_events = UCM_EVENT_VM_UNMAPPED,
        .ucm_event_priority = 1000,
        .ops = &operations,
        .context = cache,
        .max_regions = REGIONS,
        .max_size = SIZE_MAX,
        .max_unreleased = SIZE_MAX, /* nothing is released by a thread of its own */
    };

    if (!cache)
        return NULL;
    cache->device = device;
    if (ucs_rcache_create(&parameters, "lastwriter", NULL, &cache->rcache) == UCS_OK)
        return cache;
    free(cache);
    errno = ENOMEM;
    return NULL;
}

int pins_open(unsigned device)
{
    if (!caches[device] && ring_open(device, BUFFERS) == 0)
        caches[device] = make_cache(device);
    return caches[device] ? 0 : -1;
}

int pins_take(const lw_operation *op, char *at, size_t size)
{
    struct cache *cache = caches[op->device];
    int rights = op->flags & LW_FLAG_WRITE ? PROT_READ | PROT_WRITE : PROT_READ;
    ucs_rcache_region_t *region;

    refusal = EFAULT;
    if (ucs_rcache_get(cache->rcache, at, size, rights, NULL, &region) != UCS_OK)
        return errno = refusal, NO_BUFFER;
    cache->held[op->key - 1] = region;
    return (int)((struct region *)region)->buffer;
}

int pins_give(unsigned device, unsigned key)
{
    struct cache *cache = caches[device];

    ucs_rcache_region_put(cache->rcache, cache->held[key - 1]);
    cache->held[key - 1] = NULL;
    return 0;
}

void pins_forked(unsigned device)
{
    struct cache *cache = caches[device];

    caches[device] = NULL;
    if (cache)
        cache->inherited = 1;
}

/* ---- What it is ---- */

/* Exits with whether memory moves to where it is told to, once the hooks are there. */
static void try_remap(unsigned unused)
{
    char *at = mmap(NULL, 2 * SMALL_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                    0);
    int flags = MREMAP_MAYMOVE | MREMAP_FIXED;

    (void)unused;
    if (!make_cache(0))
        _exit(1);
    _exit(mremap(at, SMALL_PAGE, SMALL_PAGE, flags, at + SMALL_PAGE) != at + SMALL_PAGE);
}

static int remap_is_broken(void)
{
    int status = 0;
    pid_t pid = process_helper(try_remap, 0);

    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status != 0;
}

/* Asked once, in the coordinator: what is said and what is done must not differ. */
const char *pins_lack(unsigned kind)
{
    static int known, broken;

    if (!known)
        broken = remap_is_broken();
    known = 1;
    return kind == LW_REMAP && broken
               ? "the hooks of this UCX lose the address that mremap is given (UCX issue 8820)"
               : NULL;
}

void device_describe(void)
{
    describe("\"name\":\"ucx:rcache\",\"model\":\"registration\",\"keyed\":true,\"keys\":%d,"
             "\"page_sizes\":[4096,65536],", KEYS);
}

void device_notes(void)
{
    static char version[32];

    snprintf(version, sizeof(version), "UCX %d.%d", UCP_API_MAJOR, UCP_API_MINOR);
    describe_note(version);
    describe_note("the network card is an io_uring, whose registered buffers pin for writing");
}
