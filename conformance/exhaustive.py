"""The exhaustive part of a run: which parts of which bounds come next, and what is covered so far.

Parts are given out as they can be begun and come back in any order.  They count in their order,
and only up to a number of runs, so that what was covered does not depend on how many processes
shared the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from reference.description import Description
from reference.syncmodels import Sync

from .explore.bounds import BOUNDS, Bound, Covered, Part, parts
from .explore.programs import count_programs

__all__ = ["Exhaustive", "Share", "Tally", "share_of"]

EXHAUSTIVE = 3
"""One in so many programs is of this search, for a candidate that takes schedules."""


def share_of(programs: int | None) -> int | None:
    """Runs of this search at most, in a run of so many programs; None for no limit."""
    return None if programs is None else programs // EXHAUSTIVE


Result = TypeVar("Result")


@dataclass(frozen=True)
class Share:
    """A part that is given out to be run."""

    number: int
    """In the order of all parts."""
    part: Part
    runs: int | None
    """How many of its runs may be done, if not all."""


@dataclass
class Tally:
    """How far a bound is."""

    bound: Bound
    total: int
    """Programs that it has."""
    covered: Covered = field(default_factory=Covered)

    @property
    def complete(self) -> bool:
        """Every program of the bound has been run under every schedule of it."""
        return self.covered.programs == self.total


class Exhaustive(Generic[Result]):
    """The search for one candidate, over `bounds` in their order, of at most so many runs."""

    def __init__(
        self,
        description: Description,
        model: Sync,
        runs: int | None,
        bounds: tuple[Bound, ...] = BOUNDS,
    ) -> None:
        self.limit = runs
        self.runs = 0
        """Runs that count so far."""
        self.tallies: list[Tally] = []
        """Of the bounds that were begun."""
        self._description = description
        self._model = model
        self._parts = self._all_parts(bounds)
        self._given = 0
        """Parts given out."""
        self._all_given = False
        self._again: Share | None = None
        """A part of which not all runs that were done can count."""
        self._out: dict[int, Share] = {}
        """Parts that are being run."""
        self._held: dict[int, tuple[Share, Covered, Result]] = {}
        """Those that have come back before an earlier one."""
        self._turn = 0
        """The part that counts next."""

    def _all_parts(self, bounds: tuple[Bound, ...]) -> Iterator[Part]:
        totals: dict[int, int] = {}
        for bound in bounds:
            length = bound.operations
            if length not in totals:
                totals[length] = count_programs(self._description, length)
            if totals[length]:
                self.tallies.append(Tally(bound, totals[length]))
                yield from parts(bound, totals[length])

    @property
    def _left(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.runs)

    @property
    def over(self) -> bool:
        """Nothing more will be given out."""
        return self._left == 0 or (self._all_given and not self._out and self._again is None)

    @property
    def waiting(self) -> bool:
        """Parts are out that have not come back."""
        return bool(self._out)

    @property
    def reserved(self) -> int:
        """Runs that are or may still be done, of those that there may be at most."""
        return self.runs if self.over or self.limit is None else self.limit

    @property
    def charged(self) -> int:
        """Runs so far, about, with those of the parts that are out."""
        held = sum(covered.runs for _, covered, _ in self._held.values())
        return self.runs + held + sum(share.part.expected for share in self._out.values())

    def is_due(self, sampled: int) -> bool:
        """Whether it has had less than its share, beside so many random programs."""
        return self.charged * (EXHAUSTIVE - 1) <= sampled

    def next(self) -> Share | None:
        """What is to be run next; None if that shows only when what is out has come back."""
        if self._left == 0:
            return None
        share, self._again = self._again, None
        if share is None:
            if self.limit is not None and self.charged >= self.limit:
                return None
            part = next(self._parts, None)
            if part is None:
                self._all_given = True
                return None
            share = Share(self._given, part, self._left)
            self._given += 1
        self._out[share.number] = share
        return share

    def take(self, share: Share, covered: Covered, result: Result) -> list[Result]:
        """What came of a part; the results that count from now on."""
        del self._out[share.number]
        self._held[share.number] = share, covered, result
        return list(self._settled())

    def _settled(self) -> Iterator[Result]:
        while self._turn in self._held:
            share, covered, result = self._held.pop(self._turn)
            left = self._left
            # What failed counts however late it came.
            excess = left is not None and covered.runs > left and not covered.failed
            if excess and left:
                self._again = replace(share, runs=left)
                return
            self._turn += 1
            if not excess:
                yield self._counted(share, covered, result)

    def _counted(self, share: Share, covered: Covered, result: Result) -> Result:
        tally = next(each for each in self.tallies if each.bound == share.part.bound)
        tally.covered.update(covered)
        self.runs += covered.runs
        return result

    def rest(self) -> list[Result]:
        """What has come back behind a part that never did, at the end of a run cut short."""
        held, self._held = self._held, {}
        return [self._counted(*held[number]) for number in sorted(held)]
