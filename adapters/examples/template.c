/* Where to start: the smallest mirror that passes.  One process, one device, one copy of memory.
 *
 *     cc -std=c11 -fPIC -shared -Iadapters/include adapters/examples/template.c -o mine.so
 *     lastwriter certify ./mine.so
 *
 * Replace what is marked, one operation after the other, by calls of your mirror.  Then add an
 * operation at a time to lw_describe(): nothing is sent that is not listed there.  mirror.c, next
 * to this file, has nearly all of them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lastwriter.h"

struct mirror {
    lw_geometry geometry;
    uint8_t *memory; /* replace: the arena, at an address that your device can reach */
    uint8_t *rights; /* of each page: LW_FLAG_READ and LW_FLAG_WRITE; 0 where nothing is mapped */
    int attached;
};

/* Replace: mmap() and munmap(), which tell your driver through a notifier. */
static void set_pages(struct mirror *m, const lw_operation *op, uint8_t rights)
{
    size_t size = m->geometry.page_size;
    memset(m->memory + op->page * size, 0, op->pages * size);
    memset(m->rights + op->page, rights, op->pages);
}

/* Words are read or written in ascending order; the first page that forbids it ends the access.
 * Replace: for the CPU, loads and stores that survive SIGSEGV; for the device, its own way. */
static void access_words(struct mirror *m, const lw_operation *op, lw_outcome *outcome,
                         uint8_t *data, int write)
{
    size_t start = (size_t)op->page * m->geometry.page_size + op->offset;
    for (; outcome->done < op->length; outcome->done += 8) {
        size_t at = start + outcome->done;
        uint64_t value = op->value + outcome->done / 8;
        if (!(m->rights[at / m->geometry.page_size] & (write ? LW_FLAG_WRITE : LW_FLAG_READ))) {
            outcome->status = LW_STATUS_FAULT;
            outcome->error = EFAULT;
            break;
        }
        if (write)
            memcpy(m->memory + at, &value, sizeof value);
        else
            memcpy(data + outcome->done, m->memory + at, sizeof value);
    }
    outcome->size = write ? 0 : outcome->done;
}

static void perform(struct mirror *m, const lw_operation *op, lw_outcome *outcome, uint8_t *data)
{
    switch (op->kind) {
    case LW_MAP: set_pages(m, op, op->flags & (LW_FLAG_READ | LW_FLAG_WRITE)); break;
    case LW_UNMAP: set_pages(m, op, 0); break;
    case LW_READ: access_words(m, op, outcome, data, 0); break;
    case LW_WRITE: access_words(m, op, outcome, data, 1); break;
    case LW_ATTACH: m->attached = 1; break; /* replace: open your device */
    case LW_DETACH: m->attached = 0; break; /* replace: close it */
    case LW_DREAD:
    case LW_DWRITE:
        if (m->attached)
            access_words(m, op, outcome, data, op->kind == LW_DWRITE);
        else
            *outcome = (lw_outcome){.status = LW_STATUS_ERROR, .error = ENODEV};
        break;
    default: outcome->status = LW_STATUS_UNSUPPORTED;
    }
}

uint32_t lw_abi_version(void) { return LW_ABI_VERSION; }

const char *lw_describe(void)
{
    return "{\"name\": \"my mirror\", \"version\": \"0\", \"model\": \"faulting\","
           " \"operations\": [\"map\", \"unmap\", \"read\", \"write\","
           " \"attach\", \"detach\", \"dread\", \"dwrite\"]}";
}

void *lw_open(const lw_geometry *geometry)
{
    struct mirror *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->geometry = *geometry;
    m->memory = calloc(geometry->pages, geometry->page_size);
    m->rights = calloc(geometry->pages, 1);
    if (m->memory && m->rights)
        return m;
    lw_close(m);
    return NULL;
}

uint32_t lw_run(void *mirror, const lw_operation *operations, uint32_t count,
                lw_outcome *outcomes, uint8_t *data, uint32_t capacity)
{
    uint32_t used = 0, i;
    for (i = 0; i < count && operations[i].length <= capacity - used; i++) {
        outcomes[i] = (lw_outcome){.data = used};
        perform(mirror, &operations[i], &outcomes[i], data + used);
        used += outcomes[i].size;
    }
    return i;
}

void lw_close(void *mirror)
{
    struct mirror *m = mirror;
    free(m->memory);
    free(m->rights);
    free(m);
}
