"""What an operation has met and has come to its end for all that: W2.

That one comes to no end is seen by the host, which counts steps.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import ClassVar

from reference.record import Entry, What
from reference.syncmodels import Sync

from .checker import Checker
from .state import State
from .violation import Profile

__all__ = ["Progress"]

_AGAIN = -16
"""-EBUSY: the range was invalidated while it was looked at."""
_OFTEN = 3
"""Times that an operation is sent back, from which on it is often."""


class Progress(Checker):
    """Counts what should have stopped nobody."""

    HANDLES: ClassVar[Mapping[What, str]] = {
        What.END: "end",
        What.READ_RETRY: "read_retry",
        What.COLLECTED: "collected",
        What.DEVICE_MAP: "device_map",
        What.FULL: "full",
    }

    def __init__(
        self, state: State, model: Sync, profile: Profile, exercised: Counter[str]
    ) -> None:
        super().__init__(state, model, profile, exercised)
        self._back: defaultdict[int, int] = defaultdict(int)
        """By actor, how often its operation was sent back."""
        self._met: dict[int, set[str]] = {}
        """By actor, what else its operation has met."""

    def read_retry(self, _index: int, entry: Entry) -> None:
        if entry.arguments[2]:
            self._back[entry.actor] += 1

    def collected(self, _index: int, entry: Entry) -> None:
        if entry.arguments[1] == _AGAIN:
            self._back[entry.actor] += 1

    def device_map(self, _index: int, entry: Entry) -> None:
        """A page that is mapped although others are being invalidated."""
        device, slot = int(entry.arguments[0]), int(entry.arguments[2])
        space = self.state.mirror(device).space
        ranges = [each for each in self.state.ranges.values() if each.space == space]
        if ranges and not any(each.first <= slot < each.end for each in ranges):
            self._met.setdefault(entry.actor, set()).add("other pages")

    def full(self, _index: int, entry: Entry) -> None:
        self._met.setdefault(entry.actor, set()).add("full device")

    def end(self, _index: int, entry: Entry) -> None:
        back = self._back.pop(entry.actor, 0)
        if back:
            self.count("W2/sent back", *["W2/sent back often"] * (back >= _OFTEN))
        for what in self._met.pop(entry.actor, ()):
            self.count(f"W2/{what}")
