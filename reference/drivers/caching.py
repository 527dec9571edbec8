"""The caching driver: pinned regions outlive their registrations, as in a registration cache.

Registering the same memory again finds its region and neither pins nor maps anything.  A list
notifier takes out of the cache what changes; a region that is still registered then goes with its
last registration.  The notifier can't be refused (B7), so the lock is one that does not sleep.
"""

from __future__ import annotations

import errno

from reference.host.hardware import Device
from reference.host.kernel import Kernel
from reference.host.notifiers import ListNotifier
from reference.host.ranges import Range
from reference.host.space import AddressSpace
from reference.syncmodels import Sync

from .counting import Invalidations
from .driver import Driver

__all__ = ["CachingDriver", "Region"]

CAPACITY = 4
"""Regions that are kept although nothing uses them."""


class Region:
    """The pages from `start` to `end` (exclusive), pinned, and their DMA addresses."""

    def __init__(self, start: int, end: int, write: bool) -> None:
        self.start = start
        self.end = end
        self.write = write
        self.pinned: list[int] = []
        self.mapped: list[int] = []
        self.users = 0
        """Keys that lead here."""
        self.cached = False
        """A later registration may use it: nothing of it has changed."""

    def covers(self, start: int, end: int, write: bool) -> bool:
        return self.start <= start and end <= self.end and (self.write or not write)

    def overlaps(self, start: int, end: int) -> bool:
        return self.start < end and start < self.end


class CachingDriver(Driver):
    """Reaches memory through registrations only."""

    name = "caching"
    model = Sync.REGISTRATION
    keyed = True

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.lock = kernel.spinlock("cache lock")
        self.invalidations = Invalidations()
        self.notifier = ListNotifier()
        self.notifier.invalidate_range_start = self.invalidate_range_start
        self.notifier.invalidate_range_end = self.invalidate_range_end
        self.notifier.release = self.release
        self.mm: AddressSpace | None = None
        self.regions: list[Region] = []
        """Those in the cache, oldest first."""
        self.keys: dict[int, tuple[Region, range]] = {}
        """By key the region and the page slots that it is registered for."""

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
        self.keys.clear()
        # Removed between a start and its end, the notifier never hears of the end.
        self.invalidations = Invalidations()

    def release(self) -> None:
        """The process ends: its keys lead nowhere, but are still to be unregistered."""
        self.lock.lock()
        self.evict(self.regions)
        for key, (region, slots) in self.keys.items():
            self.disconnect(key, region, slots)
            self.keys[key] = region, range(0)
        self.lock.unlock()

    # Notifier

    def invalidate_range_start(self, range_: Range) -> int:
        self.lock.lock()
        self.invalidations.begin(range_.start, range_.end)
        self.evict(self.affected(range_.start, range_.end))
        self.lock.unlock()
        return 0

    def invalidate_range_end(self, range_: Range) -> None:
        self.lock.lock()
        self.invalidations.finish()
        self.lock.unlock()

    def affected(self, start: int, end: int) -> list[Region]:
        return [region for region in self.regions if region.overlaps(start, end)]

    def evict(self, regions: list[Region]) -> None:
        """Take regions out of the cache, and free those in no use; the caller holds the lock."""
        for region in list(regions):
            region.cached = False
            self.regions.remove(region)
            if not region.users:
                self.free(region)

    # Registrations

    def register(self, key: int, start: int, end: int, write: bool) -> int:
        if key in self.keys:
            return -errno.EBUSY
        mm = self.mm
        if mm is None or not self.kernel.mmget_not_zero(mm):
            return -errno.EFAULT
        region = self.lookup(mm, start, end, write) or self.create(mm, start, end, write)
        if isinstance(region, Region):
            self.connect(key, region, start, end, write)
        # Until now the process cannot have ended: `release` finds all keys.
        self.kernel.mmput(mm)
        return 0 if isinstance(region, Region) else region

    def lookup(self, mm: AddressSpace, start: int, end: int, write: bool) -> Region | None:
        """A cached region with these pages and this right, with one more user."""
        self.kernel.mmap_read_lock(mm)
        mapped = self.kernel.vma_range(mm, start) is not None
        self.lock.lock()
        found = (region for region in self.regions if region.covers(start, end, write))
        region = next(found, None) if mapped else None
        if region is not None:
            region.users += 1
        self.lock.unlock()
        self.kernel.mmap_read_unlock(mm)
        return region

    def create(self, mm: AddressSpace, start: int, end: int, write: bool) -> Region | int:
        """A new region with one user, or a negative errno."""
        region = Region(start, end, write)
        sequence = self.invalidations.sequence
        pages = (end - start) // self.kernel.page_size
        pinned = self.kernel.pin_user_pages(mm, start, pages, write=write, longterm=True)
        if isinstance(pinned, int):
            return pinned
        region.pinned = pinned
        for pfn in pinned:
            dma = self.kernel.dma_map_page(pfn)
            if not dma:
                self.free(region)
                return -errno.ENOMEM
            region.mapped.append(dma)
        region.users = 1
        self.lock.lock()
        if not self.invalidations.retry(sequence, start, end):
            self.insert(region)
        self.lock.unlock()
        return region

    def insert(self, region: Region) -> None:
        """Put a region into the cache; the caller holds the lock."""
        idle = [other for other in self.regions if not other.users]
        if len(idle) >= CAPACITY:
            self.evict(idle[:1])
        region.cached = True
        self.regions.append(region)

    def connect(self, key: int, region: Region, start: int, end: int, write: bool) -> None:
        """Let a key lead to pages of a region that the caller has become a user of."""
        slots = range(self.device.host.slot(start), self.device.host.slot(end))
        self.lock.lock()
        first = (start - region.start) // self.kernel.page_size
        for slot, dma in zip(slots, region.mapped[first:], strict=False):
            self.device.map(key, slot, dma, write)
        self.keys[key] = region, slots
        self.lock.unlock()

    def unregister(self, key: int) -> int:
        if key not in self.keys:
            return -errno.EINVAL
        self.lock.lock()
        region, slots = self.keys.pop(key)
        if slots:
            self.disconnect(key, region, slots)
        self.lock.unlock()
        return 0

    def disconnect(self, key: int, region: Region, slots: range) -> None:
        """The key leads nowhere any more; the caller holds the lock."""
        for slot in slots:
            self.device.unmap(key, slot)
        self.device.flush(slots.start, slots.stop)
        region.users -= 1
        if not region.users and not region.cached:
            self.free(region)

    def free(self, region: Region) -> None:
        """The device has let go of the pages already."""
        for dma in region.mapped:
            self.kernel.dma_unmap_page(dma)
        for pfn in region.pinned:
            self.kernel.unpin_user_page(pfn)
        region.mapped.clear()
        region.pinned.clear()
