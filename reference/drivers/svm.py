"""The SVM driver: shared virtual memory of a GPU on top of drm_gpusvm, after drivers/gpu/drm/xe.

What is mirrored comes in ranges of one or two pages, which faults make.  `svm_lock` lets one fault
at a time make and remove them; under the notifier lock it is checked that a range's pages are
still there, and they are mapped.  An invalidation takes whole ranges away from the device, and an
UNMAP has them removed by the next fault, before it does anything else (D1).
"""

from __future__ import annotations

import errno

from reference.host.gpusvm import GpuSvm, GpuSvmContext, GpuSvmNotifier, GpuSvmRange
from reference.host.hardware import Device
from reference.host.kernel import Kernel
from reference.host.migrate import MIGRATE_VMA_SELECT_DEVICE_PRIVATE, MIGRATE_VMA_SELECT_SYSTEM
from reference.host.ranges import Range
from reference.host.space import AddressSpace
from reference.operations import Event

from .migrating import MigratingDriver

__all__ = ["SvmDriver"]

EVERYWHERE = 0, 1 << 47


class SvmDriver(MigratingDriver):
    """Mirrors what the device touches, and moves to its memory what it writes."""

    name = "svm"
    page_faults = True

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.svm_lock = kernel.mutex("svm_lock")
        self.gpusvm: GpuSvm | None = None
        self.garbage: list[GpuSvmRange] = []
        """Ranges of which a part or all is unmapped: added to in the callback, and taken from under
        `svm_lock`."""
        self.mapped: set[int] = set()
        """Slots that the device's page table has entries for; under the notifier lock."""

    # The file

    def open(self, mm: AddressSpace) -> int:
        size = self.kernel.page_size
        self.mm = mm
        self.gpusvm = self.kernel.drm_gpusvm_init(self, mm, 4 * size, (2 * size, size))
        self.gpusvm.driver_set_lock(self.svm_lock)
        return 0

    def close(self) -> None:
        gpusvm = self.gpusvm
        if gpusvm is None:
            return
        self.svm_lock.lock()
        gpusvm.notifier_lock()
        self.zap(*EVERYWHERE)
        gpusvm.notifier_unlock()
        gpusvm.fini()
        self.garbage.clear()
        self.svm_lock.unlock()
        self.gpusvm = None
        self.evict()

    # Notifier

    def invalidate(self, gpusvm: GpuSvm, notifier: GpuSvmNotifier, mmu_range: Range) -> None:
        """Let the device lose all of every range that is touched; the lock is held for writing."""
        for range_ in notifier.ranges_in(mmu_range.start, mmu_range.end):
            self.zap(range_.start, range_.end)
            gpusvm.range_unmap_pages(range_, GpuSvmContext(in_notifier=True))
            if mmu_range.event == Event.UNMAP:
                gpusvm.range_set_unmapped(range_, mmu_range)
                if range_ not in self.garbage:
                    self.garbage.append(range_)

    def zap(self, start: int, end: int) -> None:
        """Drop the translations of bytes `start` to `end` (exclusive); needs the notifier lock."""
        first, last = self.device.host.slot(start), self.device.host.slot(end - 1)
        slots = sorted(slot for slot in self.mapped if first <= slot <= last)
        for slot in slots:
            self.device.unmap(0, slot)
        self.mapped.difference_update(slots)
        if slots:
            self.device.flush(slots[0], slots[-1] + 1)

    # Garbage

    def collect_garbage(self, gpusvm: GpuSvm) -> None:
        """Remove the ranges that were unmapped."""
        while self.garbage:
            range_ = self.garbage[0]
            if range_.partial_unmap:
                self.evict_range(range_)
            self.remove(gpusvm, range_)

    def remove(self, gpusvm: GpuSvm, range_: GpuSvmRange) -> None:
        self.unbind(gpusvm, range_)
        gpusvm.range_remove(range_)
        # No callback comes upon it any more.
        if range_ in self.garbage:
            self.garbage.remove(range_)

    def unbind(self, gpusvm: GpuSvm, range_: GpuSvmRange) -> None:
        """Take a range away from the device."""
        gpusvm.notifier_lock()
        self.zap(range_.start, range_.end)
        gpusvm.notifier_unlock()

    def evict_range(self, range_: GpuSvmRange) -> None:
        """Bring what is left of a range home, also what nobody may access any more.

        Not by `range_evict`: it faults pages in, and stops at the first that it cannot have.
        """
        super().migrate(range_.start, range_.end, MIGRATE_VMA_SELECT_DEVICE_PRIVATE)

    # Faults

    def fault(self, address: int, write: bool) -> int:
        gpusvm = self.gpusvm
        if gpusvm is None or not self.kernel.mmget_not_zero(gpusvm.mm):
            return -errno.EFAULT
        self.svm_lock.lock()
        answer = self.handle(gpusvm, address, write)
        self.svm_lock.unlock()
        self.kernel.mmput(gpusvm.mm)
        return -errno.EFAULT if answer == -errno.ENOENT else answer

    def handle(self, gpusvm: GpuSvm, address: int, write: bool) -> int:
        """Make a range, have its pages and map them, until nothing comes in between."""
        owner = self.device.owner
        ctx = GpuSvmContext(read_only=not write, device_private_page_owner=owner)
        start, end = EVERYWHERE
        moves = write
        while True:
            self.collect_garbage(gpusvm)
            range_ = gpusvm.range_find_or_insert(address, start, end, ctx)
            if isinstance(range_, int):
                return range_
            if write and range_.read_only:
                self.unbind(gpusvm, range_)
                gpusvm.range_unmap_pages(range_, ctx)
            if moves and not range_.pages:
                # Once: what cannot be moved, or is brought home at once, is mapped where it is.
                moves = False
                super().migrate(range_.start, range_.end, MIGRATE_VMA_SELECT_SYSTEM)
            answer = gpusvm.range_get_pages(range_, ctx)
            if answer == 0:
                if self.bind(gpusvm, range_):
                    return 0
            elif answer == -errno.EOPNOTSUPP:
                gpusvm.range_evict(range_)
            elif not range_.unmapped:
                if range_.end - range_.start == self.kernel.page_size:
                    return answer
                # Some pages cannot be had, or not like this: try with the one that is needed.  A
                # part may be unmapped at any moment, so what is left must not be away.
                self.evict_range(range_)
                self.remove(gpusvm, range_)
                start = address & -self.kernel.page_size
                end = start + self.kernel.page_size

    def bind(self, gpusvm: GpuSvm, range_: GpuSvmRange) -> bool:
        """Let the device have a range; False if its pages are gone again."""
        gpusvm.notifier_lock()
        valid = gpusvm.range_pages_valid(range_)
        if valid:
            self.zap(range_.start, range_.end)
            first = self.device.host.slot(range_.start)
            for slot, page in enumerate(range_.pages, first):
                self.device.map(0, slot, page.address, page.writable)
                self.mapped.add(slot)
        gpusvm.notifier_unlock()
        return valid

    # Migration

    def migrate(self, start: int, end: int, select: int) -> int:
        """Under the lock of faults: no page comes here of a range that is being removed."""
        self.svm_lock.lock()
        moved = super().migrate(start, end, select)
        self.svm_lock.unlock()
        return moved
