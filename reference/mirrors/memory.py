"""Address spaces: areas, page tables, faults, copy-on-write and notifiers."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from reference.operations import Event

from .files import PageCache
from .frames import Frame

if TYPE_CHECKING:
    from .manager import MemoryManager

__all__ = ["AddressSpace", "Area", "HugePage", "Notifier", "PageTableEntry"]


class Area(NamedTuple):
    """What is mapped at a slot; equal areas at neighbouring slots are one mapping."""

    readable: bool
    writable: bool
    shared: bool = False
    file: PageCache | None = None
    """None for private anonymous memory; shared anonymous memory has a file of its own."""
    delta: int = 0
    """Page of the file minus slot."""

    def permits(self, write: bool) -> bool:
        return self.writable if write else self.readable

    @property
    def anonymous(self) -> bool:
        """Whether it is private anonymous memory."""
        return self.file is None


class HugePage:
    """Slots `first` to `end` (exclusive) that one large page maps, until it is split."""

    __slots__ = ("end", "first", "whole")

    def __init__(self, first: int, end: int) -> None:
        self.first = first
        self.end = end
        self.whole = True


class PageTableEntry:
    """One slot's entry: a frame, or the swap slot that its words are in.

    `present` says that the processor may read through it.  An entry whose frame lies in a
    device's memory, that a device has `exclusive` or that is `migrating`, is not present.
    """

    __slots__ = (
        "exclusive",
        "frame",
        "huge",
        "migrating",
        "present",
        "slot",
        "space",
        "swap",
        "writable",
    )

    def __init__(self, space: AddressSpace, slot: int) -> None:
        self.space = space
        self.slot = slot
        self.frame: Frame | None = None
        self.swap = 0
        self.present = False
        self.writable = False
        self.exclusive: object | None = None
        self.huge: HugePage | None = None
        self.migrating = False


class Notifier(Protocol):
    """Who mirrors an address space."""

    def invalidate(self, first: int, end: int, event: Event, blockable: bool) -> bool:
        """Slots `first` to `end` (exclusive) are about to change; when this returns the device
        uses no translation of them (I12).  False, only when not blockable, refuses.
        """

    def release(self) -> None:
        """The address space dies; its pages are still there (L2)."""


class _Invalidation:
    """The bracket around a change of page table entries."""

    __slots__ = ("end", "event", "first", "space")

    def __init__(self, space: AddressSpace, first: int, end: int, event: Event) -> None:
        self.space = space
        self.first = first
        self.end = end
        self.event = event

    def __enter__(self) -> None:
        self.space.invalidate_range_start(self.first, self.end, self.event)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.space.invalidate_range_end()


class AddressSpace:
    """A process's memory.  Addresses are slots of the arena."""

    def __init__(self, manager: MemoryManager, number: int) -> None:
        self.manager = manager
        self.number = number
        self.areas: dict[int, Area] = {}
        self.table: dict[int, PageTableEntry] = {}
        self.notifiers: list[Notifier] = []
        self.active_ranges = 0
        self.watched: Counter[int] = Counter()
        """Slots of which registration caches asked to hear; see `caching`."""

    # Notifiers

    def invalidate_range_start(
        self, first: int, end: int, event: Event, blockable: bool = True
    ) -> bool:
        """Tell every mirror; False, with nothing left open, if one refused and was allowed to."""
        self.active_ranges += 1
        # All are called even after a refusal (B8); one in blockable context changes nothing (B3).
        answers = [notifier.invalidate(first, end, event, blockable) for notifier in self.notifiers]
        if blockable or all(answers):
            return True
        self.active_ranges -= 1
        return False

    def invalidate_range_end(self) -> None:
        self.active_ranges -= 1

    def invalidating(self, first: int, end: int, event: Event) -> _Invalidation:
        """A `with` block around a change of slots `first` to `end` (exclusive)."""
        return _Invalidation(self, first, end, event)

    # Faults

    def frame_for(self, slot: int, write: bool) -> Frame | None:
        """The frame that the processor reaches at a slot; None is SIGSEGV or SIGBUS."""
        entry = self.table.get(slot)
        if entry is None or not entry.present or (write and not entry.writable):
            entry = self.fault(slot, write)
            if entry is None:
                return None
        return entry.frame

    def fault(self, slot: int, write: bool, device: object | None = None) -> PageTableEntry | None:
        """Make a slot accessible to the processor or, leaving its own pages where they are, to
        a device.  None if the area, or the end of its file, forbids it.
        """
        area = self.areas.get(slot)
        if area is None or not area.permits(write):
            return None
        entry = self.table.get(slot) or self._fault_missing(slot, area, write)
        if entry is None:
            return None
        if entry.swap:
            self._swap_in(entry)
        if entry.exclusive is not device and entry.exclusive is not None:
            self.revoke(entry)
        frame = entry.frame
        if frame is not None and frame.device is not None and frame.device is not device:
            self.manager.to_system(frame)
        if write and not entry.writable:
            self.make_writable(entry, area)
        self._set_present(entry)
        return entry

    def _set_present(self, entry: PageTableEntry) -> None:
        frame = entry.frame
        entry.present = (
            frame is not None
            and frame.device is None
            and entry.exclusive is None
            and not entry.migrating
            and self.areas[entry.slot].readable
        )

    def _fault_missing(self, slot: int, area: Area, write: bool) -> PageTableEntry | None:
        if area.file is not None:
            frame = area.file.lookup(slot + area.delta)
            if frame is None:
                return None
            return self.install(slot, frame, write and area.shared)
        if write:
            return self.install(slot, self.manager.zeroed(), True)
        return self.install(slot, self.manager.zero, False)

    def _swap_in(self, entry: PageTableEntry) -> None:
        frame = self.manager.allocate()
        swap = self.manager.swap
        frame.load(swap.load(entry.swap))
        # The frame stays backed by the slot until it is written: the entry's use becomes its.
        frame.backing, entry.swap = entry.swap, 0
        self._map(entry, frame)
        entry.writable = False

    def make_writable(self, entry: PageTableEntry, area: Area) -> None:
        """Give an entry the right to write, on a copy if its frame may have other readers."""
        if not area.shared and self.is_shared(entry):
            self.break_copy_on_write(entry)
        entry.writable = True

    def is_shared(self, entry: PageTableEntry) -> bool:
        """Whether a private mapping's entry must get a frame of its own to be written."""
        frame = entry.frame
        return frame is not None and (
            frame is self.manager.zero or frame.cache is not None or len(frame.mappings) > 1
        )

    def break_copy_on_write(self, entry: PageTableEntry) -> None:
        old = entry.frame
        if old is None:
            return
        with self.invalidating(entry.slot, entry.slot + 1, Event.CLEAR):
            self.replace(entry, self.manager.duplicate(old))

    def revoke(self, entry: PageTableEntry) -> None:
        """Take exclusive access away from the device that has it (X1)."""
        with self.invalidating(entry.slot, entry.slot + 1, Event.EXCLUSIVE):
            entry.exclusive = None

    # Pins

    def pin(self, slot: int, write: bool) -> Frame | None:
        """Pin a slot's frame; None if it may not be accessed so.

        A private page is made the process's own even for reading, or else the next write to it
        would leave the pin behind.
        """
        entry = self.fault(slot, write)
        if entry is None:
            return None
        if not self.areas[slot].shared:
            self.unshare(entry)
        frame = entry.frame
        if frame is not None:
            frame.pins += 1
            frame.pool.get(frame)
        return frame

    def unshare(self, entry: PageTableEntry) -> None:
        """Give a private mapping's entry a frame that no other entry has."""
        if self.is_shared(entry):
            self.break_copy_on_write(entry)
            self._set_present(entry)

    def unpin(self, frame: Frame) -> None:
        frame.pins -= 1
        self.manager.put(frame)

    # Areas

    def enter(self, slot: int, area: Area) -> None:
        """Map a slot that is not mapped."""
        self.areas[slot] = area
        if area.file is not None:
            area.file.users += 1

    def leave(self, slot: int) -> None:
        """Unmap a slot that has no page table entry."""
        file = self.areas.pop(slot).file
        if file is not None:
            file.users -= 1
            if file.users == 0 and file.unnamed:
                file.truncate(0)

    # Page table entries

    def install(self, slot: int, frame: Frame, writable: bool) -> PageTableEntry:
        """A new entry for a slot that has none."""
        entry = self.table[slot] = PageTableEntry(self, slot)
        self._map(entry, frame)
        entry.writable = writable
        self._set_present(entry)
        return entry

    def _map(self, entry: PageTableEntry, frame: Frame) -> None:
        entry.frame = frame
        frame.mappings.add(entry)
        frame.references += 1

    def _unmap(self, entry: PageTableEntry) -> None:
        frame = entry.frame
        if frame is not None:
            entry.frame = None
            frame.mappings.discard(entry)
            self.manager.put(frame)
        self._split(entry)

    def replace(self, entry: PageTableEntry, frame: Frame) -> None:
        """Let an entry name another frame; inside an invalidation of its slot."""
        self._unmap(entry)
        self._map(entry, frame)
        self._set_present(entry)

    def swap_out(self, entry: PageTableEntry, slot: int) -> None:
        """Let an entry name a swap slot, of which it becomes a user; inside an invalidation."""
        self.manager.swap.get(slot)
        self._unmap(entry)
        entry.present = entry.writable = False
        entry.swap = slot

    def zap(self, slot: int) -> None:
        """Drop a slot's entry; inside an invalidation of the slot."""
        entry = self.table.pop(slot, None)
        if entry is not None:
            self._unmap(entry)
            if entry.swap:
                self.manager.swap.put(entry.swap)

    def withdraw(self, slot: int) -> None:
        """Let the next access fault, to find out about new rights; inside an invalidation."""
        entry = self.table.get(slot)
        if entry is not None:
            entry.present = entry.writable = False
            self._split(entry)

    def _split(self, entry: PageTableEntry) -> None:
        if entry.huge is not None:
            entry.huge.whole = False
            entry.huge = None

    def move(self, slot: int, target: int) -> None:
        """Move a slot's entry to another slot, which has none; inside an invalidation of both."""
        entry = self.table.pop(slot, None)
        if entry is not None:
            entry.slot = target
            self.table[target] = entry
            self._split(entry)

    def inherit(self, slot: int, entry: PageTableEntry) -> None:
        """In a forked child: share a private page of the parent, both without right to write."""
        frame = entry.frame
        if frame is None:
            heir = self.table[slot] = PageTableEntry(self, slot)
            heir.swap = entry.swap
            self.manager.swap.get(entry.swap)
        elif frame.pins and frame.cache is None:
            # A pinned page stays with the parent, whose device has it, for good.
            self.install(slot, self.manager.duplicate(frame), False)
        else:
            entry.writable = False
            self.install(slot, frame, False).present = entry.present
