"""The system calls that change mappings and files, and processes, as tasks do them."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from reference.mirrors.calls import OK, failed
from reference.mirrors.files import PageCache
from reference.mirrors.memory import Area, PageTableEntry
from reference.operations import Event, Flag, Kind, Operation
from reference.outcomes import Outcome

from .host import Host
from .space import AddressSpace

__all__ = ["SystemCalls"]

# Plain numbers: arithmetic with enumerations is slow.
_READ, _WRITE, _SHARED, _FILE, _DONTUNMAP = map(
    int, (Flag.READ, Flag.WRITE, Flag.SHARED, Flag.FILE, Flag.DONTUNMAP)
)


class SystemCalls:
    """One method for each system call, named as its operation.

    Each tells the host of its effects at the moment when page tables or files change.
    """

    def __init__(self, host: Host) -> None:
        self._host = host

    def _space(self, operation: Operation) -> AddressSpace:
        return self._host.spaces[operation.process]

    def _done(self, index: int, operation: Operation, outcome: Outcome = OK) -> Outcome:
        self._host.effect(index, operation, outcome)
        return outcome

    # Mappings

    def map(self, index: int, op: Operation) -> Outcome:
        space = self._space(op)
        with space.mmap_lock.writing():
            area = self._area(op)

            def enter() -> None:
                for slot in range(op.page, op.page + op.pages):
                    space.enter(slot, area)
                self._done(index, op)

            if not self._unmap(space, op.page, op.page + op.pages, enter):
                enter()
        return OK

    def _area(self, op: Operation) -> Area:
        rights = bool(op.flags & _READ), bool(op.flags & _WRITE)
        shared = bool(op.flags & _SHARED)
        if op.flags & _FILE:
            return Area(*rights, shared, self._host.files[op.file], op.target - op.page)
        if shared:
            file = PageCache(self._host.pool, op.pages, unnamed=True)
            return Area(*rights, True, file, -op.page)
        return Area(*rights)

    def unmap(self, index: int, op: Operation) -> Outcome:
        space = self._space(op)
        with space.mmap_lock.writing():
            if not self._unmap(space, op.page, op.page + op.pages, lambda: self._done(index, op)):
                self._done(index, op)
        return OK

    def _unmap(self, space: AddressSpace, first: int, end: int, then: object) -> bool:
        """Unmap slots and, in the same moment, do what `then` does; False if none is mapped."""
        if not any(slot in space.areas for slot in range(first, end)):
            return False
        with space.invalidating(first, end, Event.UNMAP):
            for slot in range(first, end):
                if slot in space.areas:
                    space.zap(slot)
                    space.leave(slot)
            space.changed(first, end, Event.UNMAP)
            if callable(then):
                then()
        return True

    def remap(self, index: int, op: Operation) -> Outcome:
        space = self._space(op)
        first, end, shift = op.page, op.page + op.pages, op.target - op.page
        if abs(shift) < op.pages:
            return self._done(index, op, failed(errno.EINVAL))
        with space.mmap_lock.writing():
            gone = op._replace(kind=Kind.UNMAP, page=op.target, target=0, flags=0)
            self._unmap(space, op.target, op.target + op.pages, lambda: self._done(index, gone))
            area = space.areas.get(first)
            if area is None or any(space.areas.get(slot) != area for slot in range(first, end)):
                return self._done(index, op, failed(errno.EFAULT))
            with space.invalidating(first, end, Event.UNMAP):
                self._move(space, range(first, end), shift, area)
                if not op.flags & _DONTUNMAP:
                    for slot in range(first, end):
                        space.leave(slot)
                space.changed(first, end, Event.UNMAP)
                self._done(index, op)
        return OK

    def _move(self, space: AddressSpace, slots: range, shift: int, area: Area) -> None:
        moved = area if area.file is None else area._replace(delta=area.delta - shift)
        for slot in slots:
            space.enter(slot + shift, moved)
            space.move(slot, slot + shift)

    def protect(self, index: int, op: Operation) -> Outcome:
        space = self._space(op)
        readable, writable = bool(op.flags & _READ), bool(op.flags & _WRITE)
        with space.mmap_lock.writing():
            for part, area in _parts(space, op):
                if area is None:
                    return self._done(index, part, failed(errno.ENOMEM))
                first, end = part.page, part.page + part.pages
                with space.invalidating(first, end, Event.PROTECTION_VMA):
                    for slot in range(first, end):
                        space.areas[slot] = area._replace(readable=readable, writable=writable)
                        space.withdraw(slot)
                    space.changed(first, end, Event.PROTECTION_VMA)
                    self._done(index, part)
        return OK

    # Advice

    def discard(self, index: int, op: Operation) -> Outcome:
        space, hole = self._space(op), False
        with space.mmap_lock.reading():
            for part, area in _parts(space, op):
                if area is None:
                    hole = True
                    continue
                first, end = part.page, part.page + part.pages
                with space.invalidating(first, end, Event.CLEAR):
                    for slot in range(first, end):
                        space.zap(slot)
                    space.changed(first, end, Event.CLEAR)
                    self._done(index, part)
        return failed(errno.ENOMEM) if hole else OK

    def free(self, index: int, op: Operation) -> Outcome:
        space, hole = self._space(op), False
        with space.mmap_lock.reading():
            for part, area in _parts(space, op):
                if area is None:
                    hole = True
                    continue
                if not area.anonymous:
                    return self._done(index, part, failed(errno.EINVAL))
                first, end = part.page, part.page + part.pages
                with space.invalidating(first, end, Event.CLEAR):
                    for slot in range(first, end):
                        self._free(space, slot)
                    space.changed(first, end, Event.CLEAR)
                    self._done(index, part)
        return failed(errno.ENOMEM) if hole else OK

    def _free(self, space: AddressSpace, slot: int) -> None:
        """Let reclaim drop the page unless it is written again: it counts as clean and zero."""
        entry = space.table.get(slot)
        if entry is None:
            return
        frame = entry.frame
        if frame is None:
            space.zap(slot)
        elif not space.is_shared(entry) and frame.locked is None and not frame.pins:
            frame.dirty = False
            if frame.backing is not None:
                self._host.swap.put(frame.backing)
                frame.backing = None

    def punch(self, index: int, op: Operation) -> Outcome:
        space, hole = self._space(op), False
        for slot in range(op.page, op.page + op.pages):
            part = op._replace(page=slot, pages=1)
            with space.mmap_lock.reading():
                area = space.areas.get(slot)
            if area is None:
                hole = True
                continue
            if area.file is None or not area.shared:
                return self._done(index, part, failed(errno.EINVAL))
            page = slot + area.delta
            with self._host.shrinking(area.file):
                self._host.unmap_file(area.file, page, page + 1, copies=False)
                area.file.erase(page)
                self._done(index, part)
        return failed(errno.ENOMEM) if hole else OK

    def truncate(self, index: int, op: Operation) -> Outcome:
        file = self._host.files[op.file]
        with self._host.shrinking(file):
            if op.pages < file.size:
                self._host.unmap_file(file, op.pages, 1 << 32, copies=True)
            file.truncate(op.pages)
            self._done(index, op)
        return OK

    # Processes

    def fork(self, index: int, op: Operation) -> Outcome:
        host, parent = self._host, self._space(op)
        with parent.mmap_lock.writing():
            for entry in list(parent.table.values()):
                if entry.exclusive is not None:
                    parent.revoke(entry)
            with parent.invalidating(0, host.geometry.pages, Event.PROTECTION_PAGE):
                child = host.spaces[op.target] = AddressSpace(host, op.target)
                for slot, area in parent.areas.items():
                    child.enter(slot, area)
                    if slot in parent.table and not area.shared:
                        _inherit(child, slot, parent.table[slot])
                parent.changed(0, host.geometry.pages, Event.PROTECTION_PAGE)
                self._done(index, op)
        return OK

    def exit(self, index: int, op: Operation) -> Outcome:
        host, space = self._host, self._space(op)
        space.users -= 1
        if space.users:
            # The last mmput of a driver does what follows; it must not be long in coming.
            host.locks.block(None, lambda: not space.users, "the last user of the address space")
        space.subscriptions.release()
        with space.mmap_lock.writing():
            range_ = host.new_range(space, 0, (1 << 64) - 1, Event.UNMAP)
            host.tasks.point("invalidate_range_start")
            space.subscriptions.start(range_)
            for slot in list(space.areas):
                space.zap(slot)
                space.leave(slot)
            space.changed(0, host.geometry.pages, Event.UNMAP)
            del host.spaces[op.process]
            self._done(index, op)
            space.subscriptions.end(range_)
        return OK


def _inherit(child: AddressSpace, slot: int, entry: PageTableEntry) -> None:
    child.inherit(slot, entry)
    heir = child.table.get(slot)
    if heir is not None and entry.migrating and heir.frame is entry.frame:
        heir.migrating, heir.present = True, False


def _parts(space: AddressSpace, op: Operation) -> Iterator[tuple[Operation, Area | None]]:
    """The operation, part by part: one for each area in its range and one for each hole."""
    slot, end = op.page, op.page + op.pages
    while slot < end:
        area, first = space.areas.get(slot), slot
        while slot < end and space.areas.get(slot) == area:
            slot += 1
        yield op._replace(page=first, pages=slot - first), area
