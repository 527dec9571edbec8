"""What the event record says of devices, subscriptions, ranges and locks at a moment."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from reference.operations import Event
from reference.record import STATES, What

from .mirror import LOCAL, SHARED, Got, Mirror, Place, Translation

__all__ = [
    "CHANGES",
    "Call",
    "Invalidation",
    "Mirror",
    "Open",
    "Place",
    "State",
    "Subscription",
    "Translation",
]

OWNED = frozenset({Event.MIGRATE, Event.EXCLUSIVE})
"""Events that a driver may skip if it caused them itself (E2)."""
PROTECTING = frozenset({Event.PROTECTION_VMA, Event.PROTECTION_PAGE, Event.SOFT_DIRTY})
"""Events after which a translation may stay if it gives no right too many."""


UNFINISHED, ALL_AT_ONCE = 2, 3
"""Answers of the first of two passes: that there is a second, or that there is nothing left."""
PASSED = frozenset({1, UNFINISHED, ALL_AT_ONCE})
"""Answers of callbacks that did not refuse."""


class Invalidation(NamedTuple):
    """A callback that has returned with success."""

    entry: int
    range: int
    first: int
    end: int


@dataclass(slots=True)
class Subscription:
    """An interval subscription, or a list notifier (`listed`)."""

    number: int
    devices: Counter[int]
    """Those whose drivers it tells, each with how often it was got for them."""
    space: int
    first: int
    end: int
    listed: bool
    begun: bool = False
    """A read section was begun."""
    released: bool = False
    """It was told that the address space dies."""
    removing: bool = False
    got: int = 0
    """How often mmu_notifier_get has given it."""
    heard: list[Invalidation] = field(default_factory=list)

    def covers(self, slot: int) -> bool:
        return self.first <= slot < self.end


@dataclass(slots=True)
class Open:
    """A range between start and end."""

    number: int
    space: int
    first: int
    end: int
    event: int
    owner: int
    blockable: bool
    states: str
    called: set[int] = field(default_factory=set)
    """Subscriptions whose callbacks have returned with success."""
    frames: dict[int, set[int]] = field(default_factory=dict)
    """By device, the frames that its pages of the range led to before its callback."""
    started: bool = False
    aborted: bool = False

    def __str__(self) -> str:
        return f"range {self.number} ({self.name}, pages {self.first}..{self.end - 1})"

    @property
    def name(self) -> str:
        return _EVENTS.get(self.event) or f"EVENT{self.event}"

    def __contains__(self, slot: int) -> bool:
        """Whether it is a slot of the range whose page is known."""
        return 0 <= slot - self.first < len(self.states)

    def is_own(self, mirror: Mirror) -> bool:
        """Whether the device's driver may skip it, as its own doing (E2)."""
        return self.event in OWNED and self.owner == mirror.owner

    def is_own_of(self, mirrors: Iterable[Mirror]) -> bool:
        """Whether it is the doing of one of these devices."""
        return any(map(self.is_own, mirrors))

    def cells(self, rule: str, slots: Iterable[int] | None = None) -> Iterator[str]:
        """A rule with event, flag and each state that a page of these slots, or any, is in."""
        blockable = "blockable" if self.blockable else "nonblock"
        states = set(self.states)
        if slots is not None:
            states = {self.states[slot - self.first] for slot in slots if slot in self}
        for letter in sorted(states):
            yield f"{rule}/{self.name}/{blockable}/{STATES[letter]}"


_EVENTS = {int(event): event.name for event in Event}


@dataclass(slots=True)
class Call:
    """A callback that runs."""

    subscription: Subscription
    range: Open
    sequence: int
    held: frozenset[int]
    """Locks of drivers that its task held before."""
    mapped: frozenset[int]
    """Slots of range and subscription that the device reached before."""
    busy: bool
    """The device worked on a job on some of them."""
    sequence_set: bool = False
    touched: str = ""
    """The first thing that it changed, in words."""
    failed: bool = False
    """A failure was injected into it."""


def _stranger(number: int, *, listed: bool) -> Subscription:
    """What a callback belongs to whose subscription is not there."""
    return Subscription(number, Counter(), -1, 0, 0, listed=listed)


class State:
    """Reconstructed entry by entry, as `CHANGES` says; checkers look at it before that."""

    def __init__(self) -> None:
        self.mirrors: dict[int, Mirror] = {}
        self.subscriptions: dict[int, Subscription] = {}
        self.ranges: dict[int, Open] = {}
        self.finished: dict[int, Open] = {}
        """Ranges that have ended, and of whose start somebody was told."""
        self.endings: dict[int, tuple[Subscription, Open]] = {}
        """By actor, the end callback that it is in."""
        self.calls: defaultdict[int, list[Call]] = defaultdict(list)
        """By actor, the innermost last."""
        self.unfinished: dict[tuple[int, int], Call] = {}
        """By subscription and range, callbacks whose second pass is still to come."""
        self.locks: dict[int, str] = {}
        """Names of the locks of drivers."""
        self.held: defaultdict[int, dict[int, bool]] = defaultdict(dict)
        """By actor: locks of drivers, each with whether it is held shared."""
        self.pins: defaultdict[int, int] = defaultdict(int)
        self.references: defaultdict[int, int] = defaultdict(int)
        self.dead: dict[int, str] = {}
        """Address spaces whose last user is gone, with what each page was like then."""

    def mirror(self, device: int) -> Mirror:
        found = self.mirrors.get(device)
        if found is None:
            found = self.mirrors[device] = Mirror(device)
        return found

    def of_device(self, device: int) -> list[Subscription]:
        """The subscriptions of a device that are there."""
        return [each for each in self.subscriptions.values() if device in each.devices]

    def told_by(self, subscription: Subscription) -> list[Mirror]:
        """The devices that a subscription tells of changes."""
        return [self.mirror(device) for device in subscription.devices]

    def call(self, actor: int) -> Call | None:
        """The callback that an actor is in."""
        calls = self.calls.get(actor)
        return calls[-1] if calls else None

    # Ranges and callbacks

    def _start(
        self, _index: int, _actor: int, number: int, space: int, first: int, end: int, *rest: Any
    ) -> None:
        event, owner, blockable, states = rest
        self.ranges[number] = Open(
            number, space, first, end, int(event), int(owner), bool(blockable), str(states)
        )

    def range_for(self, number: int, subscription: Subscription) -> Open:
        """The range of a callback: one that was never started tells of the end of the process."""
        found = self.ranges.get(number)
        if found is None:
            space, states = subscription.space, self.dead.get(subscription.space, "")
            found = Open(number, space, 0, subscription.end, Event.RELEASE, -1, True, states)
        return found

    def _callback(self, _index: int, actor: int, number: int, range_: int, sequence: int) -> None:
        subscription = self.subscriptions.get(number) or _stranger(number, listed=sequence == 0)
        held = frozenset(self.held[actor])
        found = self.range_for(range_, subscription)
        first, end = max(found.first, subscription.first), min(found.end, subscription.end)
        reached: set[int] = set()
        busy = False
        for mirror in self.told_by(subscription):
            mapped = mirror.mapped(first, end)
            busy |= any(slot in mapped for places in mirror.jobs.values() for _, slot in places)
            if mapped:
                found.frames.setdefault(mirror.number, set()).update(mirror.frames(mapped))
                reached |= mapped
        self.calls[actor].append(
            Call(subscription, found, sequence, held, frozenset(reached), busy)
        )

    def _returned(self, index: int, actor: int, _number: int, _range: int, answer: int) -> None:
        if not self.calls[actor]:
            return
        call = self.calls[actor].pop()
        range_, subscription = call.range, call.subscription
        if answer not in PASSED:
            range_.aborted = True
            return
        if answer == UNFINISHED:
            self.unfinished[subscription.number, range_.number] = call
        else:
            range_.called.add(subscription.number)
        subscription.released |= range_.event == Event.RELEASE and range_.space in self.dead
        if not range_.is_own_of(self.told_by(subscription)):
            subscription.heard.append(Invalidation(index, range_.number, range_.first, range_.end))

    def _finishing(self, _index: int, actor: int, number: int, range_: int) -> None:
        call = self.unfinished.pop((number, range_))
        call.held = frozenset(self.held[actor])
        self.calls[actor].append(call)

    def _finished(self, _index: int, actor: int, number: int, _range: int) -> None:
        self.calls[actor].pop().range.called.add(number)

    def _started(self, _index: int, _actor: int, number: int, answer: int) -> None:
        if answer:
            self.ranges.pop(number, None)
        elif number in self.ranges:
            self.ranges[number].started = True

    def _finish(self, _index: int, _actor: int, number: int) -> None:
        range_ = self.ranges.pop(number, None)
        if range_ is not None and range_.called:
            self.finished[number] = range_

    def _ending(self, _index: int, actor: int, number: int, range_: int) -> None:
        subscription = self.subscriptions.get(number)
        found = self.finished.get(range_)
        if subscription is not None and found is not None:
            self.endings[actor] = subscription, found

    def _ended(self, _index: int, actor: int, _number: int, _range: int) -> None:
        self.endings.pop(actor, None)

    # Subscriptions

    def _insert(self, _index: int, _actor: int, number: int, *rest: int) -> None:
        device, space, first, end, sequence = rest
        self.subscriptions[number] = Subscription(
            number, Counter([device]), space, first, end, listed=sequence == 0
        )

    def _remove(self, _index: int, _actor: int, number: int) -> None:
        if number in self.subscriptions:
            self.subscriptions[number].removing = True

    def _removed(self, _index: int, _actor: int, number: int) -> None:
        self.subscriptions.pop(number, None)

    def _obtained(self, _index: int, _actor: int, number: int, device: int) -> None:
        subscription = self.subscriptions[number]
        subscription.got += 1
        # Who had it made is among the devices since it was inserted.
        if subscription.got > 1:
            subscription.devices[device] += 1

    def _dropped(self, _index: int, _actor: int, number: int, device: int, left: int) -> None:
        subscription = self.subscriptions[number]
        subscription.devices[device] -= 1
        if subscription.devices[device] <= 0:
            del subscription.devices[device]
        subscription.removing |= not left

    def _begin(self, _index: int, _actor: int, number: int, _sequence: int) -> None:
        if number in self.subscriptions:
            self.subscriptions[number].begun = True

    def _set(self, _index: int, actor: int, _number: int, _sequence: int) -> None:
        call = self.call(actor)
        if call is not None:
            call.sequence_set = True
            call.touched = call.touched or "the sequence"

    def _release(self, _index: int, _actor: int, space: int, first: int, states: str) -> None:
        self.dead[space] = "-" * first + states

    def _attach(self, _index: int, _actor: int, device: int, space: int, owner: int) -> None:
        mirror = self.mirror(device)
        mirror.space, mirror.owner = space, owner
        self.dead.pop(space, None)

    def _detach(self, _index: int, _actor: int, device: int) -> None:
        self.mirror(device).space = None

    # Locks

    def _lock(self, _index: int, _actor: int, _device: int, lock: int, name: str) -> None:
        self.locks[lock] = name

    def _acquire(self, _index: int, actor: int, lock: int, shared: int) -> None:
        if lock in self.locks:
            self.held[actor][lock] = bool(shared)

    def _unlock(self, _index: int, actor: int, lock: int, _shared: int) -> None:
        self.held[actor].pop(lock, None)

    def _fail(self, _index: int, actor: int, _site: str, _number: int) -> None:
        call = self.call(actor)
        if call is not None:
            call.failed = True

    # Devices

    def _map(self, _index: int, actor: int, device: int, *rest: int) -> None:
        table, slot, address, writable = rest
        mirror = self.mirror(device)
        mirror.table[table, slot] = Translation(address, bool(writable))
        self._old(mirror, (table, slot))
        if not address & LOCAL:
            mirror.served[address].add((table, slot))
        self._touch(actor, "a page table entry")

    def _unmap(self, _index: int, actor: int, device: int, table: int, slot: int) -> None:
        mirror = self.mirror(device)
        mirror.table.pop((table, slot), None)
        self._old(mirror, (table, slot))
        self._touch(actor, "a page table entry")

    def _touch(self, actor: int, what: str) -> None:
        call = self.call(actor)
        if call is not None:
            call.touched = call.touched or what

    def _walk(self, _index: int, _actor: int, device: int, table: int, slot: int) -> None:
        mirror = self.mirror(device)
        if (table, slot) in mirror.table:
            mirror.tlb[table, slot] = mirror.table[table, slot]
            if mirror.young is not None:
                mirror.young.add((table, slot))

    def _share(self, _index: int, _actor: int, device: int, space: int) -> None:
        self.mirror(device).shares = space

    def _unshare(self, _index: int, _actor: int, device: int) -> None:
        self.mirror(device).shares = None

    def _shared_walk(
        self, _index: int, _actor: int, device: int, slot: int, frame: int, writable: int
    ) -> None:
        self.mirror(device).tlb[0, slot] = Translation(SHARED | frame, bool(writable))

    def _keep_young(self, _index: int, _actor: int, device: int) -> None:
        self.mirror(device).young = set()

    def _clear_young(
        self, _index: int, _actor: int, device: int, table: int, slot: int, _young: int
    ) -> None:
        self._old(self.mirror(device), (table, slot))

    def _old(self, mirror: Mirror, place: Place) -> None:
        if mirror.young is not None:
            mirror.young.discard(place)

    def _flush(self, _index: int, _actor: int, device: int, first: int, end: int) -> None:
        tlb = self.mirror(device).tlb
        for place in [place for place in tlb if first <= place[1] < end]:
            del tlb[place]

    def _fetch(self, _index: int, actor: int, device: int, table: int, slot: int) -> None:
        mirror = self.mirror(device)
        entry = mirror.tlb.get((table, slot))
        if entry is not None:
            mirror.in_flight[actor] = (table, slot), entry

    def _access(self, _index: int, actor: int, device: int, *_rest: int) -> None:
        self.mirror(device).in_flight.pop(actor, None)

    def _dma_map(self, _index: int, _actor: int, device: int, address: int, frame: int) -> None:
        self.mirror(device).dma[address] = frame

    def _dma_unmap(self, _index: int, actor: int, device: int, address: int) -> None:
        mirror = self.mirror(device)
        mirror.dma.pop(address, None)
        mirror.served.pop(address, None)
        self._touch(actor, "a DMA address")

    def _launch(self, _index: int, _actor: int, device: int, job: int, *keys: int) -> None:
        mirror = self.mirror(device)
        mirror.jobs[job] = frozenset(place for place in mirror.table if place[0] in keys)

    def _complete(self, _index: int, _actor: int, device: int, job: int) -> None:
        self.mirror(device).jobs.pop(job, None)

    def _got(self, index: int, _actor: int, device: int, number: int, *rest: int) -> None:
        first, writable, *addresses = rest
        self.mirror(device).got[number] = Got(index, first, bool(writable), tuple(addresses))

    def _svm_remove(self, _index: int, _actor: int, device: int, number: int, *_: int) -> None:
        self.mirror(device).got.pop(number, None)

    # Frames

    def _pin(self, _index: int, _actor: int, frame: int, *_rest: int) -> None:
        self.pins[frame] += 1

    def _unpin(self, _index: int, actor: int, frame: int, _device: int) -> None:
        self.pins[frame] -= 1
        self._touch(actor, "a pin")

    def _get(self, _index: int, _actor: int, frame: int) -> None:
        self.references[frame] += 1

    def _put(self, _index: int, actor: int, frame: int) -> None:
        self.references[frame] -= 1
        self._touch(actor, "a reference")


CHANGES: dict[int, Callable[..., None]] = {
    int(what): getattr(State, name)
    for what, name in {
        What.START: "_start",
        What.CALLBACK: "_callback",
        What.RETURNED: "_returned",
        What.FINISHING: "_finishing",
        What.FINISHED: "_finished",
        What.STARTED: "_started",
        What.FINISH: "_finish",
        What.ENDING: "_ending",
        What.ENDED: "_ended",
        What.INSERT: "_insert",
        What.REMOVE: "_remove",
        What.REMOVED: "_removed",
        What.OBTAINED: "_obtained",
        What.DROPPED: "_dropped",
        What.FREED: "_removed",
        What.RELEASE: "_release",
        What.READ_BEGIN: "_begin",
        What.SET_SEQUENCE: "_set",
        What.ACQUIRE: "_acquire",
        What.UNLOCK: "_unlock",
        What.LOCK: "_lock",
        What.FAIL: "_fail",
        What.DEVICE_MAP: "_map",
        What.DEVICE_UNMAP: "_unmap",
        What.WALK: "_walk",
        What.SHARE: "_share",
        What.UNSHARE: "_unshare",
        What.SHARED_WALK: "_shared_walk",
        What.KEEP_YOUNG: "_keep_young",
        What.CLEAR_YOUNG: "_clear_young",
        What.FLUSH: "_flush",
        What.FETCH: "_fetch",
        What.ACCESS: "_access",
        What.DMA_MAP: "_dma_map",
        What.DMA_UNMAP: "_dma_unmap",
        What.LAUNCH: "_launch",
        What.COMPLETE: "_complete",
        What.SVM_GOT: "_got",
        What.SVM_REMOVE: "_svm_remove",
        What.PIN: "_pin",
        What.UNPIN: "_unpin",
        What.GET: "_get",
        What.PUT: "_put",
        What.ATTACH: "_attach",
        What.DETACH: "_detach",
    }.items()
}
"""By kind of entry what it changes: a method that takes index, actor and the arguments."""
