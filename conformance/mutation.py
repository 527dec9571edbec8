"""How good the suite is: how many planted bugs it finds, and how short it makes them.

A mutant is killed if a program breaks a rule on it and, reduced, passes on the correct mirror or
driver that the mutant was made from.  `python -m conformance.mutation` scores all of them and
rewrites the tables in the documentation.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from adapters.worker import InProcess
from reference.drivers.mutants import DRIVER_MUTANTS, DriverMutant
from reference.mirrors import MUTANTS
from reference.mirrors.mutants import Mutant
from reference.model import judge
from reference.program import Program

from .certify import PER_RULE
from .examine import Examiner, Failure
from .shards import plan_for, run_shard, shards

__all__ = ["ALL", "BUDGET", "SCHEDULED_BUDGET", "Planted", "Score", "score", "table"]

Planted = Mutant | DriverMutant
ALL: Mapping[str, Planted] = {**MUTANTS, **DRIVER_MUTANTS}
"""Every mutant by its id: those of closed mirrors, then those of drivers on the host."""
BUDGET = 2000
"""Programs that a mutant is given, as many as a certification runs by default."""
SCHEDULED_BUDGET = 16_000
"""The same for a driver, each program under one schedule."""
ENOUGH = 12
"""Failing programs after which the search ends; the shortest reduced one counts."""
SCHEDULED_ENOUGH = 2
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

    mutant: Planted
    programs: int
    """Programs up to the first that failed, or all that were run."""
    seconds: float
    """Wall time up to there, reductions included."""
    best: Failure | None
    """The shortest failing program, if any failed."""

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


def score(
    mutant: Planted, seed: int = 1, budget: int | None = None, seconds: float | None = None
) -> Score:
    """Certify a mutant until it fails often enough, or the budget is used up.

    The budget is in programs, by default as a certification's; `seconds` ends the search as well.
    """
    runner, correct = InProcess(f"mutant:{mutant.id}"), InProcess(base_of(mutant))
    scheduled = runner.description.schedules
    search = _Search(
        Examiner(runner),
        correct,
        budget or (SCHEDULED_BUDGET if scheduled else BUDGET),
        SCHEDULED_ENOUGH if scheduled else ENOUGH,
        seconds,
    )
    for shard in shards(runner.description, seed):
        run_shard(plan_for(runner.description, runner.description.model, shard), shard, search.try_)
        if search.over:
            break
    best = min(search.failures, key=_size, default=None)
    return Score(mutant, search.first or search.programs, search.first_at or search.spent(), best)


def _size(failure: Failure) -> tuple[int, int]:
    program = failure.program
    return len(program), len(program.schedule.switches)


class _Search:
    """The programs that fail on a mutant, and not on its correct base."""

    def __init__(
        self,
        examiner: Examiner,
        correct: InProcess,
        budget: int,
        enough: int,
        seconds: float | None,
    ) -> None:
        self.examiner = examiner
        self.correct = correct
        self.budget = budget
        self.enough = enough
        self.seconds = seconds
        self.programs = 0
        self.first = 0
        self.first_at = 0.0
        self.failing = 0
        self.reduced: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self._start = time.monotonic()

    def spent(self) -> float:
        return time.monotonic() - self._start

    @property
    def over(self) -> bool:
        late = self.seconds is not None and self.spent() > self.seconds
        return late or self.programs >= self.budget or self.failing >= self.enough

    def try_(self, program: Program, length: int) -> bool:
        self.programs += 1
        violation = self.examiner.examine(program, length)
        if violation is not None:
            self.failing += 1
            if self.reduced[violation.rule] < PER_RULE:
                self.reduced[violation.rule] += 1
                self._keep(self.examiner.reduce(program, violation))
        return not self.over

    def _keep(self, failure: Failure) -> None:
        if judge(self.correct.run(failure.program)).violation is None:
            if not self.first:
                self.first, self.first_at = self.programs, self.spent()
            self.failures.append(failure)


def table(scores: list[Score]) -> str:
    """The scores as a Markdown table."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(tuple(each.cells()) for each in scores)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def rows_of(page: str, name: str) -> list[list[str]]:
    """The cells of one of the tables in a page."""
    begin, end = MARKS[name]
    lines = page.partition(begin)[2].partition(end)[0].strip().splitlines()[2:]
    return [line.strip("| ").split(" | ") for line in lines]


def main() -> None:
    """Score all mutants and rewrite the page."""
    page, killed = PAGE.read_text(encoding="utf-8"), 0
    for name, mutants in TABLES.items():
        scores = [score(mutant) for mutant in track(mutants.values(), f"scoring {name}")]
        begin, end = MARKS[name]
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{table(scores)}\n{end}{rest.partition(end)[2]}"
        killed += sum(each.best is not None for each in scores)
    PAGE.write_text(page, encoding="utf-8")
    sys.stdout.write(f"{killed} of {len(ALL)} killed\n")


if __name__ == "__main__":
    main()
