"""Where two actors of a program may meet: operations about the same pages, next to be done by each.

A switch to somebody whose next operation is about something else says little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from reference.operations import (
    ACCESSES,
    CPU_ACCESSES,
    DEVICE_ACCESSES,
    DEVICE_KINDS,
    EVENTS,
    Kind,
    Operation,
)
from reference.program import Program
from reference.schedule import ENGINE, Switch, actor_of

from .reduce.places import places

__all__ = ["Meeting", "meetings"]

_WHOLE = frozenset({Kind.FORK, Kind.EXIT, Kind.ATTACH, Kind.DETACH, Kind.TRUNCATE})
"""Kinds that concern every page."""
_INSERTIONS = frozenset({Kind.ATTACH, Kind.REGISTER})
_REMOVALS = frozenset({Kind.UNREGISTER, Kind.DETACH})
_USES = (DEVICE_ACCESSES | _REMOVALS) | {
    Kind.FAULT,
    Kind.TO_DEVICE,
    Kind.TO_SYSTEM,
    Kind.EXCLUSIVE,
    Kind.REGISTER,
    Kind.SUBMIT,
}
"""What a driver does for its device."""
_MOVES = frozenset({Kind.TO_DEVICE, Kind.TO_SYSTEM, Kind.EXCLUSIVE})
"""Those that a fault of the processor ends, or has to wait for."""
_AWAY = frozenset({Kind.TO_DEVICE, Kind.EXCLUSIVE})
"""Those behind which a fault of the processor is work for the driver."""
_CHANGES = EVENTS | {
    *(Kind.MAP, Kind.UNMAP, Kind.REMAP, Kind.PROTECT, Kind.DISCARD, Kind.PUNCH, Kind.FREE),
    *(Kind.TRUNCATE, Kind.FORK, Kind.EXIT, Kind.INVALIDATE),
}
"""What the driver is told of by an invalidation."""
_WRITES = CPU_ACCESSES - {Kind.READ}
_BY_CPU, _BY_DEVICE, _BY_OTHERS = 6, 20, 12
_FEW_POINTS: Mapping[int, int] = {Kind.ATTACH: 3, Kind.UNREGISTER: 6, Kind.DETACH: 8}
_BY_ENGINE, _BY_ENGINE_FAULTING = 6, 18
"""Protocol points of a job: without keys it may be that each access raises a fault."""


class _Work(NamedTuple):
    """An operation, or what the engine does for a submit."""

    actor: int
    operation: int
    kind: int
    about: frozenset[tuple[str, int]] | None
    """Pages and files; None for all of them."""

    points: int
    """Protocol points in it, about as many as most of its kind have."""
    brings_home: bool = False
    """An access of the processor for which the driver gives a page back."""


class Meeting(NamedTuple):
    """An operation, and the one that another actor would do next."""

    first: _Work
    second: _Work

    def switches(self, there: int, back: int) -> Iterator[Switch]:
        """To the second at some point of the first, and, if `back` says so, back from it.

        Both are bytes; half of the values of `back` stand for not before its end.
        """
        first, second = self
        point = 1 + there % first.points
        yield Switch(first.actor, first.operation, point, second.actor)
        if back >= 128:
            point = 1 + back % second.points
            yield Switch(second.actor, second.operation, point, first.actor)


def meetings(program: Program) -> list[Meeting]:
    """The meetings of a program, in the order of their first operations, each by its weight."""
    found: list[Meeting] = []
    following: dict[int, _Work] = {}
    for work in reversed(list(_works(program))):
        for actor, other in following.items():
            if actor != work.actor and _share(work, other):
                found += [Meeting(work, other)] * _weight(work, other)
        following[work.actor] = work
    first = _first_attached(program)
    return [meeting for meeting in reversed(found) if meeting.first.operation > first]


def _first_attached(program: Program) -> int:
    """The number of the operation up to which there is no mirror."""
    kinds = [operation.kind for operation in program.operations]
    return kinds.index(Kind.ATTACH) if Kind.ATTACH in kinds else len(kinds)


def _works(program: Program) -> Iterator[_Work]:
    size = program.geometry.page_size
    queued: dict[tuple[int, int], list[Operation]] = {}
    keys: dict[tuple[int, int], frozenset[tuple[str, int]]] = {}
    away: set[tuple[str, int]] = set()
    for index, operation in enumerate(program.operations):
        actor, kind, job = actor_of(operation), operation.kind, (operation.device, operation.job)
        about = None if kind in _WHOLE else frozenset(places(operation, size))
        if kind == Kind.REGISTER:
            keys[operation.device, operation.key] = about or frozenset()
        elif kind == Kind.UNREGISTER:
            about = keys.get((operation.device, operation.key), about)
        elif kind in _AWAY:
            away.update(about or ())
        if kind in CPU_ACCESSES and about and about & away:
            away -= about
            yield _Work(actor, index, kind, about, _BY_DEVICE, brings_home=True)
        elif kind == Kind.SUBMIT:
            accesses = queued.pop(job, [])
            about = frozenset(place for access in accesses for place in places(access, size))
            keyed = any(access.key for access in accesses)
            points = _BY_ENGINE if keyed else _BY_ENGINE_FAULTING
            yield _Work(actor, index, kind, about, _points(operation))
            yield _Work(ENGINE + operation.device, index, kind, about, points)
        elif operation.job and kind in ACCESSES:
            queued.setdefault(job, []).append(operation)
        else:
            yield _Work(actor, index, kind, about, _points(operation))


def _points(operation: Operation) -> int:
    if operation.kind in CPU_ACCESSES:
        return _BY_CPU
    if operation.kind in _FEW_POINTS:
        return _FEW_POINTS[operation.kind]
    by_device = operation.kind in DEVICE_KINDS and operation.kind != Kind.INVALIDATE
    return _BY_DEVICE if by_device else _BY_OTHERS


def _share(one: _Work, other: _Work) -> bool:
    """Whether they are about the same pages, or a file."""
    return one.about is None or other.about is None or bool(one.about & other.about)


def _weight(one: _Work, other: _Work) -> int:
    """How much it says if the second happens in the middle of the first."""
    first, second = one.kind, other.kind
    if first in _MOVES and second in CPU_ACCESSES:
        return 24
    if one.brings_home:
        return 8 if second in _MOVES | _REMOVALS | _CHANGES else 2
    if first in _USES:
        return 8 if second in _CHANGES or other.brings_home else 2 if second in _WRITES else 0
    if first in _CHANGES:
        if second in _INSERTIONS:
            return 16
        if second in _USES:
            return 8
        return 4 if second in _CHANGES else second in CPU_ACCESSES
    return 2 if first in _WRITES and second in _USES else 0
