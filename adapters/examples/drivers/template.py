"""A template: the smallest driver that is right, with one page of one process in its table.

    lastwriter certify driver:template.py:Template

It faults pages in one at a time and forgets them at every invalidation.  template.c beside it is
the same in C; reference/drivers has worked drivers of every sync model.
"""

from __future__ import annotations

import errno

from reference.drivers import Driver
from reference.host.hardware import Device
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

__all__ = ["Template"]

EVERYTHING = 1 << 47
"""Bytes of a process's address space."""


class Template(Driver):
    """A device that faults, with room for one translation."""

    name = "template"
    page_faults = True

    mm: AddressSpace
    notifier: IntervalNotifier

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.lock = kernel.mutex("template lock")  # protects what follows, and the device's table
        self.page: tuple[int, int] | None = None
        """What is in the table: its address, and the DMA address that it is mapped to."""

    def open(self, mm: AddressSpace) -> int:
        notifier = self.kernel.mmu_interval_notifier_insert(self, mm, 0, EVERYTHING)
        if isinstance(notifier, int):
            return notifier
        self.mm, self.notifier = mm, notifier
        return 0

    def close(self) -> None:
        self.kernel.mmu_interval_notifier_remove(self.notifier)
        self.zap(0, EVERYTHING)

    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
        """The CPU's table is about to change: from now on the device uses nothing of the range."""
        if range_.blockable:
            self.lock.lock()
        elif not self.lock.trylock():
            return False
        self.kernel.mmu_interval_set_seq(notifier, sequence)
        self.zap(range_.start, range_.end)
        self.lock.unlock()
        return True

    def zap(self, start: int, end: int) -> None:
        """Take the page out of the device's table if it is in the range."""
        if self.page is None or not start <= self.page[0] < end:
            return
        (address, target), self.page = self.page, None
        slot = self.device.host.slot(address)
        self.device.unmap(0, slot)
        self.device.flush(slot, slot + 1)
        self.kernel.dma_unmap_page(target)

    def fault(self, address: int, write: bool) -> int:
        """The device has no translation for an address, or none that it may write through."""
        if not self.kernel.mmget_not_zero(self.mm):
            return -errno.EFAULT
        answer = self.populate(address & -self.kernel.page_size, write)
        self.kernel.mmput(self.mm)
        return answer

    def populate(self, address: int, write: bool) -> int:
        """Ask the CPU's table for a page, and install it unless it was invalidated meanwhile."""
        while True:
            answer, range_ = self.collect(address, write)
            if answer == -errno.EBUSY:
                continue
            if answer:
                return answer
            self.lock.lock()
            if not self.kernel.mmu_interval_read_retry(self.notifier, range_.notifier_seq):
                answer = self.install(address, range_.hmm_pfns[0])
                self.lock.unlock()
                return answer
            self.lock.unlock()

    def collect(self, address: int, write: bool) -> tuple[int, HmmRange]:
        range_ = HmmRange(
            self.notifier,
            self.kernel.mmu_interval_read_begin(self.notifier),
            address,
            address + self.kernel.page_size,
            default_flags=HMM_PFN_REQ_FAULT | (HMM_PFN_REQ_WRITE if write else 0),
        )
        self.kernel.mmap_read_lock(self.mm)
        answer = self.kernel.hmm_range_fault(range_)
        self.kernel.mmap_read_unlock(self.mm)
        return answer, range_

    def install(self, address: int, pfn: int) -> int:
        """Put a page into the device's table, in place of what is there."""
        self.zap(0, EVERYTHING)
        target = self.kernel.dma_map_page(hmm_pfn_to_number(pfn))
        if not target:
            return -errno.ENOMEM
        self.page = address, target
        self.device.map(0, self.device.host.slot(address), target, bool(pfn & HMM_PFN_WRITE))
        return 0
