"""What checkers of the families of rules have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import ClassVar

from reference.record import Entry, What
from reference.syncmodels import Sync

from .state import Mirror, State
from .violation import Profile

__all__ = ["Checker", "pages"]


class Checker:
    """Looks at each entry before the state takes it in, and raises `Breach`.

    `HANDLES` has, by kind of entry, the name of the method that looks at it.
    """

    HANDLES: ClassVar[Mapping[What, str]]

    def __init__(
        self, state: State, model: Sync, profile: Profile, exercised: Counter[str]
    ) -> None:
        self.state = state
        self.model = model
        self.profile = profile
        self._exercised = exercised

    @property
    def invalidated(self) -> bool:
        """Whether invalidations keep the device from memory; else it has its pages pinned."""
        return self.model != Sync.REGISTRATION

    def count(self, *cells: str) -> None:
        """Rules, with what they were put to the test by."""
        exercised = self._exercised
        for cell in cells:
            exercised[cell] += 1

    def held(self, entry: Entry) -> set[int]:
        """The locks of drivers that the entry's actor holds."""
        return set(self.state.held.get(entry.actor, ()))

    def names(self, locks: Iterable[int]) -> str:
        return ", ".join(self.state.locks.get(lock, f"lock {lock}") for lock in sorted(locks))

    def ways_to(self, mirror: Mirror, frame: int) -> str:
        """The first way from a device to a frame, in words; empty if there is none."""
        for name, (_table, slot), entry in mirror.reachable():
            if mirror.frame(entry.address) == frame:
                return f"{name} (page {slot})"
        return ""


def pages(slots: Iterable[int]) -> str:
    """Page slots in words."""
    listed = sorted(set(slots))
    return f"page {listed[0]}" if len(listed) == 1 else f"pages {', '.join(map(str, listed))}"
