"""Memory management events: pages move, their contents do not change."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from reference.operations import Event, Operation
from reference.outcomes import Outcome, Status

from .calls import OK
from .frames import Frame
from .manager import MemoryManager
from .memory import AddressSpace, Area, HugePage, PageTableEntry

__all__ = ["MemoryEvents", "skipped"]


def skipped(error: int) -> Outcome:
    """It could not be made to happen, and nothing changed."""
    return Outcome(Status.SKIPPED, error)


class MemoryEvents:
    """One method for each event, named as its operation."""

    def __init__(self, manager: MemoryManager) -> None:
        self._manager = manager

    # Reclaim

    def reclaim(self, op: Operation) -> Outcome:
        space = self._manager.spaces[op.process]
        end = op.page + op.pages
        done = [self._reclaim_unit(space, unit) for unit in _units(space, op.page, end)]
        return OK if any(done) else skipped(errno.EBUSY)

    def _reclaim_unit(self, space: AddressSpace, unit: range) -> bool:
        """Reclaim a page, or a huge page after splitting it, under one invalidation."""
        reclaimed = False
        with space.invalidating(unit.start, unit.stop, Event.CLEAR):
            for slot in unit:
                entry = space.table.get(slot)
                if entry is not None and self.reclaim_entry(entry, unit):
                    reclaimed = True
        return reclaimed

    def reclaim_entry(self, entry: PageTableEntry, unit: range) -> bool:
        """Page one entry's frame out; its space is told of `unit` already."""
        if entry.exclusive is not None:
            entry.space.revoke(entry)
        frame = entry.frame
        if frame is None or not self._movable(frame):
            return False
        others = [
            other
            for other in frame.mappings
            if other.space is not entry.space or other.slot not in unit
        ]
        with self._manager.invalidating(others, Event.CLEAR):
            self._manager.page_out(frame)
        return True

    def _movable(self, frame: Frame) -> bool:
        return frame.device is None and not frame.pins and frame is not self._manager.zero

    # Migration between frames of system memory

    def migrate(self, op: Operation) -> Outcome:
        space = self._manager.spaces[op.process]
        done = False
        for entry in _entries(space, op):
            if entry.exclusive is not None:
                space.revoke(entry)
            frame = entry.frame
            if frame is not None and self._movable(frame):
                self._manager.relocate(frame, self._manager.allocate())
                done = True
        return OK if done else skipped(errno.EBUSY)

    # Huge pages

    def collapse(self, op: Operation) -> Outcome:
        space = self._manager.spaces[op.process]
        area = space.areas.get(op.page)
        slots = range(op.page, op.page + op.pages)
        if area is None or not self._collapsible(space, area, slots):
            return skipped(errno.EINVAL)
        with space.invalidating(slots.start, slots.stop, Event.CLEAR):
            huge = HugePage(slots.start, slots.stop)
            for slot in slots:
                self._collapse_slot(space, slot, huge)
        return OK

    def _collapsible(self, space: AddressSpace, area: Area, slots: range) -> bool:
        if not (area.anonymous and area.readable):
            return False
        if any(space.areas.get(slot) != area for slot in slots):
            return False
        entries = [entry for slot in slots if (entry := space.table.get(slot)) is not None]
        return not any(entry.exclusive is not None or _held(entry) for entry in entries)

    def _collapse_slot(self, space: AddressSpace, slot: int, huge: HugePage) -> None:
        entry = space.table.get(slot)
        if entry is None:
            entry = space.install(slot, self._manager.zeroed(), False)
        else:
            space.fault(slot, False)
            if entry.frame is not None:
                space.replace(entry, self._manager.duplicate(entry.frame))
        entry.huge = huge

    def split(self, op: Operation) -> Outcome:
        space = self._manager.spaces[op.process]
        huge = {entry.huge for entry in _entries(space, op) if entry.huge is not None}
        whole = [page for page in huge if page.whole]
        for page in whole:
            with space.invalidating(page.first, page.end, Event.CLEAR):
                page.whole = False
        return OK if whole else skipped(errno.EINVAL)

    # Merging

    def merge(self, op: Operation) -> Outcome:
        space = self._manager.spaces[op.process]
        kept: list[PageTableEntry] = []
        merged = False
        for entry in _entries(space, op):
            if not self._mergeable(space, entry):
                continue
            twin = next((other for other in kept if _equal(other, entry)), None)
            if twin is None:
                kept.append(entry)
            elif twin.frame is not entry.frame:
                merged = self._merge(entry, twin) or merged
        return OK if merged else skipped(errno.EAGAIN)

    def _mergeable(self, space: AddressSpace, entry: PageTableEntry) -> bool:
        frame = entry.frame
        return (
            frame is not None
            and space.areas[entry.slot].anonymous
            and entry.exclusive is None
            and self._movable(frame)
        )

    def _merge(self, entry: PageTableEntry, twin: PageTableEntry) -> bool:
        frame = twin.frame
        if frame is None:
            return False
        mappings = list(frame.mappings)
        with self._manager.invalidating([entry, *mappings], Event.CLEAR):
            # Once more: a device may have written to either until its invalidation returned.
            if not _equal(twin, entry):
                return False
            for mapping in mappings:
                mapping.writable = False
            entry.space.replace(entry, frame)
            entry.writable = False
            # Either may have been about to be dropped as free; the other's words must survive.
            frame.dirty = True
        return True


def _held(entry: PageTableEntry) -> bool:
    frame = entry.frame
    return frame is not None and (frame.pins > 0 or frame.device is not None)


def _equal(one: PageTableEntry, other: PageTableEntry) -> bool:
    return one.frame is not None and other.frame is not None and one.frame.equals(other.frame)


def _entries(space: AddressSpace, op: Operation) -> list[PageTableEntry]:
    slots = range(op.page, op.page + op.pages)
    return [entry for slot in slots if (entry := space.table.get(slot)) is not None]


def _units(space: AddressSpace, first: int, end: int) -> Iterator[range]:
    """The slots one by one, or a huge page that has some of them as a whole."""
    slot = first
    while slot < end:
        entry = space.table.get(slot)
        if entry is not None and entry.huge is not None and entry.huge.whole:
            unit = range(entry.huge.first, entry.huge.end)
        else:
            unit = range(slot, slot + 1)
        yield unit
        slot = max(unit.stop, slot + 1)
