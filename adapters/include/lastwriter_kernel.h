/* The services of struct lw_kernel under the names that they have in the kernel.  Included by
 * lastwriter_driver.h, where their arguments and types stand. */
#ifndef LASTWRITER_KERNEL_H
#define LASTWRITER_KERNEL_H

#define LW_FRAME __builtin_frame_address(0)

#define PAGE_SIZE (lw_kernel->page_size)
#define PAGE_MASK (~(PAGE_SIZE - 1))

#define container_of(pointer, type, member) ((type *)((char *)(pointer) - offsetof(type, member)))

/* Locks */
#define mutex_init(lock) lw_kernel->mutex_init(lock, #lock, LW_FRAME)
#define mutex_lock(...) lw_kernel->mutex_lock(__VA_ARGS__)
#define mutex_trylock(...) lw_kernel->mutex_trylock(__VA_ARGS__)
#define mutex_unlock(...) lw_kernel->mutex_unlock(__VA_ARGS__)
#define lockdep_assert_held(...) lw_kernel->lockdep_assert_held(__VA_ARGS__)
#define spin_lock_init(lock) lw_kernel->spin_lock_init(lock, #lock, LW_FRAME)
#define spin_lock(...) lw_kernel->spin_lock(__VA_ARGS__)
#define spin_unlock(...) lw_kernel->spin_unlock(__VA_ARGS__)
#define init_rwsem(lock) lw_kernel->init_rwsem(lock, #lock, LW_FRAME)
#define down_read(...) lw_kernel->down_read(__VA_ARGS__)
#define up_read(...) lw_kernel->up_read(__VA_ARGS__)
#define down_write(...) lw_kernel->down_write(__VA_ARGS__)
#define up_write(...) lw_kernel->up_write(__VA_ARGS__)

/* Waiting.  Who makes a condition true calls wake_up(); sleepers look at it again then. */
#define init_waitqueue_head(queue) lw_kernel->init_waitqueue_head(queue, #queue, LW_FRAME)
#define wake_up(...) lw_kernel->wake_up(__VA_ARGS__)
#define wake_up_all(queue) wake_up(queue)
#define might_sleep(...) lw_kernel->might_sleep(__VA_ARGS__)
#define cond_resched(...) lw_kernel->cond_resched(__VA_ARGS__)
#define dma_fence_wait(...) lw_kernel->dma_fence_wait(__VA_ARGS__)

/* As in the kernel: 0, or -EINTR, which an injected failure brings about. */
#define lw_wait_event(queue, condition, interruptible)                                            \
    ({                                                                                            \
        int lw_answer = 0;                                                                        \
        might_sleep();                                                                            \
        while (!lw_answer) {                                                                      \
            uint64_t lw_prepared = lw_kernel->prepare_to_wait(&(queue));                          \
            if (condition)                                                                        \
                break;                                                                            \
            lw_answer = lw_kernel->schedule(&(queue), lw_prepared, interruptible);                \
        }                                                                                         \
        lw_answer;                                                                                \
    })
#define wait_event(queue, condition) ((void)lw_wait_event(queue, condition, false))
#define wait_event_interruptible(queue, condition) lw_wait_event(queue, condition, true)

/* Memory */
#define kmalloc(size, flags) (lw_kernel->kmalloc)(size, flags, __func__)
#define kzalloc(size, flags) kmalloc(size, (flags) | __GFP_ZERO)
#define kcalloc(count, size, flags) lw_kcalloc(count, size, (flags) | __GFP_ZERO, __func__)
#define kfree(...) lw_kernel->kfree(__VA_ARGS__)

static inline void *lw_kcalloc(size_t count, size_t size, gfp_t flags, const char *where)
{
    size_t total;

    if (__builtin_mul_overflow(count, size, &total))
        return NULL;
    return (lw_kernel->kmalloc)(total, flags, where);
}

/* Address spaces */
#define handle_mm_fault(...) lw_kernel->handle_mm_fault(__VA_ARGS__)
#define mmget_not_zero(...) lw_kernel->mmget_not_zero(__VA_ARGS__)
#define mmput(...) lw_kernel->mmput(__VA_ARGS__)
#define mmap_read_lock(...) lw_kernel->mmap_read_lock(__VA_ARGS__)
#define mmap_read_unlock(...) lw_kernel->mmap_read_unlock(__VA_ARGS__)
#define pte_mksoft_dirty(...) lw_kernel->pte_mksoft_dirty(__VA_ARGS__)
#define vma_lookup(...) lw_kernel->vma_lookup(__VA_ARGS__)

/* Notifiers */
#define mmu_interval_notifier_insert(notifier, mm, start, length, ops)                            \
    lw_kernel->mmu_interval_notifier_insert(notifier, mm, start, length, ops, LW_FRAME)
#define mmu_interval_notifier_remove(...) lw_kernel->mmu_interval_notifier_remove(__VA_ARGS__)
#define mmu_interval_read_begin(...) lw_kernel->mmu_interval_read_begin(__VA_ARGS__)
#define mmu_interval_read_retry(...) lw_kernel->mmu_interval_read_retry(__VA_ARGS__)
#define mmu_interval_check_retry(...) lw_kernel->mmu_interval_check_retry(__VA_ARGS__)
#define mmu_interval_set_seq(...) lw_kernel->mmu_interval_set_seq(__VA_ARGS__)
#define mmu_notifier_register(notifier, mm) lw_kernel->mmu_notifier_register(notifier, mm, LW_FRAME)
#define mmu_notifier_unregister(...) lw_kernel->mmu_notifier_unregister(__VA_ARGS__)
#define mmu_notifier_get(ops, mm) lw_kernel->mmu_notifier_get(ops, mm, LW_FRAME)
#define mmu_notifier_put(...) lw_kernel->mmu_notifier_put(__VA_ARGS__)
#define mmu_notifier_synchronize(...) lw_kernel->mmu_notifier_synchronize(__VA_ARGS__)

/* Pages */
#define hmm_range_fault(...) lw_kernel->hmm_range_fault(__VA_ARGS__)
#define hmm_range_fault_unlocked_timeout(...)                                                     \
    lw_kernel->hmm_range_fault_unlocked_timeout(__VA_ARGS__)
#define pin_user_pages(...) lw_kernel->pin_user_pages(__VA_ARGS__)
#define unpin_user_page(...) lw_kernel->unpin_user_page(__VA_ARGS__)
#define get_page(...) lw_kernel->get_page(__VA_ARGS__)
#define put_page(...) lw_kernel->put_page(__VA_ARGS__)
#define dma_map_page(...) lw_kernel->dma_map_page(__VA_ARGS__)
#define dma_unmap_page(...) lw_kernel->dma_unmap_page(__VA_ARGS__)

/* Device memory and migration */
#define alloc_device_page(...) lw_kernel->alloc_device_page(__VA_ARGS__)
#define alloc_page(...) lw_kernel->alloc_page(__VA_ARGS__)
#define free_page(...) lw_kernel->free_page(__VA_ARGS__)
#define copy_page(...) lw_kernel->copy_page(__VA_ARGS__)
#define clear_page(...) lw_kernel->clear_page(__VA_ARGS__)
#define migrate_vma_setup(...) lw_kernel->migrate_vma_setup(__VA_ARGS__)
#define migrate_vma_pages(...) lw_kernel->migrate_vma_pages(__VA_ARGS__)
#define migrate_vma_finalize(...) lw_kernel->migrate_vma_finalize(__VA_ARGS__)
#define device_pages(...) lw_kernel->device_pages(__VA_ARGS__)
#define address_of_device_page(...) lw_kernel->address_of_device_page(__VA_ARGS__)
#define make_device_exclusive_range(...) lw_kernel->make_device_exclusive_range(__VA_ARGS__)

/* The hardware */
#define device_map(...) lw_kernel->device_map(__VA_ARGS__)
#define device_unmap(...) lw_kernel->device_unmap(__VA_ARGS__)
#define device_flush(...) lw_kernel->device_flush(__VA_ARGS__)
#define device_local_address(...) lw_kernel->device_local_address(__VA_ARGS__)
#define device_test_young(...) lw_kernel->device_test_young(__VA_ARGS__)
#define device_clear_young(...) lw_kernel->device_clear_young(__VA_ARGS__)
#define device_share(...) lw_kernel->device_share(__VA_ARGS__)
#define device_unshare(...) lw_kernel->device_unshare(__VA_ARGS__)

#endif
