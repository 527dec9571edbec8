"""The base class of drivers: what the kernel's core and the device's users call."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, ClassVar

from reference.syncmodels import Sync

if TYPE_CHECKING:
    from reference.host.hardware import Device, Job
    from reference.host.kernel import Kernel
    from reference.host.space import AddressSpace

__all__ = ["Driver", "Unopened"]


class Driver:
    """A driver of one device.  Methods answer 0 or a negative errno unless they say otherwise.

    What it does not override it cannot do, or needs not: the suite leaves out operations that a
    driver lacks.
    """

    name: ClassVar[str] = "driver"
    model: ClassVar[Sync] = Sync.FAULTING
    keyed: ClassVar[bool] = False
    """Accesses go through registrations, each with a key."""
    page_faults: ClassVar[bool] = False
    """The device raises a fault, and tries again, where it has no translation."""

    def __init__(self, kernel: Kernel, device: Device) -> None:
        self.kernel = kernel
        self.device = device

    # The file of a device

    def open(self, mm: AddressSpace) -> int:
        """The device is to mirror an address space.  After a failure nothing else is called."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing may be left afterwards; no job is in flight."""
        raise NotImplementedError

    # Work

    def fault(self, address: int, write: bool) -> int:
        """The device has no translation for an address, or none that it may write through."""
        return -errno.EFAULT

    def register(self, key: int, start: int, end: int, write: bool) -> int:
        """User space names a range of bytes (the end exclusive) by a key."""
        return -errno.EOPNOTSUPP

    def unregister(self, key: int) -> int:
        return -errno.EOPNOTSUPP

    def submit(self, job: Job) -> int:
        """The accesses of a job are about to be given to the device; a single one is a job too."""
        return 0

    def complete(self, job: Job) -> None:
        """An interrupt: the device is done with a job.  May not sleep."""

    def retire(self, job: Job) -> None:
        """User space has waited for a job."""

    # Pages

    def migrate_to_device(self, start: int, end: int) -> int:
        """Move pages to the device's memory: how many were moved, or a negative errno."""
        return -errno.EOPNOTSUPP

    def migrate_to_system(self, start: int, end: int) -> int:
        """Move pages back: how many were moved, or a negative errno."""
        return -errno.EOPNOTSUPP

    def migrate_to_ram(self, mm: AddressSpace, address: int, pfn: int) -> int:
        """The CPU touched a page in the device's memory.  An error is SIGBUS (G8)."""
        return -errno.EFAULT

    def make_exclusive(self, start: int, end: int) -> int:
        """Have pages for the device alone: how many, or a negative errno."""
        return -errno.EOPNOTSUPP


class Unopened(Driver):
    """What the host has instead of a driver whose `open` failed: there is no file to work with."""

    def __init__(self, instead_of: Driver) -> None:
        super().__init__(instead_of.kernel, instead_of.device)
        self.instead_of = instead_of

    def close(self) -> None:
        self.device.driver = self.instead_of

    def register(self, key: int, start: int, end: int, write: bool) -> int:
        return -errno.EFAULT

    def unregister(self, key: int) -> int:
        return -errno.EINVAL

    def submit(self, job: Job) -> int:
        return -errno.EFAULT

    def migrate_to_device(self, start: int, end: int) -> int:
        return -errno.EFAULT

    def migrate_to_system(self, start: int, end: int) -> int:
        return -errno.EFAULT

    def make_exclusive(self, start: int, end: int) -> int:
        return -errno.EFAULT
