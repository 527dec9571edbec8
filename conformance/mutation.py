"""How good the suite is: how many planted bugs it finds, and how short it makes them.

A mutant is killed if a program breaks a rule on it and, reduced, passes on the correct mirror or
driver that the mutant was made from.  Programs come as in a certification; for a driver, that is
random ones with schedules and the exhaustive search in turns.  `python -m conformance.mutation`
scores all of them and rewrites the tables in the documentation.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from rich.progress import track

from adapters.worker import InProcess
from reference.drivers.mutants import DRIVER_MUTANTS, DriverMutant
from reference.mirrors import MUTANTS
from reference.mirrors.mutants import Mutant
from reference.program import Program
from reference.protocol import Profile
from reference.schedule import Offer
from reference.trace import Violation

from .certify import PER_RULE, PROGRAMS, SCHEDULED_PROGRAMS
from .examine import Examiner, Failure
from .exhaustive import Exhaustive
from .explore.bounds import Catalogue, Covered
from .shards import Shard, plan_for, run_shard, shards

__all__ = ["ALL", "SECONDS", "Planted", "Score", "score", "scores", "table"]

Planted = Mutant | DriverMutant
ALL: Mapping[str, Planted] = {**MUTANTS, **DRIVER_MUTANTS}
"""Every mutant by its id: those of closed mirrors, then those of drivers on the host."""
SECONDS = 90.0
"""Processor time that a mutant is given at most, reductions included."""
ENOUGH = 12
"""Failing programs after which the search ends; the shortest reduced one counts."""
SCHEDULED_ENOUGH = 4
PAGE = Path(__file__).parent.parent / "docs" / "mutants.md"
MARKS = {
    "mirrors": ("<!-- begin scores -->", "<!-- end scores -->"),
    "drivers": ("<!-- begin driver scores -->", "<!-- end driver scores -->"),
}
"""What stands before and behind each table in the page."""
TABLES: Mapping[str, Mapping[str, Planted]] = {"mirrors": MUTANTS, "drivers": DRIVER_MUTANTS}
HEADINGS = (
    *("mutant", "what goes wrong", "seen in", "made from", "rule", "programs", "seconds"),
    *("length", "switches", "shortest"),
)


@dataclass(frozen=True)
class Score:
    """What became of one mutant."""

    id: str
    programs: int
    """Programs up to the first that failed, or all that were run."""
    seconds: float
    """Processor time up to there, or of all of it."""
    best: Failure | None
    """The shortest failing program, if any failed."""

    @property
    def mutant(self) -> Planted:
        """Which mutant it is."""
        return ALL[self.id]

    @property
    def profile(self) -> Profile:
        """How the rules of the protocol were read."""
        return profile_of(self.mutant)

    @property
    def length(self) -> int | None:
        """Operations of the shortest failing program."""
        return None if self.best is None else len(self.best.program)

    @property
    def switches(self) -> int | None:
        """Switches of its schedule."""
        return None if self.best is None else len(self.best.program.schedule.switches)

    def cells(self) -> list[str]:
        """The score as a row under `HEADINGS`."""
        mutant, found = self.mutant, self.best is not None
        return [
            mutant.id,
            mutant.title,
            mutant.seen_in,
            mutant.base,
            self.best.violation.rule if self.best is not None else "survived",
            str(self.programs),
            f"{self.seconds:.1f}",
            str(self.length) if found else "",
            str(self.switches) if found else "",
            str(mutant.minimal),
        ]


def base_of(mutant: Planted) -> str:
    """The spec of the correct candidate that a mutant was made from."""
    kind = "driver" if isinstance(mutant, DriverMutant) else "reference"
    return f"{kind}:{mutant.base}"


def profile_of(mutant: Planted) -> Profile:
    """How the rules of the protocol are read for it."""
    return mutant.profile if isinstance(mutant, DriverMutant) else Profile.TOLERANT


def score(
    mutant: Planted,
    seed: int = 1,
    budget: int | None = None,
    seconds: float = SECONDS,
    enough: int | None = None,
) -> Score:
    """Certify a mutant until a program fails that is as short as the shortest one known.

    Or `enough` programs have failed, or a budget is used up: so many programs, by default as a
    certification runs, or `seconds` of processor time, which no reduction goes beyond either.
    """
    search = _Search(mutant, budget, seconds, enough)
    with suppress(_Over):
        search.run(seed)
    return search.score()


def scores(
    ids: Iterable[str], seed: int = 1, seconds: float = SECONDS, jobs: int = 1
) -> Iterator[Score]:
    """The scores of several mutants in their order, as `score` gives them, from so many processes.

    But for the time that each may take at most, they do not depend on how many there are.
    """
    one = partial(_score, seed=seed, seconds=seconds)
    if jobs == 1:
        yield from map(one, ids)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(one, ids)


def _score(id_: str, seed: int, seconds: float) -> Score:
    return score(ALL[id_], seed, seconds=seconds)


class _Over(Exception):
    """The search has come to its end."""


class _Search:
    """The programs that fail on a mutant, and not on its correct base."""

    def __init__(
        self, mutant: Planted, budget: int | None, seconds: float, enough: int | None
    ) -> None:
        self.mutant = mutant
        runner, base = InProcess(f"mutant:{mutant.id}"), InProcess(base_of(mutant))
        self.description = runner.description
        scheduled = self.description.schedules
        self.examiner = Examiner(runner, profile=profile_of(mutant))
        self.correct = Examiner(base, profile=profile_of(mutant))
        self.budget = budget or (SCHEDULED_PROGRAMS if scheduled else PROGRAMS)
        self.enough = enough or (SCHEDULED_ENOUGH if scheduled else ENOUGH)
        self.programs = 0
        self.sampled = 0
        """Programs that were to be run in shards."""
        self.first = 0
        self.first_at = 0.0
        self.failing = 0
        self.reduced: Counter[str] = Counter()
        self.best: Failure | None = None
        self._start = time.process_time()
        self._seconds = seconds

    def spent(self) -> float:
        return time.process_time() - self._start

    def late(self) -> bool:
        return self.spent() >= self._seconds

    @property
    def over(self) -> bool:
        short = self.best is not None and len(self.best.program) <= self.mutant.minimal
        full = self.programs >= self.budget or self.failing >= self.enough
        return short or full or self.late()

    def score(self) -> Score:
        if self.best is None:
            return Score(self.mutant.id, self.programs, self.spent(), None)
        return Score(self.mutant.id, self.first, self.first_at, self.best)

    # Programs

    def run(self, seed: int) -> None:
        """Run programs in the order of a certification; raises `_Over` at the end."""
        random = shards(self.description, seed)
        if not self.description.schedules:
            for shard in random:
                self._sample(shard)
        model = self.description.model
        exhaustive: Exhaustive[None] = Exhaustive(self.description, model, None)
        catalogue = Catalogue(self.description, model)
        while True:
            share = exhaustive.next() if exhaustive.is_due(self.sampled) else None
            if share is None:
                self._sample(next(random))
            else:
                covered = Covered()
                catalogue.explore(share.part, self._small, covered)
                exhaustive.take(share, covered, None)

    def _sample(self, shard: Shard) -> None:
        self.sampled += shard.programs
        run_shard(plan_for(self.description, self.description.model, shard), shard, self.try_)
        if self.over:
            raise _Over

    def _small(self, program: Program, length: int) -> Sequence[Offer] | None:
        if not self.try_(program, length):
            raise _Over
        hosted = self.examiner.trace.hosted
        return None if hosted is None or self.failed else hosted.offers

    failed = False
    """The last program failed."""

    def try_(self, program: Program, length: int) -> bool:
        """Run a program; whether to go on."""
        self.programs += 1
        at = self.spent()
        violation = self.examiner.examine(program, length)
        self.failed = violation is not None
        if violation is not None and self.reduced[violation.rule] < PER_RULE:
            self._reduce(program, violation, at)
        return not self.over

    def _reduce(self, program: Program, violation: Violation, at: float) -> None:
        self.reduced[violation.rule] += 1
        trace = self.examiner.trace
        failure = self.examiner.reduce(program, violation, self.late)
        self.examiner.trace = trace
        if self.correct.examine(failure.program) is not None:
            return
        self.failing += 1
        if not self.first:
            self.first, self.first_at = self.programs, at
        if self.best is None or _size(failure) < _size(self.best):
            self.best = failure


def _size(failure: Failure) -> tuple[int, int]:
    program = failure.program
    return len(program), len(program.schedule.switches)


def table(rows: Iterable[Score]) -> str:
    """The scores as a Markdown table."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(tuple(each.cells()) for each in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rows_of(page: str, name: str) -> list[list[str]]:
    """The cells of one of the tables in a page."""
    begin, end = MARKS[name]
    lines = page.partition(begin)[2].partition(end)[0].strip().splitlines()[2:]
    return [line.strip("| ").split(" | ") for line in lines]


def main() -> None:
    """Score all mutants, with a process for each core, and rewrite the page."""
    page, killed = PAGE.read_text(encoding="utf-8"), 0
    done = scores(ALL, jobs=len(os.sched_getaffinity(0)))
    tracked = iter(track(done, "scoring", total=len(ALL)))
    for name, mutants in TABLES.items():
        rows = list(islice(tracked, len(mutants)))
        begin, end = MARKS[name]
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{table(rows)}\n{end}{rest.partition(end)[2]}"
        killed += sum(each.best is not None for each in rows)
    PAGE.write_text(page, encoding="utf-8")
    sys.stdout.write(f"{killed} of {len(ALL)} killed\n")


if __name__ == "__main__":
    main()
