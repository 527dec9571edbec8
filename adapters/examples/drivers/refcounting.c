/* The refcounting driver: buffers that the device works on are counted, as amdgpu's userptrs are.
 *
 * Each buffer has an interval subscription of its own.  A job may start once all its buffers are
 * valid at one moment, and counts them as in flight from then on.  The lock makes the check and
 * the counting one step for buffer_invalidate(), which holds it until its buffer is idle: nobody
 * can submit more work meanwhile.  The device itself never faults.
 */
#include "lastwriter_driver.h"

enum { KEYS = 256 };

struct context {
    struct lw_device *device;
    struct mm_struct *mm;
    struct mutex lock; /* protects the device's tables, and what buffers have of them */
    struct buffer *buffers[KEYS];
};

struct buffer {
    struct context *context;
    struct mmu_interval_notifier notifier;
    wait_queue_head_t idle; /* woken when the device is done with it */
    unsigned int in_flight; /* jobs that the device may be working on */
    unsigned int key;
    unsigned long start, end;
    bool write;
    bool valid;        /* the device's table has its pages */
    dma_addr_t *pages; /* as the table has them; 0: none */
    unsigned long *pfns;
};

static unsigned long buffer_pages(const struct buffer *buffer)
{
    return (buffer->end - buffer->start) / PAGE_SIZE;
}

/* Drop the translations of an idle buffer; the caller holds the lock. */
static void buffer_zap(struct buffer *buffer)
{
    struct lw_device *device = buffer->context->device;
    unsigned long count = 0, i;

    while (count < buffer_pages(buffer) && buffer->pages[count])
        device_unmap(device, buffer->key, buffer->start + count++ * PAGE_SIZE);
    if (count)
        device_flush(device, buffer->start, buffer->start + count * PAGE_SIZE);
    for (i = 0; i < count; i++) {
        dma_unmap_page(device, buffer->pages[i]);
        buffer->pages[i] = 0;
    }
    buffer->valid = false;
}

/* ---- Notifier ---- */

/* Take the lock while the buffer is idle; false if that would be to sleep and may not. */
static bool buffer_lock_idle(struct buffer *buffer, bool blockable)
{
    struct mutex *lock = &buffer->context->lock;

    if (blockable) {
        mutex_lock(lock);
        wait_event(buffer->idle, !buffer->in_flight);
        return true;
    }
    if (!mutex_trylock(lock))
        return false;
    if (buffer->in_flight) {
        mutex_unlock(lock);
        return false;
    }
    return true;
}

static bool buffer_invalidate(struct mmu_interval_notifier *notifier,
                              const struct mmu_notifier_range *range, unsigned long cur_seq)
{
    struct buffer *buffer = container_of(notifier, struct buffer, notifier);

    if (!buffer_lock_idle(buffer, mmu_notifier_range_blockable(range)))
        return false;
    mmu_interval_set_seq(notifier, cur_seq);
    buffer_zap(buffer);
    mutex_unlock(&buffer->context->lock);
    return true;
}

static const struct mmu_interval_notifier_ops buffer_ops = { .invalidate = buffer_invalidate };

/* ---- Validation ---- */

/* What the CPU's table has for a buffer, or a negative errno. */
static int buffer_collect(struct buffer *buffer, struct hmm_range *range)
{
    int answer;

    do {
        memset(buffer->pfns, 0, buffer_pages(buffer) * sizeof(buffer->pfns[0]));
        range->notifier_seq = mmu_interval_read_begin(range->notifier);
        mmap_read_lock(buffer->context->mm);
        answer = hmm_range_fault(range);
        mmap_read_unlock(buffer->context->mm);
    } while (answer == -EBUSY);
    return answer;
}

/* Let the device's table have what the CPU's has; the caller holds the lock. */
static int buffer_install(struct buffer *buffer)
{
    struct lw_device *device = buffer->context->device;
    unsigned long i;

    for (i = 0; i < buffer_pages(buffer); i++) {
        buffer->pages[i] = dma_map_page(device, hmm_pfn_to_page(buffer->pfns[i]));
        if (!buffer->pages[i]) {
            buffer_zap(buffer);
            return -ENOMEM;
        }
        device_map(device, buffer->key, buffer->start + i * PAGE_SIZE, buffer->pages[i],
                   buffer->write && (buffer->pfns[i] & HMM_PFN_WRITE));
    }
    buffer->valid = true;
    return 0;
}

/* Collect, and install unless the buffer was invalidated meanwhile. */
static int buffer_populate(struct buffer *buffer)
{
    struct hmm_range range = {
        .notifier = &buffer->notifier,
        .start = buffer->start,
        .end = buffer->end,
        .hmm_pfns = buffer->pfns,
        .default_flags = HMM_PFN_REQ_FAULT | (buffer->write ? HMM_PFN_REQ_WRITE : 0),
    };
    struct mutex *lock = &buffer->context->lock;
    int answer;

again:
    answer = buffer_collect(buffer, &range);
    if (answer)
        return answer;
    mutex_lock(lock);
    if (mmu_interval_read_retry(&buffer->notifier, range.notifier_seq)) {
        mutex_unlock(lock);
        goto again;
    }
    answer = buffer_install(buffer);
    mutex_unlock(lock);
    return answer;
}

/* Let the device's table have a buffer's pages, unless it still has them. */
static int buffer_validate(struct buffer *buffer)
{
    struct mm_struct *mm = buffer->context->mm;
    int answer;

    if (buffer->valid)
        return 0;
    if (!mmget_not_zero(mm))
        return -EFAULT;
    answer = buffer_populate(buffer);
    mmput(mm);
    /* User space learns that its range is bad, not in which way. */
    return answer == -EPERM ? -EFAULT : answer;
}

/* ---- Buffers ---- */

static void buffer_free(struct buffer *buffer)
{
    kfree(buffer->pages);
    kfree(buffer->pfns);
    kfree(buffer);
}

/* Tear down an idle buffer, once no callback can come any more. */
static void buffer_destroy(struct buffer *buffer)
{
    mmu_interval_notifier_remove(&buffer->notifier);
    mutex_lock(&buffer->context->lock);
    buffer_zap(buffer);
    mutex_unlock(&buffer->context->lock);
    buffer_free(buffer);
}

static struct buffer *buffer_create(struct context *context, unsigned int key,
                                    unsigned long start, unsigned long end, bool write)
{
    unsigned long pages = (end - start) / PAGE_SIZE;
    struct buffer *buffer = kzalloc(sizeof(*buffer), GFP_KERNEL);

    if (!buffer)
        return NULL;
    buffer->context = context;
    init_waitqueue_head(&buffer->idle);
    buffer->key = key;
    buffer->start = start;
    buffer->end = end;
    buffer->write = write;
    buffer->pages = kcalloc(pages, sizeof(buffer->pages[0]), GFP_KERNEL);
    buffer->pfns = kcalloc(pages, sizeof(buffer->pfns[0]), GFP_KERNEL);
    if (!buffer->pages || !buffer->pfns) {
        buffer_free(buffer);
        return NULL;
    }
    return buffer;
}

static int context_register(struct lw_device *device, unsigned int key, unsigned long start,
                            unsigned long end, bool write)
{
    struct context *context = device->priv;
    struct buffer *buffer;
    int answer;

    if (context->buffers[key])
        return -EBUSY;
    buffer = buffer_create(context, key, start, end, write);
    if (!buffer)
        return -ENOMEM;
    answer = mmu_interval_notifier_insert(&buffer->notifier, context->mm, start, end - start,
                                          &buffer_ops);
    if (answer) {
        buffer_free(buffer);
        return answer;
    }
    answer = buffer_validate(buffer);
    if (answer)
        buffer_destroy(buffer);
    else
        context->buffers[key] = buffer;
    return answer;
}

static int context_unregister(struct lw_device *device, unsigned int key)
{
    struct context *context = device->priv;
    struct buffer *buffer = context->buffers[key];

    if (!buffer)
        return -EINVAL;
    context->buffers[key] = NULL;
    buffer_destroy(buffer);
    return 0;
}

/* ---- Work ---- */

/* Count all buffers of a job as in flight, if all are valid; the caller holds the lock. */
static bool context_start(struct context *context, const struct lw_job *job)
{
    unsigned int i;

    for (i = 0; i < job->key_count; i++)
        if (!context->buffers[job->keys[i]]->valid)
            return false;
    for (i = 0; i < job->key_count; i++)
        context->buffers[job->keys[i]]->in_flight++;
    return true;
}

static int context_submit(struct lw_device *device, struct lw_job *job)
{
    struct context *context = device->priv;
    bool started;
    unsigned int i;
    int answer;

    for (i = 0; i < job->key_count; i++)
        if (!context->buffers[job->keys[i]])
            return -EINVAL;
    do {
        for (i = 0; i < job->key_count; i++) {
            answer = buffer_validate(context->buffers[job->keys[i]]);
            if (answer)
                return answer;
        }
        /* One may have been invalidated while another was validated. */
        mutex_lock(&context->lock);
        started = context_start(context, job);
        mutex_unlock(&context->lock);
    } while (!started);
    return 0;
}

static void context_complete(struct lw_device *device, struct lw_job *job)
{
    struct context *context = device->priv;

    for (unsigned int i = 0; i < job->key_count; i++) {
        struct buffer *buffer = context->buffers[job->keys[i]];

        if (!--buffer->in_flight)
            wake_up(&buffer->idle);
    }
}

/* ---- The file ---- */

static int context_open(struct lw_device *device, struct mm_struct *mm)
{
    struct context *context = kzalloc(sizeof(*context), GFP_KERNEL);

    if (!context)
        return -ENOMEM;
    context->device = device;
    context->mm = mm;
    mutex_init(&context->lock);
    device->priv = context;
    return 0;
}

static void context_close(struct lw_device *device)
{
    struct context *context = device->priv;

    for (unsigned int key = 0; key < KEYS; key++)
        context_unregister(device, key);
    device->priv = NULL;
    kfree(context);
}

static const struct lw_driver context_driver = {
    LW_DRIVER_HEADER,
    .name = "refcounting.c",
    .model = LW_REFCOUNTING,
    .flags = LW_KEYED,
    .open = context_open,
    .close = context_close,
    .register_range = context_register,
    .unregister_range = context_unregister,
    .submit = context_submit,
    .complete = context_complete,
};

lw_module(context_driver)
