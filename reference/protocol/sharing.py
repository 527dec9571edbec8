"""Devices that walk the process's page table: what their TLBs may keep, and how long (T, L2, L4).

Such a device has no table of its own, so nothing of families I, E and S is asked of its driver.
Its TLB is to have nothing of a range when the callback for it has returned (T2): the entries are
clear then, and walks wait, so that whatever is in the TLB is old.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import ClassVar

from reference.operations import Event
from reference.record import Entry, What
from reference.syncmodels import Sync

from .checker import Checker, pages
from .mirror import SHARED, Mirror
from .state import State
from .violation import Breach, Profile

__all__ = ["Sharing"]


class Sharing(Checker):
    """What a device that shares the page tables still has when it must not."""

    HANDLES: ClassVar[Mapping[What, str]] = {
        What.TELL_TLB: "tell",
        What.TOLD_TLB: "told",
        What.CLEARED: "cleared",
        What.CHANGE: "change",
        What.REMOVED: "removed",
    }

    def __init__(
        self, state: State, model: Sync, profile: Profile, exercised: Counter[str]
    ) -> None:
        super().__init__(state, model, profile, exercised)
        self._ranges: dict[int, tuple[int, int]] = {}
        """By actor, the slots (the end exclusive) that the callback is about that it is in."""

    # Changes (T2)

    def tell(self, _index: int, entry: Entry) -> None:
        number, first, end = map(int, entry.arguments)
        self._ranges[entry.actor] = first, end
        subscription = self.state.subscriptions.get(number)
        mirrors = [] if subscription is None else self.state.told_by(subscription)
        if any(any(_left(mirror, first, end)) for mirror in mirrors):
            self.count("T1", "T2")

    def told(self, _index: int, entry: Entry) -> None:
        first, end = self._ranges.pop(entry.actor)
        subscription = self.state.subscriptions.get(int(entry.arguments[0]))
        for mirror in [] if subscription is None else self.state.told_by(subscription):
            self._check_told(mirror, first, end, "its callback has returned")

    def cleared(self, _index: int, entry: Entry) -> None:
        """Everybody is told by now; a device is left whose driver has nothing to be told by."""
        space, first, end = map(int, entry.arguments)
        for mirror in self.state.mirrors.values():
            if mirror.space == space:
                self._check_told(mirror, first, end, "the entries are to be set anew")

    def _check_told(self, mirror: Mirror, first: int, end: int, when: str) -> None:
        if self.model != Sync.FAULTING:
            return
        for slot, way in _left(mirror, first, end):
            text = f"device {mirror.number} still has {pages([slot])} in {way}"
            raise Breach("T2", f"{text}, whose entry was cleared, although {when}")

    # The end (L2, L4)

    def change(self, _index: int, entry: Entry) -> None:
        """The process's pages are freed, and its page table with them."""
        space, event = int(entry.arguments[0]), entry.arguments[3]
        if space not in self.state.dead or event != Event.UNMAP:
            return
        for mirror in self.state.mirrors.values():
            for what in self._in_use(mirror, space):
                text = f"device {mirror.number} still {what}"
                raise Breach("L2", f"{text} when the pages of process {space} are freed")

    def _in_use(self, mirror: Mirror, space: int) -> Iterator[str]:
        """In words, what of a device still leads to an address space through its page table."""
        if mirror.shares == space:
            yield f"walks the page table of process {space}"
        if mirror.space == space:
            for slot, way in _left(mirror):
                yield f"has {pages([slot])} in {way}"

    def removed(self, _index: int, entry: Entry) -> None:
        """What the TLB has taken by now, and all that it takes, nobody will flush."""
        subscription = self.state.subscriptions.get(int(entry.arguments[0]))
        for mirror in [] if subscription is None else self.state.told_by(subscription):
            if mirror.shares is None or len(self.state.of_device(mirror.number)) > 1:
                continue
            text = f"device {mirror.number} still walks the page table of process {mirror.shares}"
            raise Breach("L4", f"{text} when its notifier is unregistered")


def _left(mirror: Mirror, first: int = 0, end: int = 1 << 62) -> Iterator[tuple[int, str]]:
    """Slots that a device reaches by what it has taken from the process's table, and how."""
    for way, (_table, slot), translation in mirror.reachable():
        if translation.address & SHARED and first <= slot < end:
            yield slot, way
