"""What stands in Python for a structure of a driver in C."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from reference.host.broken import Broken
from reference.host.notifiers import IntervalNotifier, ListNotifier
from reference.host.ranges import Range

from .layouts import (
    INTERVAL_CALLBACK,
    LIST_CALLBACKS,
    IntervalOpsStruct,
    NotifierOpsStruct,
    RangeStruct,
)

if TYPE_CHECKING:
    from .driver import CDriver

__all__ = ["Interval", "Notifier", "WaitQueue", "range_struct"]

_BLOCKABLE = 1


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
        self._address = address
        self._mm = mm
        table = NotifierOpsStruct.from_address(ops)
        self._callbacks = {
            name: prototype(getattr(table, name))
            for name, prototype in LIST_CALLBACKS.items()
            if getattr(table, name)
        }
        for name in self._callbacks:
            setattr(self, name, getattr(self, f"_{name}"))

    def _call(self, name: str, *arguments: int) -> Any:
        return self._driver.call(self._callbacks[name], self._address, *arguments)

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
        self._call("free_notifier")


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
