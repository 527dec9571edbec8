"""The registration driver: pages are pinned from register to unregister, as RDMA's regions are.

Pinned pages stay where they are, so the device needs to hear of no change of them: what user
space maps in their place it has to register anew.  Only the end of the process is told, since
nothing may reach its memory from then on.
"""

from __future__ import annotations

import errno

from reference.host.hardware import Device
from reference.host.kernel import Kernel
from reference.host.notifiers import ListNotifier
from reference.host.space import AddressSpace
from reference.syncmodels import Sync

from .driver import Driver

__all__ = ["Region", "RegistrationDriver"]


class Region:
    """What a key stands for: the pages from `start` on, pinned, and their DMA addresses."""

    def __init__(self, key: int, start: int, write: bool) -> None:
        self.key = key
        self.start = start
        self.write = write
        self.pinned: list[int] = []
        self.mapped: list[int] = []


class RegistrationDriver(Driver):
    """Reaches memory through registered regions only."""

    name = "registration"
    model = Sync.REGISTRATION
    keyed = True

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.lock = kernel.mutex("region lock")
        self.notifier = ListNotifier()
        self.notifier.release = self.release
        self.mm: AddressSpace | None = None
        self.regions: dict[int, Region] = {}

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
        self.regions.clear()

    def release(self) -> None:
        """The process ends: its keys lead nowhere, but are still to be unregistered."""
        self.lock.lock()
        for region in self.regions.values():
            self.teardown(region)
        self.lock.unlock()

    # Regions

    def register(self, key: int, start: int, end: int, write: bool) -> int:
        if key in self.regions:
            return -errno.EBUSY
        mm = self.mm
        if mm is None or not self.kernel.mmget_not_zero(mm):
            return -errno.EFAULT
        answer = self.setup(mm, Region(key, start, write), (end - start) // self.kernel.page_size)
        self.kernel.mmput(mm)
        return answer

    def setup(self, mm: AddressSpace, region: Region, pages: int) -> int:
        """Pin, map for DMA, and only then let the device know; all of it or nothing."""
        pinned = self.kernel.pin_user_pages(
            mm, region.start, pages, write=region.write, longterm=True
        )
        if isinstance(pinned, int):
            return pinned
        region.pinned = pinned
        self.lock.lock()
        answer = self.map(region)
        if answer:
            self.teardown(region)
        else:
            self.regions[region.key] = region
        self.lock.unlock()
        return answer

    def map(self, region: Region) -> int:
        """Fill the device's table; the caller holds the lock."""
        for pfn in region.pinned:
            dma = self.kernel.dma_map_page(pfn)
            if not dma:
                return -errno.ENOMEM
            region.mapped.append(dma)
        first = self.device.host.slot(region.start)
        for slot, dma in enumerate(region.mapped, first):
            self.device.map(region.key, slot, dma, region.write)
        return 0

    def unregister(self, key: int) -> int:
        self.lock.lock()
        region = self.regions.pop(key, None)
        if region is not None:
            self.teardown(region)
        self.lock.unlock()
        return 0 if region is not None else -errno.EINVAL

    def teardown(self, region: Region) -> None:
        """The device lets go of the pages before they are unpinned; the caller holds the lock."""
        first = self.device.host.slot(region.start)
        for slot in range(first, first + len(region.pinned)):
            self.device.unmap(region.key, slot)
        self.device.flush(first, first + len(region.pinned))
        for dma in region.mapped:
            self.kernel.dma_unmap_page(dma)
        for pfn in region.pinned:
            self.kernel.unpin_user_page(pfn)
        region.mapped.clear()
        region.pinned.clear()
