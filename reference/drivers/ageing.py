"""The ageing driver: a counting mirror that tells which pages its device has used lately.

The device's page table has accessed bits.  The TLB sets one when it takes an entry, so that who
clears a bit and wants to hear of the next use has to flush (Y1); who does not mind to miss some
may leave the TLB as it is (Y2).  The callbacks come under a page table lock: the driver's own
lock, which they take, is one that does not sleep.
"""

from __future__ import annotations

from reference.host.hardware import Device
from reference.host.kernel import Kernel

from .counting import CountingDriver

__all__ = ["AgeingDriver"]


class AgeingDriver(CountingDriver):
    """Mirrors the whole address space; pages that its device uses are the last to be reclaimed."""

    name = "ageing"

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.notifier.clear_flush_young = self.clear_flush_young
        self.notifier.clear_young = self.clear_young
        self.notifier.test_young = self.test_young

    def clear_flush_young(self, start: int, end: int) -> bool:
        self.lock.lock()
        slots = self.make_old(start, end)
        if slots:
            self.device.flush(min(slots), max(slots) + 1)
        self.lock.unlock()
        return bool(slots)

    def clear_young(self, start: int, end: int) -> bool:
        self.lock.lock()
        slots = self.make_old(start, end)
        self.lock.unlock()
        return bool(slots)

    def make_old(self, start: int, end: int) -> list[int]:
        """Clear the accessed bits of a range: the slots where one was set."""
        return [slot for slot in self.slots(start, end) if self.device.clear_young(0, slot)]

    def test_young(self, address: int) -> bool:
        self.lock.lock()
        slots = self.slots(address, address + self.kernel.page_size)
        young = any(self.device.test_young(0, slot) for slot in slots)
        self.lock.unlock()
        return young

    def slots(self, start: int, end: int) -> list[int]:
        """The slots of a range that the device has entries for; the caller holds the lock."""
        host = self.device.host
        return [host.slot(address) for address in self.entries if start <= address < end]
