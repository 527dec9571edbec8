"""The services of `struct lw_kernel`: each translates, checks, and calls what Python drivers call.

A method is named as its service and is given the driver that calls, then the arguments of C.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from reference.host.broken import Broken
from reference.host.hardware import LOCAL, Job
from reference.host.hmm import HmmRange
from reference.host.locks import Lock, Mutex, ReadWriteSemaphore, SpinLock
from reference.host.migrate import MigrateVma
from reference.host.space import AddressSpace

from .layouts import HmmRangeStruct, JobStruct, MigrateStruct, NotifierStruct, VmaStruct
from .pointers import required, set_word, set_words, shared, word, words
from .structs import Interval, Notifier, WaitQueue, interval

if TYPE_CHECKING:
    from .driver import CDriver

__all__ = ["Services"]

T = TypeVar("T")
_FOLL_WRITE, _FOLL_LONGTERM = 1 << 0, 1 << 8


class Services:
    """Called from C, through `Gate`, which sees to errors."""

    # Arguments

    def _find(self, driver: CDriver, address: int | None, kind: type[T], service: str) -> T:
        """What a structure of C that begins with its handle stands for."""
        number = word(required(address, service))
        return driver.handles.find(number, kind, service)

    def _mm(self, driver: CDriver, number: int | None, service: str) -> AddressSpace:
        return driver.handles.find(number, AddressSpace, service)

    def _device(self, driver: CDriver, address: int | None, service: str) -> CDriver:
        """The driver of the device that a `struct lw_device *` is."""
        found = driver.library.drivers.get(address or 0)
        if found is None:
            raise Broken("W6", f"{service} of {address or 0:#x}, which is no device")
        return found

    def _slot(self, driver: CDriver, address: int, service: str) -> int:
        """The page slot of an address that has to be one of the arena's."""
        host = driver.device.host
        slot = host.slot(address)
        if not 0 <= slot < host.geometry.pages:
            raise Broken("W6", f"{service} at address {address:#x}, where nothing can be mapped")
        return slot

    def _owner(self, driver: CDriver, number: int | None, service: str) -> object | None:
        return driver.handles.find(number, object, service) if number else None

    # Locks

    def mutex_init(self, driver: CDriver, lock: int | None, name: bytes, frame: int) -> None:
        made = driver.kernel.mutex(_text(name))
        set_word(shared(lock, frame, "mutex_init"), driver.handles.new(made))

    def mutex_lock(self, driver: CDriver, lock: int | None) -> None:
        self._find(driver, lock, Mutex, "mutex_lock").lock()

    def mutex_trylock(self, driver: CDriver, lock: int | None) -> bool:
        return self._find(driver, lock, Mutex, "mutex_trylock").trylock()

    def mutex_unlock(self, driver: CDriver, lock: int | None) -> None:
        self._find(driver, lock, Mutex, "mutex_unlock").unlock()

    def lockdep_assert_held(self, driver: CDriver, lock: int | None) -> None:
        found = self._find(driver, lock, Lock, "lockdep_assert_held")
        if not found.held():
            raise Broken("W3", f"{found} is not held, as lockdep_assert_held asks")

    def spin_lock_init(self, driver: CDriver, lock: int | None, name: bytes, frame: int) -> None:
        made = driver.kernel.spinlock(_text(name))
        set_word(shared(lock, frame, "spin_lock_init"), driver.handles.new(made))

    def spin_lock(self, driver: CDriver, lock: int | None) -> None:
        self._find(driver, lock, SpinLock, "spin_lock").lock()

    def spin_unlock(self, driver: CDriver, lock: int | None) -> None:
        self._find(driver, lock, SpinLock, "spin_unlock").unlock()

    def init_rwsem(self, driver: CDriver, lock: int | None, name: bytes, frame: int) -> None:
        made = driver.kernel.rwsem(_text(name))
        set_word(shared(lock, frame, "init_rwsem"), driver.handles.new(made))

    def down_read(self, driver: CDriver, lock: int | None) -> None:
        self._find(driver, lock, ReadWriteSemaphore, "down_read").down_read()

    def up_read(self, driver: CDriver, lock: int | None) -> None:
        self._find(driver, lock, ReadWriteSemaphore, "up_read").up_read()

    def down_write(self, driver: CDriver, lock: int | None) -> None:
        self._find(driver, lock, ReadWriteSemaphore, "down_write").down_write()

    def up_write(self, driver: CDriver, lock: int | None) -> None:
        self._find(driver, lock, ReadWriteSemaphore, "up_write").up_write()

    # Waiting

    def init_waitqueue_head(
        self, driver: CDriver, queue: int | None, name: bytes, frame: int
    ) -> None:
        made = WaitQueue(_text(name))
        set_word(shared(queue, frame, "init_waitqueue_head"), driver.handles.new(made))

    def wake_up(self, driver: CDriver, queue: int | None) -> None:
        self._find(driver, queue, WaitQueue, "wake_up").wakes += 1

    def prepare_to_wait(self, driver: CDriver, queue: int | None) -> int:
        """What `schedule` is to be given; nothing comes between this and the condition."""
        driver.device.host.tasks.point("wait_event")
        return self._find(driver, queue, WaitQueue, "wait_event").wakes

    def schedule(
        self, driver: CDriver, queue: int | None, prepared: int, interruptible: bool
    ) -> int:
        """Sleep until somebody has woken the queue since `prepared`; 0 or -EINTR."""
        found, kernel = self._find(driver, queue, WaitQueue, "wait_event"), driver.kernel
        wait = kernel.wait_event_interruptible if interruptible else kernel.wait_event
        return wait(lambda: found.wakes != prepared, f"wait_event({found.name})") or 0

    def might_sleep(self, driver: CDriver) -> None:
        driver.kernel.might_sleep("might_sleep")

    def cond_resched(self, driver: CDriver) -> None:
        driver.kernel.cond_resched()

    def dma_fence_wait(self, driver: CDriver, job: int | None) -> None:
        struct = JobStruct.from_address(required(job, "dma_fence_wait"))
        driver.kernel.dma_fence_wait(driver.handles.find(struct.lw_handle, Job, "dma_fence_wait"))

    # Memory

    def kmalloc(self, driver: CDriver, size: int, flags: int, where: bytes) -> int:
        return driver.memory.allocate(size, flags, _text(where))

    def kfree(self, driver: CDriver, address: int | None) -> None:
        if address:
            driver.memory.free(address)

    # Address spaces

    def mmget_not_zero(self, driver: CDriver, mm: int | None) -> bool:
        return driver.kernel.mmget_not_zero(self._mm(driver, mm, "mmget_not_zero"))

    def mmput(self, driver: CDriver, mm: int | None) -> None:
        driver.kernel.mmput(self._mm(driver, mm, "mmput"))

    def mmap_read_lock(self, driver: CDriver, mm: int | None) -> None:
        driver.kernel.mmap_read_lock(self._mm(driver, mm, "mmap_read_lock"))

    def mmap_read_unlock(self, driver: CDriver, mm: int | None) -> None:
        driver.kernel.mmap_read_unlock(self._mm(driver, mm, "mmap_read_unlock"))

    def vma_lookup(self, driver: CDriver, mm: int | None, address: int, vma: int | None) -> bool:
        found = driver.kernel.vma_range(self._mm(driver, mm, "vma_lookup"), address)
        struct = VmaStruct.from_address(required(vma, "vma_lookup"))
        if found is not None:
            struct.vm_start, struct.vm_end, struct.vm_write = found
        return found is not None

    # Notifiers

    def mmu_interval_notifier_insert(
        self,
        driver: CDriver,
        notifier: int | None,
        mm: int | None,
        start: int,
        length: int,
        ops: int | None,
        frame: int,
    ) -> int:
        service = "mmu_interval_notifier_insert"
        space = self._mm(driver, mm, service)
        made = interval(driver, shared(notifier, frame, service), required(ops, service))
        # Callbacks may come before this returns: let them find it complete.
        struct = NotifierStruct.from_address(made.address)
        struct.lw_handle, struct.mm, struct.ops = driver.handles.new(made), mm, ops
        found = driver.kernel.mmu_interval_notifier_insert(made, space, start, length)
        if isinstance(found, int):
            driver.handles.drop(struct.lw_handle)
            struct.lw_handle = 0
            return found
        made.notifier = found
        return 0

    def mmu_interval_notifier_remove(self, driver: CDriver, notifier: int | None) -> None:
        service = "mmu_interval_notifier_remove"
        found = self._find(driver, notifier, Interval, service)
        driver.kernel.mmu_interval_notifier_remove(found.inserted(service))

    def mmu_interval_read_begin(self, driver: CDriver, notifier: int | None) -> int:
        service = "mmu_interval_read_begin"
        found = self._find(driver, notifier, Interval, service)
        return driver.kernel.mmu_interval_read_begin(found.inserted(service))

    def mmu_interval_read_retry(self, driver: CDriver, notifier: int | None, seq: int) -> bool:
        service = "mmu_interval_read_retry"
        found = self._find(driver, notifier, Interval, service)
        return driver.kernel.mmu_interval_read_retry(found.inserted(service), seq)

    def mmu_interval_check_retry(self, driver: CDriver, notifier: int | None, seq: int) -> bool:
        service = "mmu_interval_check_retry"
        found = self._find(driver, notifier, Interval, service)
        return driver.kernel.mmu_interval_check_retry(found.inserted(service), seq)

    def mmu_interval_set_seq(self, driver: CDriver, notifier: int | None, seq: int) -> None:
        service = "mmu_interval_set_seq"
        found = self._find(driver, notifier, Interval, service)
        driver.kernel.mmu_interval_set_seq(found.inserted(service), seq)

    def mmu_notifier_register(
        self, driver: CDriver, notifier: int | None, mm: int | None, frame: int
    ) -> int:
        service = "mmu_notifier_register"
        space = self._mm(driver, mm, service)
        struct = NotifierStruct.from_address(shared(notifier, frame, service))
        made = Notifier(driver, notifier or 0, required(struct.ops, service), mm or 0)
        answer = driver.kernel.mmu_notifier_register(made, space)
        if answer:
            made.forget()
        return answer

    def mmu_notifier_unregister(self, driver: CDriver, notifier: int | None) -> None:
        found = self._find(driver, notifier, Notifier, "mmu_notifier_unregister")
        driver.kernel.mmu_notifier_unregister(found)

    def mmu_notifier_get(self, driver: CDriver, ops: int | None, mm: int | None, frame: int) -> int:
        """Address of a `struct mmu_notifier`, or a negative errno (`ERR_PTR`)."""
        service = "mmu_notifier_get"
        space = self._mm(driver, mm, service)
        found = driver.library.operations(required(ops, service))
        found.driver = driver
        notifier = driver.kernel.mmu_notifier_get(found, space)
        if isinstance(notifier, int):
            return notifier
        assert isinstance(notifier, Notifier)
        return shared(notifier.address, frame, service)

    def mmu_notifier_put(self, driver: CDriver, notifier: int | None) -> None:
        found = self._find(driver, notifier, Notifier, "mmu_notifier_put")
        driver.kernel.mmu_notifier_put(found)

    def mmu_notifier_synchronize(self, driver: CDriver) -> None:
        driver.kernel.mmu_notifier_synchronize()

    # Pages

    def hmm_range_fault(self, driver: CDriver, address: int | None) -> int:
        return self._look_up(driver, address, "hmm_range_fault", driver.kernel.hmm_range_fault)

    def hmm_range_fault_unlocked_timeout(
        self, driver: CDriver, address: int | None, timeout: int
    ) -> int:
        service = "hmm_range_fault_unlocked_timeout"
        call = driver.kernel.hmm_range_fault_unlocked_timeout
        return self._look_up(driver, address, service, lambda range_: call(range_, timeout))

    def _look_up(
        self, driver: CDriver, address: int | None, service: str, call: Callable[[HmmRange], int]
    ) -> int:
        struct = HmmRangeStruct.from_address(required(address, service))
        found = self._find(driver, struct.notifier, Interval, service)
        range_ = HmmRange(
            found.inserted(service),
            struct.notifier_seq,
            struct.start,
            struct.end,
            struct.default_flags,
            struct.pfn_flags_mask,
            self._owner(driver, struct.dev_private_owner, service),
        )
        pfns = required(struct.hmm_pfns, service)
        range_.hmm_pfns = words(pfns, _pages(driver, struct.start, struct.end))
        answer = call(range_)
        struct.notifier_seq = range_.notifier_seq
        set_words(pfns, range_.hmm_pfns)
        return answer

    def pin_user_pages(
        self, driver: CDriver, mm: int | None, start: int, count: int, flags: int, pages: int | None
    ) -> int:
        service = "pin_user_pages"
        pinned = driver.kernel.pin_user_pages(
            self._mm(driver, mm, service),
            start,
            count,
            write=bool(flags & _FOLL_WRITE),
            longterm=bool(flags & _FOLL_LONGTERM),
        )
        if isinstance(pinned, int):
            return pinned
        set_words(required(pages, service), pinned)
        return count

    def unpin_user_page(self, driver: CDriver, page: int | None) -> None:
        driver.kernel.unpin_user_page(page or 0)

    def get_page(self, driver: CDriver, page: int | None) -> None:
        driver.kernel.get_page(page or 0)

    def put_page(self, driver: CDriver, page: int | None) -> None:
        driver.kernel.put_page(page or 0)

    def dma_map_page(self, driver: CDriver, device: int | None, page: int | None) -> int:
        return self._device(driver, device, "dma_map_page").kernel.dma_map_page(page or 0)

    def dma_unmap_page(self, driver: CDriver, device: int | None, address: int) -> None:
        self._device(driver, device, "dma_unmap_page").kernel.dma_unmap_page(address)

    # Device memory and migration

    def alloc_device_page(self, driver: CDriver, device: int | None) -> int:
        return self._device(driver, device, "alloc_device_page").kernel.alloc_device_page()

    def alloc_page(self, driver: CDriver) -> int:
        return driver.kernel.alloc_page()

    def free_page(self, driver: CDriver, page: int | None) -> None:
        driver.kernel.free_page(page or 0)

    def copy_page(self, driver: CDriver, target: int | None, source: int | None) -> int:
        return driver.kernel.copy_page(source or 0, target or 0)

    def clear_page(self, driver: CDriver, page: int | None) -> None:
        driver.kernel.clear_page(page or 0)

    def migrate_vma_setup(self, driver: CDriver, address: int | None) -> int:
        service = "migrate_vma_setup"
        struct = MigrateStruct.from_address(required(address, service))
        if not struct.src or not struct.dst:
            return -errno.EINVAL
        args = MigrateVma(
            self._mm(driver, struct.mm, service),
            struct.start,
            struct.end,
            struct.flags,
            self._owner(driver, struct.pgmap_owner, service),
            fault_page=struct.fault_page,
        )
        answer = driver.kernel.migrate_vma_setup(args)
        struct.lw_handle = 0 if answer else driver.handles.new(args)
        if answer == 0:
            set_words(struct.src, args.src)
            struct.cpages = args.cpages
        return answer

    def migrate_vma_pages(self, driver: CDriver, address: int | None) -> None:
        struct, args = self._migration(driver, address, "migrate_vma_pages")
        args.dst = words(struct.dst, len(args.src))
        driver.kernel.migrate_vma_pages(args)
        set_words(struct.src, args.src)

    def migrate_vma_finalize(self, driver: CDriver, address: int | None) -> None:
        struct, args = self._migration(driver, address, "migrate_vma_finalize")
        driver.handles.drop(struct.lw_handle)
        struct.lw_handle = 0
        driver.kernel.migrate_vma_finalize(args)

    def _migration(
        self, driver: CDriver, address: int | None, service: str
    ) -> tuple[MigrateStruct, MigrateVma]:
        """A migration that was set up, whose arguments are still what they were."""
        struct = MigrateStruct.from_address(required(address, service))
        args = driver.handles.find(struct.lw_handle, MigrateVma, service)
        if (struct.start, struct.end) != (args.start, args.end):
            raise Broken("W6", f"{service}: start or end has changed since migrate_vma_setup")
        for array, what in ((struct.src, "src"), (struct.dst, "dst")):
            required(array, f"{service}: {what}")
        if words(struct.src, len(args.src)) != args.src:
            raise Broken("W6", f"{service}: the driver has written to src")
        return struct, args

    def device_pages(
        self, driver: CDriver, device: int | None, pages: int | None, count: int
    ) -> int:
        service = "device_pages"
        found = self._device(driver, device, service).kernel.device_pages()[:count]
        if found:
            set_words(required(pages, service), found)
        return len(found)

    def address_of_device_page(
        self, driver: CDriver, page: int | None, mm: int | None, address: int | None
    ) -> bool:
        service = "address_of_device_page"
        place = driver.kernel.address_of_device_page(page or 0)
        if place is not None:
            set_word(required(mm, service), driver.handles.of(place[0]))
            set_word(required(address, service), place[1])
        return place is not None

    def make_device_exclusive_range(
        self,
        driver: CDriver,
        mm: int | None,
        start: int,
        end: int,
        pages: int | None,
        owner: int | None,
    ) -> int:
        service = "make_device_exclusive_range"
        space, pages = self._mm(driver, mm, service), required(pages, service)
        self._slot(driver, start, service)
        self._slot(driver, end - 1, service)
        found = driver.kernel.make_device_exclusive_range(
            space, start, end, self._owner(driver, owner, service)
        )
        set_words(pages, found)
        return len(found)

    # The hardware

    def device_map(
        self,
        driver: CDriver,
        device: int | None,
        table: int,
        address: int,
        target: int,
        writable: bool,
    ) -> None:
        of = self._device(driver, device, "device_map")
        slot = self._slot(of, address, "device_map")
        of.device.map(table, slot, target, writable)

    def device_unmap(self, driver: CDriver, device: int | None, table: int, address: int) -> None:
        of = self._device(driver, device, "device_unmap")
        of.device.unmap(table, self._slot(of, address, "device_unmap"))

    def device_flush(self, driver: CDriver, device: int | None, start: int, end: int) -> None:
        of = self._device(driver, device, "device_flush")
        host = of.device.host
        of.device.flush(host.slot(start), host.slot(end - 1) + 1)

    def device_local_address(self, driver: CDriver, device: int | None, page: int | None) -> int:
        of = self._device(driver, device, "device_local_address")
        return LOCAL | page if page and page in of.device.memory.live else 0

    def device_test_young(
        self, driver: CDriver, device: int | None, table: int, address: int
    ) -> bool:
        of = self._device(driver, device, "device_test_young")
        return of.device.test_young(table, self._slot(of, address, "device_test_young"))

    def device_clear_young(
        self, driver: CDriver, device: int | None, table: int, address: int
    ) -> bool:
        of = self._device(driver, device, "device_clear_young")
        return of.device.clear_young(table, self._slot(of, address, "device_clear_young"))

    def device_share(self, driver: CDriver, device: int | None, mm: int | None) -> None:
        of = self._device(driver, device, "device_share")
        of.device.share(self._mm(driver, mm, "device_share"))

    def device_unshare(self, driver: CDriver, device: int | None) -> None:
        self._device(driver, device, "device_unshare").device.unshare()

    def handle_mm_fault(self, driver: CDriver, mm: int | None, address: int, write: bool) -> int:
        space = self._mm(driver, mm, "handle_mm_fault")
        return driver.kernel.handle_mm_fault(space, address, write)

    def pte_mksoft_dirty(self, driver: CDriver, mm: int | None, address: int) -> None:
        driver.kernel.pte_mksoft_dirty(self._mm(driver, mm, "pte_mksoft_dirty"), address)


def _pages(driver: CDriver, start: int, end: int) -> int:
    """Number of pages in a range; 0 if it is not in the arena."""
    host = driver.device.host
    first, last = host.slot(start), host.slot(end - 1) + 1
    return last - first if 0 <= first < last <= host.geometry.pages else 0


def _text(text: bytes | None) -> str:
    return (text or b"?").decode("utf-8", "replace")
