"""Turns small integers into operations: which kind, then what exactly.

The kinds that make sense depend on a handful of facts about the sketch, its context; for each
context there is a table of 256 kinds.  The lower half is the same in all contexts, as far as its
kinds are possible: what a choice means there survives when the shrinker leaves operations out.
The upper half goes where the context points.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from reference.operations import CPU_ACCESSES, DEVICE_ACCESSES, DEVICE_KINDS, Kind, Operation

from .build import build
from .plan import Plan
from .profile import SIMPLE_FIRST
from .sketch import Side, Sketch

__all__ = ["CHOICES", "choose", "context", "possible", "table"]

CHOICES: Final = 256
"""Entries of a table: kind choices are taken modulo this."""

# The bits of a context; the lowest two are a `Side`.
_STRONG: Final = 4
_MAPPED: Final = 8
_ATTACHED: Final = 16
_DETACHED: Final = 32
_IDLE: Final = 64
_KEYS: Final = 128
_FORKABLE: Final = 256
_CHILDREN: Final = 512
_QUEUED: Final = 1024
_IN_FLIGHT: Final = 2048

_NEEDS: Final[Mapping[Kind, int]] = {
    **dict.fromkeys(DEVICE_KINDS - {Kind.INVALIDATE}, _ATTACHED),
    Kind.ATTACH: _DETACHED,
    Kind.DETACH: _ATTACHED | _IDLE,
    Kind.UNREGISTER: _ATTACHED | _IDLE,
    Kind.FORK: _FORKABLE,
    Kind.EXIT: _CHILDREN,
    Kind.SUBMIT: _ATTACHED | _QUEUED,
    Kind.WAIT: _ATTACHED | _IN_FLIGHT,
}
"""What must hold for an operation of this kind to be valid."""

_WANTED: Final[Mapping[int, frozenset[Kind]]] = {
    Side.CPU: CPU_ACCESSES,
    Side.DEVICE: DEVICE_ACCESSES,
    Side.KEYLESS: CPU_ACCESSES | {Kind.REGISTER},
}
"""What an aim asks for."""
_STRONG_SHARE: Final = 0.8
_WEAK_SHARE: Final = 0.35
"""Share of the upper half that goes where the aim is: after an event, and after a write."""


def choose(sketch: Sketch, kind_choice: int, packed: int) -> Operation:
    """A valid operation for any two integers; smaller ones give simpler operations."""
    kind = table(sketch.plan, context(sketch))[kind_choice % CHOICES]
    return build(sketch, kind, packed)


def context(sketch: Sketch) -> int:
    """The facts that decide which kinds make sense, as bits."""
    live, geometry = sketch.live, sketch.plan.geometry
    aim = sketch.aim()
    bits = 0 if aim is None else aim.side | (_STRONG if aim.strong else 0)
    if any(sketch.areas.values()):
        bits |= _MAPPED
    attached = len(live.attached)
    if attached:
        bits |= _ATTACHED
        if not (live.queued or live.in_flight) or not all(map(sketch.busy, live.attached)):
            bits |= _IDLE
        if sketch.keys:
            bits |= _KEYS
    if attached < geometry.devices:
        bits |= _DETACHED
    if len(live.born) < geometry.processes:
        bits |= _FORKABLE
    if len(live.alive) > 1:
        bits |= _CHILDREN
    if live.queued:
        bits |= _QUEUED
    return bits | _IN_FLIGHT if live.in_flight else bits


def possible(kind: Kind, facts: int) -> bool:
    """Whether an operation of this kind would be valid in this context."""
    return not _NEEDS.get(kind, 0) & ~facts


def table(plan: Plan, facts: int) -> tuple[Kind, ...]:
    """The kind for each of the 256 choices in this context."""
    entries = plan.tables.get(facts)
    if entries is None:
        weights = tuple(plan.profile.weights.items())
        entries = plan.tables[facts] = _make_table(weights, plan.description.keyed, facts)
    return entries


@lru_cache(maxsize=2048)
def _make_table(profile: tuple[tuple[Kind, int], ...], keyed: bool, facts: int) -> tuple[Kind, ...]:
    """Shards have plans of their own, and most the same weights: a table for each takes longer."""
    weights = dict(profile)
    usual = {kind: weights[kind] for kind in SIMPLE_FIRST if kind in weights}
    pointed = _fill(_pointed(weights, keyed, facts), CHOICES // 2)
    stable = [
        kind if facts & _MAPPED and possible(kind, facts) else instead
        for kind, instead in zip(_fill(usual, CHOICES // 2), pointed, strict=True)
    ]
    return (*stable, *pointed)


def _pointed(usual: Mapping[Kind, int], keyed: bool, facts: int) -> dict[Kind, float]:
    """The weights in a context: mostly the accesses that its aim asks for, if it has one."""
    weights = {
        kind: usual[kind] * _factor(kind, facts, keyed)
        for kind in SIMPLE_FIRST
        if kind in usual and possible(kind, facts)
    }
    wanted = _WANTED.get(facts & 3, frozenset())
    aimed = sum((weight for kind, weight in weights.items() if kind in wanted), 0.0)
    rest = sum(weights.values(), 0.0) - aimed
    share = _STRONG_SHARE if facts & _STRONG else _WEAK_SHARE
    if aimed and rest:
        for kind in weights.keys() & wanted:
            weights[kind] *= rest * share / (1 - share) / aimed
    return weights


def _factor(kind: Kind, facts: int, keyed: bool) -> float:
    """How much more (or less) a kind is called for than usual."""
    if not facts & _MAPPED:
        return {Kind.MAP: 12.0, Kind.ATTACH: 3.0}.get(kind, 0.1)
    match kind:
        case Kind.ATTACH:
            return 2.0 if facts & _ATTACHED else 8.0
        case Kind.REGISTER if keyed and not facts & _KEYS:
            return 10.0
        case Kind.UNREGISTER if not facts & _KEYS:
            return 0.1
        case _ if keyed and kind in DEVICE_ACCESSES and not facts & _KEYS:
            return 0.06
    return 1.0


def _fill(weights: Mapping[Kind, float], size: int) -> list[Kind]:
    """This many entries, one for every kind and the others by weight, in the order of `weights`."""
    share = (size - len(weights)) / sum(weights.values(), 0.0)
    entries: list[Kind] = []
    reached = 0.0
    for kind, weight in weights.items():
        reached += 1 + weight * share
        entries += [kind] * (round(reached) - len(entries))
    return entries
