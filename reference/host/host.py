"""The host: a kernel's memory management, simulated, for drivers to plug into.

Everything that happens goes through here: frames, files and address spaces, the event record,
the tasks, and the history of effects that the last-writer model judges.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from reference.geometry import Geometry
from reference.mirrors.files import PageCache
from reference.mirrors.frames import Frame
from reference.mirrors.manager import MemoryManager
from reference.mirrors.memory import PageTableEntry
from reference.operations import Event, Operation
from reference.outcomes import Outcome
from reference.schedule import Injection
from reference.trace import Effect

from .broken import Broken
from .locks import Locks
from .ranges import BASE, Range
from .record import Record, What
from .space import AddressSpace
from .states import rights, tracked
from .tasks import Tasks
from .unlinked import Unlinked

if TYPE_CHECKING:
    from .hardware import Device

__all__ = ["Host"]

_PROTECTING = frozenset({Event.PROTECTION_VMA, Event.PROTECTION_PAGE})


class Host(MemoryManager):
    """System memory, swap, files, address spaces and devices of one run."""

    spaces: dict[int, AddressSpace]  # type: ignore[assignment]

    def __init__(self, geometry: Geometry, injections: Iterable[Injection] = ()) -> None:
        self.record = Record()
        self.tasks = Tasks(self.record)
        self.locks = Locks(self.tasks, self.record, self.fails)
        self.history: list[Effect] = []
        self.devices: list[Device] = []
        self.live_subscriptions: set[int] = set()
        self.unlinked = Unlinked(self)
        self.gets: defaultdict[int, int] = defaultdict(int)
        """By subscription, how often it was got and not put."""
        self.held: defaultdict[int, int] = defaultdict(int)
        """References that drivers took, by frame number."""
        self.zero_pins = 0
        """Pins of the zero page, which a kernel does not count."""
        self._subscriptions = 0
        self._injections = frozenset(injections)
        self._asked: defaultdict[str, int] = defaultdict(int)
        self._ranges = 0
        self._shrinking: set[int] = set()
        super().__init__(geometry, AddressSpace)

    # Numbers

    def address(self, slot: int) -> int:
        return BASE + slot * self.geometry.page_size

    def slot(self, address: int) -> int:
        """The page slot of an address, which may lie outside the arena."""
        return (address - BASE) // self.geometry.page_size

    def next_subscription(self) -> int:
        self._subscriptions += 1
        return self._subscriptions

    def pages_of(self, range_: Range) -> tuple[int, int]:
        """Slots of a range (the end exclusive), clipped to the arena."""
        pages = self.geometry.pages
        first = min(max(self.slot(range_.start), 0), pages)
        last = min(max(self.slot(range_.end - 1), -1), pages - 1)
        return first, last + 1

    def owner_number(self, owner: object | None) -> int:
        """Number of the device that is an owner, or whose; -1 for nobody, -2 for a stranger."""
        if owner is None:
            return -1
        numbers = [device.number for device in self.devices if owner in (device, device.owner)]
        return numbers[0] if numbers else -2

    def new_range(
        self,
        space: AddressSpace,
        start: int,
        end: int,
        event: Event | int,
        owner: object | None = None,
        blockable: bool = True,
    ) -> Range:
        self._ranges += 1
        return Range(self._ranges, space, start, end, event, owner, blockable)

    def range_of(
        self,
        space: AddressSpace,
        first: int,
        end: int,
        event: Event | int,
        owner: object | None = None,
        blockable: bool = True,
    ) -> Range:
        """The range of slots `first` to `end` (exclusive)."""
        return self.new_range(
            space, self.address(first), self.address(end), event, owner, blockable
        )

    def frame(self, number: int) -> Frame:
        """The frame of this number, in use or not; `Broken` if there never was one."""
        for pool in (self.pool, *(device.memory for device in self.devices)):
            frame = pool.find(number)
            if frame is not None:
                return frame
        raise Broken("W6", f"page frame number {number} does not exist")

    def free_unused(self, frame: Frame) -> None:
        """Free a frame that was allocated and never came to be used."""
        if frame.references == 0 and frame.number in frame.pool.live:
            frame.pool.free(frame)

    # Failures

    def fails(self, site: str) -> bool:
        """Whether this is a time to fail."""
        self._asked[site] += 1
        if not self._injections or Injection(site, self._asked[site]) not in self._injections:
            return False
        self.record(What.FAIL, site, self._asked[site])
        return True

    @property
    def asked(self) -> dict[str, int]:
        """How often each site was asked whether it fails."""
        return dict(self._asked)

    # History

    def effect(self, index: int, operation: Operation, outcome: Outcome) -> None:
        """An operation or a part of it takes effect now."""
        self.history.append(Effect(index, operation, outcome, len(self.record)))

    def effect_at(self, place: int, index: int, operation: Operation, outcome: Outcome) -> None:
        """It took effect earlier, when the history had `place` effects, and changed nothing."""
        entry = self.history[place].entry if place < len(self.history) else len(self.record)
        self.history.insert(place, Effect(index, operation, outcome, entry))
        for task in self.tasks:
            task.shift(place)

    def deny(self) -> bool:
        """An access is denied by what is mapped now, whatever is mapped when that is told."""
        self.tasks.task.denied = len(self.history)
        return False

    def changed(self, space: AddressSpace, first: int, end: int, event: Event) -> None:
        told = rights(space, first, end) if event in _PROTECTING else ""
        if event == Event.SOFT_DIRTY:
            told = tracked(space, first, end)
        self.record(What.CHANGE, space.number, first, end, int(event), told)

    # Files

    def is_shrinking(self, file: PageCache) -> bool:
        return id(file) in self._shrinking

    def await_file(self, file: PageCache) -> None:
        """Sleep until no pages of a file are going away."""
        if self.is_shrinking(file):
            self.locks.block(None, lambda: not self.is_shrinking(file), "a truncation")

    @contextmanager
    def shrinking(self, file: PageCache) -> Iterator[None]:
        """Faults on a file wait while pages of it go away."""
        self.await_file(file)
        self._shrinking.add(id(file))
        try:
            yield
        finally:
            self._shrinking.discard(id(file))

    def unmap_file(self, file: PageCache, first: int, end: int, copies: bool) -> None:
        """Drop what is mapped of a file's pages, and then what forks and moves have saved."""
        pages = range(first, end)
        places = list(self._mapped_at(file, pages))
        while places:
            for space, slot in places:
                with space.invalidating(slot, slot + 1, Event.CLEAR):
                    if space.maps(slot, file, pages) and _goes(space.table.get(slot), copies):
                        space.zap(slot)
                        space.changed(slot, slot + 1, Event.CLEAR)
            found = self._mapped_at(file, pages)
            places = [(each, slot) for each, slot in found if _goes(each.table.get(slot), copies)]

    def _mapped_at(self, file: PageCache, pages: range) -> Iterator[tuple[AddressSpace, int]]:
        for space in self.spaces.values():
            yield from ((space, slot) for slot in space.areas if space.maps(slot, file, pages))

    # Changes that concern every mapping of a frame

    @contextmanager
    def every_mapping(
        self,
        frame: Frame,
        event: Event,
        owner: object | None = None,
        but: AddressSpace | None = None,
        told: range = range(0),
    ) -> Iterator[list[PageTableEntry]]:
        """Inside an invalidation of every mapping of a frame, however many others change.

        Slots `told` of the space `but` are inside an invalidation already.
        """
        while True:
            entries = sorted(frame.mappings, key=_place)
            places = [_place(entry) for entry in entries]
            with ExitStack() as stack:
                for entry in entries:
                    if entry.space is not but or entry.slot not in told:
                        space = self.spaces_of(entry)
                        stack.enter_context(
                            space.invalidating(entry.slot, entry.slot + 1, event, owner)
                        )
                # An entry that mremap has moved is still the same one.
                still = [_place(entry) for entry in entries] == places
                if still and frame.mappings == set(entries):
                    yield entries
                    return

    def spaces_of(self, entry: PageTableEntry) -> AddressSpace:
        space = entry.space
        assert isinstance(space, AddressSpace)
        return space

    def move_frame(self, frame: Frame, target: Frame) -> None:
        """Let a copy take a frame's place everywhere; inside an invalidation of all mappings."""
        entries = list(frame.mappings)
        target.dirty = frame.dirty
        target.backing, frame.backing = frame.backing, None
        if frame.cache is not None:
            file, page = frame.cache
            file.replace(page, target)
        for entry in entries:
            entry.space.replace(entry, target)

    def bring_home(self, entry: PageTableEntry) -> bool:
        """A CPU fault on a page in device memory (G9); False is SIGBUS (G8)."""
        frame = entry.frame
        if frame is None:
            return True
        device = next(device for device in self.devices if device is frame.device)
        self.tasks.point("callback: migrate_to_ram")
        if entry.frame is not frame:
            return True
        self.record(What.TO_RAM, device.number, frame.number)
        return device.migrate_to_ram(self.spaces_of(entry), entry, frame)


def _goes(entry: PageTableEntry | None, copies: bool) -> bool:
    """Whether an entry is one of a file's page, or of a copy of one if those go too."""
    if entry is None or copies:
        return entry is not None
    return entry.frame is not None and entry.frame.cache is not None


def _place(entry: PageTableEntry) -> tuple[int, int]:
    """By this entries come in an order that is the same in every run."""
    return entry.space.number, entry.slot
