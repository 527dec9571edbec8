"""Beginnings of programs in which two actors are sure to meet over the same pages.

Left to chance, short programs rarely have a device that uses what somebody else then changes, let
alone a process that ends under a job.  A scene is a list of steps, each of which says what kinds
of operations may come; what exactly comes is decided as everywhere, but where it aims is fixed:
at the pages that were used last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from reference.operations import DEVICE_ACCESSES, Event, Kind, Operation

from .build import build
from .choose import context, possible
from .plan import Plan
from .sketch import Sketch
from .spans import HOW, LENGTH, OFFSET, OTHER, PAGE, PAGES, WHERE, WHO

__all__ = ["CHOICES", "Step", "scene", "take"]

CHOICES = 2
"""Bytes that decide on a scene."""


T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One operation of a scene."""

    kinds: Mapping[Kind, int]
    """Those it may be of, with their weights."""
    fixed: Mapping[int, int] = field(default_factory=dict)
    """Bytes of its choice that are given, by their place; see `spans`."""


_HERE = {WHERE: 0, PAGE: 0}
"""At the pages that were used last."""
_CHILD = {WHO: 255, OTHER: 255}
"""By or for the process that was born last."""
_ACCESSES = {Kind.DREAD: 3, Kind.DWRITE: 3, Kind.DADD: 1, Kind.DCAS: 1}
_CHANGES = {
    Kind.UNMAP: 4,
    Kind.DISCARD: 4,
    Kind.PROTECT: 4,
    Kind.REMAP: 2,
    Kind.MAP: 2,
    Kind.FORK: 2,
    Kind.WRITE: 2,
    Kind.FREE: 1,
    Kind.PUNCH: 1,
    Kind.TRUNCATE: 1,
}
"""What a process does to its memory, or has done to it by an access."""
_EVENTS = {Kind.RECLAIM: 4, Kind.MIGRATE: 3, Kind.INVALIDATE: 3, Kind.MERGE: 1, Kind.SPLIT: 1}
"""What the kernel does to it."""

_ANY = Step({Kind.MAP: 1})
_ANONYMOUS = Step({Kind.MAP: 1}, {LENGTH: 0, OFFSET: 0, HOW: 0})
"""Private memory of the process's own, which it may write."""
_SEVERAL = Step({Kind.MAP: 1}, {LENGTH: 0, OFFSET: 0, HOW: 0, PAGE: 0, PAGES: 150})
"""The same, of two pages."""
_EVERYTHING = Step({Kind.MAP: 1}, {LENGTH: 0, OFFSET: 0, HOW: 0, PAGE: 0, PAGES: 255})
"""The same, of as many pages as there can be."""
_USE = Step({**_ACCESSES, Kind.FAULT: 1}, _HERE)
_CHANGE = Step(_CHANGES, _HERE)
_LOSS = Step({Kind.DISCARD: 3, Kind.MAP: 3, Kind.RECLAIM: 2, Kind.MIGRATE: 1}, _HERE)
"""The page goes, but there is another when it is asked for."""
_UNMAP = Step({Kind.UNMAP: 5, Kind.DISCARD: 2, Kind.REMAP: 1}, _HERE)
_UNMAP_OR_DISCARD = Step({Kind.DISCARD: 3, Kind.RECLAIM: 1, Kind.UNMAP: 1}, _HERE)
_DISCARD = Step({Kind.DISCARD: 1}, _HERE)
_MAP_OVER = Step({Kind.MAP: 1}, {**_HERE, LENGTH: 0, OFFSET: 0, HOW: 0})
_LOOK = Step({Kind.DREAD: 2, Kind.FAULT: 1, Kind.DWRITE: 1}, _HERE)
"""Mostly a use that needs less than what it finds allows."""
_RIGHTS = Step({Kind.PROTECT: 3, Kind.FORK: 1}, _HERE | {HOW: 0})
"""The right to write goes, or comes back."""
_FORK = Step({Kind.FORK: 1})
_EVENT = Step(_EVENTS, _HERE)
_WITHOUT_SLEEP = Step({Kind.INVALIDATE: 1}, {**_HERE, HOW: 255})
_OF_EACH_KIND = tuple(
    Step({Kind.INVALIDATE: 1}, {**_HERE, HOW: 0, OTHER: -(-256 * place // len(Event))})
    for place, event in enumerate(Event)
    if event in {Event.SOFT_DIRTY, Event.RELEASE, Event.MIGRATE, Event.EXCLUSIVE, Event.UNKNOWN}
)
"""Events that are rarely anybody else's doing."""
_QUEUE = Step({**_ACCESSES, Kind.DREAD: 5}, {**_HERE, HOW: 255})
_QUEUE_READ = Step({Kind.DREAD: 1}, {**_HERE, HOW: 255})
_SUBMIT = Step({Kind.SUBMIT: 1})
_WAIT = Step({Kind.WAIT: 1})
_JOB, _READING_JOB = (_QUEUE, _SUBMIT), (_QUEUE_READ, _SUBMIT)
_COLLAPSE = Step({Kind.COLLAPSE: 1}, _HERE | {PAGES: 0})
_TO_DEVICE = Step({Kind.TO_DEVICE: 1}, _HERE)
_ALL_TO_DEVICE = Step({Kind.TO_DEVICE: 1}, _HERE | {PAGES: 0, OTHER: 0})
_HOME = Step({Kind.TO_SYSTEM: 1}, _HERE)
_EXCLUSIVE = Step({Kind.EXCLUSIVE: 1}, _HERE)
_TOUCH = Step({Kind.WRITE: 3, Kind.READ: 1}, _HERE)
_WRITE = Step({Kind.WRITE: 1}, _HERE)
_INSERT = Step({Kind.REGISTER: 3, Kind.ATTACH: 1}, {WHERE: 0})
_REMOVE = Step({Kind.DETACH: 1, Kind.UNREGISTER: 2})
_EXIT = Step({Kind.EXIT: 1}, {WHO: 0})

_MEETINGS: tuple[tuple[int, tuple[Step, ...]], ...] = (
    (5, (_ANY, _TOUCH, _USE, _LOSS, _USE, _CHANGE)),
    (6, (_ANY, _USE, _LOSS, _USE, _EVENT, _USE)),
    (6, (_ANY, _LOSS, _USE, _LOSS, _USE, _LOSS)),
    (3, (_ANY, _TOUCH, _USE, _EVENT, _UNMAP)),
    (7, (_ANONYMOUS, _WRITE, _LOOK, _RIGHTS, _USE, _RIGHTS)),
    (3, (_ANONYMOUS, _WRITE, _USE, _FORK, _USE)),
    (6, (_ANONYMOUS, *_READING_JOB, _MAP_OVER, _WAIT, *_READING_JOB, _UNMAP, _WAIT)),
    (4, (_ANY, *_JOB, _LOSS, _WAIT, _USE)),
    (5, (_ANY, *_JOB, _WITHOUT_SLEEP, _WAIT, *_JOB, _WITHOUT_SLEEP, _WAIT)),
    (8, (_ANY, *(_USE, _WITHOUT_SLEEP) * 3)),
    (6, (_ANY, _TOUCH, *(step for told in _OF_EACH_KIND for step in (_USE, told)))),
    (5, (_ANY, _USE, _LOSS, _INSERT, _LOSS, _INSERT, _USE)),
    (4, (_ANY, _USE, _EVENT, _INSERT, _REMOVE, _EVENT, _INSERT)),
    (2, (_ANY, _USE, _LOSS, _REMOVE)),
    (8, (_ANY, _USE, _REMOVE, _CHANGE, _INSERT, _USE, _REMOVE, _LOSS)),
    (7, (_SEVERAL, _TOUCH, _COLLAPSE, _USE, _UNMAP_OR_DISCARD)),
    (11, (_ANONYMOUS, *(_TO_DEVICE, _TOUCH, _DISCARD) * 3)),
    (7, (_ANONYMOUS, _TO_DEVICE, _TOUCH, _TO_DEVICE, _TOUCH, _TO_DEVICE, _TOUCH)),
    (5, (_ANONYMOUS, _TO_DEVICE, _USE, _UNMAP)),
    (5, (_ANONYMOUS, *(_TO_DEVICE, _TOUCH, _REMOVE, _INSERT) * 2)),
    (2, (_ANONYMOUS, _WRITE, _TO_DEVICE, _USE, _HOME, _TOUCH)),
    (7, (_ANONYMOUS, _EXCLUSIVE, _DISCARD, _EXCLUSIVE, _TOUCH, _EXCLUSIVE, _UNMAP)),
    (2, (_ANONYMOUS, _TO_DEVICE, _LOSS, _USE)),
    (3, (_EVERYTHING, _TOUCH, _ALL_TO_DEVICE, _USE, _UNMAP)),
)
"""What may happen to a page that a device mirrors, with weights."""
_ENDS: tuple[tuple[int, tuple[Step, ...]], ...] = (
    (3, (_ANY, _TOUCH, _USE, _EXIT)),
    (2, (_ANY, _USE, _LOSS, _EXIT)),
    (2, (_ANY, *_JOB, _EXIT, _WAIT)),
    (1, (_ANY, _USE, _EXIT, _INSERT)),
)
"""The same for the process, which ends."""
_END_SHARE = 36
"""In 256ths, the scenes in which a process ends."""
_CHILD_SHARE = 48
"""In 256ths, the others that are about a child, whose pages its parent has as well."""


def scene(plan: Plan, choice: bytes) -> tuple[Step, ...]:
    """The steps of the scene that `CHOICES` bytes stand for; none if there is no such scene."""
    which, where = choice
    weights = plan.profile.weights
    may_end = Kind.EXIT in weights
    ends = may_end and where < _END_SHARE
    child = may_end and where < _END_SHARE + _CHILD_SHARE
    scenes = [
        (weight, steps)
        for weight, steps in (_ENDS if ends else _MEETINGS)
        if all(step.kinds.keys() & weights.keys() for step in steps)
    ]
    if not scenes:
        return ()
    mapping, *rest = _pick(scenes, which)
    return mapping, *_setup(child), *rest


def _setup(child: bool) -> tuple[Step, ...]:
    """A device that mirrors the process, or a child of it, and knows the page if it has keys."""
    attach = Step({Kind.ATTACH: 1}, _CHILD if child else {WHO: 0})
    register = Step({Kind.REGISTER: 1}, _HERE)
    return (_FORK, attach, register) if child else (attach, register)


def _pick(things: Sequence[tuple[int, T]], byte: int) -> T:
    """One of the things, each with its weight."""
    place = byte * sum(weight for weight, _ in things) >> 8
    for weight, thing in things:
        if place < weight:
            return thing
        place -= weight
    raise AssertionError("a byte is less than 256")


def take(sketch: Sketch, step: Step, choice: bytes) -> Operation | None:
    """The operation that a step comes to, by a byte for its kind and those that `build` takes.

    None if the candidate can do nothing of the kind, or not here.
    """
    weights, facts = sketch.plan.profile.weights, context(sketch)
    kinds = {
        kind: weight
        for kind, weight in step.kinds.items()
        if kind in weights and possible(kind, facts)
    }
    if not kinds or _lacks_key(sketch, kinds):
        return None
    kind = _pick([(weight, kind) for kind, weight in kinds.items()], choice[0])
    packed = bytearray(choice[1:])
    for where, byte in step.fixed.items():
        packed[where] = byte
    return build(sketch, kind, int.from_bytes(packed, "little"))


def _lacks_key(sketch: Sketch, kinds: Mapping[Kind, int]) -> bool:
    """Whether it would be an access through a key that is not there."""
    return sketch.plan.description.keyed and not sketch.keys and kinds.keys() <= DEVICE_ACCESSES
