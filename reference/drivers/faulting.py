"""The faulting driver: an HMM mirror with memory of its own.

Translations are made by faults and dropped by every invalidation.  The sequence count of the
interval subscription tells whether what a fault has collected is still so when it is installed,
and `lock` makes that check and the installing one step for the invalidate callback (H2).
"""

from __future__ import annotations

import errno

from reference.host.hardware import LOCAL, Device
from reference.host.hmm import (
    HMM_PFN_REQ_FAULT,
    HMM_PFN_REQ_WRITE,
    HMM_PFN_WRITE,
    HmmRange,
    hmm_pfn_to_number,
)
from reference.host.kernel import Kernel
from reference.host.notifiers import IntervalNotifier
from reference.host.ranges import Range
from reference.host.space import AddressSpace
from reference.operations import Event

from .migrating import MigratingDriver

__all__ = ["FaultingDriver"]


class FaultingDriver(MigratingDriver):
    """Mirrors the whole address space."""

    name = "faulting"
    page_faults = True

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.lock = kernel.mutex("mirror lock")
        self.notifier: IntervalNotifier | None = None
        self.entries: dict[int, int] = {}
        """DMA address (0: local memory) by page address, as the device's table has it."""

    # The file

    def open(self, mm: AddressSpace) -> int:
        notifier = self.kernel.mmu_interval_notifier_insert(self, mm, 0, 1 << 47)
        if isinstance(notifier, int):
            return notifier
        self.mm, self.notifier = mm, notifier
        return 0

    def close(self) -> None:
        # While there are translations somebody has to hear of changes: first the ones, then the
        # other.  No fault makes new ones, since the device has no work any more.
        self.lock.lock()
        self.zap(0, 1 << 47)
        self.lock.unlock()
        if self.notifier is not None:
            self.kernel.mmu_interval_notifier_remove(self.notifier)
        self.notifier = None
        self.evict()

    # Notifier

    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
        if self.is_for_us(range_):
            return True
        if range_.blockable:
            self.lock.lock()
        elif not self.lock.trylock():
            return False
        self.kernel.mmu_interval_set_seq(notifier, sequence)
        self.zap(range_.start, range_.end)
        self.lock.unlock()
        return True

    def is_for_us(self, range_: Range) -> bool:
        """Exclusive access of our own leaves the page where it is, so what was collected holds.

        Our own migrations could be told apart as well (E2), but they move pages: a fault that has
        collected one must be sent back for another try.
        """
        return range_.event == Event.EXCLUSIVE and range_.owner is self.device.owner

    def zap(self, start: int, end: int) -> None:
        """Drop the translations of a range; the caller holds the lock."""
        addresses = [address for address in self.entries if start <= address < end]
        for address in addresses:
            self.device.unmap(0, self.device.host.slot(address))
        if addresses:
            slots = [self.device.host.slot(address) for address in addresses]
            self.device.flush(min(slots), max(slots) + 1)
        for address in addresses:
            dma = self.entries.pop(address)
            if dma:
                self.kernel.dma_unmap_page(dma)

    # Faults

    def fault(self, address: int, write: bool) -> int:
        mm = self.mm
        if mm is None or self.notifier is None or not self.kernel.mmget_not_zero(mm):
            return -errno.EFAULT
        start = address & -self.kernel.page_size
        flags = HMM_PFN_REQ_FAULT | (HMM_PFN_REQ_WRITE if write else 0)
        answer = self.populate(mm, self.notifier, start, flags)
        self.kernel.mmput(mm)
        return answer

    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        """Collect, and install unless the range was invalidated meanwhile."""
        while True:
            answer, range_ = self.collect(mm, notifier, start, flags, self.device.owner)
            if answer:
                return answer
            self.lock.lock()
            if not self.kernel.mmu_interval_read_retry(notifier, range_.notifier_seq):
                answer = self.install(start, range_.hmm_pfns[0])
                self.lock.unlock()
                return answer
            self.lock.unlock()

    def collect(
        self,
        mm: AddressSpace,
        notifier: IntervalNotifier,
        start: int,
        flags: int,
        owner: object | None,
    ) -> tuple[int, HmmRange]:
        """What the CPU's table has for a page, or a negative errno."""
        while True:
            range_ = HmmRange(
                notifier,
                self.kernel.mmu_interval_read_begin(notifier),
                start,
                start + self.kernel.page_size,
                default_flags=flags,
                dev_private_owner=owner,
            )
            self.kernel.mmap_read_lock(mm)
            answer = self.kernel.hmm_range_fault(range_)
            self.kernel.mmap_read_unlock(mm)
            if answer != -errno.EBUSY:
                return answer, range_

    def install(self, address: int, pfn: int) -> int:
        """Let the device's table have what the CPU's has; the caller holds the lock."""
        number, writable = hmm_pfn_to_number(pfn), bool(pfn & HMM_PFN_WRITE)
        self.zap(address, address + self.kernel.page_size)
        slot = self.device.host.slot(address)
        if number in self.device.memory.live:
            self.entries[address] = 0
            self.device.map(0, slot, LOCAL | number, writable)
            return 0
        dma = self.kernel.dma_map_page(number)
        if not dma:
            return -errno.ENOMEM
        self.entries[address] = dma
        self.device.map(0, slot, dma, writable)
        return 0

    # Exclusive access

    def make_exclusive(self, start: int, end: int) -> int:
        mm, notifier = self.mm, self.notifier
        if mm is None or notifier is None or not self.kernel.mmget_not_zero(mm):
            return -errno.ESRCH
        pages = range(start, end, self.kernel.page_size)
        taken = sum(self.make_page_exclusive(mm, notifier, address) for address in pages)
        self.kernel.mmput(mm)
        return taken

    def make_page_exclusive(
        self, mm: AddressSpace, notifier: IntervalNotifier, address: int
    ) -> int:
        flags = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE
        while True:
            # A page that is ours already would be taken away first, which counts as one more
            # invalidation: let that happen before the sequence is read.
            if self.collect(mm, notifier, address, flags, None)[0]:
                return 0
            sequence = self.kernel.mmu_interval_read_begin(notifier)
            self.kernel.mmap_read_lock(mm)
            pfns = self.kernel.make_device_exclusive_range(
                mm, address, address + self.kernel.page_size, self.device.owner
            )
            self.kernel.mmap_read_unlock(mm)
            if not pfns or not pfns[0]:
                return 0
            # It says nothing of later invalidations: those have to be looked for (X1).
            self.lock.lock()
            if not self.kernel.mmu_interval_read_retry(notifier, sequence):
                self.install(address, pfns[0] | HMM_PFN_WRITE)
                self.lock.unlock()
                return 1
            self.lock.unlock()
