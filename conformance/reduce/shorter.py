"""Fewer operations: what does not matter, and what only makes the story longer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from reference.operations import DEVICE_ACCESSES, Flag, Kind, Operation

from .places import acting, places
from .search import Operations, Search

__all__ = [
    "as_child",
    "at_once",
    "cut",
    "delete",
    "immediate",
    "straighten",
    "straightened",
    "unite",
]

_SETUP = frozenset(
    {Kind.FORK, Kind.EXIT, Kind.ATTACH, Kind.DETACH, Kind.SUBMIT, Kind.WAIT, Kind.UNREGISTER}
)


def cut(search: Search) -> None:
    """Leave out all behind the failure, and what has no page or file in common with it.

    First what shares none with the failing operation itself, and only if that was needed, what
    shares none with anything that does.
    """
    search.keep(search.program, search.violation)
    for spreading in (False, True):
        if search.attempt(
            _related(search.operations, search.program.geometry.page_size, spreading)
        ):
            break


def _related(operations: Operations, page_size: int, spreading: bool) -> list[Operation]:
    """The operations that may have to do with the last one, by page or file, and all set-up."""
    kept: list[Operation] = []
    touched = places(operations[-1], page_size)
    for operation in reversed(operations):
        near = places(operation, page_size)
        if operation.kind in _SETUP or near & touched or not kept:
            if spreading:
                touched |= near
            kept.append(operation)
    return kept[::-1]


def delete(search: Search, size: int = 1) -> None:
    """Delta debugging: leave out so many operations at once, from the end backwards, then fewer."""
    size = max(size, 1)
    while not search.exhausted:
        progress = _delete_runs(search, size)
        if size == 1 and not progress:
            break
        size = size // 2 or 1


def _delete_runs(search: Search, size: int) -> bool:
    """Leave out each run of `size` operations for which it still fails."""
    progress = False
    end = len(search.operations)
    while end > 0:
        start = max(end - size, 0)
        operations = search.operations
        if search.attempt(operations[:start] + operations[end:]):
            progress = True
            start = min(start, len(search.operations))
        end = start
    return progress


# -- processes and devices --------------------------------------------------------------------


def unite(search: Search) -> None:
    """Let a child's operations be its parent's or the reverse, and one device's another's."""
    _straighten(search, Kind.FORK)
    for device in sorted({each.device for each in search.operations}):
        if device:
            search.attempt([each._replace(device=0) for each in search.operations])


def straighten(search: Search) -> None:
    """Leave out moves and changed rights: let it be so from the start, or stay as it was."""
    _straighten(search, Kind.PROTECT)
    _straighten(search, Kind.REMAP)


def _straighten(search: Search, kind: Kind) -> None:
    for operation in [each for each in search.operations if each.kind == kind]:
        for way in _WAYS[kind]:
            if operation in search.operations:
                search.attempt(way(search.operations, search.operations.index(operation)))


def straightened(operations: Operations, at: int) -> Iterator[Operations]:
    """Ways to tell it without the operation at this index, if it is a fork, move or protection."""
    for way in _WAYS.get(operations[at].kind, ()):
        yield tuple(way(operations, at))


def _as_parent(operations: Operations, at: int) -> list[Operation]:
    """What the child does is done by its parent."""
    fork = operations[at]
    return [
        each._replace(process=fork.process) if each.process == fork.target else each
        for each in operations
        if each != fork
    ]


def _as_parent_elsewhere(operations: Operations, at: int) -> list[Operation]:
    """The child's own memory is the parent's at other pages, which nothing else uses."""
    fork = operations[at]
    free = 1 + max(each.page + max(each.pages, 1) for each in operations)
    moved = [
        _shifted(each, 0, free, free) if process == fork.target else each
        for each, process in zip(operations, acting(operations), strict=True)
    ]
    return _as_parent(tuple(moved), at)


def as_child(operations: Operations, at: int) -> list[Operation]:
    """The child is there from the start, and does itself what the parent had done for it."""
    fork = operations[at]
    before = [
        each._replace(process=fork.target) if _is_by(each, fork.process) else each
        for each in operations[:at]
    ]
    return [fork, *before, *operations[at + 1 :]]


def _is_by(operation: Operation, process: int) -> bool:
    return operation.process == process and operation.kind < Kind.ATTACH


# -- moves ------------------------------------------------------------------------------------


def _with_rights(operations: Operations, at: int) -> list[Operation]:
    """Mapped with the rights that are set later."""
    rights = operations[at].flags
    before = [
        each._replace(flags=each.flags & ~_RIGHTS | rights) if each.kind == Kind.MAP else each
        for each in operations[:at]
    ]
    return [*before, *operations[at + 1 :]]


_RIGHTS = int(Flag.READ | Flag.WRITE)


def _there_at_once(operations: Operations, at: int) -> list[Operation]:
    remap = operations[at]
    shift = remap.target - remap.page
    before = [_shifted(each, remap.page, remap.pages, shift) for each in operations[:at]]
    return [*before, *operations[at + 1 :]]


def _staying(operations: Operations, at: int) -> list[Operation]:
    remap = operations[at]
    shift = remap.page - remap.target
    after = [
        _shifted(each, remap.target, remap.pages, shift) if process == remap.process else each
        for each, process in zip(operations, acting(operations), strict=True)
    ]
    return [*operations[:at], *after[at + 1 :]]


def _shifted(operation: Operation, first: int, pages: int, shift: int) -> Operation:
    """The operation, if it begins in this range, so many pages further on."""
    moved: dict[str, int] = {}
    if operation.kind not in _NO_PLACE and first <= operation.page < first + pages:
        moved["page"] = operation.page + shift
    if operation.kind == Kind.REMAP and first <= operation.target < first + pages:
        moved["target"] = operation.target + shift
    return operation._replace(**moved)


_NO_PLACE = _SETUP | {Kind.TRUNCATE}


_WAYS: Mapping[int, tuple[Callable[[Operations, int], list[Operation]], ...]] = {
    Kind.FORK: (_as_parent, _as_parent_elsewhere, as_child),
    Kind.PROTECT: (_with_rights,),
    Kind.REMAP: (_there_at_once, _staying),
}
"""Ways to leave out the operation at an index, and to tell the rest as if it had been done."""


# -- jobs -------------------------------------------------------------------------------------


def at_once(search: Search) -> None:
    """Let a job's accesses be done where it is submitted or waited for, without a job.

    Or else the last of several accesses, when it was waited for.
    """
    for device, job in sorted({(each.device, each.job) for each in search.operations if each.job}):
        for moment in (Kind.SUBMIT, Kind.WAIT):
            if search.attempt(immediate(search.operations, (device, job), moment)):
                break
        else:
            search.attempt(_last_later(search.operations, (device, job)))


def immediate(operations: Operations, job: tuple[int, int], moment: Kind) -> Iterator[Operation]:
    """A job's accesses done at the moment when it is submitted or waited for, without a job."""
    queued: list[Operation] = []
    for each in operations:
        if (each.device, each.job) != job or not each.job:
            yield each
        elif each.kind in DEVICE_ACCESSES:
            queued.append(each._replace(job=0))
        elif each.kind == moment:
            yield from queued
            queued.clear()


def _last_later(operations: Operations, job: tuple[int, int]) -> list[Operation]:
    mine = [at for at, each in enumerate(operations) if (each.device, each.job) == job]
    queued = [at for at in mine if operations[at].kind in DEVICE_ACCESSES]
    waits = [at for at in mine if operations[at].kind == Kind.WAIT]
    if len(queued) < 2 or not waits:
        return list(operations)
    last, end = queued[-1], waits[-1] + 1
    later = operations[last]._replace(job=0)
    return [*operations[:last], *operations[last + 1 : end], later, *operations[end:]]
