"""What runs under probabilistic concurrency testing (PCT) promise, from the runs that there were.

A run of depth d of a program of n actors, whose d - 1 points of change are drawn from its first k
protocol points, meets a bug of depth d with a probability of at least 1 / (n * k ** (d - 1)):
if the program has such a bug, and those of its points that matter are among the first k
(Burckhardt and others, ASPLOS 2010).  Runs draw independently of each other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import NamedTuple

import msgspec

from reference.operations import Kind
from reference.program import Program
from reference.schedule import DEVICE, ENGINE, actor_of, pct_points
from reference.trace import Trace

__all__ = ["PctPromise", "PctRuns", "actors_of"]

_DIGITS = 3
_NEARLY = 0.01
_LEAST = 1e-80
"""Probabilities below are not told apart."""


class PctPromise(msgspec.Struct, frozen=True, kw_only=True):
    """What the PCT runs of one depth promise."""

    depth: int
    runs: int
    actors: int
    """The most that a program had."""
    points: int
    """The first so many points, from which changes were drawn: the most of a program."""
    longer: int
    """Runs with more points than changes were drawn from in their program."""
    met: float
    """Each run meets a bug of this depth in its program with a probability of at least this."""
    missed: float
    """If each program has one, all runs miss it with a probability of at most this."""


class _Like(NamedTuple):
    """What runs have in common that promise the same."""

    depth: int
    actors: int
    points: int

    @property
    def met(self) -> float:
        return float(1 / (self.actors * self.points ** (self.depth - 1)))


class PctRuns:
    """The runs under PCT of a certification."""

    def __init__(self) -> None:
        self._runs: Counter[_Like] = Counter()
        self._longer: Counter[int] = Counter()

    def add(self, trace: Trace) -> None:
        """Count a run, if it was one under PCT that came to an end."""
        program, hosted = trace.program, trace.hosted
        if program.schedule.strategy != "pct" or hosted is None:
            return
        depth, points = program.schedule.depth, pct_points(len(program))
        self._runs[_Like(depth, len(actors_of(program)), points)] += 1
        # The end of each job is a point too, but not counted among those that were passed.
        self._longer[depth] += depth > 1 and hosted.points + _jobs(program) > points

    def update(self, other: PctRuns) -> None:
        """Add the runs of another process."""
        self._runs.update(other._runs)
        self._longer.update(other._longer)

    def promises(self) -> Iterator[PctPromise]:
        """For each depth."""
        for depth in sorted({like.depth for like in self._runs}):
            runs = {like: n for like, n in sorted(self._runs.items()) if like.depth == depth}
            yield PctPromise(
                depth=depth,
                runs=sum(runs.values()),
                actors=max(like.actors for like in runs),
                points=max(like.points for like in runs),
                longer=self._longer[depth],
                met=_rounded(min(like.met for like in runs), ROUND_FLOOR),
                missed=_missed(runs),
            )


def actors_of(program: Program) -> set[int]:
    """Everybody who runs in a program; every device is closed at its end."""
    devices = range(DEVICE, DEVICE + program.geometry.devices)
    engines = {ENGINE + each.device for each in program.operations if each.kind == Kind.SUBMIT}
    return {actor_of(operation) for operation in program.operations} | engines | {*devices}


def _jobs(program: Program) -> int:
    submits = sum(operation.kind == Kind.SUBMIT for operation in program.operations)
    return len(program) + program.geometry.devices + submits


def _missed(runs: dict[_Like, int]) -> float:
    """The probability that every run misses what it meets with the least probability it can."""
    if any(like.met == 1 for like in runs):
        return _LEAST
    exponent = sum(n * math.log1p(-like.met) for like, n in runs.items())
    if exponent > -_NEARLY:  # what matters is how far it is from 1
        return 1 - _rounded(-math.expm1(exponent), ROUND_FLOOR)
    return max(_LEAST, _rounded(math.exp(exponent), ROUND_CEILING))


def _rounded(value: float, way: str) -> float:
    return float(Decimal(value).normalize(Context(prec=_DIGITS, rounding=way)))
