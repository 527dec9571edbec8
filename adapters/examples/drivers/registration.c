/* The registration driver: pages are pinned from register to unregister, as RDMA's regions are.
 *
 * Pinned pages stay where they are, so the device needs to hear of no change of them: what user
 * space maps in their place it has to register anew.  Only the end of the process is told, since
 * nothing may reach its memory from then on.
 */
#include "lastwriter_driver.h"

enum { KEYS = 256 };

struct region {
    unsigned int key;
    unsigned long start;
    bool write;
    unsigned long pinned, mapped; /* how many of `pages` are pinned, and of `addresses` mapped */
    struct page **pages;
    dma_addr_t *addresses;
};

struct context {
    struct lw_device *device;
    struct mm_struct *mm;
    struct mmu_notifier notifier;
    struct mutex lock; /* protects the regions and the device's tables */
    struct region *regions[KEYS];
};

/* ---- Regions ---- */

static void region_free(struct region *region)
{
    if (!region)
        return;
    kfree(region->pages);
    kfree(region->addresses);
    kfree(region);
}

static struct region *region_create(unsigned int key, unsigned long start, unsigned long pages,
                                    bool write)
{
    struct region *region = kzalloc(sizeof(*region), GFP_KERNEL);

    if (!region)
        return NULL;
    region->key = key;
    region->start = start;
    region->write = write;
    region->pages = kcalloc(pages, sizeof(region->pages[0]), GFP_KERNEL);
    region->addresses = kcalloc(pages, sizeof(region->addresses[0]), GFP_KERNEL);
    if (!region->pages || !region->addresses) {
        region_free(region);
        return NULL;
    }
    return region;
}

/* The device lets go of the pages before they are unpinned; the caller holds the lock. */
static void region_teardown(struct context *context, struct region *region)
{
    struct lw_device *device = context->device;
    unsigned long i;

    if (!region->pinned)
        return;
    for (i = 0; i < region->pinned; i++)
        device_unmap(device, region->key, region->start + i * PAGE_SIZE);
    device_flush(device, region->start, region->start + region->pinned * PAGE_SIZE);
    for (i = 0; i < region->mapped; i++)
        dma_unmap_page(device, region->addresses[i]);
    for (i = 0; i < region->pinned; i++)
        unpin_user_page(region->pages[i]);
    region->mapped = region->pinned = 0;
}

/* Fill the device's table; the caller holds the lock. */
static int region_map(struct context *context, struct region *region)
{
    struct lw_device *device = context->device;
    unsigned long i;

    for (i = 0; i < region->pinned; i++, region->mapped++) {
        region->addresses[i] = dma_map_page(device, region->pages[i]);
        if (!region->addresses[i])
            return -ENOMEM;
    }
    for (i = 0; i < region->mapped; i++)
        device_map(device, region->key, region->start + i * PAGE_SIZE, region->addresses[i],
                   region->write);
    return 0;
}

/* Pin, map for DMA, and only then let the device know; all of it or nothing. */
static int region_setup(struct context *context, struct region *region, unsigned long pages)
{
    unsigned int flags = FOLL_LONGTERM | (region->write ? FOLL_WRITE : 0);
    long pinned;
    int answer;

    if (!mmget_not_zero(context->mm))
        return -EFAULT;
    pinned = pin_user_pages(context->mm, region->start, pages, flags, region->pages);
    if (pinned < 0) {
        mmput(context->mm);
        return pinned;
    }
    region->pinned = pinned;
    mutex_lock(&context->lock);
    answer = region_map(context, region);
    if (answer)
        region_teardown(context, region);
    else
        context->regions[region->key] = region;
    mutex_unlock(&context->lock);
    mmput(context->mm);
    return answer;
}

static int context_register(struct lw_device *device, unsigned int key, unsigned long start,
                            unsigned long end, bool write)
{
    unsigned long pages = (end - start) / PAGE_SIZE;
    struct context *context = device->priv;
    struct region *region;
    int answer;

    if (context->regions[key])
        return -EBUSY;
    region = region_create(key, start, pages, write);
    if (!region)
        return -ENOMEM;
    answer = region_setup(context, region, pages);
    if (answer)
        region_free(region);
    return answer;
}

static int context_unregister(struct lw_device *device, unsigned int key)
{
    struct context *context = device->priv;
    struct region *region;

    mutex_lock(&context->lock);
    region = context->regions[key];
    context->regions[key] = NULL;
    if (region)
        region_teardown(context, region);
    mutex_unlock(&context->lock);
    region_free(region);
    return region ? 0 : -EINVAL;
}

/* ---- Notifier ---- */

/* The process ends: its keys lead nowhere, but are still to be unregistered. */
static void context_release(struct mmu_notifier *notifier, struct mm_struct *mm)
{
    struct context *context = container_of(notifier, struct context, notifier);

    (void)mm;
    mutex_lock(&context->lock);
    for (unsigned int key = 0; key < KEYS; key++)
        if (context->regions[key])
            region_teardown(context, context->regions[key]);
    mutex_unlock(&context->lock);
}

static const struct mmu_notifier_ops context_ops = { .release = context_release };

/* ---- The file ---- */

static int context_open(struct lw_device *device, struct mm_struct *mm)
{
    struct context *context = kzalloc(sizeof(*context), GFP_KERNEL);
    int answer;

    if (!context)
        return -ENOMEM;
    context->device = device;
    context->mm = mm;
    context->notifier.ops = &context_ops;
    mutex_init(&context->lock);
    answer = mmu_notifier_register(&context->notifier, mm);
    if (answer) {
        kfree(context);
        return answer;
    }
    device->priv = context;
    return 0;
}

static void context_close(struct lw_device *device)
{
    struct context *context = device->priv;

    mmu_notifier_unregister(&context->notifier); /* calls release, if nobody has */
    for (unsigned int key = 0; key < KEYS; key++)
        region_free(context->regions[key]);
    device->priv = NULL;
    kfree(context);
}

static const struct lw_driver context_driver = {
    LW_DRIVER_HEADER,
    .name = "registration.c",
    .model = LW_REGISTRATION,
    .flags = LW_KEYED,
    .open = context_open,
    .close = context_close,
    .register_range = context_register,
    .unregister_range = context_unregister,
};

lw_module(context_driver)
