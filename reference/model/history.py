"""What happened to each page: to count what was really tested, and to name the rule broken.

Nothing here decides what is allowed; that is the business of the contents and the rights.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from ..geometry import Geometry
from ..operations import Kind

__all__ = ["History", "Mark"]

_UNTOUCHED: Final = -1


class Mark(enum.IntFlag):
    """What a page has been through, seen from one address space."""

    ON_DEVICE_0 = 1
    ON_DEVICE_1 = 2
    HOLE = 4
    """It was migrated to a device before it was ever written."""
    RETURNED = 8
    """It came back from a device and was not written since."""
    EXCLUSIVE = 16
    RACED = 32
    """A job in flight met a change of the mapping here."""
    STALE = 64
    """A registration here was overtaken by a change of the mapping."""
    REFUSED = 128
    """A migration to a device was asked for and not done."""


ON_DEVICE: Final = int(Mark.ON_DEVICE_0 | Mark.ON_DEVICE_1)


# Plain numbers: arithmetic with enumerations is slow, and this is done for every access.
HOLE: Final = int(Mark.HOLE)
RETURNED: Final = int(Mark.RETURNED)
EXCLUSIVE: Final = int(Mark.EXCLUSIVE)
RACED: Final = int(Mark.RACED)
STALE: Final = int(Mark.STALE)
REFUSED: Final = int(Mark.REFUSED)
ON_DEVICE_0: Final = int(Mark.ON_DEVICE_0)

WRITER_SEEN: Final = (
    ("", "C1/cpu sees cpu", "C1/cpu sees device"),
    ("", "C1/device sees cpu", "C1/device sees device"),
)
"""What a read of a page counts as: by whether a device reads, and by `Side` that wrote."""


class History:
    """Marks of every page, and the events since each device last used it."""

    def __init__(self, geometry: Geometry) -> None:
        self.pages = geometry.pages
        self.exercised: defaultdict[str, int] = defaultdict(int)
        """How often each rule was put to the test, by rule id, or `id/detail`."""
        self.marks = [[0] * geometry.pages for _ in range(geometry.processes)]
        self.since: dict[int, list[int]] = {}
        """Of an attached device, by page: bit mask of the kinds of operation since it last used
        the page, or -1 while it has not used it at all."""
        self.owner: dict[int, int] = {}

    def attach(self, device: int, process: int) -> None:
        self.since[device] = [_UNTOUCHED] * self.pages
        self.owner[device] = process

    def detach(self, device: int) -> None:
        del self.since[device], self.owner[device]

    def event(self, process: int, pages: Sequence[int], kind: int) -> None:
        """Something happened to these pages that a mirror may have been told of."""
        bit = 1 << kind
        for device, owner in self.owner.items():
            if owner == process:
                since = self.since[device]
                for page in pages:
                    if since[page] >= 0:
                        since[page] |= bit

    def cpu_access(self, process: int, page: int) -> None:
        """A CPU access to the page was judged to be right; for a page without marks, a no-op."""
        mark = self.marks[process][page]
        exercised = self.exercised
        if mark & ON_DEVICE:
            exercised["G9"] += 1
        if mark & RETURNED:
            exercised["G7"] += 1
        if mark & EXCLUSIVE:
            exercised["X1"] += 1
        if mark & REFUSED:
            exercised["G2"] += 1
        if mark & (RACED | STALE):
            exercised["C2"] += 1
        kept = RETURNED if mark & ON_DEVICE else 0
        self.marks[process][page] = kept | (mark & STALE)

    def device_access(self, device: int, process: int, page: int) -> None:
        """A device's access to the page was judged to be right."""
        since = self.since[device]
        events = since[page]
        if events > 0:
            self._invalidated(events)
        since[page] = 0
        mark = self.marks[process][page]
        if mark & ON_DEVICE:
            here = mark & (ON_DEVICE_0 << device)
            self.exercised["H7/own" if here else "H7/other"] += 1
            self.exercised["G4" if mark & HOLE else "G7"] += 1
            if not here:
                self.marks[process][page] = RETURNED
        if mark & STALE:
            self.exercised["P2"] += 1
        if mark & REFUSED:
            self.exercised["G2"] += 1
            self.marks[process][page] &= ~REFUSED

    def _invalidated(self, events: int) -> None:
        exercised = self.exercised
        for bit, rule in _EVENT_RULES:
            if events & bit:
                exercised[rule] += 1

    def pending(self, device: int, page: int) -> list[Kind]:
        """The events since the device last used the page; none if it never did."""
        events = max(self.since[device][page], 0)
        return [kind for kind in Kind if events & 1 << kind]


_OWN_RULES: Final = {Kind.FORK: "L7", Kind.INVALIDATE: "B11"}
_EVENT_RULES: Final = [
    (1 << kind, _OWN_RULES.get(kind, f"I12/{kind.name.lower()}")) for kind in Kind
]
"""What a device's access counts as, by the bit of an event since its last."""
