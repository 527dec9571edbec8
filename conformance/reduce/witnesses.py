"""Other programs that may show the same bug, each one operation shorter or more.

Where no single step makes a program shorter, two together may: an access from the other side
makes another access superfluous, a wider range another range, one big change all other changes.
These are tried for short programs only, where there are few of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from reference.geometry import Geometry
from reference.operations import ACCESSES, DEVICE_KINDS, WORD, Flag, Kind, Operation
from reference.validity import MAX_LENGTH

from .places import RANGED, acting, pages_of
from .search import Operations, Search
from .shorter import as_child, straightened
from .simpler import as_read, as_write

__all__ = ["look_elsewhere"]

_MOST = 16
"""Operations up to which other programs are tried."""
_PATIENCE = 72
"""Programs that are tried in vain before the shortest so far is taken to be the shortest."""
_FRESH = 1 << 40
"""Values from here on are in no generated program."""


def look_elsewhere(search: Search) -> bool:
    """Find one shorter program that fails; False if there is none, or none soon."""
    operations, geometry = search.operations, search.program.geometry
    start = search.runs
    if len(operations) <= _MOST:
        for other in _others(operations, geometry):
            if len(other) < len(operations) and search.attempt(other):
                return True
            if search.runs - start >= _PATIENCE * search.repeats:
                break
    return False


def _others(operations: Operations, geometry: Geometry) -> Iterator[Operations]:
    """In the order in which they are likely to succeed, for what they cost."""
    yield from _joined(operations, geometry)
    yield from _other_jobs(operations, geometry.jobs)
    yield from _waiting(operations)
    yield from _queued_reads(operations)
    yield from _with_child_first(operations)
    yield from _told_in_one_space(operations, geometry)
    yield from _one_change(operations, geometry)
    yield from _with_detach(operations)
    yield from _two_other_accesses(operations, geometry.page_size)
    yield from _widened(operations, geometry)
    yield from _read_only(operations)
    yield from _less(operations, 2)
    yield from _other_accesses(operations, geometry.page_size)


def _less(operations: Operations, count: int = 1, kept: int = -1) -> Iterator[Operations]:
    """The operations without so many of them, but with the one at index `kept`."""
    loose = [at for at in range(len(operations)) if at != kept and not _needed(operations, at)]
    for left_out in combinations(loose, count):
        yield tuple(each for at, each in enumerate(operations) if at not in left_out)


def _needed(operations: Operations, at: int) -> bool:
    """Whether it is plain that nothing is left without this operation."""
    operation = operations[at]
    alike = [each for each in operations if each.kind == operation.kind]
    return operation.kind in _FOUNDATIONS and len(alike) == 1


_FOUNDATIONS = frozenset({Kind.MAP, Kind.ATTACH, Kind.REGISTER})


def _replaced(operations: Operations, at: int, operation: Operation) -> Operations:
    return (*operations[:at], operation, *operations[at + 1 :])


# -- ranges -----------------------------------------------------------------------------------


def _joined(operations: Operations, geometry: Geometry) -> Iterator[Operations]:
    """Two operations of a kind as one, of both ranges, at the place of either.

    Then also with what happens at one page happening at the last page of the range.
    """
    for left, right in combinations(range(len(operations)), 2):
        joined = _join(operations[left], operations[right])
        if joined is not None:
            for keep, drop in ((left, right), (right, left)):
                changed = _replaced(operations, keep, joined)
                told = changed[:drop] + changed[drop + 1 :]
                yield told
                page, end = told[-1].page, joined.page + joined.pages - 1
                moved = tuple(_moved(each, page, end) for each in told)
                yield _with_wide_maps(moved, geometry)


def _moved(operation: Operation, page: int, target: int) -> Operation:
    """The operation at another page, if it is about this page only."""
    alone = operation.kind in ACCESSES or (operation.kind in RANGED and operation.pages == 1)
    return operation._replace(page=target) if alone and operation.page == page else operation


def _join(one: Operation, other: Operation) -> Operation | None:
    """The operation over both ranges, if that is all in which the two differ."""
    if one.kind not in RANGED or one._replace(page=0, pages=0) != other._replace(page=0, pages=0):
        return None
    first = min(one.page, other.page)
    end = max(one.page + one.pages, other.page + other.pages)
    return one._replace(page=first, pages=end - first)


def _widened(operations: Operations, geometry: Geometry) -> Iterator[Operations]:
    """Ranges as wide as the arena, so that fewer are needed, and the last access a read of it."""
    last = len(operations) - 1
    for wide in _wide(operations, geometry, RANGED):
        yield from _less(wide, kept=last)
        yield from _less(wide, 2, kept=last)
    for base in (operations, _loud(operations, geometry)):
        for wide in _wide(base, geometry, frozenset({Kind.MAP})):
            yield from _less(wide, kept=last)


def _wide(
    operations: Operations, geometry: Geometry, kinds: frozenset[Kind]
) -> Iterator[Operations]:
    """All ranges of these kinds as wide as the arena; the last access as it is and of all of it."""
    *_, process = acting(operations)
    for look in _looks(operations, operations[-1], process, geometry.page_size):
        if look.kind in {Kind.READ, Kind.DREAD} and not look.job:
            for last in (look, _whole(look, geometry)):
                yield (*(_widen(each, geometry.pages, kinds) for each in operations[:-1]), last)


def _widen(operation: Operation, pages: int, kinds: frozenset[Kind]) -> Operation:
    if operation.kind in kinds - {Kind.REMAP}:
        return operation._replace(page=0, pages=pages, target=0)
    return operation


def _told_in_one_space(operations: Operations, geometry: Geometry) -> Iterator[Operations]:
    """Without a fork, move or change of rights, in mappings as wide as the arena.

    Where a fork is left out, a read of the whole arena lets its pages share a frame as well.
    """
    page = operations[-1].page
    straight = [other for at in range(len(operations)) for other in straightened(operations, at)]
    for other in straight:
        mapped = _with_wide_maps(other, geometry)
        yield mapped
        yield tuple(_narrowed(each, page) for each in mapped)
        for at, operation in enumerate(mapped[:-1]):
            if operation.kind not in _FOUNDATIONS:
                read = Operation(Kind.READ, operation.process, 0, 0, 0, 0, 0, WORD)
                yield _replaced(mapped, at, _whole(read, geometry))


def _with_wide_maps(operations: Operations, geometry: Geometry) -> Operations:
    return tuple(_widen(each, geometry.pages, frozenset({Kind.MAP})) for each in operations)


def _narrowed(operation: Operation, page: int) -> Operation:
    """What is done to a range, done to one page of it."""
    if operation.kind in RANGED - {Kind.MAP} and page in pages_of(operation, 1):
        return operation._replace(page=page, pages=1)
    return operation


def _one_change(operations: Operations, geometry: Geometry) -> Iterator[Operations]:
    """One change of the whole arena instead of all changes, by the first process."""
    changes = [at for at in range(len(operations) - 1) if _is_change(operations, at)]
    if len(changes) < 2:
        return
    quiet = tuple(each._replace(process=0) for each in operations)
    everywhere = Operation(Kind.UNMAP, 0, 0, 0, 0, geometry.pages)
    for base in (quiet, _loud(quiet, geometry)):
        wide = _with_wide_maps(base, geometry)
        readable = tuple(_readable(each) for each in wide)
        for at in changes:
            others = set(changes) - {at}
            for told, change in (
                (wide, everywhere),
                (wide, base[at]),
                (readable, everywhere._replace(kind=Kind.PROTECT, flags=_RIGHTS)),
            ):
                changed = _replaced(told, at, change)
                yield tuple(each for place, each in enumerate(changed) if place not in others)


def _is_change(operations: Operations, at: int) -> bool:
    """Whether an operation changes what there is, rather than being the first to provide it."""
    operation = operations[at]
    if operation.kind in {Kind.MAP, Kind.ATTACH}:
        before = operations[:at]
        return any(
            (each.kind, each.device) == (operation.kind, operation.device) for each in before
        )
    return operation.kind in _CHANGES


_CHANGES = frozenset(
    {
        *(Kind.UNMAP, Kind.REMAP, Kind.PROTECT, Kind.DISCARD, Kind.FREE, Kind.PUNCH),
        *(Kind.TRUNCATE, Kind.FORK, Kind.EXIT, Kind.DETACH, Kind.INVALIDATE),
    }
)
_RIGHTS = int(Flag.READ | Flag.WRITE)


def _loud(operations: Operations, geometry: Geometry) -> Operations:
    """Writes of whole pages instead of all reads but the last, so that it matters who saw what."""
    return (
        *(
            as_write(each)._replace(offset=0, length=geometry.page_size, value=_FRESH + (at << 20))
            if each.kind in {Kind.READ, Kind.DREAD} and not each.job
            else each
            for at, each in enumerate(operations[:-1])
        ),
        operations[-1],
    )


def _whole(access: Operation, geometry: Geometry) -> Operation:
    """The access to all of the arena."""
    length = min(geometry.pages * geometry.page_size, MAX_LENGTH)
    return access._replace(page=0, offset=0, length=length)


def _read_only(operations: Operations) -> Iterator[Operations]:
    """Mappings that cannot be written, and one operation less."""
    yield from _less(tuple(_readable(each) for each in operations))


def _readable(operation: Operation) -> Operation:
    mapping = operation.kind == Kind.MAP
    return operation._replace(flags=operation.flags & ~Flag.WRITE) if mapping else operation


# -- processes, devices and jobs --------------------------------------------------------------


def _with_child_first(operations: Operations) -> Iterator[Operations]:
    """A child that is there from the start, and one operation less."""
    for at, operation in enumerate(operations):
        if operation.kind == Kind.FORK:
            yield from _less(tuple(as_child(operations, at)))


def _other_jobs(operations: Operations, jobs: int) -> Iterator[Operations]:
    """A job in another place of the device's queue, which nobody waits for any more."""
    taken = {(each.device, each.job) for each in operations}
    for wait in [each for each in operations if each.kind == Kind.WAIT]:
        mine = (wait.device, wait.job)
        for other in range(1, jobs + 1):
            if (wait.device, other) not in taken:
                yield tuple(
                    each._replace(job=other) if (each.device, each.job) == mine else each
                    for each in operations
                    if each != wait
                )


def _waiting(operations: Operations) -> Iterator[Operations]:
    """A job waited for instead of the last access, and one operation less."""
    last = len(operations) - 1
    for submit in [each for each in operations if each.kind == Kind.SUBMIT]:
        wait = submit._replace(kind=Kind.WAIT)
        if wait not in operations:
            yield from _less(_replaced(operations, last, wait), kept=last)


def _with_detach(operations: Operations) -> Iterator[Operations]:
    """Another device let go shortly before the failure, and two operations less."""
    last = operations[-1]
    others = {each.device for each in operations if each.kind == Kind.ATTACH} - {last.device}
    alone = any(each.kind == Kind.DETACH for each in operations)
    for device in sorted(others if last.kind in DEVICE_KINDS and not alone else ()):
        detach = Operation(Kind.DETACH, 0, device, 0, 0, 0)
        for less in _less(operations, 2, kept=len(operations) - 1):
            for at in (len(less) - 2, len(less) - 1):
                yield (*less[:at], detach, *less[at:])


# -- accesses ---------------------------------------------------------------------------------


def _other_accesses(operations: Operations, page_size: int) -> Iterator[Operations]:
    """One access as another, from either side, and one operation less."""
    processes = list(acting(operations))
    for at, operation in enumerate(operations):
        if operation.kind in ACCESSES | {Kind.FAULT}:
            for look in _looks(operations, operation, processes[at], page_size):
                if look != operation:
                    yield from _less(_replaced(operations, at, look), kept=at)


def _queued_reads(operations: Operations) -> Iterator[Operations]:
    """A job's access as a read, which a wait shows, and one operation less."""
    for at, operation in enumerate(operations):
        if operation.kind in ACCESSES and operation.job and operation != as_read(operation):
            yield from _less(_replaced(operations, at, as_read(operation)), kept=at)


def _two_other_accesses(operations: Operations, page_size: int) -> Iterator[Operations]:
    """The last access and one before it as a write and a read, and one operation less."""
    *processes, process = acting(operations)
    last = len(operations) - 1
    for at, operation in enumerate(operations[:last]):
        looks = list(_looks(operations, operation, processes[at], page_size))
        writes = {each.kind: each for each in looks if not each.job}
        # What was written is looked for there, or where the failure was seen.
        for reads in (looks, list(_looks(operations, operations[last], process, page_size))):
            found = {each.kind: each._replace(job=0) for each in reads}
            for write, read in _WRITE_THEN_READ:
                if write in writes and read in found:
                    changed = _replaced(operations, at, writes[write])
                    yield from _less(_replaced(changed, last, found[read]), kept=at)


_WRITE_THEN_READ = (
    (Kind.DWRITE, Kind.DREAD),
    (Kind.WRITE, Kind.DREAD),
    (Kind.DWRITE, Kind.READ),
)


def _looks(
    operations: Operations, operation: Operation, process: int, page_size: int
) -> Iterator[Operation]:
    """Reads and writes of the same words by the CPU, and by the first device that there is.

    Writes are of whole pages, to be seen wherever somebody looks.
    """
    if operation.kind == Kind.FAULT:
        operation = operation._replace(pages=0, flags=0, length=operation.pages * page_size)
    elif operation.kind not in ACCESSES:
        return
    plain = as_read(operation)
    on_cpu = plain._replace(kind=Kind.READ, process=process, device=0, key=0, job=0)
    pages = len(pages_of(plain, page_size))
    whole = {"offset": 0, "length": pages * page_size, "value": operation.value or _FRESH}
    if not operation.job:
        if process and operation.kind < Kind.ATTACH:
            yield operation._replace(process=0)
        yield on_cpu
        yield on_cpu._replace(kind=Kind.WRITE, **whole)
    device = _device_for(operations, operation)
    if device is not None:
        on_device = plain._replace(kind=Kind.DREAD, process=0, **device)
        yield on_device._replace(offset=page_size - WORD, length=2 * WORD)
        yield on_device
        yield on_device._replace(kind=Kind.DWRITE, **whole)


def _device_for(operations: Operations, operation: Operation) -> dict[str, int] | None:
    """Device and key of an access by a device instead, if there is one."""
    if operation.kind >= Kind.ATTACH:
        return {"device": operation.device, "key": operation.key}
    devices = [each.device for each in operations if each.kind == Kind.ATTACH]
    keys = [each.key for each in operations if each.kind == Kind.REGISTER]
    return {"device": devices[0], "key": keys[0] if keys else 0} if devices else None
