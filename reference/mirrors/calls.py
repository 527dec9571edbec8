"""The system calls that change mappings and files, and processes."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from reference.operations import Event, Flag, Operation
from reference.outcomes import Outcome, Status

from .files import PageCache
from .manager import MemoryManager
from .memory import AddressSpace, Area

__all__ = ["OK", "SystemCalls", "failed"]

OK = Outcome(Status.OK)


def failed(error: int) -> Outcome:
    """Refused with an errno."""
    return Outcome(Status.ERROR, error)


class SystemCalls:
    """One method for each system call, named as its operation."""

    def __init__(self, manager: MemoryManager) -> None:
        self._manager = manager

    # Mappings

    def map(self, op: Operation) -> Outcome:
        space = self._manager.spaces[op.process]
        self._unmap(space, op.page, op.page + op.pages)
        area = self._area(op)
        for slot in range(op.page, op.page + op.pages):
            space.enter(slot, area)
        return OK

    def _area(self, op: Operation) -> Area:
        rights = bool(op.flags & Flag.READ), bool(op.flags & Flag.WRITE)
        shared = bool(op.flags & Flag.SHARED)
        if op.flags & Flag.FILE:
            return Area(*rights, shared, self._manager.files[op.file], op.target - op.page)
        if shared:
            return Area(
                *rights, True, PageCache(self._manager.pool, op.pages, unnamed=True), -op.page
            )
        return Area(*rights)

    def unmap(self, op: Operation) -> Outcome:
        self._unmap(self._manager.spaces[op.process], op.page, op.page + op.pages)
        return OK

    def _unmap(self, space: AddressSpace, first: int, end: int) -> None:
        mapped = [slot for slot in range(first, end) if slot in space.areas]
        if mapped:
            with space.invalidating(first, end, Event.UNMAP):
                for slot in mapped:
                    space.zap(slot)
                    space.leave(slot)

    def remap(self, op: Operation) -> Outcome:
        space = self._manager.spaces[op.process]
        first, end, shift = op.page, op.page + op.pages, op.target - op.page
        if abs(shift) < op.pages:
            return failed(errno.EINVAL)
        self._unmap(space, op.target, op.target + op.pages)
        area = space.areas.get(first)
        if area is None or any(space.areas.get(slot) != area for slot in range(first, end)):
            return failed(errno.EFAULT)
        with space.invalidating(first, end, Event.UNMAP):
            self._move(space, range(first, end), shift, area)
            if not op.flags & Flag.DONTUNMAP:
                for slot in range(first, end):
                    space.leave(slot)
        return OK

    def _move(self, space: AddressSpace, slots: range, shift: int, area: Area) -> None:
        moved = area if area.file is None else area._replace(delta=area.delta - shift)
        for slot in slots:
            space.enter(slot + shift, moved)
            space.move(slot, slot + shift)

    def protect(self, op: Operation) -> Outcome:
        space = self._manager.spaces[op.process]
        slots, hole = _before_hole(space, op)
        readable, writable = bool(op.flags & Flag.READ), bool(op.flags & Flag.WRITE)
        if slots:
            with space.invalidating(slots.start, slots.stop, Event.PROTECTION_VMA):
                for slot in slots:
                    area = space.areas[slot]
                    space.areas[slot] = area._replace(readable=readable, writable=writable)
                    space.withdraw(slot)
        return failed(errno.ENOMEM) if hole else OK

    # Advice

    def discard(self, op: Operation) -> Outcome:
        space = self._manager.spaces[op.process]
        with space.invalidating(op.page, op.page + op.pages, Event.CLEAR):
            for slot in range(op.page, op.page + op.pages):
                space.zap(slot)
        return failed(errno.ENOMEM) if _has_hole(space, op) else OK

    def punch(self, op: Operation) -> Outcome:
        space = self._manager.spaces[op.process]
        for slot, area in _mapped(space, op):
            if area.file is None or not area.shared:
                return failed(errno.EINVAL)
            page = slot + area.delta
            self._manager.unmap_file(area.file, page, page + 1, copies=False)
            area.file.erase(page)
        return failed(errno.ENOMEM) if _has_hole(space, op) else OK

    def free(self, op: Operation) -> Outcome:
        space = self._manager.spaces[op.process]
        for slot, area in _mapped(space, op):
            if not area.anonymous:
                return failed(errno.EINVAL)
            with space.invalidating(slot, slot + 1, Event.CLEAR):
                self._free(space, slot)
        return failed(errno.ENOMEM) if _has_hole(space, op) else OK

    def _free(self, space: AddressSpace, slot: int) -> None:
        """Let reclaim drop the page unless it is written again: it counts as clean and zero."""
        entry = space.table.get(slot)
        if entry is None:
            return
        frame = entry.frame
        if frame is None:
            space.zap(slot)
        elif not space.is_shared(entry):
            frame.dirty = False
            if frame.backing is not None:
                self._manager.swap.put(frame.backing)
                frame.backing = None

    def truncate(self, op: Operation) -> Outcome:
        file = self._manager.files[op.file]
        if op.pages < file.size:
            self._manager.unmap_file(file, op.pages, 1 << 32, copies=True)
        file.truncate(op.pages)
        return OK

    # Processes

    def fork(self, op: Operation) -> Outcome:
        parent = self._manager.spaces[op.process]
        child = self._manager.add_space(op.target)
        for entry in list(parent.table.values()):
            if entry.exclusive is not None:
                parent.revoke(entry)
        with parent.invalidating(0, self._manager.geometry.pages, Event.PROTECTION_PAGE):
            for slot, area in parent.areas.items():
                child.enter(slot, area)
                if slot in parent.table and not area.shared:
                    child.inherit(slot, parent.table[slot])
        return OK

    def exit(self, op: Operation) -> Outcome:
        space = self._manager.spaces.pop(op.process)
        for notifier in space.notifiers:
            notifier.release()
        self._unmap(space, 0, self._manager.geometry.pages)
        return OK

    def invalidate(self, op: Operation) -> Outcome:
        """An invalidation after which nothing changes (B11)."""
        space = self._manager.spaces[op.process]
        first, end, blockable = op.page, op.page + op.pages, not op.flags & Flag.NONBLOCK
        if not space.invalidate_range_start(first, end, Event(op.event), blockable):
            return failed(errno.EAGAIN)
        space.invalidate_range_end()
        return OK


def _before_hole(space: AddressSpace, op: Operation) -> tuple[range, bool]:
    """The slots before the first hole, and whether there is a hole."""
    for slot in range(op.page, op.page + op.pages):
        if slot not in space.areas:
            return range(op.page, slot), True
    return range(op.page, op.page + op.pages), False


def _mapped(space: AddressSpace, op: Operation) -> Iterator[tuple[int, Area]]:
    for slot in range(op.page, op.page + op.pages):
        area = space.areas.get(slot)
        if area is not None:
            yield slot, area


def _has_hole(space: AddressSpace, op: Operation) -> bool:
    return any(slot not in space.areas for slot in range(op.page, op.page + op.pages))
