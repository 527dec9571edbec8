"""Start, callbacks and end: families B, S and E, and what is left when a callback returns (I12)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

from reference.operations import Event
from reference.record import Entry, What
from reference.syncmodels import Sync

from .checker import Checker, pages
from .mirror import Mirror, Place
from .state import ALL_AT_ONCE, PASSED, PROTECTING, UNFINISHED, Call, Open, State, Subscription
from .violation import Breach, Profile

__all__ = ["Brackets"]


class Brackets(Checker):
    """What holds while a range is open."""

    HANDLES: ClassVar[Mapping[What, str]] = {
        What.START: "start",
        What.CALLBACK: "callback",
        What.RETURNED: "returned",
        What.FINISHED: "finished",
        What.STARTED: "started",
        What.CHANGE: "change",
        What.FINISH: "finish",
        What.SOFT_DIRTY: "soft_dirty",
        What.TRACKED: "tracked",
        What.SLEEP: "sleep",
        What.BLOCK: "block",
        What.DEVICE_MAP: "device_map",
        What.READ_BEGIN: "read_begin",
        What.READ_RETRY: "read_retry",
        What.PIN: "pin",
        What.UNPIN: "unpin",
    }

    def __init__(
        self, state: State, model: Sync, profile: Profile, exercised: Counter[str]
    ) -> None:
        super().__init__(state, model, profile, exercised)
        self._open_at_sleep: dict[int, list[Open]] = {}
        """By actor, the ranges that were open when it last went to sleep."""
        self._pinned: dict[tuple[int, int], tuple[int, int]] = {}
        """By actor and frame: address space and slot of what was pinned, and not mapped since."""
        self._unseen: dict[int, str] = {}
        """By address space, rights of each page that leave no write of a device unseen."""

    # Exercise

    def start(self, _index: int, entry: Entry) -> None:
        if not self.state.subscriptions:
            return
        space, first, end = map(int, entry.arguments[1:4])
        subscribed = [each for each in self.state.subscriptions.values() if each.space == space]
        if subscribed and not any(each.first < end and first < each.end for each in subscribed):
            self.count("I4")
        for other in self.state.ranges.values():
            if other.space == space and other.first < end and first < other.end:
                self.count("S6")

    def callback(self, _index: int, entry: Entry) -> None:
        subscription = self.state.subscriptions.get(int(entry.arguments[0]))
        range_ = self.state.ranges.get(int(entry.arguments[1]))
        if subscription is None or range_ is None:
            return
        others = range_.called & {each.number for each in self._siblings(subscription)}
        if subscription.listed and any(
            not self.state.subscriptions[number].listed for number in others
        ):
            self.count("S7")

    def _siblings(self, subscription: Subscription) -> list[Subscription]:
        return [
            each
            for each in self.state.subscriptions.values()
            if each.devices.keys() & subscription.devices.keys()
        ]

    def finish(self, _index: int, entry: Entry) -> None:
        range_ = self.state.ranges.get(int(entry.arguments[0]))
        if range_ is not None and range_.called:
            self.count(*range_.cells("S1"))

    # Sleep (B2, B6)

    def sleep(self, _index: int, entry: Entry) -> None:
        self._open_at_sleep.pop(entry.actor, None)
        call = self.state.call(entry.actor)
        if call is not None and not call.range.blockable:
            rule = "B2" if call.subscription.listed else "B6"
            raise Breach(rule, f"the callback for {call.range} may sleep, and may not")

    # The end of a callback

    def returned(self, _index: int, entry: Entry) -> None:
        call = self.state.call(entry.actor)
        if call is None:
            return
        # The host has seen that the range is what it was, or the record would have ended before.
        self.count("E3")
        answer = entry.arguments[2]
        if answer not in PASSED:
            self._refused(call, entry)
        elif answer != UNFINISHED:
            self._done(call, all_at_once=answer == ALL_AT_ONCE)

    def finished(self, _index: int, entry: Entry) -> None:
        """The second pass leaves as little as a callback with one (I17)."""
        call = self.state.call(entry.actor)
        if call is not None:
            self.count("I17")
            self._done(call)

    def _done(self, call: Call, *, all_at_once: bool = False) -> None:
        """An invalidation is complete: in one pass, the second, or `all_at_once` in the first."""
        mirrors = self.state.told_by(call.subscription)
        self._count_returned(call, mirrors)
        range_ = call.range
        rule = "S9" if call.failed else "E1" if range_.event == Event.UNKNOWN else "I12"
        if all_at_once:
            self.count("I17")
            rule = "I17"
        for mirror in mirrors:
            slots = self._to_be_quiet(mirror, call)
            when = f"when its callback for {range_} returned"
            self._check_quiet(mirror, range_, slots, when, rule)

    def _to_be_quiet(self, mirror: Mirror, call: Call) -> list[int]:
        """Slots of which nobody else tells a device any more."""
        range_, subscription = call.range, call.subscription
        siblings = self.state.of_device(mirror.number)
        waiting = [each for each in siblings if self._is_to_come(each, call)]
        return [
            slot
            for slot in mirror.slots(range_.first, range_.end)
            if subscription.covers(slot) and not any(other.covers(slot) for other in waiting)
        ]

    def _is_to_come(self, other: Subscription, call: Call) -> bool:
        """Whether another subscription's callback for the range may still have to come."""
        return other is not call.subscription and other.number not in call.range.called

    def _refused(self, call: Call, entry: Entry) -> None:
        """A refusal leaves no trace."""
        rule = "B2" if call.subscription.listed else "B6"
        if call.touched:
            raise Breach(rule, f"the callback for {call.range} refused, but changed {call.touched}")
        kept = self.held(entry) - call.held
        if kept:
            raise Breach(
                rule, f"the callback for {call.range} refused, but holds {self.names(kept)}"
            )
        for exercised in (
            (rule, "B7", "B8") if call.subscription.listed else (rule, "B1", "B5", "B9")
        ):
            self.count(*call.range.cells(exercised))

    def _count_returned(self, call: Call, mirrors: list[Mirror]) -> None:
        """What the driver had to drop is what puts it to the test."""
        range_, mapped = call.range, call.mapped
        if not self.invalidated:
            return
        rules = ["E1" if range_.event == Event.UNKNOWN else f"E.{range_.name}"]
        if range_.is_own_of(mirrors):
            rules.append("E2")
        elif range_.event not in PROTECTING:
            rules.append("I12")
            rules += ["S9"] if call.failed else []
            rules += ["D2"] if call.busy and self.model == Sync.REFCOUNTING else []
        if not range_.blockable:
            rules += ["B1", "B2", "B4"] if call.subscription.listed else ["B1", "B5", "B6"]
        for rule in rules:
            self.count(*range_.cells(rule, mapped))

    # Quiescence (I12, D2)

    def _check_quiet(
        self, mirror: Mirror, range_: Open, slots: list[int], when: str, rule: str = "I12"
    ) -> None:
        if not self.invalidated or range_.event in PROTECTING or range_.is_own(mirror):
            return
        wanted = set(slots)
        for what in self._left(mirror, wanted):
            raise Breach(rule, f"device {mirror.number} still has {what} {when}")
        if self.model != Sync.REFCOUNTING:
            return
        for job, places in mirror.jobs.items():
            reached = self._told(mirror, places)
            if reached & wanted:
                text = (
                    f"device {mirror.number} still works on job {job} on {pages(reached & wanted)}"
                )
                raise Breach("D2", f"{text} {when}")

    def _left(self, mirror: Mirror, slots: set[int]) -> Iterator[str]:
        """In words, what of a device still leads to page slots."""
        mapped = self._told(mirror, mirror.table) & slots
        if mapped:
            yield f"page table entries for {pages(mapped)}"
        cached = self._told(mirror, mirror.tlb) & slots
        if cached:
            yield f"{pages(cached)} in its TLB"
        reached = self._told(mirror, (place for place, _ in mirror.in_flight.values())) & slots
        if reached:
            yield f"accesses in flight to {pages(reached)}"
        used = {entry.address for entry in mirror.table.values()}
        for address, places in mirror.served.items():
            served = self._told(mirror, places) & slots
            if served and address not in used:
                yield f"DMA address {address} of {pages(served)}"

    def _told(self, mirror: Mirror, places: Iterable[Place]) -> set[int]:
        """Slots of places whose subscription is there; what had another is being torn down."""
        there = self.state.subscriptions
        return {
            place[1]
            for place in places
            if (told := there.get(mirror.told.get(place, 0))) is not None and not told.removing
        }

    def started(self, _index: int, entry: Entry) -> None:
        number, answer = int(entry.arguments[0]), int(entry.arguments[1])
        range_ = self.state.ranges.get(number)
        if range_ is None:
            return
        if answer:
            self.count(*range_.cells("B10"), *range_.cells("B12"))
            return
        if not range_.called:
            return
        called = map(self.state.subscriptions.__getitem__, self._called(range_))
        for device in {device for each in called for device in each.devices}:
            mirror = self.state.mirror(device)
            told = [each for each in self.state.of_device(device) if each.number in range_.called]
            slots = [
                slot
                for slot in mirror.slots(range_.first, range_.end)
                if any(each.covers(slot) for each in told)
            ]
            self._check_quiet(mirror, range_, slots, f"when {range_} had started")

    def _called(self, range_: Open) -> list[int]:
        return [number for number in range_.called if number in self.state.subscriptions]

    # Page table changes

    def change(self, _index: int, entry: Entry) -> None:
        space, first, _end, event = map(int, entry.arguments[:4])
        for mirror in self.state.mirrors.values():
            if mirror.space != space:
                continue
            if space in self.state.dead and event == Event.UNMAP:
                self._check_gone(mirror, space)
            elif event == Event.SOFT_DIRTY:
                # Drivers may still have the bits set, until the end.
                self._unseen[space] = str(entry.arguments[4])
            elif event in PROTECTING and self.invalidated:
                self._check_rights(mirror, first, str(entry.arguments[4]), Event(event))

    def soft_dirty(self, _index: int, entry: Entry) -> None:
        """A driver sees to it that a page counts as written."""
        space, slot = map(int, entry.arguments)
        rights = self._unseen.get(space, "")
        if 0 <= slot < len(rights):
            self._unseen[space] = f"{rights[:slot]}w{rights[slot + 1 :]}"

    def tracked(self, _index: int, entry: Entry) -> None:
        """No device writes pages unseen whose soft-dirty bits have been cleared."""
        space = int(entry.arguments[0])
        rights = self._unseen.pop(space, "")
        for mirror in self.state.mirrors.values():
            if mirror.space == space and self.invalidated:
                self._check_rights(mirror, 0, rights, Event.SOFT_DIRTY)

    def _check_gone(self, mirror: Mirror, space: int) -> None:
        for way, place, _entry in mirror.reachable():
            if self.invalidated and not self._told(mirror, [place]):
                continue
            text = f"device {mirror.number} still has page {place[1]} in {way}"
            raise Breach("L2", f"{text} when the pages of process {space} are freed")

    def _check_rights(self, mirror: Mirror, first: int, rights: str, event: Event) -> None:
        """No translation gives a right that the CPU's page tables have lost."""
        for way, place, entry in mirror.reachable():
            slot = place[1]
            if not self._told(mirror, [place]):
                continue
            right = rights[slot - first : slot - first + 1] if slot >= first else ""
            if right == "-" or (right == "r" and entry.writable):
                lost = "read" if right == "-" else "write"
                text = f"device {mirror.number} may still {lost} page {slot} through {way}"
                raise Breach(f"E.{event.name}", f"{text} after {event.name}")

    # Between start and end (S2, K1)

    def device_map(self, _index: int, entry: Entry) -> None:
        device, table, slot, address, writable = map(int, entry.arguments)
        mirror = self.state.mirror(device)
        if not self.invalidated or mirror.space is None:
            return
        if mirror.write_protects((table, slot), address, bool(writable)):
            return
        place = mirror.space, slot
        self._pinned = {key: pinned for key, pinned in self._pinned.items() if pinned != place}
        for range_ in self.state.ranges.values():
            inside = range_.space == mirror.space and range_.first <= slot < range_.end
            if inside and not range_.aborted and not range_.is_own(mirror):
                self._check_closed(mirror, range_, slot)

    def _check_closed(self, mirror: Mirror, range_: Open, slot: int) -> None:
        told = [each for each in self.state.of_device(mirror.number) if each.covers(slot)]
        if not told or not (range_.started or all(each.number in range_.called for each in told)):
            return
        rule = "K1" if all(each.listed for each in told) else "S2"
        text = f"device {mirror.number} maps page {slot}"
        raise Breach(rule, f"{text} although {range_} has started and not ended")

    def read_retry(self, _index: int, entry: Entry) -> None:
        """A check that sends the driver back has kept it from mapping what was invalidated."""
        if entry.arguments[2]:
            self._count_kept_off(int(entry.arguments[0]))

    def block(self, index: int, entry: Entry) -> None:
        self.sleep(index, entry)
        # Who sleeps may be about to begin a read section: which ranges keep it off is known now.
        self._open_at_sleep[entry.actor] = [*self.state.ranges.values()]

    def read_begin(self, _index: int, entry: Entry) -> None:
        """A read section that had to wait for its begin."""
        number = int(entry.arguments[0])
        self._count_kept_off(number, self._open_at_sleep.pop(entry.actor, ()))

    def pin(self, _index: int, entry: Entry) -> None:
        frame, _longterm, space, slot, _device = map(int, entry.arguments)
        self._pinned[entry.actor, frame] = space, slot

    def unpin(self, _index: int, entry: Entry) -> None:
        """The same for a driver that pins what it maps: it lets a page go unmapped."""
        space, slot = self._pinned.pop((entry.actor, int(entry.arguments[0])), (-1, -1))
        ranges = [each for each in self.state.ranges.values() if slot in each]
        for subscription in self.state.subscriptions.values():
            if ranges and subscription.listed and subscription.space == space:
                self._count_kept_off(subscription.number, ranges)

    def _count_kept_off(self, subscription: int, ranges: Iterable[Open] | None = None) -> None:
        """Count the ranges, of these or all, that now keep a subscription's pages unmapped."""
        for range_ in self.state.ranges.values() if ranges is None else ranges:
            if subscription in range_.called:
                self.count(*range_.cells("S2"))
