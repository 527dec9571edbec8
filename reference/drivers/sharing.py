"""The sharing driver: its device walks the process's own page table, as by PASID and ATS.

There is no table to keep true, only a TLB to flush, and nothing to tell start and end of a change
from: the one callback comes in between, when entries are clear and not set yet (T2).  It comes
under a page table lock, so it may not sleep (T1).  What the page table has not, the device asks
for, and the processor's fault handler puts it there.
"""

from __future__ import annotations

import errno

from reference.host.hardware import Device
from reference.host.kernel import Kernel
from reference.host.notifiers import ListNotifier
from reference.host.space import AddressSpace

from .driver import Driver

__all__ = ["SharingDriver"]


class SharingDriver(Driver):
    """Shared virtual addressing, as of drivers/iommu."""

    name = "sharing"
    page_faults = True

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.notifier = ListNotifier()
        self.notifier.arch_invalidate_secondary_tlbs = self.invalidate_secondary_tlbs
        self.notifier.release = self.unbind
        self.mm: AddressSpace | None = None

    # The file

    def open(self, mm: AddressSpace) -> int:
        """First who hears of changes, then who has to."""
        answer = self.kernel.mmu_notifier_register(self.notifier, mm)
        if answer == 0:
            self.mm = mm
            self.device.share(mm)
        return answer

    def close(self) -> None:
        self.unbind()
        if self.mm is not None:
            self.kernel.mmu_notifier_unregister(self.notifier)
        self.mm = None

    def unbind(self) -> None:
        """Keep the device from the page table, which is about to go away, and from its pages."""
        self.device.unshare()
        self.device.flush(0, 1 << 47)

    # Notifier

    def invalidate_secondary_tlbs(self, start: int, end: int) -> None:
        host = self.device.host
        self.device.flush(host.slot(start), host.slot(end - 1) + 1)

    # Faults

    def fault(self, address: int, write: bool) -> int:
        mm = self.mm
        if mm is None or not self.kernel.mmget_not_zero(mm):
            return -errno.EFAULT
        self.kernel.mmap_read_lock(mm)
        answer = self.kernel.handle_mm_fault(mm, address, write)
        self.kernel.mmap_read_unlock(mm)
        self.kernel.mmput(mm)
        return answer
