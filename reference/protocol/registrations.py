"""Pins of what is not registered any more, and a notifier that tells of changes: P1.

Who pins is told of changes by nobody, unless it has a notifier too.  Pages that user space has
registered may stay pinned whatever happens to their addresses (P2).  What a driver keeps beyond
that, as a cache does, it has to let go of as soon as it is told.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from reference.operations import Kind
from reference.outcomes import Status
from reference.record import Entry, What
from reference.schedule import DEVICE
from reference.syncmodels import Sync

from .checker import Checker, pages
from .state import PASSED, UNFINISHED, Open, State
from .violation import Breach, Profile

__all__ = ["Registrations"]


@dataclass(eq=False, slots=True)
class Region:
    """Pages that were pinned together, and are in use together."""

    device: int
    space: int
    slots: set[int] = field(default_factory=set)
    pins: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Of frame and slot."""

    def left(self, range_: Open) -> set[int]:
        """Slots of a range that are pinned."""
        pinned = {slot for (_frame, slot), count in self.pins.items() if count}
        return {slot for slot in pinned if range_.first <= slot < range_.end}

    def holds(self, frame: int) -> bool:
        return any(count and held == frame for (held, _slot), count in self.pins.items())


@dataclass(eq=False, slots=True)
class Registration:
    """What user space has asked to be registered."""

    device: int
    key: int
    space: int
    slots: range

    def uses(self, region: Region) -> bool:
        """Whether it may be what a region is kept for."""
        here = self.device == region.device and self.space == region.space
        return here and any(slot in region.slots for slot in self.slots)


@dataclass(slots=True)
class _Doing:
    """What an actor's operation is about, from its begin to its end."""

    asked: Registration | None = None
    """To be registered."""
    taken_back: tuple[int, int] | None = None
    """Device and key to be taken back."""
    accesses: int | None = None
    """The device of which it is a single access."""
    pinned: list[Region] = field(default_factory=list)
    """It has pinned these, and is not done with them."""

    def uses(self, region: Region) -> bool:
        return region.device == self.accesses or region in self.pinned


class Registrations(Checker):
    """An idle region of a range is gone when the callback has returned.

    In doubt a region is in use: from the begin of the operation that registers a page of it until
    the end of the one that takes that back, and while the device has any work.
    """

    HANDLES: ClassVar[Mapping[What, str]] = {
        What.REGISTER: "register",
        What.UNREGISTER: "unregister",
        What.END: "end",
        What.DETACH: "detach",
        What.SUBMIT: "submit",
        What.LAUNCH: "launch",
        What.PIN: "pin",
        What.UNPIN: "unpin",
        What.CALLBACK: "callback",
        What.RETURNED: "returned",
        What.FINISHED: "returned",
    }

    def __init__(
        self, state: State, model: Sync, profile: Profile, exercised: Counter[str]
    ) -> None:
        super().__init__(state, model, profile, exercised)
        self._regions: list[Region] = []
        self._registrations: list[Registration] = []
        self._doing: defaultdict[int, _Doing] = defaultdict(_Doing)
        """By actor, what its operation is about."""
        self._jobs: defaultdict[int, int] = defaultdict(int)
        """By device, those that user space has submitted and not waited for."""
        self._pinning: dict[int, tuple[int, Region]] = {}
        """By actor, its last pin and the region that it is a part of."""
        self._idle: dict[tuple[int, int], set[Region]] = {}
        """By subscription and range, regions that have been idle since the callback began."""

    # What is registered

    def register(self, _index: int, entry: Entry) -> None:
        device, key, space, first, end = map(int, entry.arguments)
        asked = Registration(device, key, space, range(first, end))
        self._doing[entry.actor].asked = asked
        self._registrations.append(asked)
        self._use(region for region in self._regions if asked.uses(region))

    def _use(self, regions: Iterable[Region]) -> None:
        """These have not been idle since a callback began."""
        used = set(regions)
        for idle in self._idle.values():
            idle.difference_update(used)

    def unregister(self, _index: int, entry: Entry) -> None:
        device, key = map(int, entry.arguments)
        self._doing[entry.actor].taken_back = device, key

    def end(self, _index: int, entry: Entry) -> None:
        kind, status = map(int, entry.arguments)
        if kind == Kind.WAIT:
            self._jobs[entry.actor - DEVICE] -= 1
        doing = self._doing.pop(entry.actor, None)
        if doing is None:
            return
        if status == Status.OK and kind == Kind.UNREGISTER:
            self._registrations = [
                each for each in self._registrations if (each.device, each.key) != doing.taken_back
            ]
        elif status != Status.OK and doing.asked is not None:
            self._registrations.remove(doing.asked)

    def detach(self, _index: int, entry: Entry) -> None:
        device = entry.arguments[0]
        self._registrations = [each for each in self._registrations if each.device != device]

    # What the device does

    def submit(self, _index: int, entry: Entry) -> None:
        self._begin_work(int(entry.arguments[0]))
        self._jobs[int(entry.arguments[0])] += 1

    def launch(self, _index: int, entry: Entry) -> None:
        device, job = map(int, entry.arguments[:2])
        if not job:
            self._begin_work(device)
            self._doing[entry.actor].accesses = device

    def _begin_work(self, device: int) -> None:
        self._use(region for region in self._regions if region.device == device)

    # What is pinned

    def pin(self, index: int, entry: Entry) -> None:
        frame, _longterm, space, slot, device = map(int, entry.arguments)
        last, region = self._pinning.get(entry.actor, (-1, None))
        if region is None or last != index - 1:
            region = Region(device, space)
            self._regions.append(region)
            self._doing[entry.actor].pinned.append(region)
        self._pinning[entry.actor] = index, region
        region.slots.add(slot)
        region.pins[frame, slot] += 1

    def unpin(self, _index: int, entry: Entry) -> None:
        """If it may be of one of several idle regions, they count as one from here on."""
        frame, device = map(int, entry.arguments)
        holding = [each for each in self._regions if each.device == device and each.holds(frame)]
        if not holding:
            return
        idle = [region for region in holding if not self._in_use(region)] or holding[:1]
        region = idle[0]
        for other in idle[1:]:
            self._merge(region, other)
        slot = min(slot for (held, slot), count in region.pins.items() if held == frame and count)
        region.pins[frame, slot] -= 1
        if not region.pins.total():
            self._regions.remove(region)

    def _merge(self, region: Region, other: Region) -> None:
        region.slots |= other.slots
        region.pins += other.pins
        self._regions.remove(other)
        for idle in self._idle.values():
            if other not in idle:
                idle.discard(region)

    # Callbacks

    def _in_use(self, region: Region) -> bool:
        return (
            self._jobs[region.device] > 0
            or any(each.uses(region) for each in self._doing.values())
            or any(each.uses(region) for each in self._registrations)
        )

    def callback(self, _index: int, entry: Entry) -> None:
        number, range_number = map(int, entry.arguments[:2])
        subscription = self.state.subscriptions.get(number)
        range_ = self.state.ranges.get(range_number)
        if subscription is None or range_ is None or self.invalidated:
            return
        self._idle[number, range_number] = {
            region
            for region in self._regions
            if region.device in subscription.devices
            and region.space == range_.space
            and region.left(range_)
            and not self._in_use(region)
        }

    def returned(self, _index: int, entry: Entry) -> None:
        number, range_number = map(int, entry.arguments[:2])
        answer = entry.arguments[2] if entry.what == What.RETURNED else 1
        if answer == UNFINISHED:
            return
        idle = self._idle.pop((number, range_number), set())
        range_ = self.state.ranges.get(range_number)
        if not idle or range_ is None or answer not in PASSED:
            return
        for region, left in self._kept(idle, range_):
            text = f"device {region.device} still has {pages(left)} pinned, which nobody has"
            raise Breach("P1", f"{text} registered, when its callback for {range_} returned")
        self.count("P1")

    def _kept(self, idle: set[Region], range_: Open) -> Iterator[tuple[Region, set[int]]]:
        for region in self._regions:
            left = region.left(range_)
            if region in idle and left:
                yield region, left
