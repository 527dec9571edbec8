/* A driver whose device walks the process's own page table, as by PASID and ATS: there is only a
 * TLB to flush, in a callback that comes under a page table lock and may not sleep.
 * reference/drivers/sharing.py is the same in Python. */
#include "lastwriter_driver.h"

struct sharing {
    struct lw_device *device;
    struct mm_struct *mm;
    struct mmu_notifier notifier;
};

/* The entries of the range are clear, and not set yet. */
static void sharing_invalidate(struct mmu_notifier *notifier, struct mm_struct *mm,
                               unsigned long start, unsigned long end)
{
    struct sharing *sharing = container_of(notifier, struct sharing, notifier);

    (void)mm;
    device_flush(sharing->device, start, end);
}

/* Keep the device from the page table, and from all that it has taken from there. */
static void sharing_unbind(struct sharing *sharing)
{
    device_unshare(sharing->device);
    device_flush(sharing->device, sharing->device->va_start, sharing->device->va_end);
}

/* The process ends: the page table is about to be freed, and nobody is told of that. */
static void sharing_release(struct mmu_notifier *notifier, struct mm_struct *mm)
{
    (void)mm;
    sharing_unbind(container_of(notifier, struct sharing, notifier));
}

static const struct mmu_notifier_ops sharing_ops = {
    .release = sharing_release,
    .arch_invalidate_secondary_tlbs = sharing_invalidate,
};

static int sharing_open(struct lw_device *device, struct mm_struct *mm)
{
    struct sharing *sharing = kzalloc(sizeof(*sharing), GFP_KERNEL);
    int answer;

    if (!sharing)
        return -ENOMEM;
    sharing->device = device;
    sharing->mm = mm;
    sharing->notifier.ops = &sharing_ops;
    device->priv = sharing;
    /* First who hears of changes, then who has to. */
    answer = mmu_notifier_register(&sharing->notifier, mm);
    if (answer)
        kfree(sharing);
    else
        device_share(device, mm);
    return answer;
}

static void sharing_close(struct lw_device *device)
{
    struct sharing *sharing = device->priv;

    sharing_unbind(sharing);
    mmu_notifier_unregister(&sharing->notifier);
    kfree(sharing);
}

static int sharing_fault(struct lw_device *device, unsigned long address, bool write)
{
    struct sharing *sharing = device->priv;
    struct mm_struct *mm = sharing->mm;
    int answer;

    if (!mmget_not_zero(mm))
        return -EFAULT;
    mmap_read_lock(mm);
    answer = handle_mm_fault(mm, address, write);
    mmap_read_unlock(mm);
    mmput(mm);
    return answer;
}

static const struct lw_driver sharing_driver = {
    LW_DRIVER_HEADER,
    .name = "sharing",
    .model = LW_FAULTING,
    .flags = LW_PAGE_FAULTS,
    .open = sharing_open,
    .close = sharing_close,
    .fault = sharing_fault,
};

lw_module(sharing_driver)
