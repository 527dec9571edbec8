"""A driver in C as one in Python: callbacks of a library behind the methods of `Driver`."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from reference.drivers.driver import Driver
from reference.host.broken import Broken
from reference.host.hardware import Device, Job
from reference.host.kernel import Kernel
from reference.host.space import AddressSpace

from .layouts import DeviceStruct, FaultStruct, JobStruct
from .memory import Memory

if TYPE_CHECKING:
    from .library import Library

__all__ = ["METHODS", "CDriver"]

_VM_FAULT_SIGBUS = 2


class CDriver(Driver):
    """One device's driver.  Subclasses name the library and have the methods that it has."""

    library: ClassVar[Library]

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        geometry = device.host.geometry
        self.memory = Memory(kernel)
        self._struct = DeviceStruct(
            va_start=device.host.address(0),
            va_end=device.host.address(geometry.pages),
            number=device.number,
        )
        self._address = ctypes.addressof(self._struct)
        run = self.library.join(device.host, self, self._address)
        self._callbacks = run.callbacks
        self.handles = run.handles
        self._struct.owner = run.handles.of(device.owner)
        self._open = False

    def call(self, function: Callable[..., Any], *arguments: int) -> Any:
        """Call a function of the library."""
        return self.library.gate.enter(self, function, *arguments)

    def callback(self, name: str, *arguments: int, unopened: int = -errno.EFAULT) -> int:
        """Call a callback; a device that could not be opened has no file, and gets no calls."""
        if not self._open:
            return unopened
        answer: int = self.call(self._callbacks[name], self._address, *arguments)
        return answer

    def open(self, mm: AddressSpace) -> int:
        self._open = True
        answer = self.callback("open", self.handles.of(mm))
        self._open = answer == 0
        if answer:
            self.memory.check()
        return answer

    def close(self) -> None:
        self.callback("close")
        self._open = False
        self.memory.check()


def _fault(self: CDriver, address: int, write: bool) -> int:
    return self.callback("fault", address, write)


def _register(self: CDriver, key: int, start: int, end: int, write: bool) -> int:
    return self.callback("register_range", key, start, end, write)


def _unregister(self: CDriver, key: int) -> int:
    return self.callback("unregister_range", key, unopened=-errno.EINVAL)


def _submit(self: CDriver, job: Job) -> int:
    return self.callback("submit", _job_struct(self, job))


def _complete(self: CDriver, job: Job) -> None:
    self.callback("complete", _job_struct(self, job))


def _retire(self: CDriver, job: Job) -> None:
    self.callback("retire", _job_struct(self, job))


def _job_struct(driver: CDriver, job: Job) -> int:
    """Address of the `struct lw_job` of a job, which lives as long as the job."""
    if job.private is None:
        keys = (ctypes.c_uint * len(job.keys))(*job.keys)
        handle = driver.handles.new(job)
        job.private = JobStruct(number=job.number, key_count=len(keys), keys=keys, lw_handle=handle)
    assert isinstance(job.private, JobStruct)
    return ctypes.addressof(job.private)


def _migrate_to_device(self: CDriver, start: int, end: int) -> int:
    return self.callback("migrate_to_device", start, end)


def _migrate_to_system(self: CDriver, start: int, end: int) -> int:
    return self.callback("migrate_to_system", start, end)


def _make_exclusive(self: CDriver, start: int, end: int) -> int:
    return self.callback("make_exclusive", start, end)


def _migrate_to_ram(self: CDriver, mm: AddressSpace, address: int, pfn: int) -> int:
    struct = FaultStruct(self.handles.of(mm), address, pfn)
    answer = self.callback("migrate_to_ram", ctypes.addressof(struct))
    if answer not in {0, _VM_FAULT_SIGBUS}:
        raise Broken("R4", f"migrate_to_ram answered {answer}, not 0 or VM_FAULT_SIGBUS")
    return -errno.EFAULT if answer else 0


METHODS: dict[str, Callable[..., Any]] = {
    "fault": _fault,
    "register_range": _register,
    "unregister_range": _unregister,
    "submit": _submit,
    "complete": _complete,
    "retire": _retire,
    "migrate_to_device": _migrate_to_device,
    "migrate_to_system": _migrate_to_system,
    "make_exclusive": _make_exclusive,
    "migrate_to_ram": _migrate_to_ram,
}
"""By callback of `struct lw_driver`, the method that calls it."""
