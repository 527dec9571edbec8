"""What stands in Python for a structure of a driver in C."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from reference.host.broken import Broken
from reference.host.notifiers import IntervalNotifier, ListNotifier
from reference.host.ranges import Range
from reference.host.space import AddressSpace

from .layouts import (
    ALLOC_CALLBACK,
    INTERVAL_CALLBACK,
    LIST_CALLBACKS,
    IntervalOpsStruct,
    NotifierOpsStruct,
    NotifierStruct,
    RangeStruct,
)

if TYPE_CHECKING:
    from .driver import CDriver

__all__ = ["Interval", "Notifier", "NotifierOperations", "WaitQueue", "range_struct"]

_BLOCKABLE = 1
_MAX_ERRNO = 4095


class WaitQueue:
    """`struct wait_queue_head`: sleepers look at their condition again after each wake-up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wakes = 0


class Interval:
    """`struct mmu_interval_notifier`, with the callback of its operations."""

    def __init__(self, driver: CDriver, address: int, ops: int) -> None:
        callback = IntervalOpsStruct.from_address(ops).invalidate
        if not callback:
            raise Broken("W6", "mmu_interval_notifier_insert: ops has no invalidate")
        self._driver = driver
        self._callback = INTERVAL_CALLBACK(callback)
        self.address = address
        self.notifier: IntervalNotifier | None = None

    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
        self.notifier = notifier
        struct = range_struct(self._driver, range_)
        answer: bool = self._driver.call(
            self._callback, self.address, ctypes.addressof(struct), sequence
        )
        return answer

    def inserted(self, service: str) -> IntervalNotifier:
        if self.notifier is None:
            raise Broken("I2", f"{service} before the subscription is inserted")
        return self.notifier


class Notifier(ListNotifier):
    """`struct mmu_notifier`, with those callbacks that its operations have."""

    def __init__(self, driver: CDriver, address: int, ops: int, mm: int) -> None:
        self._driver = driver
        self.address = address
        self._mm = mm
        self._struct = NotifierStruct.from_address(address)
        self._struct.lw_handle, self._struct.mm = driver.handles.new(self), mm
        self._struct.ops = ops
        table = NotifierOpsStruct.from_address(ops)
        self._callbacks = {
            name: prototype(getattr(table, name))
            for name, prototype in LIST_CALLBACKS.items()
            if getattr(table, name)
        }
        for name in self._callbacks:
            setattr(self, name, getattr(self, f"_{name}"))

    def _call(self, name: str, *arguments: int) -> Any:
        return self._driver.call(self._callbacks[name], self.address, *arguments)

    def _release(self) -> None:
        self._call("release", self._mm)

    def _invalidate_range_start(self, range_: Range) -> int:
        struct = range_struct(self._driver, range_)
        answer: int = self._call("invalidate_range_start", ctypes.addressof(struct))
        return answer

    def _invalidate_range_end(self, range_: Range) -> None:
        struct = range_struct(self._driver, range_)
        self._call("invalidate_range_end", ctypes.addressof(struct))

    def _clear_flush_young(self, start: int, end: int) -> bool:
        return bool(self._call("clear_flush_young", self._mm, start, end))

    def _clear_young(self, start: int, end: int) -> bool:
        return bool(self._call("clear_young", self._mm, start, end))

    def _test_young(self, address: int) -> bool:
        return bool(self._call("test_young", self._mm, address))

    def _arch_invalidate_secondary_tlbs(self, start: int, end: int) -> None:
        self._call("arch_invalidate_secondary_tlbs", self._mm, start, end)

    def _free_notifier(self) -> None:
        self.forget()
        self._call("free_notifier")

    def forget(self) -> None:
        """The structure stands for nothing any more."""
        self._driver.handles.drop(self._struct.lw_handle)
        self._struct.lw_handle = 0


class NotifierOperations:
    """`struct mmu_notifier_ops` as `mmu_notifier_get` needs it."""

    def __init__(self, ops: int) -> None:
        callback = NotifierOpsStruct.from_address(ops).alloc_notifier
        if not callback:
            raise Broken("W6", "mmu_notifier_get: ops has no alloc_notifier")
        self._callback = ALLOC_CALLBACK(callback)
        self._address = ops
        self.driver: CDriver
        """Whose call of `mmu_notifier_get` it is."""

    def alloc_notifier(self, mm: AddressSpace) -> Notifier | int:
        driver, handle = self.driver, self.driver.handles.of(mm)
        address = driver.call(self._callback, handle) or 0
        error = (1 << 64) - address
        if error <= _MAX_ERRNO:
            return -error
        if not address:
            raise Broken("W6", "alloc_notifier gives NULL")
        return Notifier(driver, address, self._address, handle)


def range_struct(driver: CDriver, range_: Range) -> RangeStruct:
    """A `struct mmu_notifier_range` for a callback."""
    return RangeStruct(
        driver.handles.of(range_.mm),
        range_.start,
        range_.end,
        _BLOCKABLE if range_.blockable else 0,
        int(range_.event),
        driver.handles.of(range_.owner),
    )
