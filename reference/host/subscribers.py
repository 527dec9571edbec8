"""What subscribes to changes of an address space: notifiers, and the callbacks of their drivers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeGuard

from .broken import Broken
from .locks import FREE_NOTIFIER
from .ranges import Range
from .tasks import Task

if TYPE_CHECKING:
    from .host import Host
    from .space import AddressSpace

__all__ = [
    "ALL_AT_ONCE",
    "FIRST_PASS",
    "ONE_PASS",
    "Callback",
    "Finish",
    "IntervalNotifier",
    "IntervalOps",
    "ListNotifier",
    "NotifierOps",
    "TwoPassOps",
    "check_finish",
    "free_notifier",
    "two_passes",
]


class IntervalOps(Protocol):
    """`struct mmu_interval_notifier_ops`."""

    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool: ...


class Finish:
    """`struct mmu_interval_notifier_finish`: what the first of two passes has left to do (I17).

    It is the driver's; `notifier` is set while it waits for its pass.
    """

    notifier: IntervalNotifier | None = None


class TwoPassOps(Protocol):
    """`struct mmu_interval_notifier_ops` of a driver with two passes (newer kernels)."""

    def invalidate_start(
        self, notifier: IntervalNotifier, range_: Range, sequence: int
    ) -> tuple[bool, Finish | None]:
        """As `invalidate`; with what is left to do, or None if that is nothing."""
        ...

    def invalidate_finish(self, finish: Finish) -> None:
        """The rest of the invalidation, after the first passes of all subscriptions."""
        ...


class IntervalNotifier:
    """`struct mmu_interval_notifier`: a subscription to bytes `start` to `end` (exclusive)."""

    def __init__(self, number: int, ops: IntervalOps | TwoPassOps, start: int, end: int) -> None:
        self.number = number
        self.ops = ops
        self.start = start
        self.end = end
        self.mm: AddressSpace | None = None
        self.invalidate_seq = 0
        self.in_tree = False

    def overlaps(self, range_: Range) -> bool:
        return self.start < range_.end and range_.start < self.end


ONE_PASS, FIRST_PASS, ALL_AT_ONCE = 1, 2, 3
"""What the event record has as the answer of a callback that did not refuse."""


def two_passes(ops: IntervalOps | TwoPassOps) -> TypeGuard[TwoPassOps]:
    """Whether an invalidation takes two passes, as the operations say."""
    return getattr(ops, "invalidate_start", None) is not None


def check_finish(finish: Finish, answer: bool) -> None:
    """`Broken` if what a first pass has handed back cannot come to its second."""
    if not answer:
        raise Broken("I17", "invalidate_start refused, and handed back what is to be finished")
    if finish.notifier is not None:
        what = "still waits for the second pass of another range"
        raise Broken("I17", f"invalidate_start handed back what {what}")


class ListNotifier:
    """`struct mmu_notifier`: hears of every change.  Callbacks that it lacks are None.

    `invalidate_range_start` gives 0, or -EAGAIN if the range is not blockable.  The three that
    are asked for young pages are called under a page table lock, so they may not sleep; they are
    given bytes `start` to `end` (exclusive), or an address.  `arch_invalidate_secondary_tlbs` is
    called there as well, with such a range (T1); who has it is not told of start and end.
    """

    invalidate_range_start: Callable[[Range], int] | None = None
    invalidate_range_end: Callable[[Range], None] | None = None
    release: Callable[[], None] | None = None
    clear_flush_young: Callable[[int, int], bool] | None = None
    clear_young: Callable[[int, int], bool] | None = None
    test_young: Callable[[int], bool] | None = None
    arch_invalidate_secondary_tlbs: Callable[[int, int], None] | None = None
    free_notifier: Callable[[], None] | None = None
    number = 0
    users = 0
    """References: of `mmu_notifier_register`, or of every `mmu_notifier_get`."""
    ops: NotifierOps | None = None
    """What it was allocated by, if `mmu_notifier_get` had it made."""
    mm: AddressSpace | None = None
    released = False

    @property
    def is_asked_for_young(self) -> bool:
        """Whether it has one of the callbacks for which a device needs accessed bits."""
        asked = (self.clear_flush_young, self.clear_young, self.test_young)
        return any(callback is not None for callback in asked)


class NotifierOps(Protocol):
    """What `mmu_notifier_get` needs of `struct mmu_notifier_ops`.

    Which object it is tells the notifiers of an address space apart (L5).
    """

    def alloc_notifier(self, mm: AddressSpace) -> ListNotifier | int:
        """A new notifier, or a negative errno; mmap_lock is held for writing."""
        ...


class Callback:
    """Around a callback, of which the task knows that it is in one."""

    __slots__ = "_atomic", "_task"

    def __init__(self, task: Task, atomic: str) -> None:
        self._task = task
        self._atomic = atomic

    def __enter__(self) -> None:
        self._task.callbacks += 1
        if self._atomic:
            self._task.atomic.append(self._atomic)

    def __exit__(self, *_: object) -> None:
        self._task.callbacks -= 1
        if self._atomic in self._task.atomic:
            self._task.atomic.remove(self._atomic)


def free_notifier(host: Host, notifier: ListNotifier) -> None:
    """Let the driver free a notifier; it may not sleep."""
    assert notifier.free_notifier is not None
    with Callback(host.tasks.task, FREE_NOTIFIER):
        notifier.free_notifier()
