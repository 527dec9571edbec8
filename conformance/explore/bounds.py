"""What an exhaustive search covers: all programs of a length, all schedules up to so many
switches; bound after bound, the cheap ones first, each cut in parts that can be run one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import NamedTuple

from reference.description import Description
from reference.program import Program
from reference.schedule import Offer
from reference.syncmodels import Sync

from .programs import PAGES, preamble, small_programs
from .schedules import Explored, explore

__all__ = ["BOUNDS", "Bound", "Catalogue", "Covered", "Part", "Run", "parts"]

Run = Callable[[Program, int], Sequence[Offer] | None]
"""Runs a program of so many operations; what it was offered, or None if it failed."""


class Bound(NamedTuple):
    """A set of programs and schedules that can be run to its end."""

    operations: int
    """Of a program, beside those that set it up and read all memory at its end."""
    switches: int

    def __str__(self) -> str:
        return f"all {self.programs}, {self.schedules}"

    @property
    def programs(self) -> str:
        return f"programs of {_plural(self.operations, 'operation')} on {PAGES} pages"

    @property
    def schedules(self) -> str:
        return f"all schedules with up to {_plural(self.switches, 'switch')}"


BOUNDS = (Bound(1, 1), Bound(2, 0), Bound(2, 1), Bound(1, 2), Bound(3, 0), Bound(2, 2), Bound(3, 1))
"""In the order in which they are worth their runs: some 1,000, 1,000, 50,000, 14,000 ...  Most
races take two operations and one switch."""
_RUNS = (1, 45, 600)
"""Roughly, the runs that one program takes with up to 0, 1 and 2 switches."""
_RUNS_OF_PART = 225
"""Runs that a part is meant to take, about as many as a shard of random programs."""
_SPREAD = 2
"""Programs of so many operations are few enough to be shuffled."""


class Part(NamedTuple):
    """Some of the programs of a bound, under all of its schedules."""

    bound: Bound
    first: int
    """Number of the first program."""
    programs: int

    @property
    def expected(self) -> int:
        """Runs that it will take, roughly."""
        return self.programs * _RUNS[self.bound.switches]


def parts(bound: Bound, total: int) -> Iterator[Part]:
    """The parts of a bound that has so many programs."""
    size = max(1, _RUNS_OF_PART // _RUNS[bound.switches])
    for first in range(0, total, size):
        yield Part(bound, first, min(size, total - first))


@dataclass
class Covered:
    """How much of something has been run."""

    programs: int = 0
    """Programs that were run under all of their schedules."""
    failed: int = 0
    """Programs that were left when they had failed."""
    runs: int = 0
    pruned: int = 0
    """Runs that were not followed further, since they had come to a state that was known."""

    def update(self, other: Covered) -> None:
        """Add what was run elsewhere."""
        self.programs += other.programs
        self.failed += other.failed
        self.runs += other.runs
        self.pruned += other.pruned


class _Left(Exception):
    """The program has failed, and is not to be run any more."""


class _Answer(NamedTuple):
    offers: Sequence[Offer]


class Catalogue:
    """The programs of a candidate's bounds, by number.

    Short ones are in an order in which neighbours are different: a bound that is not run to its
    end, as most are not, should have been run everywhere.
    """

    def __init__(self, description: Description, model: Sync) -> None:
        self._description = description
        self._model = model
        self._length = 0
        self._next = 0
        self._rest: Iterator[Program] = iter(())

    def _all(self, length: int) -> Iterator[Program]:
        programs = small_programs(self._description, self._model, length)
        if length > _SPREAD:
            return programs
        shuffled = list(programs)
        Random(length).shuffle(shuffled)
        return iter(shuffled)

    def programs(self, part: Part) -> Iterator[Program]:
        """Those of a part.  To go on from an earlier part costs less than to go back."""
        length = part.bound.operations
        if length != self._length or part.first < self._next:
            self._length, self._next = length, 0
            self._rest = self._all(length)
        for _ in islice(self._rest, part.first - self._next):
            pass
        self._next = part.first
        for program in islice(self._rest, part.programs):
            self._next += 1
            yield program

    def explore(self, part: Part, run: Run, covered: Covered) -> None:
        """Run the programs of a part under all schedules; what `run` raises ends it.

        Only a program of which every schedule was run counts as such in `covered`.
        """
        length = len(preamble(self._description)) + part.bound.operations

        def answer(program: Program) -> _Answer:
            offers = run(program, length)
            if offers is None:
                raise _Left
            return _Answer(offers)

        for program in self.programs(part):
            explored = Explored()
            try:
                for _ in explore(program, answer, part.bound.switches, explored):
                    covered.runs += 1
            except _Left:
                covered.runs += 1
                covered.failed += 1
            else:
                covered.programs += explored.complete
            finally:
                covered.pruned += explored.pruned


def _plural(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith('ch') else 's'}"
