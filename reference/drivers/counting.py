"""The counting driver: a faulting mirror that counts the invalidations under way, as KVM's does.

A list notifier tells of start and end of every invalidation.  While any is under way no address
in the hull of their ranges may be given a translation; afterwards the sequence tells that there
was one (K1).  The callbacks cannot be refused, since a notifier with an end callback must accept
every start (B7): so the lock is one that does not sleep.
"""

from __future__ import annotations

import errno

from reference.host.hardware import Device
from reference.host.kernel import Kernel
from reference.host.notifiers import ListNotifier
from reference.host.ranges import Range
from reference.host.space import AddressSpace

from .driver import Driver

__all__ = ["CountingDriver", "Invalidations"]


class Invalidations:
    """Those under way: their count and hull, and a sequence that grows with each end (K1).

    Not locked: the caller holds the lock under which it commits what it has collected.
    """

    def __init__(self) -> None:
        self.count = 0
        self.start = 0
        self.end = 0
        """The hull of the ranges, the end exclusive; it is kept until the count is zero."""
        self.sequence = 0

    def begin(self, start: int, end: int) -> None:
        if self.count:
            start, end = min(start, self.start), max(end, self.end)
        self.start, self.end = start, end
        self.count += 1

    def finish(self) -> None:
        self.sequence += 1
        self.count -= 1

    def retry(self, sequence: int, start: int, end: int) -> bool:
        """Whether what was collected of a range since `sequence` was read may be out of date."""
        under_way = self.count > 0 and start < self.end and self.start < end
        return under_way or self.sequence != sequence


class CountingDriver(Driver):
    """Mirrors the whole address space; its pages stay in system memory."""

    name = "counting"
    page_faults = True

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.lock = kernel.spinlock("mirror lock")
        self.invalidations = Invalidations()
        self.notifier = ListNotifier()
        self.notifier.invalidate_range_start = self.invalidate_range_start
        self.notifier.invalidate_range_end = self.invalidate_range_end
        self.notifier.release = self.release
        self.mm: AddressSpace | None = None
        self.entries: dict[int, int] = {}
        """DMA address by page address, as the device's table has it."""

    # The file

    def open(self, mm: AddressSpace) -> int:
        answer = self.kernel.mmu_notifier_register(self.notifier, mm)
        if answer == 0:
            self.mm = mm
        return answer

    def close(self) -> None:
        if self.mm is not None:
            self.kernel.mmu_notifier_unregister(self.notifier)
        self.mm = None
        # Removed between a start and its end, the notifier never hears of the end.
        self.invalidations = Invalidations()

    def release(self) -> None:
        self.lock.lock()
        self.zap(0, 1 << 47)
        self.lock.unlock()

    # Notifier

    def invalidate_range_start(self, range_: Range) -> int:
        self.lock.lock()
        self.invalidations.begin(range_.start, range_.end)
        self.zap(range_.start, range_.end)
        self.lock.unlock()
        return 0

    def invalidate_range_end(self, range_: Range) -> None:
        self.lock.lock()
        self.invalidations.finish()
        self.lock.unlock()

    def zap(self, start: int, end: int) -> None:
        """Drop the translations of a range; the caller holds the lock."""
        addresses = [address for address in self.entries if start <= address < end]
        slots = [self.device.host.slot(address) for address in addresses]
        for slot in slots:
            self.device.unmap(0, slot)
        if slots:
            self.device.flush(min(slots), max(slots) + 1)
        for address in addresses:
            self.kernel.dma_unmap_page(self.entries.pop(address))

    # Faults

    def fault(self, address: int, write: bool) -> int:
        mm = self.mm
        if mm is None or not self.kernel.mmget_not_zero(mm):
            return -errno.EFAULT
        answer = self.populate(mm, address & -self.kernel.page_size, write)
        self.kernel.mmput(mm)
        return answer

    def populate(self, mm: AddressSpace, start: int, write: bool) -> int:
        """Look the page up, and install it unless it was, or is being, invalidated."""
        while True:
            sequence = self.invalidations.sequence
            pinned = self.kernel.pin_user_pages(mm, start, 1, write=write)
            if isinstance(pinned, int):
                return pinned
            self.lock.lock()
            again = self.invalidations.retry(sequence, start, start + self.kernel.page_size)
            answer = 0 if again else self.install(start, pinned[0], write)
            self.lock.unlock()
            # From here on it is the notifier that keeps the translation true.
            self.kernel.unpin_user_page(pinned[0])
            if not again:
                return answer
            self.kernel.wait_event(lambda: not self.invalidations.count, "the invalidations")

    def install(self, address: int, pfn: int, write: bool) -> int:
        """Let the device's table lead to a frame; the caller holds the lock."""
        self.zap(address, address + self.kernel.page_size)
        dma = self.kernel.dma_map_page(pfn)
        if not dma:
            return -errno.ENOMEM
        self.entries[address] = dma
        self.device.map(0, self.device.host.slot(address), dma, write)
        return 0
