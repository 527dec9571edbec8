/* A mirror of one page whose device has accessed bits; FLUSH is whether it clears them well. */
#include "lastwriter_driver.h"

/* One page, its first, is the device's at a time: what a pin has found, until it is invalidated. */
struct state {
    struct lw_device *device;
    struct mm_struct *mm;
    spinlock_t lock;
    struct mmu_notifier notifier;
    unsigned long address, under_way, sequence;
    dma_addr_t dma;
};

static void zap(struct state *state, unsigned long start, unsigned long end)
{
    dma_addr_t dma = state->dma;

    if (!dma || state->address < start || state->address >= end)
        return;
    state->dma = 0;
    device_unmap(state->device, 0, state->address);
    device_flush(state->device, state->address, state->address + PAGE_SIZE);
    dma_unmap_page(state->device, dma);
}

static int range_start(struct mmu_notifier *notifier, const struct mmu_notifier_range *range)
{
    struct state *state = container_of(notifier, struct state, notifier);

    spin_lock(&state->lock);
    state->under_way++;
    zap(state, range->start, range->end);
    spin_unlock(&state->lock);
    return 0;
}

static void range_end(struct mmu_notifier *notifier, const struct mmu_notifier_range *range)
{
    struct state *state = container_of(notifier, struct state, notifier);

    (void)range;
    spin_lock(&state->lock);
    state->under_way--;
    state->sequence++;
    spin_unlock(&state->lock);
}

static bool has(struct state *state, unsigned long start, unsigned long end)
{
    return state->dma && start <= state->address && state->address < end;
}

static bool make_old(struct mmu_notifier *notifier, struct mm_struct *mm, unsigned long start,
                     unsigned long end, bool flush)
{
    struct state *state = container_of(notifier, struct state, notifier);
    bool young;

    (void)mm;
    spin_lock(&state->lock);
    young = has(state, start, end) && device_clear_young(state->device, 0, state->address);
    if (young && flush)
        device_flush(state->device, start, end);
    spin_unlock(&state->lock);
    return young;
}

static bool clear_flush(struct mmu_notifier *notifier, struct mm_struct *mm, unsigned long start,
                        unsigned long end)
{
    return make_old(notifier, mm, start, end, FLUSH);
}

static bool clear(struct mmu_notifier *notifier, struct mm_struct *mm, unsigned long start,
                  unsigned long end)
{
    return make_old(notifier, mm, start, end, false);
}

static bool test(struct mmu_notifier *notifier, struct mm_struct *mm, unsigned long address)
{
    struct state *state = container_of(notifier, struct state, notifier);
    bool young;

    (void)mm;
    spin_lock(&state->lock);
    young = has(state, address, address + PAGE_SIZE) &&
            device_test_young(state->device, 0, state->address);
    spin_unlock(&state->lock);
    return young;
}

static const struct mmu_notifier_ops ops = {
    .invalidate_range_start = range_start,
    .invalidate_range_end = range_end,
    .clear_flush_young = clear_flush,
    .clear_young = clear,
    .test_young = test,
};

static int open_device(struct lw_device *device, struct mm_struct *mm)
{
    struct state *state = kzalloc(sizeof(*state), GFP_KERNEL);
    int answer;

    if (!state)
        return -ENOMEM;
    device->priv = state;
    state->device = device;
    state->mm = mm;
    spin_lock_init(&state->lock);
    state->notifier.ops = &ops;
    answer = mmu_notifier_register(&state->notifier, mm);
    if (answer)
        kfree(state);
    return answer;
}

static void close_device(struct lw_device *device)
{
    struct state *state = device->priv;

    spin_lock(&state->lock);
    zap(state, 0, 1ul << 47);
    spin_unlock(&state->lock);
    mmu_notifier_unregister(&state->notifier);
    kfree(state);
}

static int fault(struct lw_device *device, unsigned long address, bool write)
{
    struct state *state = device->priv;
    unsigned long sequence = state->sequence;
    struct page *page;
    long answer;

    if (!mmget_not_zero(state->mm))
        return -EFAULT;
    address &= PAGE_MASK;
    answer = pin_user_pages(state->mm, address, 1, write ? FOLL_WRITE : 0, &page);
    if (answer == 1) {
        spin_lock(&state->lock);
        if (!state->under_way && state->sequence == sequence) {
            zap(state, 0, 1ul << 47);
            state->dma = dma_map_page(device, page);
            state->address = address;
            if (state->dma)
                device_map(device, 0, address, state->dma, write);
        }
        spin_unlock(&state->lock);
        unpin_user_page(page);
        answer = 0;
    }
    mmput(state->mm);
    return answer;
}

static const struct lw_driver driver = {
    LW_DRIVER_HEADER,
    .name = "ageing",
    .model = LW_FAULTING,
    .flags = LW_PAGE_FAULTS,
    .open = open_device,
    .close = close_device,
    .fault = fault,
};

lw_module(driver)
