"""drm_gpusvm: how its ranges are made, mapped and removed (D1).

What hmm_range_fault and the sequence are used for inside of it, the other families look at; here
is what the driver has to do: remove what was unmapped before it handles a fault, drop the rest of
a range of which a part was, and map nothing that it has not found valid under the notifier lock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from reference.record import Entry, What
from reference.schedule import ENGINE
from reference.syncmodels import Sync

from .checker import Checker, pages
from .state import State
from .violation import Breach, Profile

__all__ = ["GpuSvm"]


@dataclass(slots=True)
class SvmRange:
    """A range, from its making to its removal."""

    number: int
    slots: range
    unmapped: int = -1
    """The entry at which UNMAP was first told; -1 if it was not."""
    gone: set[int] = field(default_factory=set)
    """Slots that were unmapped."""

    def __str__(self) -> str:
        return f"range {self.number} ({pages(self.slots)})"

    @property
    def partial(self) -> bool:
        return self.unmapped >= 0 and len(self.gone) < len(self.slots)


@dataclass(slots=True)
class Said:
    """What `range_pages_valid` has said to an actor about a range."""

    answer: bool
    lock: int
    """The notifier lock; 0 once it was given back."""


class GpuSvm(Checker):
    """What a driver does with the ranges of drm_gpusvm."""

    HANDLES: ClassVar[Mapping[What, str]] = {
        What.BEGIN: "begin",
        What.LAUNCH: "launch",
        What.FAIL: "fail",
        What.UNLOCK: "unlock",
        What.SVM_FIND: "find",
        What.SVM_INSERT: "insert",
        What.SVM_GOT: "got",
        What.SVM_VALID: "valid",
        What.SVM_UNMAPPED: "unmapped",
        What.SVM_REMOVE: "remove",
        What.SVM_FINI: "fini",
        What.DEVICE_MAP: "device_map",
    }

    def __init__(
        self, state: State, model: Sync, profile: Profile, exercised: Counter[str]
    ) -> None:
        super().__init__(state, model, profile, exercised)
        self._ranges: dict[int, dict[int, SvmRange]] = {}
        """By device and number."""
        self._closing: set[int] = set()
        """Devices whose ranges are all being removed."""
        self._said: dict[int, dict[tuple[int, int], Said]] = {}
        """By actor, and by device and number of a range."""
        self._since: dict[int, int] = {}
        """By actor, an entry before which nothing of the fault has happened that it is in."""
        self._failed = False
        """A failure was injected: what should be moved may stay."""

    # Faults.  When one begins is not in the record: its operation, job or latest retry is.

    def begin(self, index: int, entry: Entry) -> None:
        if self._ranges:
            self._since[entry.actor] = index

    def launch(self, index: int, entry: Entry) -> None:
        """The engine begins with the job at once if it has no other."""
        device, job = map(int, entry.arguments[:2])
        if self._ranges and job and not any(self.state.mirror(device).jobs):
            self._since[ENGINE + device] = index

    def fail(self, _index: int, _entry: Entry) -> None:
        self._failed = True

    def find(self, index: int, entry: Entry) -> None:
        """All that was unmapped before the fault has been removed by now."""
        device, slot = map(int, entry.arguments)
        since = self._since.get(entry.actor, -1)
        for range_ in self._of(device).values():
            if 0 <= range_.unmapped < since:
                text = f"device {device} handles a fault on page {slot}"
                raise Breach("D1", f"{text} while {range_} is there, which was unmapped before")
        self._since[entry.actor] = index
        self.count("D1/find")

    def _of(self, device: int) -> dict[int, SvmRange]:
        return self._ranges.setdefault(device, {})

    # Ranges

    def insert(self, _index: int, entry: Entry) -> None:
        device, number, first, end = map(int, entry.arguments)
        self._closing.discard(device)
        self._of(device)[number] = SvmRange(number, range(first, end))

    def unmapped(self, index: int, entry: Entry) -> None:
        device, number, first, end, away = map(int, entry.arguments)
        range_ = self._of(device)[number]
        if range_.unmapped < 0:
            range_.unmapped = index
        range_.gone.update(range(first, end))
        self.count("D1/partial unmap" if range_.partial else "D1/unmap")
        if range_.partial and away:
            self.count("D1/device memory")

    def remove(self, _index: int, entry: Entry) -> None:
        """Nothing is left of a range whose pages were not all unmapped."""
        device, number, *away = map(int, entry.arguments)
        range_ = self._of(device).pop(number, None)
        if range_ is None or not range_.partial or device in self._closing:
            return
        left = set(range_.slots) - range_.gone
        what = f"device {device} removes {range_}, of which {pages(range_.gone)} was unmapped"
        for way, (_table, slot), _translation in self.state.mirror(device).reachable():
            if slot in left:
                raise Breach("D1", f"{what}, and still has page {slot} in {way}")
        if left.intersection(away) and not self._failed:
            raise Breach("D1", f"{what}, and leaves {pages(left.intersection(away))} in its memory")

    def fini(self, _index: int, entry: Entry) -> None:
        """What is left when all is closed is W5's."""
        self._closing.add(int(entry.arguments[0]))

    # Commits

    def got(self, _index: int, entry: Entry) -> None:
        """What was said of pages before says nothing of these."""
        device, number = map(int, entry.arguments[:2])
        for said in self._said.values():
            said.pop((device, number), None)

    def valid(self, _index: int, entry: Entry) -> None:
        device, number, lock, answer = map(int, entry.arguments)
        self._said.setdefault(entry.actor, {})[device, number] = Said(bool(answer), lock)
        if not answer:
            self.count("D1/sent back")

    def unlock(self, _index: int, entry: Entry) -> None:
        if self._said:
            for said in self._said.get(entry.actor, {}).values():
                if said.lock == entry.arguments[0]:
                    said.lock = 0

    def device_map(self, _index: int, entry: Entry) -> None:
        if not self._ranges:
            return
        device, _table, slot, address, _writable = map(int, entry.arguments)
        for number, got in self.state.mirror(device).got.items():
            if got.leads(slot, address):
                said = self._said.get(entry.actor, {}).get((device, number))
                where = f"device {device} maps page {slot} of {self._of(device)[number]}"
                self._check_committed(said, where)

    def _check_committed(self, said: Said | None, where: str) -> None:
        if said is None:
            raise Breach("D1", f"{where} without drm_gpusvm_range_pages_valid")
        if not said.answer:
            raise Breach("D1", f"{where} although drm_gpusvm_range_pages_valid said no")
        if not said.lock:
            raise Breach("D1", f"{where} after giving up the lock of drm_gpusvm_range_pages_valid")
        self.count("D1/commit")
