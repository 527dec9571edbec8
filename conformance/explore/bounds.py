"""What an exhaustive search covers: all programs up to a length, all schedules up to so many
switches; bound after bound, the cheap ones first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from reference.description import Description
from reference.program import Program
from reference.syncmodels import Sync

from .programs import PAGES, small_programs
from .schedules import Explored, Offering, explore

__all__ = ["BOUNDS", "Bound", "share"]

Result = TypeVar("Result", bound=Offering)


class Bound(NamedTuple):
    """A set of programs and schedules that can be run to its end."""

    operations: int
    """Of a program, beside those that set it up and read all memory at its end."""
    switches: int

    def __str__(self) -> str:
        programs = _plural(self.operations, "operation")
        schedules = _plural(self.switches, "switch")
        return f"all programs of {programs} on {PAGES} pages, all schedules with up to {schedules}"


BOUNDS = (Bound(1, 1), Bound(2, 0), Bound(1, 2), Bound(2, 1), Bound(3, 0), Bound(2, 2), Bound(3, 1))
"""In the order in which they are worth their runs: some 600, 1,000, 14,000, 50,000 ..."""


def share(
    description: Description,
    model: Sync,
    bound: Bound,
    part: int,
    parts: int,
    run: Callable[[Program], Result],
) -> Iterator[tuple[Program, Result]]:
    """Every `parts`-th program of a bound, from number `part` on, under all of its schedules."""
    for number, program in enumerate(small_programs(description, model, bound.operations)):
        if number % parts == part:
            yield from explore(program, run, bound.switches, Explored())


def _plural(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith('ch') else 's'}"
