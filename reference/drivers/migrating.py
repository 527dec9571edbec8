"""Drivers of devices with memory of their own, to which pages move and from which they return."""

from __future__ import annotations

import errno

from reference.host.hardware import Device
from reference.host.kernel import Kernel
from reference.host.migrate import (
    MIGRATE_PFN_MIGRATE,
    MIGRATE_PFN_SHIFT,
    MIGRATE_PFN_VALID,
    MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
    MIGRATE_VMA_SELECT_SYSTEM,
    MigrateVma,
    migrate_pfn,
)
from reference.host.space import AddressSpace

from .driver import Driver

__all__ = ["MigratingDriver"]


class MigratingDriver(Driver):
    """Moves pages one by one with migrate_vma; how they are mapped is up to who derives from it."""

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.mm: AddressSpace | None = None

    def migrate_to_device(self, start: int, end: int) -> int:
        return self.migrate(start, end, MIGRATE_VMA_SELECT_SYSTEM)

    def migrate_to_system(self, start: int, end: int) -> int:
        return self.migrate(start, end, MIGRATE_VMA_SELECT_DEVICE_PRIVATE)

    def migrate(self, start: int, end: int, select: int) -> int:
        mm = self.mm
        if mm is None or not self.kernel.mmget_not_zero(mm):
            return -errno.ESRCH
        moved = 0
        for address in range(start, end, self.kernel.page_size):
            self.kernel.mmap_read_lock(mm)
            moved += self.migrate_page(mm, address, select) > 0
            self.kernel.mmap_read_unlock(mm)
        self.kernel.mmput(mm)
        return moved

    def migrate_page(self, mm: AddressSpace, address: int, select: int) -> int:
        """One page, with mmap_lock held: 1 if it moved, 0 if not, -ENOMEM for want of a copy."""
        args = MigrateVma(mm, address, address + self.kernel.page_size, select, self.device.owner)
        if self.kernel.migrate_vma_setup(args) or not args.cpages:
            return 0
        args.dst[0] = self.copy(args.src[0], select)
        self.kernel.migrate_vma_pages(args)
        moved = bool(args.src[0] & MIGRATE_PFN_MIGRATE)
        self.kernel.migrate_vma_finalize(args)
        return int(moved) if args.dst[0] else -errno.ENOMEM

    def copy(self, source: int, select: int) -> int:
        """A copy of a page as an entry of `dst`; 0 if there is none, and then it stays."""
        to_device = select == MIGRATE_VMA_SELECT_SYSTEM
        target = self.kernel.alloc_device_page() if to_device else self.kernel.alloc_page()
        if not target:
            return 0
        if not source & MIGRATE_PFN_VALID:
            self.kernel.clear_page(target)
        elif self.kernel.copy_page(source >> MIGRATE_PFN_SHIFT, target):
            self.kernel.free_page(target)
            return 0
        return migrate_pfn(target)

    def migrate_to_ram(self, mm: AddressSpace, address: int, pfn: int) -> int:
        """If somebody else is moving the page the CPU just tries again; without a copy it can't."""
        return min(self.migrate_page(mm, address, MIGRATE_VMA_SELECT_DEVICE_PRIVATE), 0)

    def evict(self) -> None:
        """Bring all pages home before the device is closed."""
        for pfn in self.kernel.device_pages():
            while (place := self.kernel.address_of_device_page(pfn)) is not None:
                mm, address = place
                self.kernel.mmap_read_lock(mm)
                moved = self.migrate_page(mm, address, MIGRATE_VMA_SELECT_DEVICE_PRIVATE)
                self.kernel.mmap_read_unlock(mm)
                if moved <= 0:
                    self.kernel.cond_resched()
