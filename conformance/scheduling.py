"""Schedules for the programs of a run: the plain one, random ones, drawn switches, a failure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from reference.operations import ACCESSES, Kind
from reference.program import Program
from reference.schedule import ENGINE, PLAIN, Injection, Schedule, Switch, actor_of

from .generate import Plan, with_sweep
from .generate.strategies import program_seed
from .reduce.places import places

__all__ = ["CHOICES", "SCHEDULES", "short_sweep", "switch_choices", "under_schedules"]

_RANDOM_INTERVALS = (2, 5, 20)
_PCT_DEPTHS = (1, 2, 3)
_FAILURES = (("trylock", 1), ("trylock", 2), ("allocation", 3), ("copy", 2), ("wait", 1))
"""Sites where failures are injected, with the number of times of which one fails."""
SCHEDULES = 2 + len(_RANDOM_INTERVALS) + len(_PCT_DEPTHS) + 1
"""Schedules of each program."""
_SWITCHES = 4
"""Switches that are drawn for a program at most."""
_POINTS = 24
"""Protocol points of one operation that are drawn from; few have more."""
_PACKED = 3
"""Bytes of a drawn switch: operation, point, who runs on."""
CHOICES = _SWITCHES * _PACKED
"""Bytes that switches are drawn from at most."""


def under_schedules(program: Program, choices: bytes) -> Iterator[Program]:
    """A program under each of its schedules, which follow from its seed and the choices."""
    yield replace(program, schedule=PLAIN)
    yield replace(program, schedule=Schedule(_drawn(program, choices)))
    strategies = [("random", interval) for interval in _RANDOM_INTERVALS]
    strategies += [("pct", depth) for depth in _PCT_DEPTHS]
    for number, (strategy, depth) in enumerate(strategies):
        seed = program_seed(program.seed, number)
        yield replace(program, schedule=Schedule(strategy=strategy, seed=seed, depth=depth))
    random = Random(program_seed(program.seed, len(strategies)))
    site, times = random.choice(_FAILURES)
    failure = Injection(site, random.randint(1, times))
    yield replace(program, schedule=Schedule(_drawn(program, choices), injections=(failure,)))


def switch_choices() -> SearchStrategy[bytes]:
    """Choices of switches, evenly drawn by every backend."""
    return st.integers(1, _SWITCHES).flatmap(
        lambda count: st.binary(min_size=_PACKED * count, max_size=_PACKED * count)
    )


def _drawn(program: Program, choices: bytes) -> tuple[Switch, ...]:
    others = _actors(program)
    switches = {}
    for at in range(0, len(choices) - _PACKED + 1, _PACKED):
        place, point, to = choices[at : at + _PACKED]
        index = place % len(program)
        operation = program.operations[index]
        actor = actor_of(operation)
        if operation.kind == Kind.SUBMIT and place & 1:
            actor = ENGINE + operation.device
        where = actor, index, 1 + point % _POINTS
        switches[where] = Switch(*where, others[to % len(others)])
    return tuple(sorted(switches.values()))


def _actors(program: Program) -> list[int]:
    actors = {actor_of(operation) for operation in program.operations}
    engines = {ENGINE + each.device for each in program.operations if each.kind == Kind.SUBMIT}
    return sorted(actors | engines)


def short_sweep(program: Program, plan: Plan) -> Program:
    """The program with a closing sweep of the pages that it uses."""
    whole = with_sweep(program, plan)
    size = program.geometry.page_size
    used = {place for operation in program.operations for place in places(operation, size)}
    closing = [
        operation
        for operation in whole.operations[len(program) :]
        if operation.kind not in ACCESSES or ("page", operation.page) in used
    ]
    return replace(whole, operations=(*program.operations, *closing))
