"""From lookup to translation: family H, and X1, I2 and I9 where a device's table is written."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from reference.record import Entry, What
from reference.syncmodels import Sync

from .checker import Checker
from .state import Invalidation, Mirror, State, Subscription
from .violation import Breach, Profile

__all__ = ["Collect"]

_UNHEEDED = "x"
"""Asked for a page: to write, and not to fault it in."""
_GOT = "got from drm_gpusvm"
"""How a page was learnt that may be mapped as D1 says, by whatever read section it was found."""
_NONE = -2
"""Instead of a frame: there is none yet."""
_AGAIN = -16
"""-EBUSY: the range was invalidated while it was looked at."""


@dataclass(slots=True)
class Section:
    """A read section: from its begin to its check."""

    subscription: int
    sequence: int
    entry: int
    busy: bool = False
    """hmm_range_fault has answered -EBUSY: it is of no use any more."""
    answer: bool | None = None
    """Of the retry check; None before it."""
    hint: bool | None = None
    """Of the check without lock; None if there was none."""
    locks: set[int] = field(default_factory=set)
    """Locks that were held at the check and are held since."""


@dataclass(slots=True)
class Source:
    """What a driver has learnt about a page."""

    how: str
    entry: int
    frame: int
    writable: bool
    order: int = 0
    section: Section | None = None
    asked: str = "r"
    """What was asked for the page, as in the event record."""


@dataclass
class Lookups:
    """What an actor has looked up in its operation."""

    sections: dict[int, Section] = field(default_factory=dict)
    """By subscription, the latest."""
    found: dict[int, Source] = field(default_factory=dict)
    """By page slot."""
    older: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    """By page slot, frames that an earlier lookup told of."""
    pinned: dict[int, int] = field(default_factory=dict)
    """By frame, the entry at which it was pinned."""
    moved: set[int] = field(default_factory=set)
    """Copies that migrate_vma_pages has put in place."""
    collecting: Source | None = None
    slots: range = range(0)
    """Those that were collected last."""
    asked: str = ""
    """What was asked for each of them."""
    failed: range = range(0)
    """Slots of the latest lookup that came to an error."""
    given_up: set[int] = field(default_factory=set)
    """Slots of a lookup with a lock and a timeout of its own that came to nothing."""
    barred: set[int] = field(default_factory=set)
    """Slots of areas that the latest lookup was not to look into."""

    def learn(self, slot: int, source: Source) -> None:
        self.forget(slot)
        self.found[slot] = source

    def forget(self, slot: int) -> None:
        before = self.found.pop(slot, None)
        if before is not None:
            self.older[slot].add(before.frame)


class Collect(Checker):
    """Every translation comes from a lookup that still holds."""

    HANDLES: ClassVar[Mapping[What, str]] = {
        What.BEGIN: "begin",
        What.CHANGE: "change",
        What.READ_BEGIN: "read_begin",
        What.READ_RETRY: "read_retry",
        What.CHECK_RETRY: "check_retry",
        What.UNLOCK: "unlock",
        What.COLLECT: "collect",
        What.BARRED: "barred",
        What.UNLOCKED: "unlocked",
        What.FOUND: "found",
        What.COLLECTED: "collected",
        What.EXCLUSIVE: "exclusive",
        What.PIN: "pin",
        What.PAGES: "pages",
        What.FINALIZE: "finalize",
        What.DEVICE_MAP: "device_map",
    }

    def __init__(
        self, state: State, model: Sync, profile: Profile, exercised: Counter[str]
    ) -> None:
        super().__init__(state, model, profile, exercised)
        self._lookups: defaultdict[int, Lookups] = defaultdict(Lookups)
        self._changes: defaultdict[int, list[Invalidation]] = defaultdict(list)
        """By address space, when entries of the CPU changed."""

    def begin(self, _index: int, entry: Entry) -> None:
        self._lookups.pop(entry.actor, None)

    # Read sections

    def read_begin(self, index: int, entry: Entry) -> None:
        number, sequence = map(int, entry.arguments)
        self._lookups[entry.actor].sections[number] = Section(number, sequence, index)

    def read_retry(self, _index: int, entry: Entry) -> None:
        lookups = self._lookups[entry.actor]
        section = lookups.sections.get(int(entry.arguments[0]))
        if section is not None:
            section.answer = bool(entry.arguments[2])
            section.locks = self.held(entry)

        subscription = self.state.subscriptions.get(int(entry.arguments[0]))
        if section is not None and section.answer and subscription is not None:
            told = [
                each
                for each in subscription.heard
                if each.entry > section.entry
                and each.first < lookups.slots.stop
                and lookups.slots.start < each.end
            ]
            if told:
                self.count("I9")
            if self._is_needless(section, subscription.space, lookups.slots, told):
                self.count("I10")

    def _is_needless(
        self, section: Section, space: int, slots: range, told: list[Invalidation]
    ) -> bool:
        """Whether nothing of what was looked up has changed, or still may."""
        under_way = any(each.range in self.state.ranges for each in told)
        return not under_way and not any(
            changed.entry > section.entry
            and changed.first < slots.stop
            and slots.start < changed.end
            for changed in self._changes[space]
        )

    def change(self, index: int, entry: Entry) -> None:
        space, first, end = map(int, entry.arguments[:3])
        self._changes[space].append(Invalidation(index, 0, first, end))

    def check_retry(self, _index: int, entry: Entry) -> None:
        section = self._lookups[entry.actor].sections.get(int(entry.arguments[0]))
        if section is not None:
            section.hint = bool(entry.arguments[2])
            self.count("I11")

    def unlock(self, _index: int, entry: Entry) -> None:
        lookups = self._lookups.get(entry.actor)
        if lookups is not None:
            for section in lookups.sections.values():
                section.locks.discard(int(entry.arguments[0]))

    # Lookups

    def collect(self, index: int, entry: Entry) -> None:
        device, space, first, end, sequence = map(int, entry.arguments[:5])
        asked = str(entry.arguments[5])
        lookups = self._lookups[entry.actor]
        section = self._section_for(lookups, device, space, sequence)
        lookups.collecting = Source("collected", index, 0, False, section=section)
        lookups.slots, lookups.asked = range(first, end), asked
        lookups.barred.difference_update(lookups.slots)
        lookups.given_up.difference_update(lookups.slots)
        if _UNHEEDED in asked:
            text = f"device {device} asks to write page {first + asked.index(_UNHEEDED)}"
            raise Breach("H4", f"{text} without asking to fault it in, which asks for nothing")
        self.count("H1", "H2")
        if asked:
            self.count("H6" if asked.count("-") == len(asked) else "H4")

    def _section_for(self, lookups: Lookups, device: int, space: int, sequence: int) -> Section:
        """The read section that a lookup belongs to."""
        where = f"device {device} calls hmm_range_fault with sequence {sequence}"
        mine = [each for each in self.state.of_device(device) if each.space == space]
        sections = [
            lookups.sections[each.number] for each in mine if each.number in lookups.sections
        ]
        fitting = [section for section in sections if section.sequence == sequence]
        if fitting:
            latest = max(fitting, key=lambda section: section.entry)
            if latest.busy:
                raise Breach("H2", f"{where} again, after -EBUSY and with no new read section")
            return latest
        if any(each.begun for each in mine):
            raise Breach("H2", f"{where}, which is not that of its read section")
        raise Breach("I2", f"{where}, before any read section of its subscription began")

    def barred(self, _index: int, entry: Entry) -> None:
        self._lookups[entry.actor].barred.add(int(entry.arguments[1]))
        self.count("H8")

    def found(self, _index: int, entry: Entry) -> None:
        _device, slot, frame, writable, order = map(int, entry.arguments)
        lookups = self._lookups[entry.actor]
        call = lookups.collecting
        if call is not None:
            asked = lookups.asked[slot - lookups.slots.start] if lookups.asked else "r"
            source = Source(call.how, call.entry, frame, bool(writable), order, call.section, asked)
            lookups.learn(slot, source)

    def collected(self, _index: int, entry: Entry) -> None:
        answer = int(entry.arguments[1])
        lookups = self._lookups[entry.actor]
        call, lookups.collecting = lookups.collecting, None
        if call is None or answer == 0:
            return
        self.count("H9")
        if answer == _AGAIN and call.section is not None:
            call.section.busy = True
        lookups.failed = lookups.slots
        for slot in [slot for slot in lookups.found if slot in lookups.failed]:
            lookups.forget(slot)

    def unlocked(self, _index: int, entry: Entry) -> None:
        """The variant of hmm_range_fault that begins read sections and takes the lock itself."""
        lookups = self._lookups[entry.actor]
        if entry.arguments[1]:
            lookups.given_up.update(lookups.slots)
        self.count("H11")

    def exclusive(self, index: int, entry: Entry) -> None:
        device, space, first, *frames = map(int, entry.arguments)
        lookups = self._lookups[entry.actor]
        for slot, frame in enumerate(frames, first):
            section = next(
                (
                    lookups.sections[each.number]
                    for each in self.state.of_device(device)
                    if each.space == space and each.covers(slot) and each.number in lookups.sections
                ),
                None,
            )
            found = frame or _NONE
            lookups.learn(slot, Source("made exclusive", index, found, True, section=section))

    def pin(self, index: int, entry: Entry) -> None:
        self._lookups[entry.actor].pinned[int(entry.arguments[0])] = index

    def pages(self, _index: int, entry: Entry) -> None:
        targets = map(int, entry.arguments[3:])
        self._lookups[entry.actor].moved.update(target for target in targets if target > 0)

    def finalize(self, _index: int, entry: Entry) -> None:
        self._lookups[entry.actor].moved.clear()

    # Translations

    def device_map(self, _index: int, entry: Entry) -> None:
        device, table, slot, address, writable = map(int, entry.arguments)
        mirror = self.state.mirror(device)
        if not self.invalidated or mirror.write_protects((table, slot), address, bool(writable)):
            return
        frame = mirror.frame(address)
        where = f"device {device} maps page {slot}"
        if frame is None:
            raise Breach("W6", f"{where} to DMA address {address}, which leads nowhere")
        lookups = self._lookups[entry.actor]
        source = _got(mirror, slot, address, frame) or self._source(lookups, slot, frame, where)
        told = self._told(mirror, slot, source, where)
        section = source.section if source is not None else None
        teller = told[0].number if section is None else section.subscription
        mirror.told[table, slot] = teller
        if source is None:
            # A copy of its own that migrate_vma_pages has just put in place (G6).
            return
        if writable and not source.writable:
            raise Breach("H5", f"{where} writable, which hmm_range_fault did not allow")
        for subscription in told:
            section = source.section or lookups.sections.get(subscription.number)
            if section is not None and section.subscription != subscription.number:
                # Another buffer with the page: its own callback takes its own entries away.
                continue
            if not subscription.listed and source.how != _GOT:
                self._check_section(section, subscription, source, where)
            self._check_fresh(subscription, source, slot, where)
        self.count("X1" if source.how == "made exclusive" else "H5")

    def _source(self, lookups: Lookups, slot: int, frame: int, where: str) -> Source | None:
        """What the translation was made of; None for a copy that was just moved there."""
        if frame in lookups.moved:
            return None
        source = lookups.found.get(slot)
        if source is not None and source.frame == frame:
            return source
        if frame in lookups.pinned:
            return Source("pinned", lookups.pinned[frame], frame, True)
        if slot in lookups.barred:
            what = "of an area that hmm_range_fault may not look into"
            raise Breach("H8", f"{where} to frame {frame}, {what}")
        if slot in lookups.given_up:
            raise Breach("H11", f"{where} to frame {frame}, which hmm_range_fault has given up")
        if frame in lookups.older[slot] or (source is None and slot in lookups.failed):
            raise Breach("H9", f"{where} to frame {frame}, from a lookup that did not succeed")
        if source is None:
            raise Breach("H2", f"{where} to frame {frame}, of which nothing was looked up")
        if source.frame < 0:
            rule = "H6" if source.asked == "-" else "H5"
            raise Breach(rule, f"{where} to frame {frame}, though its entry was not valid")
        raise Breach("H5", f"{where} to frame {frame}, but frame {source.frame} was {source.how}")

    def _told(
        self, mirror: Mirror, slot: int, source: Source | None, where: str
    ) -> list[Subscription]:
        """The subscriptions that tell the driver when the translation ceases to hold."""
        told = [
            each
            for each in self.state.of_device(mirror.number)
            if each.space == mirror.space and each.covers(slot) and not each.removing
        ]
        if not told:
            rule = "H10" if source is not None and source.order else "I2"
            raise Breach(rule, f"{where}, of which no subscription tells it")
        if source is not None and source.order:
            self.count("H10")
        return [each for each in told if not each.listed] or told

    def _check_section(
        self, section: Section | None, subscription: Subscription, source: Source, where: str
    ) -> None:
        if section is None:
            raise Breach(
                "I2", f"{where} with no read section of subscription {subscription.number}"
            )
        rule = "X1" if source.how == "made exclusive" else "H2"
        if section.entry > source.entry:
            raise Breach(rule, f"{where}, {source.how} before the read section began")
        if section.answer is None and section.hint is not None:
            raise Breach("I11", f"{where} with no check but mmu_interval_check_retry, a hint")
        if section.answer is None:
            raise Breach(rule, f"{where} without mmu_interval_read_retry after it was {source.how}")
        if section.answer:
            raise Breach("I9", f"{where} although mmu_interval_read_retry said to start over")
        if not section.locks:
            raise Breach(rule, f"{where} after giving up the lock of mmu_interval_read_retry")

    def _check_fresh(
        self, subscription: Subscription, source: Source, slot: int, where: str
    ) -> None:
        """No invalidation of the page has been told since it was looked up."""
        for told in reversed(subscription.heard):
            if told.entry < source.entry:
                break
            if told.first <= slot < told.end:
                rule = "K1" if subscription.listed else "I9"
                raise Breach(rule, f"{where}, {source.how} before an invalidation of it")
        if subscription.listed:
            self.count("K1")


def _got(mirror: Mirror, slot: int, address: int, frame: int) -> Source | None:
    """The page of drm_gpusvm that a translation is made of; None if it is made of another."""
    for got in mirror.got.values():
        if got.leads(slot, address):
            return Source(_GOT, got.entry, frame, got.writable)
    return None
