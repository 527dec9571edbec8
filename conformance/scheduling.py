"""Schedules for the programs of a run: the plain one, random ones, drawn switches, a failure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from reference.operations import ACCESSES, Flag, Kind
from reference.program import Program
from reference.schedule import ENGINE, PLAIN, Injection, Schedule, Switch, actor_of

from .generate.fresh import Grown
from .meetings import meetings
from .reduce.places import places

__all__ = ["CHOICES", "SCHEDULES", "short_sweep", "switch_choices", "under_schedules"]

_INTERVALS = (1, 2, 3, 5)
_WINDOWS = (2, 3, 5, 8)
"""Windows are passed more rarely than other points, and one switch says more than many."""
_PCT_DEPTHS = (1, 2, 3)
_RANDOM = 0.4
"""Programs with a schedule that switches at random; the others have one more that is aimed."""
_MOVES = frozenset({Kind.TO_DEVICE, Kind.TO_SYSTEM})
SCHEDULES = 7
"""Schedules of each program."""
_SWITCHES = 8
"""Switches that are drawn for a program at most."""
_POINTS = 24
"""Protocol points of one operation that are drawn from; few have more."""
_PACKED = 3
"""Bytes of a drawn switch: operation or meeting, point, who runs on or where to come back."""
_AIMED = 208
"""In 256ths, the drawn switches that are aimed at a meeting."""
CHOICES = _SWITCHES * _PACKED
"""Bytes that switches are drawn from at most."""


def under_schedules(program: Program, choices: bytes) -> Iterator[Program]:
    """A program under each of its schedules, which follow from its seed and the choices."""
    random = Random(program.seed)
    schedules = (
        PLAIN,
        Schedule(_drawn(program, choices)),
        _chosen("windows", random, _WINDOWS),
        _one_more(program, random),
        _chosen("pct", random, _PCT_DEPTHS),
        Schedule(injections=(_failure(program, random),)),
        Schedule(_drawn(program, _choices(random)), injections=(_failure(program, random),)),
    )
    assert len(schedules) == SCHEDULES
    for schedule in schedules:
        yield replace(program, schedule=schedule)


def _one_more(program: Program, random: Random) -> Schedule:
    """One that switches anywhere, or where actors meet as the drawn ones do."""
    if random.random() < _RANDOM:
        return _chosen("random", random, _INTERVALS)
    return Schedule(_drawn(program, _choices(random)))


def _chosen(strategy: str, random: Random, depths: Sequence[int]) -> Schedule:
    """One that is chosen while the program runs."""
    depth = random.choice(depths)
    return Schedule(strategy=strategy, seed=random.getrandbits(64), depth=depth)


def _failure(program: Program, random: Random) -> Injection:
    """A failure of something that the program is likely to ask for."""
    sites = [*[("allocation", 3)] * 3, ("insert", 1), ("wait", 1)]
    if any(each.kind in _MOVES for each in program.operations):
        sites = [("copy", 3), ("copy", 2), ("allocation", 4)]
    if any(each.flags & Flag.NONBLOCK for each in program.operations):
        sites += [("trylock", 1), ("trylock", 2), ("trylock", 3)]
    site, times = random.choice(sites)
    return Injection(site, random.randint(1, times))


def _choices(random: Random) -> bytes:
    """Like those that `switch_choices` draws."""
    return random.randbytes(_PACKED * random.randint(1, _SWITCHES))


def switch_choices() -> SearchStrategy[bytes]:
    """Choices of switches, evenly drawn by every backend."""
    return st.integers(1, _SWITCHES).flatmap(
        lambda count: st.binary(min_size=_PACKED * count, max_size=_PACKED * count)
    )


def _drawn(program: Program, choices: bytes) -> tuple[Switch, ...]:
    """Mostly switches to whoever would meet the interrupted actor, else to anybody."""
    places = meetings(program)
    switches: dict[tuple[int, int, int], Switch] = {}
    for at in range(0, len(choices) - _PACKED + 1, _PACKED):
        place, there, back = choices[at : at + _PACKED]
        if places and place < _AIMED:
            drawn = [*places[place * len(places) // _AIMED].switches(there, back)]
        else:
            drawn = [_anywhere(program, place, there, back)]
        switches |= {switch[:3]: switch for switch in drawn}
    return tuple(sorted(switches.values()))


def _anywhere(program: Program, place: int, point: int, to: int) -> Switch:
    index = place % len(program)
    operation, others = program.operations[index], _actors(program)
    actor = actor_of(operation)
    if operation.kind == Kind.SUBMIT and place & 1:
        actor = ENGINE + operation.device
    return Switch(actor, index, 1 + point % _POINTS, others[to % len(others)])


def _actors(program: Program) -> list[int]:
    actors = {actor_of(operation) for operation in program.operations}
    engines = {ENGINE + each.device for each in program.operations if each.kind == Kind.SUBMIT}
    return sorted(actors | engines)


def short_sweep(found: Grown) -> Program:
    """The program with a closing sweep of the pages that it uses."""
    program, whole = found.program, found.swept()
    size = program.geometry.page_size
    used = {place for operation in program.operations for place in places(operation, size)}
    closing = [
        operation
        for operation in whole.operations[len(program) :]
        if operation.kind not in ACCESSES or ("page", operation.page) in used
    ]
    return replace(whole, operations=(*program.operations, *closing))
