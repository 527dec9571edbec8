"""MMU notifiers of one address space: list notifiers and interval subscriptions.

After mm/mmu_notifier.c of Linux 6.12; the rules (families B, S, I, L) say which lines.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from reference.operations import Event

from .broken import Broken
from .locks import AGEING, INTERVAL_NON_BLOCK, NON_BLOCK, SECONDARY_TLBS
from .ranges import ULONG_MAX, Range
from .record import What
from .states import states
from .subscribers import (
    ALL_AT_ONCE,
    FIRST_PASS,
    ONE_PASS,
    Callback,
    Finish,
    IntervalNotifier,
    IntervalOps,
    ListNotifier,
    NotifierOps,
    TwoPassOps,
    check_finish,
    free_notifier,
    two_passes,
)

if TYPE_CHECKING:
    from .host import Host
    from .space import AddressSpace

__all__ = [
    "Finish",
    "IntervalNotifier",
    "IntervalOps",
    "ListNotifier",
    "NotifierOps",
    "Subscriptions",
    "TwoPassOps",
]

AGAIN = -errno.EAGAIN


class Subscriptions:
    """`struct mmu_notifier_subscriptions` of one address space."""

    def __init__(self, host: Host, mm: AddressSpace) -> None:
        self._host = host
        self._mm = mm
        self._deferred: list[tuple[IntervalNotifier, bool]] = []
        """Additions (True) and removals that wait for the last range to end (I15)."""
        self.intervals: list[IntervalNotifier] = []
        self.notifiers: list[ListNotifier] = []
        self._walks: list[list[ListNotifier]] = []
        """Walks of the list that are under way."""
        self.sequence = 2
        self.active = 0
        """Ranges between start and end, counted while there are interval subscriptions."""
        self.has_intervals = False
        self._open = 0
        """Ranges between start and end, whoever is subscribed."""

    @property
    def invalidating(self) -> bool:
        """Whether a subscription is affected by a range that is active (odd, I4)."""
        return bool(self.sequence & 1)

    # Start and end

    def start(self, range_: Range) -> int:
        """`mmu_notifier_invalidate_range_start`: 0, or -EAGAIN if it may not block."""
        host, record = self._host, self._host.record
        record(
            What.START,
            range_.number,
            self._mm.number,
            *host.pages_of(range_),
            int(range_.event),
            host.owner_number(range_.owner),
            int(range_.blockable),
            self._states(range_),
        )
        self._open += 1
        answer = self._start_intervals(range_) if self.has_intervals else 0
        if answer == 0 and self.notifiers:
            answer = self._start_list(range_)
        self._open -= answer != 0
        record(What.STARTED, range_.number, answer)
        return answer

    def _states(self, range_: Range) -> str:
        """What the pages are like, if anybody is subscribed to hear of them."""
        if not (self.intervals or self.notifiers):
            return ""
        return states(self._mm, *self._host.pages_of(range_))

    def end(self, range_: Range) -> None:
        """`mmu_notifier_invalidate_range_end`."""
        self._host.record(What.FINISH, range_.number)
        self._open -= 1
        if self.has_intervals:
            self._end_intervals()
        if self.notifiers:
            with self._walking() as notifiers:
                for notifier in notifiers:
                    self._end_one(notifier, range_)
        self._host.tasks.point("invalidate_range_end")

    def _start_intervals(self, range_: Range) -> int:
        self.active += 1
        affected = [each for each in self.intervals if each.overlaps(range_)]
        if affected:
            self.sequence |= 1
        sequence, unfinished = self.sequence, list[tuple[IntervalNotifier, Finish]]()
        answer = 0
        for notifier in affected:
            if not self._call_interval(notifier, range_, sequence, unfinished):
                answer = AGAIN
                break
        for notifier, finish in unfinished:
            self._finish_interval(notifier, finish, range_)
        if answer:
            self._end_intervals()
        return answer

    def _call_interval(
        self,
        notifier: IntervalNotifier,
        range_: Range,
        sequence: int,
        unfinished: list[tuple[IntervalNotifier, Finish]],
    ) -> bool:
        """One callback, or the first of two passes, which may leave something to finish."""
        host, ops = self._host, notifier.ops
        host.record(What.CALLBACK, notifier.number, range_.number, sequence)
        host.tasks.point("callback: invalidate")
        finish, done = None, ONE_PASS
        with self._callback(range_, INTERVAL_NON_BLOCK):
            if two_passes(ops):
                answer, finish = ops.invalidate_start(notifier, range_, sequence)
                done = ALL_AT_ONCE if finish is None else FIRST_PASS
            else:
                answer = cast("IntervalOps", ops).invalidate(notifier, range_, sequence)
        if not isinstance(answer, bool):
            raise Broken("B6", f"invalidate answered {answer!r}, which is neither true nor false")
        if not answer and range_.blockable:
            raise Broken("B6", "invalidate answered false although the range is blockable")
        if finish is not None:
            check_finish(finish, answer)
            finish.notifier = notifier
            unfinished.append((notifier, finish))
        host.record(What.RETURNED, notifier.number, range_.number, done if answer else 0)
        if answer:
            host.tasks.point("callback returned")
        return answer

    def _finish_interval(self, notifier: IntervalNotifier, finish: Finish, range_: Range) -> None:
        """The second pass (I17), which has no answer."""
        host, ops = self._host, notifier.ops
        assert two_passes(ops)
        host.record(What.FINISHING, notifier.number, range_.number)
        host.tasks.point("callback: invalidate_finish")
        # From here on it may be handed back anew.
        finish.notifier = None
        with self._callback(range_, INTERVAL_NON_BLOCK):
            ops.invalidate_finish(finish)
        host.record(What.FINISHED, notifier.number, range_.number)
        host.tasks.point("callback returned")

    def _callback(self, range_: Range | None, why: str) -> Callback:
        """Around a callback, which may not sleep for this reason if the range is not blockable."""
        blockable = range_ is None or range_.blockable
        return Callback(self._host.tasks.task, "" if blockable else why)

    def _end_intervals(self) -> None:
        """`mn_itree_inv_end`: the last range closes the epoch (I4, I15)."""
        self.active -= 1
        if self.active or not self.invalidating:
            return
        self.sequence += 1
        for notifier, add in self._deferred:
            (self._add if add else self._drop)(notifier)
        self._deferred.clear()

    def _start_list(self, range_: Range) -> int:
        """`mn_hlist_invalidate_range_start`: all are called, even after a refusal (B8)."""
        answer = 0
        with self._walking() as notifiers:
            for notifier in notifiers:
                answer = self._start_one(notifier, range_) or answer
            if answer:
                for notifier in notifiers:
                    self._end_one(notifier, range_)
        return answer

    @contextmanager
    def _walking(self) -> Iterator[list[ListNotifier]]:
        """`srcu_read_lock`: who is unregistered meanwhile has to wait for the end of the walk."""
        walk = list(self.notifiers)
        self._walks.append(walk)
        try:
            yield walk
        finally:
            self._walks[:] = [other for other in self._walks if other is not walk]

    def _start_one(self, notifier: ListNotifier, range_: Range) -> int:
        callback = notifier.invalidate_range_start
        if callback is None:
            return 0
        host = self._host
        host.record(What.CALLBACK, notifier.number, range_.number, 0)
        host.tasks.point("callback: invalidate_range_start")
        with self._callback(range_, NON_BLOCK):
            answer = callback(range_)
        if answer and (range_.blockable or answer != AGAIN):
            raise Broken("B3", f"invalidate_range_start answered {answer}")
        if answer and notifier.invalidate_range_end is not None:
            raise Broken("B7", "a notifier with an end callback refused its start")
        host.record(What.RETURNED, notifier.number, range_.number, answer or 1)
        host.tasks.point("callback returned")
        return answer

    def _end_one(self, notifier: ListNotifier, range_: Range) -> None:
        if notifier.invalidate_range_end is not None:
            record, number = self._host.record, notifier.number
            record(What.ENDING, number, range_.number)
            with self._callback(range_, NON_BLOCK):
                notifier.invalidate_range_end(range_)
            record(What.ENDED, number, range_.number)

    # TLBs that share the page tables

    def invalidate_secondary_tlbs(self, start: int, end: int) -> None:
        """`mmu_notifier_arch_invalidate_secondary_tlbs`, under a page table lock (T1, T2)."""
        if not self._has("arch_invalidate_secondary_tlbs"):
            return
        host = self._host
        slots = host.slot(start), host.slot(end - 1) + 1
        with self._walking() as notifiers:
            for notifier in notifiers:
                if notifier.arch_invalidate_secondary_tlbs is None:
                    continue
                host.tasks.point("callback: arch_invalidate_secondary_tlbs")
                host.record(What.TELL_TLB, notifier.number, *slots)
                with Callback(host.tasks.task, SECONDARY_TLBS):
                    notifier.arch_invalidate_secondary_tlbs(start, end)
                host.record(What.TOLD_TLB, notifier.number)
                host.tasks.point("callback returned")

    def _has(self, name: str) -> bool:
        """Whether any notifier has a callback."""
        return any(getattr(each, name) is not None for each in self.notifiers)

    # Young pages

    def clear_flush_young(self, start: int, end: int) -> bool:
        """`mmu_notifier_clear_flush_young`: whether any device has used the range (Y1)."""
        return any(self._ask_all("clear_flush_young", "Y1", start, end))

    def clear_young(self, start: int, end: int) -> bool:
        """`mmu_notifier_clear_young`: the same, and TLBs may stay as they are (Y2)."""
        return any(self._ask_all("clear_young", "Y2", start, end))

    def test_young(self, address: int) -> bool:
        """`mmu_notifier_test_young`, of one page: asks until one says so, clears nothing (Y3)."""
        return any(self._ask("test_young", "Y3", address))

    def _ask_all(self, callback: str, rule: str, start: int, end: int) -> list[bool]:
        """What everybody says: each has to clear its own bits, whatever another said."""
        return list(self._ask(callback, rule, start, end))

    def _ask(self, name: str, rule: str, *given: int) -> Iterator[bool]:
        """One answer after another of those who have a callback of this name."""
        if not self._has(name):
            return
        host = self._host
        first, last = host.slot(given[0]), host.slot(given[-1] - 1)
        with self._walking() as notifiers:
            for notifier in notifiers:
                callback = getattr(notifier, name)
                if callback is None:
                    continue
                host.tasks.point(f"callback: {name}")
                host.record(What.ASK_YOUNG, notifier.number, name, first, max(first, last) + 1)
                with Callback(host.tasks.task, AGEING):
                    answer = callback(*given)
                if not isinstance(answer, bool):
                    raise Broken(rule, f"{name} answered {answer!r}, neither true nor false")
                host.record(What.SAID_YOUNG, notifier.number, int(answer))
                host.tasks.point("callback returned")
                yield answer

    # Interval subscriptions

    def insert(self, notifier: IntervalNotifier) -> int:
        """`mmu_interval_notifier_insert`: 0 or a negative errno (I1, I3)."""
        if notifier.start >= notifier.end or notifier.end > ULONG_MAX:
            return -errno.EOVERFLOW
        if not self._mm.users:
            return -errno.EINVAL
        if not self.has_intervals:
            if self._host.fails("insert"):
                return -errno.ENOMEM
            with self._all_locks():
                self.has_intervals = True
        notifier.mm = self._mm
        if not self.active:
            notifier.invalidate_seq = self.sequence - 1
            self._add(notifier)
        elif self.invalidating:
            self._deferred.append((notifier, True))
            notifier.invalidate_seq = self.sequence
        else:
            self.sequence |= 1
            notifier.invalidate_seq = self.sequence
            self._add(notifier)
        return 0

    @contextmanager
    def _all_locks(self) -> Iterator[None]:
        """`mm_take_all_locks`: nothing is being invalidated when a first subscriber comes."""
        with self._mm.mmap_lock.writing():
            self._await_quiet()
            yield

    def _await_quiet(self) -> None:
        """Sleep until no range is open."""
        if self._open:
            self._host.locks.block(None, lambda: not self._open, "mm_take_all_locks")

    def remove(self, notifier: IntervalNotifier) -> None:
        """`mmu_interval_notifier_remove`: no callback runs when it returns (I14)."""
        host = self._host
        if host.tasks.task.callbacks:
            raise Broken("I14", "an interval subscription is removed from a callback")
        host.record(What.REMOVE, notifier.number)
        host.locks.might_sleep("mmu_interval_notifier_remove")
        if notifier.mm is not self._mm:
            raise Broken("I14", "a subscription is removed that was not inserted")
        if not self.invalidating:
            self._drop(notifier)
        elif (notifier, True) in self._deferred:
            self._deferred.remove((notifier, True))
        else:
            self._deferred.append((notifier, False))
            sequence = self.sequence
            host.locks.block(
                None, lambda: self.sequence != sequence, "mmu_interval_notifier_remove"
            )
        notifier.mm = None
        host.record(What.REMOVED, notifier.number)
        host.tasks.point("mmu_interval_notifier_remove")

    def _add(self, notifier: IntervalNotifier) -> None:
        self.intervals.append(notifier)
        notifier.in_tree = True

    def _drop(self, notifier: IntervalNotifier) -> None:
        self.intervals.remove(notifier)
        notifier.in_tree = False

    def read_begin(self, notifier: IntervalNotifier) -> int:
        """`mmu_interval_read_begin`: sleeps while the subscription is affected (I7)."""
        host = self._host
        host.locks.might_sleep("mmu_interval_read_begin")
        sequence = notifier.invalidate_seq
        if sequence == self.sequence:
            host.locks.block(None, lambda: self.sequence != sequence, "mmu_interval_read_begin")
        return sequence

    # List notifiers

    def register(self, notifier: ListNotifier) -> int:
        """`mmu_notifier_register`; takes mmap_lock for writing (L1)."""
        if self._mm.mmap_lock.held():
            raise Broken("L1", "mmu_notifier_register is called with mmap_lock held")
        if self._host.fails("insert"):
            return -errno.ENOMEM
        with self._mm.mmap_lock.writing():
            return self._enter(notifier)

    def get(self, ops: NotifierOps) -> ListNotifier | int:
        """`mmu_notifier_get`: one for each set of operations, made if there is none (L5)."""
        if self._mm.mmap_lock.held():
            raise Broken("L1", "mmu_notifier_get is called with mmap_lock held")
        with self._mm.mmap_lock.writing():
            found = next((each for each in self.notifiers if each.ops is ops), None)
            if found is not None:
                found.users += 1
                return found
            made = ops.alloc_notifier(self._mm)
            if isinstance(made, int):
                return made
            if made.users or made.free_notifier is None:
                what = "is in use" if made.users else "has no free_notifier"
                raise Broken("L5", f"alloc_notifier gives a notifier that {what}")
            answer = -errno.ENOMEM if self._host.fails("insert") else self._enter(made)
            if answer:
                free_notifier(self._host, made)
                return answer
            made.ops = ops
            return made

    def _enter(self, notifier: ListNotifier) -> int:
        """`__mmu_notifier_register`, with mmap_lock held for writing."""
        if notifier.arch_invalidate_secondary_tlbs is not None and (
            notifier.invalidate_range_start is not None or notifier.invalidate_range_end is not None
        ):
            return -errno.EINVAL
        self._await_quiet()
        if not self._mm.users:
            return -errno.EINVAL
        notifier.mm = self._mm
        notifier.users = 1
        notifier.released = False
        self.notifiers.append(notifier)
        return 0

    def put(self, notifier: ListNotifier) -> None:
        """`mmu_notifier_put`, which does not sleep (L6)."""
        notifier.users -= 1
        if not notifier.users:
            self._unlist(notifier)
            self._host.unlinked.add(notifier)

    def unregister(self, notifier: ListNotifier) -> None:
        """`mmu_notifier_unregister`: release first, and no callback runs afterwards (L4)."""
        host = self._host
        if host.tasks.task.callbacks:
            raise Broken("L4", "a notifier is unregistered from a callback")
        host.record(What.REMOVE, notifier.number)
        host.locks.might_sleep("mmu_notifier_unregister")
        self._release_one(notifier)
        self._unlist(notifier)
        notifier.users = 0
        if self.is_walked(notifier):
            host.locks.block(None, lambda: not self.is_walked(notifier), "synchronize_srcu")
        notifier.mm = None
        host.record(What.REMOVED, notifier.number)

    def _unlist(self, notifier: ListNotifier) -> None:
        """Take a notifier off the list, if the end of the process has not emptied it."""
        if notifier in self.notifiers:
            self.notifiers.remove(notifier)

    def is_walked(self, notifier: ListNotifier) -> bool:
        return any(notifier in walk for walk in self._walks)

    def _release_one(self, notifier: ListNotifier) -> None:
        if notifier.release is not None and not notifier.released:
            notifier.released = True
            with self._callback(None, ""):
                notifier.release()

    def release(self) -> None:
        """`__mmu_notifier_release`: interval subscriptions first, then the list (L3, I16)."""
        range_ = self._host.new_range(self._mm, 0, ULONG_MAX, Event.RELEASE)
        first, _ = self._host.pages_of(range_)
        self._host.record(What.RELEASE, self._mm.number, first, self._states(range_))
        if self.has_intervals:
            self._start_intervals(range_)
            self._end_intervals()
        with self._walking() as notifiers:
            for notifier in notifiers:
                self._release_one(notifier)
            # Nobody is told of the pages that are freed then, nor of the end of what has begun.
            self.notifiers.clear()
