/* A driver in C for lastwriter's simulated host.
 *
 * A driver is one shared library that ends in lw_module(); `driver:path.c` compiles and loads it.
 * It calls the kernel's services under the kernel's names and fills in struct lw_driver.  Errors
 * are negative errnos, addresses are bytes, and the end of a range is exclusive.
 *
 * What is not as in the kernel:
 * - Every service is a place where another task may run; nothing else is.  There are no threads.
 * - What other tasks use (locks, wait queues, notifiers) lies in memory of kmalloc(), never on
 *   the stack: tasks share one stack, which is put aside while a task does not run.
 * - Static variables are as the compiler left them at the start of each run.
 * - Once a rule is broken the run is over, and services answer at once, without effect, until the
 *   driver has returned.  One that goes on calling them is left where it is.
 */
#ifndef LASTWRITER_DRIVER_H
#define LASTWRITER_DRIVER_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LW_DRIVER_ABI_VERSION 1u

_Static_assert(sizeof(unsigned long) == 8 && sizeof(void *) == 8, "64 bits");

/* ---- Types ---- */

#define LW_MAX_ERRNO 4095ul

static inline void *ERR_PTR(long error)
{
    return (void *)error;
}

static inline long PTR_ERR(const void *pointer)
{
    return (long)pointer;
}

static inline bool IS_ERR(const void *pointer)
{
    return (unsigned long)pointer >= -LW_MAX_ERRNO;
}

typedef uint64_t dma_addr_t;
typedef unsigned int gfp_t;
typedef unsigned int vm_fault_t;

struct mm_struct; /* an address space */
struct page;      /* a page frame: the pointer is its number and leads nowhere */

/* What these hold is the host's.  To copy one is to break it. */
struct mutex { uint64_t lw_handle; };
struct rw_semaphore { uint64_t lw_handle; };
typedef struct spinlock { uint64_t lw_handle; } spinlock_t;
typedef struct wait_queue_head { uint64_t lw_handle; } wait_queue_head_t;

#define GFP_KERNEL ((gfp_t)0) /* may sleep, and wait for reclaim */
#define GFP_ATOMIC ((gfp_t)1)
#define __GFP_ZERO ((gfp_t)2)

#define FOLL_WRITE (1u << 0)
#define FOLL_LONGTERM (1u << 8)

#define VM_FAULT_SIGBUS ((vm_fault_t)2)

struct vm_area_struct {
    unsigned long vm_start, vm_end;
    bool vm_write;
};

struct vm_fault {
    struct mm_struct *mm;
    unsigned long address;
    struct page *page;
};

/* One device.  The fields but `priv` are the host's. */
struct lw_device {
    void *priv;                     /* the driver's own */
    unsigned long va_start, va_end; /* the addresses that there are in an address space */
    const void *owner;              /* of the pages in its memory */
    unsigned int number;
};

/* Accesses of the device: a job of user space's, or a single one (number 0). */
struct lw_job {
    void *priv; /* the driver's own, NULL at submit */
    unsigned int number;
    unsigned int key_count;
    const unsigned int *keys; /* of the registrations that it uses, ascending */
    uint64_t lw_handle;
};

/* ---- Notifiers ---- */

enum mmu_notifier_event {
    MMU_NOTIFY_UNMAP = 0,
    MMU_NOTIFY_CLEAR,
    MMU_NOTIFY_PROTECTION_VMA,
    MMU_NOTIFY_PROTECTION_PAGE,
    MMU_NOTIFY_SOFT_DIRTY,
    MMU_NOTIFY_RELEASE,
    MMU_NOTIFY_MIGRATE,
    MMU_NOTIFY_EXCLUSIVE,
};

#define MMU_NOTIFIER_RANGE_BLOCKABLE (1u << 0)

struct mmu_notifier_range {
    struct mm_struct *mm;
    unsigned long start, end;
    unsigned int flags;
    enum mmu_notifier_event event;
    const void *owner;
};

static inline bool mmu_notifier_range_blockable(const struct mmu_notifier_range *range)
{
    return range->flags & MMU_NOTIFIER_RANGE_BLOCKABLE;
}

struct mmu_interval_notifier;

/* What the first of two passes leaves for the second.  The driver's own until it is handed back. */
struct mmu_interval_notifier_finish {
    struct mmu_interval_notifier *notifier; /* set when it is handed back */
};

struct mmu_interval_notifier_ops {
    bool (*invalidate)(struct mmu_interval_notifier *notifier,
                       const struct mmu_notifier_range *range, unsigned long cur_seq);
    /* Two passes instead, as in newer kernels; `invalidate` is NULL then.  *finish is NULL, and is
     * left so if nothing remains to be done. */
    bool (*invalidate_start)(struct mmu_interval_notifier *notifier,
                             const struct mmu_notifier_range *range, unsigned long cur_seq,
                             struct mmu_interval_notifier_finish **finish);
    void (*invalidate_finish)(struct mmu_interval_notifier_finish *finish);
};

struct mmu_interval_notifier {
    uint64_t lw_handle;
    struct mm_struct *mm;
    const struct mmu_interval_notifier_ops *ops;
};

struct mmu_notifier;

struct mmu_notifier_ops {
    void (*release)(struct mmu_notifier *notifier, struct mm_struct *mm);
    int (*invalidate_range_start)(struct mmu_notifier *notifier,
                                  const struct mmu_notifier_range *range);
    void (*invalidate_range_end)(struct mmu_notifier *notifier,
                                 const struct mmu_notifier_range *range);
    bool (*clear_flush_young)(struct mmu_notifier *notifier, struct mm_struct *mm,
                              unsigned long start, unsigned long end);
    bool (*clear_young)(struct mmu_notifier *notifier, struct mm_struct *mm, unsigned long start,
                        unsigned long end);
    bool (*test_young)(struct mmu_notifier *notifier, struct mm_struct *mm,
                       unsigned long address);
    void (*arch_invalidate_secondary_tlbs)(struct mmu_notifier *notifier, struct mm_struct *mm,
                                           unsigned long start, unsigned long end);
    void (*free_notifier)(struct mmu_notifier *notifier); /* may not sleep */
    /* For mmu_notifier_get(): in memory of kmalloc(), or an ERR_PTR(). */
    struct mmu_notifier *(*alloc_notifier)(struct mm_struct *mm);
};

struct mmu_notifier {
    uint64_t lw_handle;
    struct mm_struct *mm;
    const struct mmu_notifier_ops *ops; /* set before it is registered */
};

/* ---- HMM and migration ---- */

#define HMM_PFN_VALID (1ul << 63)
#define HMM_PFN_WRITE (1ul << 62)
#define HMM_PFN_ERROR (1ul << 61)
#define HMM_PFN_REQ_FAULT HMM_PFN_VALID
#define HMM_PFN_REQ_WRITE HMM_PFN_WRITE
#define HMM_PFN_ORDER_SHIFT 56

struct hmm_range {
    struct mmu_interval_notifier *notifier;
    unsigned long notifier_seq;
    unsigned long start, end;
    unsigned long *hmm_pfns; /* one for each page */
    unsigned long default_flags;
    unsigned long pfn_flags_mask;
    const void *dev_private_owner;
};

static inline struct page *hmm_pfn_to_page(unsigned long hmm_pfn)
{
    return (struct page *)(hmm_pfn & ((1ul << HMM_PFN_ORDER_SHIFT) - 1));
}

static inline unsigned int hmm_pfn_to_map_order(unsigned long hmm_pfn)
{
    return hmm_pfn >> HMM_PFN_ORDER_SHIFT & 0x1f;
}

#define MIGRATE_PFN_VALID (1ul << 0)
#define MIGRATE_PFN_MIGRATE (1ul << 1)
#define MIGRATE_PFN_WRITE (1ul << 3)
#define MIGRATE_PFN_SHIFT 6

enum migrate_vma_direction {
    MIGRATE_VMA_SELECT_SYSTEM = 1 << 0,
    MIGRATE_VMA_SELECT_DEVICE_PRIVATE = 1 << 1,
};

struct migrate_vma {
    struct mm_struct *mm;
    unsigned long *dst, *src; /* one for each page */
    unsigned long cpages;     /* how many were collected */
    unsigned long start, end;
    const void *pgmap_owner;
    unsigned long flags;     /* enum migrate_vma_direction */
    struct page *fault_page; /* in migrate_to_ram() */
    uint64_t lw_handle;
};

static inline struct page *migrate_pfn_to_page(unsigned long mpfn)
{
    return mpfn & MIGRATE_PFN_VALID ? (struct page *)(mpfn >> MIGRATE_PFN_SHIFT) : NULL;
}

static inline unsigned long page_to_pfn(const struct page *page)
{
    return (unsigned long)page;
}

static inline struct page *pfn_to_page(unsigned long pfn)
{
    return (struct page *)pfn;
}

static inline unsigned long migrate_pfn(unsigned long pfn)
{
    return pfn << MIGRATE_PFN_SHIFT | MIGRATE_PFN_VALID;
}

/* ---- The services ---- */

/* `frame` is where the stack of the caller is, `where` the function that calls. */
struct lw_kernel {
    uint32_t abi_version;
    uint32_t size;
    uint64_t page_size;

    void (*mutex_init)(struct mutex *lock, const char *name, const void *frame);
    void (*mutex_lock)(struct mutex *lock);
    bool (*mutex_trylock)(struct mutex *lock);
    void (*mutex_unlock)(struct mutex *lock);
    void (*lockdep_assert_held)(const struct mutex *lock);
    void (*spin_lock_init)(spinlock_t *lock, const char *name, const void *frame);
    void (*spin_lock)(spinlock_t *lock);
    void (*spin_unlock)(spinlock_t *lock);
    void (*init_rwsem)(struct rw_semaphore *lock, const char *name, const void *frame);
    void (*down_read)(struct rw_semaphore *lock);
    void (*up_read)(struct rw_semaphore *lock);
    void (*down_write)(struct rw_semaphore *lock);
    void (*up_write)(struct rw_semaphore *lock);

    void (*init_waitqueue_head)(wait_queue_head_t *queue, const char *name, const void *frame);
    void (*wake_up)(wait_queue_head_t *queue);
    uint64_t (*prepare_to_wait)(wait_queue_head_t *queue);
    int (*schedule)(wait_queue_head_t *queue, uint64_t prepared, bool interruptible);
    void (*might_sleep)(void);
    void (*cond_resched)(void);
    void (*dma_fence_wait)(struct lw_job *job); /* until the device is done with it */

    void *(*kmalloc)(size_t size, gfp_t flags, const char *where);
    void (*kfree)(const void *memory); /* NULL is none */

    bool (*mmget_not_zero)(struct mm_struct *mm);
    void (*mmput)(struct mm_struct *mm);
    void (*mmap_read_lock)(struct mm_struct *mm);
    void (*mmap_read_unlock)(struct mm_struct *mm);
    bool (*vma_lookup)(struct mm_struct *mm, unsigned long address, struct vm_area_struct *vma);

    int (*mmu_interval_notifier_insert)(struct mmu_interval_notifier *notifier,
                                        struct mm_struct *mm, unsigned long start,
                                        unsigned long length,
                                        const struct mmu_interval_notifier_ops *ops,
                                        const void *frame);
    void (*mmu_interval_notifier_remove)(struct mmu_interval_notifier *notifier);
    unsigned long (*mmu_interval_read_begin)(struct mmu_interval_notifier *notifier);
    bool (*mmu_interval_read_retry)(struct mmu_interval_notifier *notifier, unsigned long seq);
    bool (*mmu_interval_check_retry)(struct mmu_interval_notifier *notifier, unsigned long seq);
    void (*mmu_interval_set_seq)(struct mmu_interval_notifier *notifier, unsigned long cur_seq);
    int (*mmu_notifier_register)(struct mmu_notifier *notifier, struct mm_struct *mm,
                                 const void *frame);
    void (*mmu_notifier_unregister)(struct mmu_notifier *notifier);

    int (*hmm_range_fault)(struct hmm_range *range);
    long (*pin_user_pages)(struct mm_struct *mm, unsigned long start, unsigned long nr_pages,
                           unsigned int gup_flags, struct page **pages); /* all or an error */
    void (*unpin_user_page)(struct page *page);
    void (*get_page)(struct page *page);
    void (*put_page)(struct page *page);
    dma_addr_t (*dma_map_page)(struct lw_device *device, struct page *page); /* 0: it cannot be */
    void (*dma_unmap_page)(struct lw_device *device, dma_addr_t address);

    struct page *(*alloc_device_page)(struct lw_device *device); /* NULL: its memory is full */
    struct page *(*alloc_page)(void);
    void (*free_page)(struct page *page); /* one of these two that was not used */
    int (*copy_page)(struct page *to, struct page *from);
    void (*clear_page)(struct page *page);
    int (*migrate_vma_setup)(struct migrate_vma *args);
    void (*migrate_vma_pages)(struct migrate_vma *args);
    void (*migrate_vma_finalize)(struct migrate_vma *args);
    /* Fills in up to `count` pages of the device's memory that are in use; gives how many. */
    unsigned long (*device_pages)(struct lw_device *device, struct page **pages,
                                  unsigned long count);
    bool (*address_of_device_page)(struct page *page, struct mm_struct **mm,
                                   unsigned long *address); /* false: mapped nowhere */
    int (*make_device_exclusive_range)(struct mm_struct *mm, unsigned long start,
                                       unsigned long end, struct page **pages, const void *owner);

    /* The hardware: a page table for each key, 0 being that of the process, and a TLB. */
    void (*device_map)(struct lw_device *device, unsigned int table, unsigned long address,
                       dma_addr_t target, bool writable);
    void (*device_unmap)(struct lw_device *device, unsigned int table, unsigned long address);
    /* Returns when no access through an older translation is in flight.  Does not sleep. */
    void (*device_flush)(struct lw_device *device, unsigned long start, unsigned long end);
    /* How the device reaches a page of its own memory; 0 if the page is not there. */
    dma_addr_t (*device_local_address)(struct lw_device *device, struct page *page);

    /* Further services: new ones come last, so that compiled drivers still find the others. */
    struct mmu_notifier *(*mmu_notifier_get)(const struct mmu_notifier_ops *ops,
                                             struct mm_struct *mm,
                                             const void *frame); /* or an ERR_PTR() */
    void (*mmu_notifier_put)(struct mmu_notifier *notifier); /* does not sleep */
    void (*mmu_notifier_synchronize)(void);
    /* Takes mmap_lock and begins read sections itself; timeout 0 is none, else -EBUSY ends it. */
    int (*hmm_range_fault_unlocked_timeout)(struct hmm_range *range, unsigned long timeout);
    /* Accessed bits: there are some once a notifier is registered that is asked for them.  The TLB
     * sets one when it takes an entry; clearing it leaves the TLB as it is. */
    bool (*device_test_young)(struct lw_device *device, unsigned int table, unsigned long address);
    bool (*device_clear_young)(struct lw_device *device, unsigned int table,
                               unsigned long address); /* whether it was set */
    /* Walk a process's page table in place of table 0; the TLB keeps what it has after the end. */
    void (*device_share)(struct lw_device *device, struct mm_struct *mm);
    void (*device_unshare)(struct lw_device *device);
    /* Have a page in the process's page table: 0 or -EFAULT.  Needs mmap_lock. */
    int (*handle_mm_fault)(struct mm_struct *mm, unsigned long address, bool write);
    /* Have a page count as written, as the end callback may after MMU_NOTIFY_SOFT_DIRTY. */
    void (*pte_mksoft_dirty)(struct mm_struct *mm, unsigned long address);
};

extern const struct lw_kernel *lw_kernel __attribute__((visibility("hidden")));

/* Whether an address leads to the device's own memory, and is no DMA address. */
static inline bool device_is_local(dma_addr_t address)
{
    return address >> 62 & 1;
}

/* ---- The driver ---- */

enum lw_model { LW_FAULTING = 0, LW_REFCOUNTING = 1, LW_REGISTRATION = 2 };

#define LW_KEYED (1u << 0)       /* accesses go through registrations, each with a key */
#define LW_PAGE_FAULTS (1u << 1) /* the device faults where it has no translation */

/* Callbacks answer 0 or a negative errno unless they say otherwise.  open and close are needed;
 * the suite leaves out what a driver has no callback for.  When open fails, nothing is called. */
struct lw_driver {
    uint32_t abi_version; /* LW_DRIVER_ABI_VERSION */
    uint32_t size;        /* sizeof(struct lw_driver) */
    const char *name;
    uint32_t model; /* enum lw_model */
    uint32_t flags; /* LW_KEYED, LW_PAGE_FAULTS */

    int (*open)(struct lw_device *device, struct mm_struct *mm);
    void (*close)(struct lw_device *device); /* no job is in flight; nothing may be left */

    int (*fault)(struct lw_device *device, unsigned long address, bool write);
    int (*register_range)(struct lw_device *device, unsigned int key, unsigned long start,
                          unsigned long end, bool write);
    int (*unregister_range)(struct lw_device *device, unsigned int key);
    int (*submit)(struct lw_device *device, struct lw_job *job);
    void (*complete)(struct lw_device *device, struct lw_job *job); /* interrupt: no sleep */
    void (*retire)(struct lw_device *device, struct lw_job *job);   /* user space has waited */

    /* How many pages, or a negative errno. */
    int (*migrate_to_device)(struct lw_device *device, unsigned long start, unsigned long end);
    int (*migrate_to_system)(struct lw_device *device, unsigned long start, unsigned long end);
    int (*make_exclusive)(struct lw_device *device, unsigned long start, unsigned long end);
    /* The CPU touched a page in the device's memory: 0 or VM_FAULT_SIGBUS. */
    vm_fault_t (*migrate_to_ram)(struct lw_device *device, struct vm_fault *vmf);
};

const struct lw_driver *lw_driver_get(const struct lw_kernel *kernel);

#define LW_DRIVER_HEADER .abi_version = LW_DRIVER_ABI_VERSION, .size = sizeof(struct lw_driver)

/* Once per library, with its struct lw_driver. */
#define lw_module(driver)                                                                         \
    const struct lw_kernel *lw_kernel;                                                            \
    __attribute__((visibility("default"))) const struct lw_driver *lw_driver_get(                 \
        const struct lw_kernel *kernel)                                                           \
    {                                                                                             \
        lw_kernel = kernel;                                                                       \
        return &(driver);                                                                         \
    }

#include "lastwriter_kernel.h"

#endif
