"""Simpler operations: simpler kinds, the simplest arguments that still fail, set-up first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from reference.operations import ACCESSES, ATOMICS, WORD, Flag, Kind, Operation
from reference.signatures import SIGNATURES

from .places import RANGED, places
from .search import Operations, Search

__all__ = ["as_read", "as_write", "set_up_first", "simplify"]

Change = Callable[[Operation], Operation]


def set_up_first(search: Search) -> None:
    """Map before anything else, then attach: what is there from the start explains itself."""
    operations = search.operations
    size = search.program.geometry.page_size
    maps = [each for at, each in enumerate(operations) if _is_first_map(operations, at, size)]
    attaches = [each for each in operations if _is_first_attach(operations, each)]
    rest = [each for each in operations if each not in maps and each not in attaches]
    search.attempt([*maps, *attaches, *rest])


def _is_first_map(operations: Operations, at: int, page_size: int) -> bool:
    """Whether the operation maps, for process 0, pages that nothing before it has changed."""
    operation = operations[at]
    mine = places(operation, page_size)
    before = [each for each in operations[:at] if each.kind not in ACCESSES]
    return (
        operation.kind == Kind.MAP
        and operation.process == 0
        and not any(places(each, page_size) & mine for each in before)
    )


def _is_first_attach(operations: Operations, operation: Operation) -> bool:
    alike = [each for each in operations if each.kind == Kind.ATTACH]
    return (
        operation.kind == Kind.ATTACH
        and operation.process == 0
        and operation == next(each for each in alike if each.device == operation.device)
    )


def simplify(search: Search) -> None:
    """Try every simpler form of every operation, from the last to the first."""
    # What is written and what is read must be the same word, which no single change can give.
    search.attempt(
        each._replace(offset=0, length=WORD) if each.kind in ACCESSES else each
        for each in search.operations
    )
    index = len(search.operations) - 1
    while index >= 0:
        for change in _simpler(search.operations[index], search.program.geometry.pages):
            if index < len(search.operations):
                operations = list(search.operations)
                operations[index] = change(operations[index])
                search.attempt(operations)
        index = min(index, len(search.operations)) - 1


def _simpler(operation: Operation, arena: int) -> Iterator[Change]:
    kind = Kind(operation.kind)
    if kind in _AS_UNMAP:
        yield _as_unmap
    if kind == Kind.REMAP:
        yield lambda old: _as_unmap(old._replace(page=old.target))
    if kind == Kind.FORK:
        yield lambda old: _as_unmap(old._replace(pages=arena))
    if kind in ACCESSES:
        yield from _simpler_access(operation)
    elif operation.pages > 1 and kind in RANGED:
        yield lambda old: old._replace(pages=1)
        yield lambda old: old._replace(page=old.page + old.pages - 1, pages=1)
        yield lambda old: old._replace(pages=old.pages // 2) if old.pages > 2 else old
        yield lambda old: old._replace(pages=2) if old.pages > 2 else old
    yield from _simpler_flags(kind)
    for name in ("target", "file", "event"):
        if name in SIGNATURES[kind].fields and kind not in {Kind.REMAP, Kind.FORK}:
            yield _zeroed(name)


_AS_UNMAP = frozenset({Kind.MAP, Kind.REMAP, Kind.PROTECT, Kind.DISCARD, Kind.PUNCH})
"""Kinds that change or take away what an unmap takes away.  So does fork, of the whole arena."""


def _as_unmap(operation: Operation) -> Operation:
    return operation._replace(kind=Kind.UNMAP, flags=0, target=0, file=0)


def _simpler_access(operation: Operation) -> Iterator[Change]:
    yield lambda old: old._replace(offset=0, length=WORD)
    yield lambda old: old._replace(length=WORD)
    yield lambda old: old._replace(length=2 * WORD) if old.length > 2 * WORD else old
    yield lambda old: old._replace(offset=0)
    if operation.job:
        yield lambda old: old._replace(job=0)
    if operation.kind in ATOMICS:
        yield as_write
        yield lambda old: as_read(old) if old.kind in ATOMICS else old


def _simpler_flags(kind: Kind) -> Iterator[Change]:
    if kind == Kind.MAP:
        yield lambda old: old._replace(flags=int(Flag.READ | Flag.WRITE), file=0, target=0)
        yield lambda old: old._replace(flags=old.flags & ~Flag.FILE, file=0, target=0)
        yield lambda old: old._replace(flags=old.flags & ~Flag.SHARED)
    if kind in {Kind.MAP, Kind.PROTECT, Kind.FAULT, Kind.REGISTER}:
        yield lambda old: old._replace(flags=old.flags | Flag.READ | Flag.WRITE)
    for flag in (Flag.DONTUNMAP, Flag.NONBLOCK):
        if any(argument.flag == flag for argument in SIGNATURES[kind].arguments):
            yield _without(flag)


def _zeroed(name: str) -> Change:
    return lambda old: old._replace(**{name: 0})


def _without(flag: Flag) -> Change:
    return lambda old: old._replace(flags=old.flags & ~flag)


def as_read(operation: Operation) -> Operation:
    """An access as a read of the same words, by the same side."""
    read = Kind.DREAD if operation.kind >= Kind.ATTACH else Kind.READ
    return operation._replace(kind=read, value=0, expected=0)


def as_write(operation: Operation) -> Operation:
    """An access as a write of the same words, by the same side."""
    write = Kind.DWRITE if operation.kind >= Kind.ATTACH else Kind.WRITE
    return operation._replace(kind=write, expected=0)
