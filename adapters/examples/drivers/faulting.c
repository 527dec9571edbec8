/* The faulting driver: an HMM mirror with memory of its own.
 *
 * Translations are made by faults and dropped by every invalidation.  The sequence count of the
 * interval subscription tells whether what a fault has collected is still so when it is
 * installed; the lock makes that check and the installing one step for mirror_invalidate().
 */
#include "lastwriter_driver.h"

enum { EVICT_BATCH = 16 };

struct mirror {
    struct lw_device *device;
    struct mm_struct *mm;
    struct mutex lock; /* protects the device's table, and `entries` */
    struct mmu_interval_notifier notifier;
    dma_addr_t entries[]; /* by page of the address space, as the table has it; 0: none */
};

static unsigned long page_index(const struct mirror *mirror, unsigned long address)
{
    return (address - mirror->device->va_start) / PAGE_SIZE;
}

/* ---- Notifier ---- */

/* Drop the translations of a range; the caller holds the lock. */
static void mirror_zap(struct mirror *mirror, unsigned long start, unsigned long end)
{
    struct lw_device *device = mirror->device;
    unsigned long first, last, index;
    bool found = false;

    start = start < device->va_start ? device->va_start : start;
    end = end > device->va_end ? device->va_end : end;
    first = page_index(mirror, start & PAGE_MASK);
    last = page_index(mirror, end + PAGE_SIZE - 1);
    for (index = first; index < last; index++) {
        if (!mirror->entries[index])
            continue;
        device_unmap(device, 0, device->va_start + index * PAGE_SIZE);
        found = true;
    }
    if (!found)
        return;
    device_flush(device, start, end);
    for (index = first; index < last; index++) {
        if (mirror->entries[index] && !device_is_local(mirror->entries[index]))
            dma_unmap_page(device, mirror->entries[index]);
        mirror->entries[index] = 0;
    }
}

static bool mirror_invalidate(struct mmu_interval_notifier *notifier,
                              const struct mmu_notifier_range *range, unsigned long cur_seq)
{
    struct mirror *mirror = container_of(notifier, struct mirror, notifier);

    /* Exclusive access of our own leaves the page where it is.  A migration of our own could be
     * told apart as well, but it moves pages: a fault that has collected one has to try again. */
    if (range->event == MMU_NOTIFY_EXCLUSIVE && range->owner == mirror->device->owner)
        return true;
    if (mmu_notifier_range_blockable(range))
        mutex_lock(&mirror->lock);
    else if (!mutex_trylock(&mirror->lock))
        return false;
    mmu_interval_set_seq(notifier, cur_seq);
    mirror_zap(mirror, range->start, range->end);
    mutex_unlock(&mirror->lock);
    return true;
}

static const struct mmu_interval_notifier_ops mirror_ops = { .invalidate = mirror_invalidate };

/* ---- Faults ---- */

/* What the CPU's table has for a page, or a negative errno. */
static int mirror_collect(struct mirror *mirror, struct hmm_range *range)
{
    int answer;

    do {
        range->notifier_seq = mmu_interval_read_begin(range->notifier);
        mmap_read_lock(mirror->mm);
        answer = hmm_range_fault(range);
        mmap_read_unlock(mirror->mm);
    } while (answer == -EBUSY);
    return answer;
}

/* Let the device's table have what the CPU's has; the caller holds the lock. */
static int mirror_install(struct mirror *mirror, unsigned long address, struct page *page,
                          bool writable)
{
    dma_addr_t target;

    mirror_zap(mirror, address, address + PAGE_SIZE);
    target = device_local_address(mirror->device, page);
    if (!target)
        target = dma_map_page(mirror->device, page);
    if (!target)
        return -ENOMEM;
    mirror->entries[page_index(mirror, address)] = target;
    device_map(mirror->device, 0, address, target, writable);
    return 0;
}

/* Collect, and install unless the page was invalidated meanwhile. */
static int mirror_populate(struct mirror *mirror, unsigned long address, bool write)
{
    unsigned long pfn;
    struct hmm_range range = {
        .notifier = &mirror->notifier,
        .start = address,
        .end = address + PAGE_SIZE,
        .hmm_pfns = &pfn,
        .default_flags = HMM_PFN_REQ_FAULT | (write ? HMM_PFN_REQ_WRITE : 0),
        .dev_private_owner = mirror->device->owner,
    };
    int answer;

again:
    pfn = 0;
    answer = mirror_collect(mirror, &range);
    if (answer)
        return answer;
    mutex_lock(&mirror->lock);
    if (mmu_interval_read_retry(&mirror->notifier, range.notifier_seq)) {
        mutex_unlock(&mirror->lock);
        goto again;
    }
    answer = mirror_install(mirror, address, hmm_pfn_to_page(pfn), pfn & HMM_PFN_WRITE);
    mutex_unlock(&mirror->lock);
    return answer;
}

static int mirror_fault(struct lw_device *device, unsigned long address, bool write)
{
    struct mirror *mirror = device->priv;
    int answer;

    if (!mmget_not_zero(mirror->mm))
        return -EFAULT;
    answer = mirror_populate(mirror, address & PAGE_MASK, write);
    mmput(mirror->mm);
    return answer;
}

/* ---- Migration ---- */

/* A copy of a page; NULL if there is none, and then it stays where it is. */
static struct page *mirror_copy(struct mirror *mirror, struct page *source, bool to_device)
{
    struct page *target = to_device ? alloc_device_page(mirror->device) : alloc_page();

    if (!target)
        return NULL;
    if (!source) {
        clear_page(target); /* a hole, or the zero page */
    } else if (copy_page(target, source)) {
        free_page(target);
        return NULL;
    }
    return target;
}

/* One page, with mmap_lock held: 1 if it moved, 0 if not, -ENOMEM for want of a copy. */
static int mirror_migrate_page(struct mirror *mirror, struct mm_struct *mm, unsigned long address,
                               unsigned long direction, struct page *fault_page)
{
    unsigned long src, dst = 0;
    struct migrate_vma args = {
        .mm = mm,
        .src = &src,
        .dst = &dst,
        .start = address,
        .end = address + PAGE_SIZE,
        .pgmap_owner = mirror->device->owner,
        .flags = direction,
        .fault_page = fault_page,
    };
    struct page *target;
    bool moved;

    if (migrate_vma_setup(&args) || !args.cpages)
        return 0;
    target = mirror_copy(mirror, migrate_pfn_to_page(src), direction == MIGRATE_VMA_SELECT_SYSTEM);
    if (target)
        dst = migrate_pfn(page_to_pfn(target));
    migrate_vma_pages(&args);
    moved = src & MIGRATE_PFN_MIGRATE;
    migrate_vma_finalize(&args);
    return target ? moved : -ENOMEM;
}

static int mirror_migrate(struct mirror *mirror, unsigned long start, unsigned long end,
                          unsigned long direction)
{
    unsigned long address;
    int moved = 0;

    if (!mmget_not_zero(mirror->mm))
        return -ESRCH;
    for (address = start; address < end; address += PAGE_SIZE) {
        mmap_read_lock(mirror->mm);
        moved += mirror_migrate_page(mirror, mirror->mm, address, direction, NULL) > 0;
        mmap_read_unlock(mirror->mm);
    }
    mmput(mirror->mm);
    return moved;
}

static int mirror_migrate_to_device(struct lw_device *device, unsigned long start,
                                    unsigned long end)
{
    return mirror_migrate(device->priv, start, end, MIGRATE_VMA_SELECT_SYSTEM);
}

static int mirror_migrate_to_system(struct lw_device *device, unsigned long start,
                                    unsigned long end)
{
    return mirror_migrate(device->priv, start, end, MIGRATE_VMA_SELECT_DEVICE_PRIVATE);
}

/* If somebody else is moving the page the CPU just tries again; without a copy it can't. */
static vm_fault_t mirror_migrate_to_ram(struct lw_device *device, struct vm_fault *vmf)
{
    int moved = mirror_migrate_page(device->priv, vmf->mm, vmf->address,
                                    MIGRATE_VMA_SELECT_DEVICE_PRIVATE, vmf->page);

    return moved < 0 ? VM_FAULT_SIGBUS : 0;
}

/* Bring a page home, wherever it is mapped. */
static void mirror_evict_page(struct mirror *mirror, struct page *page)
{
    struct mm_struct *mm;
    unsigned long address;
    int moved;

    while (address_of_device_page(page, &mm, &address)) {
        mmap_read_lock(mm);
        moved = mirror_migrate_page(mirror, mm, address, MIGRATE_VMA_SELECT_DEVICE_PRIVATE, NULL);
        mmap_read_unlock(mm);
        if (moved <= 0)
            cond_resched();
    }
}

/* Bring all pages home before the device is closed. */
static void mirror_evict(struct mirror *mirror)
{
    struct page *pages[EVICT_BATCH];
    unsigned long count = device_pages(mirror->device, pages, EVICT_BATCH);

    for (unsigned long i = 0; i < count; i++)
        mirror_evict_page(mirror, pages[i]);
}

/* ---- Exclusive access ---- */

static int mirror_make_page_exclusive(struct mirror *mirror, unsigned long address)
{
    struct lw_device *device = mirror->device;
    unsigned long pfn, sequence;
    struct page *page;
    struct hmm_range range = {
        .notifier = &mirror->notifier,
        .start = address,
        .end = address + PAGE_SIZE,
        .hmm_pfns = &pfn,
        .default_flags = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE,
    };
    int answer;

again:
    /* A page that is ours already would be taken away first, which counts as one more
     * invalidation: let that happen before the sequence is read. */
    pfn = 0;
    if (mirror_collect(mirror, &range))
        return 0;
    sequence = mmu_interval_read_begin(&mirror->notifier);
    mmap_read_lock(mirror->mm);
    page = NULL;
    make_device_exclusive_range(mirror->mm, address, address + PAGE_SIZE, &page, device->owner);
    mmap_read_unlock(mirror->mm);
    if (!page)
        return 0;
    /* It says nothing of later invalidations: those have to be looked for. */
    mutex_lock(&mirror->lock);
    if (mmu_interval_read_retry(&mirror->notifier, sequence)) {
        mutex_unlock(&mirror->lock);
        goto again;
    }
    answer = mirror_install(mirror, address, page, true);
    mutex_unlock(&mirror->lock);
    return answer ? 0 : 1;
}

static int mirror_make_exclusive(struct lw_device *device, unsigned long start, unsigned long end)
{
    struct mirror *mirror = device->priv;
    unsigned long address;
    int pages = 0;

    if (!mmget_not_zero(mirror->mm))
        return -ESRCH;
    for (address = start; address < end; address += PAGE_SIZE)
        pages += mirror_make_page_exclusive(mirror, address);
    mmput(mirror->mm);
    return pages;
}

/* ---- The file ---- */

static int mirror_open(struct lw_device *device, struct mm_struct *mm)
{
    unsigned long pages = (device->va_end - device->va_start) / PAGE_SIZE;
    struct mirror *mirror;
    int answer;

    mirror = kzalloc(sizeof(*mirror) + pages * sizeof(mirror->entries[0]), GFP_KERNEL);
    if (!mirror)
        return -ENOMEM;
    mirror->device = device;
    mirror->mm = mm;
    mutex_init(&mirror->lock);
    answer = mmu_interval_notifier_insert(&mirror->notifier, mm, 0, 1ul << 47, &mirror_ops);
    if (answer) {
        kfree(mirror);
        return answer;
    }
    device->priv = mirror;
    return 0;
}

static void mirror_close(struct lw_device *device)
{
    struct mirror *mirror = device->priv;

    mmu_interval_notifier_remove(&mirror->notifier);
    mutex_lock(&mirror->lock);
    mirror_zap(mirror, device->va_start, device->va_end);
    mutex_unlock(&mirror->lock);
    mirror_evict(mirror);
    device->priv = NULL;
    kfree(mirror);
}

static const struct lw_driver mirror_driver = {
    LW_DRIVER_HEADER,
    .name = "faulting.c",
    .model = LW_FAULTING,
    .flags = LW_PAGE_FAULTS,
    .open = mirror_open,
    .close = mirror_close,
    .fault = mirror_fault,
    .migrate_to_device = mirror_migrate_to_device,
    .migrate_to_system = mirror_migrate_to_system,
    .make_exclusive = mirror_make_exclusive,
    .migrate_to_ram = mirror_migrate_to_ram,
};

lw_module(mirror_driver)
