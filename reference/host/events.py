"""Memory management events, as kernel threads do them: contents do not change."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from reference.mirrors.calls import OK, failed
from reference.mirrors.events import skipped
from reference.mirrors.frames import Frame
from reference.mirrors.memory import HugePage, PageTableEntry
from reference.operations import Event, Flag, Operation
from reference.outcomes import Outcome

from .ageing import is_hot, is_referenced, look_for_young
from .host import Host
from .space import AddressSpace

__all__ = ["MemoryEvents"]


class MemoryEvents:
    """One method for each event, named as its operation."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def _space(self, operation: Operation) -> AddressSpace | None:
        return self._host.spaces.get(operation.process)

    def _end(self, index: int, operation: Operation, outcome: Outcome) -> Outcome:
        if operation.process in self._host.spaces:
            self._host.effect(index, operation, outcome)
        return outcome

    # Reclaim

    def reclaim(self, index: int, op: Operation) -> Outcome:
        space, done = self._space(op), False
        slot = op.page
        while space is not None and slot < op.page + op.pages:
            unit = _unit(space, slot)
            done = self._reclaim_unit(space, unit) or done
            slot = max(unit.stop, slot + 1)
        return self._end(index, op, OK if done else skipped(errno.EBUSY))

    def _reclaim_unit(self, space: AddressSpace, unit: range) -> bool:
        """Reclaim a page, or a huge page after splitting it, under one invalidation."""
        entries = (space.table.get(slot) for slot in unit)
        frames = [each.frame for each in entries if each is not None and each.frame is not None]
        if is_referenced(self._host, [frame for frame in frames if self._movable(frame)]):
            return False
        reclaimed = False
        with space.invalidating(unit.start, unit.stop, Event.CLEAR):
            for slot in unit:
                entry = space.table.get(slot)
                if entry is not None and self.reclaim_entry(space, entry, unit):
                    reclaimed = True
        return reclaimed

    def reclaim_entry(self, space: AddressSpace, entry: PageTableEntry, unit: range) -> bool:
        """Page one entry's frame out; its space is told of `unit` already."""
        if entry.exclusive is not None:
            space.revoke(entry)
        frame = entry.frame
        if frame is None or entry.exclusive is not None or not self._movable(frame):
            return False
        mappings = self._host.every_mapping(frame, Event.CLEAR, but=space, told=unit)
        with self._locked(frame), mappings as entries:
            if _held(frame) or any(each.migrating for each in entries):
                return False
            places = [(self._host.spaces_of(each), each.slot) for each in entries]
            self._host.page_out(frame)
            for other, slot in places:
                other.changed(slot, slot + 1, Event.CLEAR)
        return True

    def _movable(self, frame: Frame) -> bool:
        return (
            frame.device is None
            and frame.locked is None
            and not _held(frame)
            and frame is not self._host.zero
        )

    @contextmanager
    def _locked(self, frame: Frame) -> Iterator[None]:
        """With the page lock, which is free."""
        frame.locked = self._host.tasks.task
        try:
            yield
        finally:
            frame.locked = None

    # Migration between frames of system memory

    def migrate(self, index: int, op: Operation) -> Outcome:
        space, done = self._space(op), False
        for slot in range(op.page, op.page + op.pages):
            entry = None if space is None else space.table.get(slot)
            if space is None or entry is None or is_hot(self._host, entry.frame):
                continue
            if entry.exclusive is not None:
                space.revoke(entry)
            frame = entry.frame
            if frame is not None and entry.exclusive is None and self._movable(frame):
                done = self._relocate(frame) or done
        return self._end(index, op, OK if done else skipped(errno.EBUSY))

    def _relocate(self, frame: Frame) -> bool:
        host = self._host
        with self._locked(frame), host.every_mapping(frame, Event.CLEAR) as entries:
            if _held(frame) or not entries or any(each.migrating for each in entries):
                return False
            target = host.allocate()
            target.load(frame.contents())
            places = [(host.spaces_of(each), each.slot) for each in entries]
            host.move_frame(frame, target)
            for space, slot in places:
                space.changed(slot, slot + 1, Event.CLEAR)
        return True

    # Huge pages

    def collapse(self, index: int, op: Operation) -> Outcome:
        space = self._space(op)
        slots = range(op.page, op.page + op.pages)
        if space is None:
            return skipped(errno.ESRCH)
        with space.mmap_lock.writing():
            if not self._collapsible(space, slots):
                return self._end(index, op, skipped(errno.EINVAL))
            look_for_young(space, slots)
            for slot in slots:
                space.handle_fault(slot, False)
            with space.invalidating(slots.start, slots.stop, Event.CLEAR):
                if not self._collapsible(space, slots):
                    return self._end(index, op, skipped(errno.EBUSY))
                huge = HugePage(slots.start, slots.stop)
                for slot in slots:
                    self._collapse_slot(space, slot, huge)
                space.changed(slots.start, slots.stop, Event.CLEAR)
        return self._end(index, op, OK)

    def _collapsible(self, space: AddressSpace, slots: range) -> bool:
        area = space.areas.get(slots.start)
        if area is None or not (area.anonymous and area.readable):
            return False
        if any(space.areas.get(slot) != area for slot in slots):
            return False
        entries = [entry for slot in slots if (entry := space.table.get(slot)) is not None]
        return not any(_busy(entry) for entry in entries)

    def _collapse_slot(self, space: AddressSpace, slot: int, huge: HugePage) -> None:
        host, entry = self._host, space.table.get(slot)
        if entry is None:
            entry = space.install(slot, host.zeroed(), False)
        elif entry.frame is not None:
            space.replace(entry, host.duplicate(entry.frame))
        entry.huge = huge

    def split(self, index: int, op: Operation) -> Outcome:
        space = self._space(op)
        entries = [] if space is None else _entries(space, op)
        whole = {entry.huge for entry in entries if entry.huge is not None and entry.huge.whole}
        for page in sorted(whole, key=lambda page: page.first):
            if space is not None:
                with space.invalidating(page.first, page.end, Event.CLEAR):
                    page.whole = False
        return self._end(index, op, OK if whole else skipped(errno.EINVAL))

    # Merging

    def merge(self, index: int, op: Operation) -> Outcome:
        space = self._space(op)
        if space is None:
            return skipped(errno.ESRCH)
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
        return self._end(index, op, OK if merged else skipped(errno.EAGAIN))

    def _mergeable(self, space: AddressSpace, entry: PageTableEntry) -> bool:
        frame, area = entry.frame, space.areas.get(entry.slot)
        return (
            frame is not None
            and area is not None
            and area.anonymous
            and space.table.get(entry.slot) is entry
            and not _busy(entry)
            and self._movable(frame)
        )

    def _merge(self, entry: PageTableEntry, twin: PageTableEntry) -> bool:
        host, frame, other = self._host, twin.frame, entry.frame
        if frame is None or other is None:
            return False
        space, slot = host.spaces_of(entry), entry.slot
        with (
            self._locked(frame),
            self._locked(other),
            host.every_mapping(frame, Event.CLEAR) as mappings,
            space.invalidating(slot, slot + 1, Event.CLEAR),
        ):
            if entry.slot != slot or not self._same(entry, other, twin, frame):
                return False
            for mapping in mappings:
                mapping.writable = False
            space.replace(entry, frame)
            entry.writable = False
            # Either may have been about to be dropped as free; the words must survive.
            frame.dirty = True
            space.changed(slot, slot + 1, Event.CLEAR)
        return True

    def _same(
        self, entry: PageTableEntry, other: Frame, twin: PageTableEntry, frame: Frame
    ) -> bool:
        """Once more, now that nobody writes: nothing has changed and the words are equal."""
        still = entry.frame is other and twin.frame is frame and not _held(frame)
        return still and not _held(other) and not _busy(entry) and frame.equals(other)

    # Injected invalidations

    def invalidate(self, index: int, op: Operation) -> Outcome:
        """An invalidation after which nothing changes (B11).

        That of soft-dirty bits changes rights, and is of the whole process.  A kernel has none
        that may not sleep, so that such a one changes nothing either.
        """
        host, space = self._host, self._space(op)
        if space is None:
            return skipped(errno.ESRCH)
        if op.event == Event.SOFT_DIRTY and not op.flags & Flag.NONBLOCK:
            space.clear_soft_dirty()
            return self._end(index, op, OK)
        first, end, blockable = op.page, op.page + op.pages, not op.flags & Flag.NONBLOCK
        range_ = host.range_of(space, first, end, Event(op.event), None, blockable)
        answer = space.subscriptions.start(range_)
        if answer:
            return self._end(index, op, failed(-answer))
        host.tasks.point("page table change")
        space.subscriptions.end(range_)
        return self._end(index, op, OK)


def _held(frame: Frame) -> bool:
    """Whether anybody but page tables and page cache has a reference."""
    return frame.references > len(frame.mappings) + (frame.cache is not None)


def _busy(entry: PageTableEntry) -> bool:
    frame = entry.frame
    if entry.exclusive is not None or entry.migrating:
        return True
    return frame is not None and (
        frame.locked is not None or frame.device is not None or frame.pins > 0
    )


def _equal(one: PageTableEntry, other: PageTableEntry) -> bool:
    return one.frame is not None and other.frame is not None and one.frame.equals(other.frame)


def _entries(space: AddressSpace, op: Operation) -> list[PageTableEntry]:
    slots = range(op.page, op.page + op.pages)
    return [entry for slot in slots if (entry := space.table.get(slot)) is not None]


def _unit(space: AddressSpace, slot: int) -> range:
    """The slot, or a huge page that it is in as a whole."""
    entry = space.table.get(slot)
    if entry is not None and entry.huge is not None and entry.huge.whole:
        return range(entry.huge.first, entry.huge.end)
    return range(slot, slot + 1)
