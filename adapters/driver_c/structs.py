"""What stands in Python for a structure of a driver in C."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from reference.host.broken import Broken
from reference.host.notifiers import Finish, IntervalNotifier, ListNotifier
from reference.host.ranges import Range
from reference.host.space import AddressSpace

from .layouts import (
    ALLOC_CALLBACK,
    INTERVAL_CALLBACK,
    LIST_CALLBACKS,
    TWO_PASSES,
    FinishStruct,
    IntervalOpsStruct,
    NotifierOpsStruct,
    NotifierStruct,
    RangeStruct,
)

if TYPE_CHECKING:
    from .driver import CDriver

__all__ = [
    "CFinish",
    "Interval",
    "Notifier",
    "NotifierOperations",
    "WaitQueue",
    "interval",
    "lent",
]

_BLOCKABLE = 1
_MAX_ERRNO = 4095


class WaitQueue:
    """`struct wait_queue_head`: sleepers look at their condition again after each wake-up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wakes = 0


class Interval:
    """`struct mmu_interval_notifier`, whichever callbacks its operations have."""

    def __init__(self, driver: CDriver, address: int) -> None:
        self._driver = driver
        self.address = address
        self.notifier: IntervalNotifier | None = None

    def inserted(self, service: str) -> IntervalNotifier:
        if self.notifier is None:
            raise Broken("I2", f"{service} before the subscription is inserted")
        return self.notifier

    def _call(self, callback: Any, range_: Range, *arguments: int) -> bool:
        with lent(self._driver, range_) as address:
            return bool(self._driver.call(callback, self.address, address, *arguments))


class OnePass(Interval):
    """One with `invalidate`."""

    def __init__(self, driver: CDriver, address: int, invalidate: int) -> None:
        super().__init__(driver, address)
        self._invalidate = INTERVAL_CALLBACK(invalidate)

    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
        self.notifier = notifier
        return self._call(self._invalidate, range_, sequence)


class CFinish(Finish):
    """`struct mmu_interval_notifier_finish`, while it waits for its pass."""

    def __init__(self, address: int) -> None:
        self.address = address


class TwoPasses(Interval):
    """One with `invalidate_start` and `invalidate_finish`."""

    def __init__(self, driver: CDriver, address: int, start: int, finish: int) -> None:
        super().__init__(driver, address)
        first, second = TWO_PASSES
        self._start, self._finish = first(start), second(finish)

    def invalidate_start(
        self, notifier: IntervalNotifier, range_: Range, sequence: int
    ) -> tuple[bool, Finish | None]:
        self.notifier = notifier
        place = ctypes.c_void_p()
        answer = self._call(self._start, range_, sequence, ctypes.addressof(place))
        if not place.value:
            return answer, None
        FinishStruct.from_address(place.value).notifier = self.address
        waiting = self._driver.library.waiting
        return answer, waiting.setdefault(place.value, CFinish(place.value))

    def invalidate_finish(self, finish: Finish) -> None:
        assert isinstance(finish, CFinish)
        del self._driver.library.waiting[finish.address]
        self._driver.call(self._finish, finish.address)


def interval(driver: CDriver, address: int, ops: int) -> OnePass | TwoPasses:
    """What stands for a `struct mmu_interval_notifier` with these operations."""
    table = IntervalOpsStruct.from_address(ops)
    if table.invalidate:
        return OnePass(driver, address, table.invalidate)
    if table.invalidate_start and table.invalidate_finish:
        return TwoPasses(driver, address, table.invalidate_start, table.invalidate_finish)
    what = "invalidate_finish" if table.invalidate_start else "invalidate"
    raise Broken("W6", f"mmu_interval_notifier_insert: ops has no {what}")


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
        with lent(self._driver, range_) as address:
            answer: int = self._call("invalidate_range_start", address)
        return answer

    def _invalidate_range_end(self, range_: Range) -> None:
        with lent(self._driver, range_) as address:
            self._call("invalidate_range_end", address)

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


@contextmanager
def lent(driver: CDriver, range_: Range) -> Iterator[int]:
    """The address of a `struct mmu_notifier_range` for a callback, which must leave it alone.

    In the kernel it is one structure that all callbacks are given, from start to end: who writes
    to it changes what others are told (E3).
    """
    struct = RangeStruct(
        driver.handles.of(range_.mm),
        range_.start,
        range_.end,
        _BLOCKABLE if range_.blockable else 0,
        int(range_.event),
        driver.handles.of(range_.owner),
    )
    before = RangeStruct.from_buffer_copy(struct)
    yield ctypes.addressof(struct)
    for name, _ in RangeStruct._fields_:
        if getattr(struct, name) != getattr(before, name):
            raise Broken("E3", f"a callback has written to `{name}` of the range that it is told")
