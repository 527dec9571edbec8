"""What a driver may call: the kernel's services under the kernel's names.

One `Kernel` per device.  Errors are negative errnos, as there; addresses are bytes.  Every call
is a protocol point, and calling from where one may not is a broken rule on the spot.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from . import hmm, migrate
from .broken import Broken
from .locks import Mutex, ReadWriteSemaphore, SpinLock
from .notifiers import IntervalNotifier, IntervalOps, ListNotifier, NotifierOps, TwoPassOps
from .pins import pin_user_pages, unpin_user_page
from .record import What
from .space import AddressSpace
from .tasks import DYING

if TYPE_CHECKING:
    from .gpusvm import GpuSvm, GpuSvmOps
    from .hardware import Device, Job
    from .host import Host

__all__ = ["Kernel"]

AnyLock = TypeVar("AnyLock", Mutex, SpinLock, ReadWriteSemaphore)


class Kernel:
    """The services of a host for the driver of one device."""

    def __init__(self, host: Host, device: Device) -> None:
        self._host = host
        self._device = device
        self._subscriptions = 0
        self.allocations: dict[int, str] = {}
        """What the driver has allocated and not freed."""

    @property
    def page_size(self) -> int:
        return self._host.geometry.page_size

    # Locks and waiting

    def mutex(self, name: str) -> Mutex:
        """`mutex_init`."""
        return self._made(Mutex(self._host.locks, name))

    def spinlock(self, name: str) -> SpinLock:
        """`spin_lock_init`."""
        return self._made(SpinLock(self._host.locks, name))

    def rwsem(self, name: str) -> ReadWriteSemaphore:
        """`init_rwsem`."""
        return self._made(ReadWriteSemaphore(self._host.locks, name))

    def _made(self, lock: AnyLock) -> AnyLock:
        self._host.locks.tell(lock, self._device.number)
        return lock

    def might_sleep(self, what: str) -> None:
        self._host.locks.might_sleep(what)

    def wait_event(self, condition: Callable[[], bool], what: str = "wait_event") -> None:
        """Sleep until a condition holds."""
        self._host.locks.might_sleep(what)
        self._host.tasks.point(what)
        if not condition():
            self._host.locks.block(None, condition, what)

    def wait_event_interruptible(
        self, condition: Callable[[], bool], what: str = "wait_event_interruptible"
    ) -> int:
        """0, or -EINTR, which an injected failure of the wait brings about."""
        if self._host.fails("wait"):
            return -errno.EINTR
        self.wait_event(condition, what)
        return 0

    def dma_fence_wait(self, job: Job) -> None:
        """Sleep until the device is done with a job."""
        self.wait_event(lambda: job.done, f"the fence of job {job.number}")

    def cond_resched(self) -> None:
        """Give others a chance: a loop that retries calls it."""
        self._host.tasks.give_way("cond_resched")

    # Memory of the driver's own

    def kmalloc(self, what: str, *, atomic: bool = False) -> int:
        """A handle, 0 if there is no memory.  Unless `atomic` (GFP_ATOMIC) it may sleep (S8)."""
        host = self._host
        if not atomic:
            host.locks.might_sleep(f"kmalloc({what})")
            if host.tasks.task.callbacks:
                raise Broken("S8", f"kmalloc({what}) in a callback may wait for reclaim")
        if host.fails("allocation"):
            return 0
        host.record(What.ALLOCATE, what, int(not atomic))
        self._subscriptions += 1
        self.allocations[self._subscriptions] = what
        return self._subscriptions

    def kfree(self, handle: int) -> None:
        what = self.allocations.pop(handle, None)
        if what is None:
            raise Broken("W6", f"kfree of {handle}, which is not allocated")
        self._host.record(What.FREE, what)

    # Address spaces

    def mmget_not_zero(self, mm: AddressSpace) -> bool:
        """False once the last user is gone."""
        if mm.users:
            mm.users += 1
            return True
        self._host.tasks.task.denied = DYING
        return False

    def mmput(self, mm: AddressSpace) -> None:
        mm.users -= 1
        if mm.users < 0:
            raise Broken("W6", "mmput without mmget")
        self._host.tasks.point("mmput")

    def mmap_read_lock(self, mm: AddressSpace) -> None:
        self._host.tasks.point("mmap_read_lock")
        mm.mmap_lock.down_read()

    def mmap_read_unlock(self, mm: AddressSpace) -> None:
        mm.mmap_lock.up_read()
        self._host.tasks.point("mmap_read_unlock")

    def vma_range(self, mm: AddressSpace, address: int) -> tuple[int, int, bool] | None:
        """`vma_lookup`: start, end and VM_WRITE of the area at an address; needs mmap_lock."""
        if not mm.mmap_lock.held():
            raise Broken("H1", "vma_lookup is called without mmap_lock")
        host, slot = self._host, self._host.slot(address)
        area = mm.areas.get(slot)
        if area is None:
            host.deny()
            return None
        host.tasks.task.granted = len(host.history)
        first = end = slot
        while mm.areas.get(first - 1) == area:
            first -= 1
        while mm.areas.get(end) == area:
            end += 1
        return host.address(first), host.address(end), area.writable

    def handle_mm_fault(self, mm: AddressSpace, address: int, write: bool) -> int:
        """Have a page in the process's page table: 0, or -EFAULT where the area forbids it.

        Needs mmap_lock.  The page may be gone again when this returns.
        """
        self._point("handle_mm_fault")
        if not mm.mmap_lock.held():
            raise Broken("H1", "handle_mm_fault is called without mmap_lock")
        host, slot = self._host, self._host.slot(address)
        host.locks.might_sleep("handle_mm_fault")
        area = mm.areas.get(slot)
        if area is None or not area.readable:
            host.deny()
            return -errno.EFAULT
        if not mm.handle_fault(slot, write):
            return -errno.EFAULT
        host.tasks.task.granted = len(host.history)
        self._point("handle_mm_fault")
        return 0

    def pte_mksoft_dirty(self, mm: AddressSpace, address: int) -> None:
        """Have a page count as written, as the end callback may after SOFT_DIRTY."""
        self._point("pte_mksoft_dirty")
        mm.make_soft_dirty(self._host.slot(address))

    # Notifiers

    def mmu_interval_notifier_insert(
        self, ops: IntervalOps | TwoPassOps, mm: AddressSpace, start: int, length: int
    ) -> IntervalNotifier | int:
        """A new subscription, or a negative errno."""
        self._point("mmu_interval_notifier_insert")
        notifier = IntervalNotifier(self._host.next_subscription(), ops, start, start + length)
        answer = mm.subscriptions.insert(notifier)
        if answer:
            self._host.record(What.REFUSED, self._device.number, mm.number, answer)
            if not mm.users:
                self._host.tasks.task.denied = DYING
            return answer
        self._inserted(notifier.number, mm, start, start + length, notifier.invalidate_seq)
        return notifier

    def _inserted(self, number: int, mm: AddressSpace, start: int, end: int, sequence: int) -> None:
        host = self._host
        first, last = host.pages_of(host.new_range(mm, start, end, 0))
        host.record(What.INSERT, number, self._device.number, mm.number, first, last, sequence)
        host.live_subscriptions.add(number)
        host.tasks.point("inserted")

    def mmu_interval_notifier_remove(self, notifier: IntervalNotifier) -> None:
        self._point("mmu_interval_notifier_remove")
        if notifier.mm is None:
            raise Broken("I14", "a subscription is removed that is not inserted")
        notifier.mm.subscriptions.remove(notifier)
        self._host.live_subscriptions.discard(notifier.number)

    def mmu_interval_read_begin(self, notifier: IntervalNotifier) -> int:
        self._point("mmu_interval_read_begin")
        if notifier.mm is None:
            raise Broken("I2", "mmu_interval_read_begin before the subscription is inserted")
        sequence = notifier.mm.subscriptions.read_begin(notifier)
        self._host.record(What.READ_BEGIN, notifier.number, sequence)
        self._host.tasks.point("mmu_interval_read_begin")
        return sequence

    def mmu_interval_read_retry(self, notifier: IntervalNotifier, sequence: int) -> bool:
        answer = notifier.invalidate_seq != sequence
        self._host.record(What.READ_RETRY, notifier.number, sequence, int(answer))
        self._host.tasks.point("mmu_interval_read_retry")
        return answer

    def mmu_interval_check_retry(self, notifier: IntervalNotifier, sequence: int) -> bool:
        """True is final; false says nothing, since it is asked without the user lock (I11)."""
        self._point("mmu_interval_check_retry")
        answer = notifier.invalidate_seq != sequence
        self._host.record(What.CHECK_RETRY, notifier.number, sequence, int(answer))
        return answer

    def mmu_interval_set_seq(self, notifier: IntervalNotifier, sequence: int) -> None:
        self._host.record(What.SET_SEQUENCE, notifier.number, sequence)
        notifier.invalidate_seq = sequence

    def mmu_notifier_register(self, notifier: ListNotifier, mm: AddressSpace) -> int:
        self._point("mmu_notifier_register")
        notifier.number = self._host.next_subscription()
        answer = mm.subscriptions.register(notifier)
        if answer == 0:
            if notifier.is_asked_for_young:
                self._device.keep_young()
            self._inserted(notifier.number, mm, 0, (1 << 64) - 1, 0)
        return answer

    def mmu_notifier_unregister(self, notifier: ListNotifier) -> None:
        self._point("mmu_notifier_unregister")
        if notifier.mm is None:
            raise Broken("L4", "a notifier is unregistered that is not registered")
        if notifier.ops is not None:
            raise Broken("L5", "a notifier of mmu_notifier_get is unregistered, and not put")
        notifier.mm.subscriptions.unregister(notifier)
        self._host.live_subscriptions.discard(notifier.number)

    def mmu_notifier_get(self, ops: NotifierOps, mm: AddressSpace) -> ListNotifier | int:
        """The notifier of an address space and these operations (L5), or a negative errno."""
        self._point("mmu_notifier_get")
        notifier = mm.subscriptions.get(ops)
        if isinstance(notifier, int):
            return notifier
        if notifier.users == 1:
            notifier.number = self._host.next_subscription()
            self._inserted(notifier.number, mm, 0, (1 << 64) - 1, 0)
        self._host.gets[notifier.number] += 1
        self._host.record(What.OBTAINED, notifier.number, self._device.number)
        return notifier

    def mmu_notifier_put(self, notifier: ListNotifier) -> None:
        """Gives back what `mmu_notifier_get` gave, or `mmu_notifier_register` made.

        It does not sleep.  After the last one `free_notifier` is called, later (L6).
        """
        host, mm = self._host, notifier.mm
        if mm is None or not notifier.users:
            raise Broken("L5", "mmu_notifier_put of a notifier without users")
        if notifier.free_notifier is None:
            raise Broken("L6", "mmu_notifier_put of a notifier without free_notifier")
        self._point("mmu_notifier_put")
        host.record(What.DROPPED, notifier.number, self._device.number, notifier.users - 1)
        if notifier.ops is not None:
            host.gets[notifier.number] -= 1
        mm.subscriptions.put(notifier)
        self._point("mmu_notifier_put")

    def mmu_notifier_synchronize(self) -> None:
        """Sleeps until all that was put for the last time is freed."""
        self._point("mmu_notifier_synchronize")
        self._host.unlinked.synchronize()

    # Pages

    def hmm_range_fault(self, range_: hmm.HmmRange) -> int:
        self._point("hmm_range_fault")
        return hmm.hmm_range_fault(self._host, self._device, range_)

    def hmm_range_fault_unlocked_timeout(self, range_: hmm.HmmRange, timeout: int) -> int:
        """Takes mmap_lock and begins read sections itself; `notifier_seq` is that of the last.

        A `timeout` of 0 means that only a result ends it (H11).
        """
        self._point("hmm_range_fault_unlocked_timeout")
        return hmm.hmm_range_fault_unlocked_timeout(
            self._host, self._device, range_, timeout, self.mmu_interval_read_begin
        )

    def pin_user_pages(
        self, mm: AddressSpace, start: int, count: int, *, write: bool, longterm: bool = False
    ) -> list[int] | int:
        """Page frame numbers of `count` pages, each pinned, or a negative errno; all or none."""
        self._point("pin_user_pages")
        device = self._device.number
        return pin_user_pages(
            self._host, mm, start, count, write=write, longterm=longterm, device=device
        )

    def unpin_user_page(self, pfn: int) -> None:
        unpin_user_page(self._host, pfn, device=self._device.number)
        self._point("unpin_user_page")

    def get_page(self, pfn: int) -> None:
        frame = self._host.frame(pfn)
        if not frame.references:
            raise Broken("W6", f"get_page of frame {pfn}, which is free")
        self._host.record(What.GET, pfn)
        self._host.held[pfn] += 1
        frame.pool.get(frame)

    def put_page(self, pfn: int) -> None:
        if not self._host.held[pfn]:
            raise Broken("W6", f"put_page of frame {pfn}, of which the driver has no reference")
        self._host.held[pfn] -= 1
        self._host.record(What.PUT, pfn)
        self._host.put(self._host.frame(pfn))

    def set_page_dirty_lock(self, pfn: int) -> None:
        """Mark a page dirty under its lock, which reclaim and migration hold as they unmap it."""
        host, frame = self._host, self._host.frame(pfn)
        host.locks.might_sleep("set_page_dirty_lock")
        if frame.locked is not None:
            host.locks.block(None, lambda: frame.locked is None, f"the lock of page {pfn}")
        frame.dirty = True
        host.tasks.point("set_page_dirty_lock")

    def dma_map_page(self, pfn: int) -> int:
        """A DMA address for a frame of system memory; 0 if it cannot be mapped."""
        if self._host.fails("allocation"):
            return 0
        return self._device.dma_map(self._host.frame(pfn))

    def dma_unmap_page(self, address: int) -> None:
        if not self._device.dma_unmap(address):
            raise Broken("W6", f"dma_unmap_page of address {address}, which is not mapped")

    # Device memory and migration

    def alloc_device_page(self) -> int:
        """The number of a free frame of the device's memory; 0 if it is full."""
        failed = self._host.fails("allocation")
        frame = None if failed else self._device.memory.allocate()
        if frame is None:
            self._host.record(What.FULL, self._device.number)
        return 0 if frame is None else frame.number

    def alloc_page(self) -> int:
        """The number of a free frame of system memory; 0 if there is none."""
        if self._host.fails("allocation"):
            return 0
        return self._host.allocate().number

    def free_page(self, pfn: int) -> None:
        """Give back a frame of `alloc_device_page` or `alloc_page` that was not used."""
        frame = self._host.frame(pfn)
        if frame.references:
            raise Broken("W6", f"free_page of frame {pfn}, which is in use")
        self._host.free_unused(frame)

    def copy_page(self, source: int, target: int) -> int:
        """Copy a frame: 0, or -EIO if the copy engine fails."""
        host = self._host
        host.tasks.point("copy_page")
        if host.fails("copy"):
            return -errno.EIO
        host.record(What.COPY, source, target)
        old, new = host.frame(source), host.frame(target)
        new.load(old.contents())
        return 0

    def clear_page(self, pfn: int) -> None:
        self._host.frame(pfn).clear()

    def migrate_vma_setup(self, args: migrate.MigrateVma) -> int:
        self._point("migrate_vma_setup")
        return migrate.migrate_vma_setup(self._host, self._device, args)

    def migrate_vma_pages(self, args: migrate.MigrateVma) -> None:
        self._point("migrate_vma_pages")
        migrate.migrate_vma_pages(self._host, self._device, args)

    def migrate_vma_finalize(self, args: migrate.MigrateVma) -> None:
        self._point("migrate_vma_finalize")
        migrate.migrate_vma_finalize(self._host, self._device, args)

    def device_pages(self) -> list[int]:
        """Frame numbers of the device's memory that are in use, for eviction."""
        return sorted(self._device.memory.live)

    def address_of_device_page(self, pfn: int) -> tuple[AddressSpace, int] | None:
        """An address space and address at which a page in device memory is mapped."""
        places = sorted(
            (entry.space.number, entry.slot) for entry in self._host.frame(pfn).mappings
        )
        if not places:
            return None
        return self._host.spaces[places[0][0]], self._host.address(places[0][1])

    def make_device_exclusive_range(
        self, mm: AddressSpace, start: int, end: int, owner: object
    ) -> list[int]:
        """Per page the frame that is now the device's alone, or 0 (X1); needs mmap_lock."""
        self._point("make_device_exclusive_range")
        from .exclusive import make_exclusive  # noqa: PLC0415

        return make_exclusive(self._host, self._device, mm, start, end, owner)

    # Shared virtual memory of DRM drivers

    def drm_gpusvm_init(
        self, ops: GpuSvmOps, mm: AddressSpace, notifier_size: int, chunk_sizes: Sequence[int]
    ) -> GpuSvm:
        """Sizes are bytes and powers of two; of chunks the last is that of a page (D1)."""
        from .gpusvm import GpuSvm  # noqa: PLC0415 (only for those who use it)

        device = self._device
        return GpuSvm(self._host, device, self, ops, mm, notifier_size, chunk_sizes)

    def _point(self, where: str) -> None:
        self._host.tasks.point(where)
