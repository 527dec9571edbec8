/* A template: the smallest driver that is right, with one page of one process in its table.
 *
 *     lastwriter certify driver:template.c
 *
 * It faults pages in one at a time and forgets them at every invalidation.  Take out a line of
 * template_invalidate() or the retry in template_fault(), and certify shows who reads old data.
 * faulting.c beside it has more pages, memory of its own and exclusive access; refcounting.c and
 * registration.c are the other two sync models.
 */
#include "lastwriter_driver.h"

struct template {
    struct lw_device *device;
    struct mm_struct *mm;
    struct mutex lock;     /* protects what follows, and the device's table */
    unsigned long address; /* of the page in the table */
    dma_addr_t target;     /* what the table has for it; 0: nothing */
    struct mmu_interval_notifier notifier;
};

/* Take the page out of the device's table; the caller holds the lock. */
static void template_zap(struct template *template)
{
    struct lw_device *device = template->device;

    if (!template->target)
        return;
    device_unmap(device, 0, template->address);
    device_flush(device, template->address, template->address + PAGE_SIZE);
    dma_unmap_page(device, template->target);
    template->target = 0;
}

/* The CPU's table is about to change: when this returns the device uses nothing of the range. */
static bool template_invalidate(struct mmu_interval_notifier *notifier,
                                const struct mmu_notifier_range *range, unsigned long cur_seq)
{
    struct template *template = container_of(notifier, struct template, notifier);

    if (mmu_notifier_range_blockable(range))
        mutex_lock(&template->lock);
    else if (!mutex_trylock(&template->lock))
        return false;
    mmu_interval_set_seq(notifier, cur_seq);
    if (range->start < template->address + PAGE_SIZE && template->address < range->end)
        template_zap(template);
    mutex_unlock(&template->lock);
    return true;
}

static const struct mmu_interval_notifier_ops template_ops = {
    .invalidate = template_invalidate,
};

/* Put a page into the device's table; the caller holds the lock. */
static int template_install(struct template *template, unsigned long address, unsigned long pfn)
{
    dma_addr_t target;

    template_zap(template);
    target = dma_map_page(template->device, hmm_pfn_to_page(pfn));
    if (!target)
        return -ENOMEM;
    template->address = address;
    template->target = target;
    device_map(template->device, 0, address, target, pfn & HMM_PFN_WRITE);
    return 0;
}

/* Ask the CPU's table for a page, and install it unless it was invalidated meanwhile. */
static int template_populate(struct template *template, unsigned long address, bool write)
{
    unsigned long pfn = 0;
    struct hmm_range range = {
        .notifier = &template->notifier,
        .start = address,
        .end = address + PAGE_SIZE,
        .hmm_pfns = &pfn,
        .default_flags = HMM_PFN_REQ_FAULT | (write ? HMM_PFN_REQ_WRITE : 0),
    };
    int answer;

    for (;;) {
        range.notifier_seq = mmu_interval_read_begin(&template->notifier);
        mmap_read_lock(template->mm);
        answer = hmm_range_fault(&range);
        mmap_read_unlock(template->mm);
        if (answer == -EBUSY)
            continue;
        if (answer)
            return answer;
        mutex_lock(&template->lock);
        if (!mmu_interval_read_retry(&template->notifier, range.notifier_seq))
            break;
        mutex_unlock(&template->lock);
    }
    answer = template_install(template, address, pfn);
    mutex_unlock(&template->lock);
    return answer;
}

/* The device has no translation for an address, or none that it may write through. */
static int template_fault(struct lw_device *device, unsigned long address, bool write)
{
    struct template *template = device->priv;
    int answer;

    if (!mmget_not_zero(template->mm))
        return -EFAULT;
    answer = template_populate(template, address & PAGE_MASK, write);
    mmput(template->mm);
    return answer;
}

static int template_open(struct lw_device *device, struct mm_struct *mm)
{
    struct template *template = kzalloc(sizeof(*template), GFP_KERNEL);
    int answer;

    if (!template)
        return -ENOMEM;
    template->device = device;
    template->mm = mm;
    mutex_init(&template->lock);
    answer = mmu_interval_notifier_insert(&template->notifier, mm, device->va_start,
                                          device->va_end - device->va_start, &template_ops);
    if (answer) {
        kfree(template);
        return answer;
    }
    device->priv = template;
    return 0;
}

static void template_close(struct lw_device *device)
{
    struct template *template = device->priv;

    mmu_interval_notifier_remove(&template->notifier);
    template_zap(template);
    device->priv = NULL;
    kfree(template);
}

static const struct lw_driver template_driver = {
    LW_DRIVER_HEADER,
    .name = "template",
    .model = LW_FAULTING,
    .flags = LW_PAGE_FAULTS,
    .open = template_open,
    .close = template_close,
    .fault = template_fault,
};

lw_module(template_driver)
