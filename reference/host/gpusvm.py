"""drm_gpusvm: what DRM drivers share for shared virtual memory, on top of the kernel's services.

After drivers/gpu/drm/drm_gpusvm.c of Linux 6.15 and later, under its names without the prefix.
The address space is mirrored in *ranges*, which are made by faults and never split, each inside
one *notifier*, an interval subscription that is there while it has a range.  The notifier lock
keeps ranges and their pages as they are; invalidations take it for writing.  What the driver has
to do is rule D1.

Left out are the check that pages are there before a range of them is made, pages of several
devices' memories in one range, time limits, and references to ranges.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from reference.mirrors.memory import Area

from .broken import Broken
from .hardware import LOCAL
from .hmm import HMM_PFN_REQ_FAULT, HMM_PFN_REQ_WRITE, HmmRange, hmm_pfn_to_number
from .notifiers import IntervalNotifier
from .ranges import Range
from .record import What
from .space import AddressSpace

if TYPE_CHECKING:
    from .hardware import Device
    from .host import Host
    from .kernel import Kernel
    from .locks import Lock

__all__ = ["GpuSvm", "GpuSvmContext", "GpuSvmNotifier", "GpuSvmOps", "GpuSvmRange", "PagemapAddr"]


class GpuSvmContext(NamedTuple):
    """`struct drm_gpusvm_ctx`: how ranges and pages are to be had."""

    read_only: bool = False
    in_notifier: bool = False
    """The caller is the invalidate callback, which has the notifier lock for writing."""
    device_private_page_owner: object | None = None


class PagemapAddr(NamedTuple):
    """`struct drm_pagemap_addr`: where the device finds a page."""

    address: int
    """DMA address, or `LOCAL` plus a frame number."""
    writable: bool
    """The direction is DMA_BIDIRECTIONAL."""


class GpuSvmOps(Protocol):
    """`struct drm_gpusvm_ops`."""

    def invalidate(self, gpusvm: GpuSvm, notifier: GpuSvmNotifier, mmu_range: Range) -> None:
        """Called with the notifier lock held for writing, and only for what may block."""
        ...


class GpuSvmRange:
    """`struct drm_gpusvm_range`: bytes `start` to `end` (exclusive) that the device may map."""

    def __init__(self, number: int, notifier: GpuSvmNotifier, start: int, end: int) -> None:
        self.number = number
        self.notifier = notifier
        self.start = start
        self.end = end
        self.handle = 0
        """Of its memory."""
        self.pages: list[PagemapAddr] = []
        """`dma_addr`: of each page, if they are valid."""
        self.unmapped = False
        self.partial_unmap = False

    @property
    def read_only(self) -> bool:
        """Whether its pages were had for reading only."""
        return any(not page.writable for page in self.pages)


class GpuSvmNotifier:
    """`struct drm_gpusvm_notifier`: the subscription for bytes `start` to `end` (exclusive)."""

    def __init__(self, gpusvm: GpuSvm, start: int, end: int) -> None:
        self.gpusvm = gpusvm
        self.start = start
        self.end = end
        self.handle = 0
        self.notifier: IntervalNotifier
        self.ranges: list[GpuSvmRange] = []
        self.removed = False

    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
        """`drm_gpusvm_notifier_invalidate`, which refuses whatever may not block."""
        if not range_.blockable:
            return False
        self.gpusvm.invalidate(self, notifier, range_, sequence)
        return True

    def ranges_in(self, start: int, end: int) -> list[GpuSvmRange]:
        """`drm_gpusvm_for_each_range`; needs the notifier lock, or the driver's."""
        return [each for each in self.ranges if each.start < end and start < each.end]


class GpuSvm:
    """`struct drm_gpusvm`, of one device.  Answers are 0 or a negative errno.

    `chunk_sizes` are powers of two in bytes, descending, the last one that of a page.
    """

    def __init__(
        self,
        host: Host,
        device: Device,
        kernel: Kernel,
        ops: GpuSvmOps,
        mm: AddressSpace,
        notifier_size: int,
        chunk_sizes: Sequence[int],
    ) -> None:
        self._host = host
        self._device = device
        self._kernel = kernel
        self._ops = ops
        self._lock = kernel.rwsem("notifier_lock")
        self._driver_lock: Lock | None = None
        self._made = 0
        self.mm = mm
        self.notifier_size = notifier_size
        self.chunk_sizes = tuple(chunk_sizes)
        self.notifiers: list[GpuSvmNotifier] = []

    def fini(self) -> None:
        """Remove all ranges and notifiers; needs the driver's lock."""
        self._host.record(What.SVM_FINI, self._device.number)
        for notifier in list(self.notifiers):
            # First the notifier: no invalidation comes in between.
            self._kernel.mmu_interval_notifier_remove(notifier.notifier)
            notifier.removed = True
            for range_ in list(notifier.ranges):
                self.range_remove(range_)

    # Locks

    def driver_set_lock(self, lock: Lock) -> None:
        """Tell by which lock the driver keeps ranges from being made and removed meanwhile."""
        self._driver_lock = lock

    def notifier_lock(self) -> None:
        self._host.tasks.point("drm_gpusvm_notifier_lock")
        self._lock.down_read()

    def notifier_unlock(self) -> None:
        self._lock.up_read()
        self._host.tasks.point("drm_gpusvm_notifier_unlock")

    def _assert_driver_lock(self, service: str) -> None:
        if self._driver_lock is not None and not self._driver_lock.held():
            raise Broken("D1", f"{service} is called without {self._driver_lock}")

    def _assert_notifier_lock(self, service: str, *, write: bool = False) -> None:
        held = self._lock.owner is self._host.tasks.task if write else self._lock.held()
        if not held:
            how = " for writing" * write
            raise Broken("D1", f"{service} is called without {self._lock} held{how}")

    def _assert_there(self, range_: GpuSvmRange, service: str) -> None:
        if range_ not in range_.notifier.ranges:
            raise Broken("W6", f"{service} of range {range_.number}, which was removed")

    # Invalidations

    def invalidate(
        self, notifier: GpuSvmNotifier, interval: IntervalNotifier, range_: Range, sequence: int
    ) -> None:
        with self._lock.writing():
            self._kernel.mmu_interval_set_seq(interval, sequence)
            self._ops.invalidate(self, notifier, range_)

    def range_unmap_pages(self, range_: GpuSvmRange, ctx: GpuSvmContext) -> None:
        """Give the DMA addresses of a range back; the device must not have them any more."""
        if ctx.in_notifier:
            self._assert_notifier_lock("drm_gpusvm_range_unmap_pages", write=True)
            self._unmap_pages(range_)
            return
        self.notifier_lock()
        self._unmap_pages(range_)
        self.notifier_unlock()

    def _unmap_pages(self, range_: GpuSvmRange) -> None:
        for page in range_.pages:
            if not page.address & LOCAL:
                self._kernel.dma_unmap_page(page.address)
        range_.pages = []

    def range_set_unmapped(self, range_: GpuSvmRange, mmu_range: Range) -> None:
        """In the callback for UNMAP: the range is to be removed, all of it."""
        self._assert_notifier_lock("drm_gpusvm_range_set_unmapped", write=True)
        range_.unmapped = True
        if range_.start < mmu_range.start or mmu_range.end < range_.end:
            range_.partial_unmap = True
        slots = self._slots(max(range_.start, mmu_range.start), min(range_.end, mmu_range.end))
        away = [slot for slot in self._in_device_memory(range_) if slot not in slots]
        self._host.record(
            What.SVM_UNMAPPED,
            *(self._device.number, range_.number, slots.start, slots.stop, len(away)),
        )

    def _slots(self, start: int, end: int) -> range:
        return range(self._host.slot(start), self._host.slot(end - 1) + 1)

    def _in_device_memory(self, range_: GpuSvmRange) -> list[int]:
        """Slots of a range whose pages lie in the device's memory, and are not on their way."""
        if not self.mm.users:
            return []
        found = []
        for slot in self._slots(range_.start, range_.end):
            entry = self.mm.table.get(slot)
            frame = None if entry is None else entry.frame
            if frame is not None and frame.device is self._device and frame.locked is None:
                found.append(slot)
        return found

    # Ranges

    def range_find_or_insert(
        self, fault_addr: int, gpuva_start: int, gpuva_end: int, ctx: GpuSvmContext
    ) -> GpuSvmRange | int:
        """The range with an address, made if there is none, or a negative errno.

        A new one is the largest chunk inside of its area, its notifier and bytes `gpuva_start` to
        `gpuva_end` (exclusive) that is free.  -ENOENT: there is no area; -EPERM: it may not be
        written, and `read_only` is not asked for.
        """
        kernel, mm = self._kernel, self.mm
        self._host.tasks.point("drm_gpusvm_range_find_or_insert")
        self._assert_driver_lock("drm_gpusvm_range_find_or_insert")
        self._host.record(What.SVM_FIND, self._device.number, self._host.slot(fault_addr))
        if not kernel.mmget_not_zero(mm):
            return -errno.EFAULT
        notifier = self._notifier_find(fault_addr)
        new = notifier is None
        if notifier is None:
            made = self._notifier_insert(fault_addr)
            if isinstance(made, int):
                kernel.mmput(mm)
                return made
            notifier = made
        kernel.mmap_read_lock(mm)
        found = self._find_or_insert(notifier, fault_addr, (gpuva_start, gpuva_end), ctx)
        kernel.mmap_read_unlock(mm)
        if isinstance(found, int) and new:
            self._notifier_remove(notifier)
        kernel.mmput(mm)
        return found

    def _find_or_insert(
        self, notifier: GpuSvmNotifier, address: int, gpuva: tuple[int, int], ctx: GpuSvmContext
    ) -> GpuSvmRange | int:
        """With mmap_lock held."""
        host = self._host
        slot = host.slot(address)
        area = self.mm.areas.get(slot)
        if area is None or not (ctx.read_only or area.writable):
            host.deny()
            return -errno.ENOENT if area is None else -errno.EPERM
        there = notifier.ranges_in(address, address + 1)
        if there:
            return there[0]
        for size in self.chunk_sizes:
            start = address & -size
            if self._fits(notifier, area, start, start + size, gpuva):
                return self._range_insert(notifier, start, start + size)
        return -errno.EINVAL

    def _fits(
        self, notifier: GpuSvmNotifier, area: Area, start: int, end: int, gpuva: tuple[int, int]
    ) -> bool:
        """`drm_gpusvm_range_chunk_size`: whether a chunk can become a range."""
        return (
            max(notifier.start, gpuva[0]) <= start
            and end <= min(notifier.end, gpuva[1])
            and all(self.mm.areas.get(slot) == area for slot in self._slots(start, end))
            and not notifier.ranges_in(start, end)
        )

    def _range_insert(self, notifier: GpuSvmNotifier, start: int, end: int) -> GpuSvmRange | int:
        handle = self._kernel.kmalloc("a range of drm_gpusvm")
        if not handle:
            return -errno.ENOMEM
        self._made += 1
        range_ = GpuSvmRange(self._made, notifier, start, end)
        range_.handle = handle
        self.notifier_lock()
        notifier.ranges.append(range_)
        slots = self._slots(start, end)
        self._host.record(
            What.SVM_INSERT, self._device.number, range_.number, slots.start, slots.stop
        )
        self.notifier_unlock()
        if notifier not in self.notifiers:
            self.notifiers.append(notifier)
        return range_

    def range_remove(self, range_: GpuSvmRange) -> None:
        """Remove a range, and its notifier with the last; the device must not have it mapped."""
        self._assert_driver_lock("drm_gpusvm_range_remove")
        self._assert_there(range_, "drm_gpusvm_range_remove")
        notifier = range_.notifier
        self.notifier_lock()
        self._unmap_pages(range_)
        notifier.ranges.remove(range_)
        self._host.record(
            What.SVM_REMOVE,
            *(self._device.number, range_.number, *self._in_device_memory(range_)),
        )
        self.notifier_unlock()
        self._kernel.kfree(range_.handle)
        if not notifier.ranges:
            self.notifiers.remove(notifier)
            self._notifier_remove(notifier)

    # Notifiers

    def _notifier_find(self, address: int) -> GpuSvmNotifier | None:
        return next((each for each in self.notifiers if each.start <= address < each.end), None)

    def _notifier_insert(self, address: int) -> GpuSvmNotifier | int:
        kernel, start = self._kernel, address & -self.notifier_size
        handle = kernel.kmalloc("a notifier of drm_gpusvm")
        if not handle:
            return -errno.ENOMEM
        notifier = GpuSvmNotifier(self, start, start + self.notifier_size)
        notifier.handle = handle
        made = kernel.mmu_interval_notifier_insert(notifier, self.mm, start, self.notifier_size)
        if isinstance(made, int):
            kernel.kfree(handle)
            return made
        notifier.notifier = made
        return notifier

    def _notifier_remove(self, notifier: GpuSvmNotifier) -> None:
        if not notifier.removed:
            self._kernel.mmu_interval_notifier_remove(notifier.notifier)
        self._kernel.kfree(notifier.handle)

    # Pages

    def range_get_pages(self, range_: GpuSvmRange, ctx: GpuSvmContext) -> int:
        """Have the pages of a range, faulted in and mapped for DMA, unless they are valid already.

        -EFAULT and -EPERM: not all of them can be had; -EOPNOTSUPP: some are in device memory and
        some are not.  They may be gone again when this returns: see `range_pages_valid`.
        """
        self._assert_there(range_, "drm_gpusvm_range_get_pages")
        kernel, interval = self._kernel, range_.notifier.notifier
        request = HMM_PFN_REQ_FAULT | (0 if ctx.read_only else HMM_PFN_REQ_WRITE)
        owner = ctx.device_private_page_owner
        while True:
            sequence = kernel.mmu_interval_read_begin(interval)
            if self._pages_valid_unlocked(range_):
                return 0
            hmm_range = HmmRange(interval, sequence, range_.start, range_.end, request)
            hmm_range.dev_private_owner = owner
            answer = self._range_fault(hmm_range)
            if answer:
                return answer
            self.notifier_lock()
            if range_.unmapped:
                self.notifier_unlock()
                return -errno.EFAULT
            if not kernel.mmu_interval_read_retry(interval, hmm_range.notifier_seq):
                answer = self._map_pages(range_, hmm_range.hmm_pfns, ctx)
                self.notifier_unlock()
                return answer
            self.notifier_unlock()

    def _range_fault(self, hmm_range: HmmRange) -> int:
        """`hmm_range_fault` until no invalidation comes in between; 0 or a negative errno."""
        kernel = self._kernel
        if not kernel.mmget_not_zero(self.mm):
            return -errno.EFAULT
        answer = -errno.EBUSY
        while answer == -errno.EBUSY:
            kernel.mmap_read_lock(self.mm)
            answer = kernel.hmm_range_fault(hmm_range)
            kernel.mmap_read_unlock(self.mm)
            if answer == -errno.EBUSY:
                hmm_range.notifier_seq = kernel.mmu_interval_read_begin(hmm_range.notifier)
        kernel.mmput(self.mm)
        return answer

    def _map_pages(self, range_: GpuSvmRange, pfns: list[int], ctx: GpuSvmContext) -> int:
        """All pages or none; the caller has the notifier lock."""
        numbers = [hmm_pfn_to_number(pfn) for pfn in pfns]
        local = [number for number in numbers if number in self._device.memory.live]
        if local and len(local) != len(numbers):
            return -errno.EOPNOTSUPP
        for number in numbers:
            address = LOCAL | number if local else self._kernel.dma_map_page(number)
            if not address:
                self._unmap_pages(range_)
                return -errno.EFAULT
            range_.pages.append(PagemapAddr(address, not ctx.read_only))
        told = (self._device.number, range_.number, self._host.slot(range_.start))
        addresses = (page.address for page in range_.pages)
        self._host.record(What.SVM_GOT, *told, int(not ctx.read_only), *addresses)
        return 0

    def _pages_valid_unlocked(self, range_: GpuSvmRange) -> bool:
        self.notifier_lock()
        valid = bool(range_.pages)
        self.notifier_unlock()
        return valid

    def range_pages_valid(self, range_: GpuSvmRange) -> bool:
        """Whether no invalidation has taken the pages of `range_get_pages` away.

        It holds for as long as the caller has the notifier lock: that long it may map them.
        """
        self._assert_notifier_lock("drm_gpusvm_range_pages_valid")
        valid = bool(range_.pages)
        if valid:
            self._host.tasks.task.granted = len(self._host.history)
        told = (self._device.number, range_.number, self._lock.number, int(valid))
        self._host.record(What.SVM_VALID, *told)
        return valid

    def range_evict(self, range_: GpuSvmRange) -> int:
        """Bring the pages of a range home by faulting all of them in, from first to last.

        That ends at the first that cannot be had, with -EFAULT: where a part of the range is
        unmapped, the pages behind it stay where they are.
        """
        if not self._kernel.mmget_not_zero(self.mm):
            return -errno.EFAULT
        interval = range_.notifier.notifier
        sequence = self._kernel.mmu_interval_read_begin(interval)
        hmm_range = HmmRange(interval, sequence, range_.start, range_.end, HMM_PFN_REQ_FAULT)
        answer = self._range_fault(hmm_range)
        self._kernel.mmput(self.mm)
        return answer
