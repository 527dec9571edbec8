"""How good the suite is: how many planted bugs it finds, and how short it makes them.

A mutant is killed if a program breaks a rule on it and, reduced, passes on the correct mirror
that the mutant was made from.  `python -m conformance.mutation` scores all of them and rewrites
the table in the documentation.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from adapters.worker import InProcess
from reference.mirrors import MUTANTS
from reference.mirrors.mutants import Mutant
from reference.model import judge
from reference.program import Program

from .certify import PER_RULE
from .examine import Examiner, Failure
from .shards import plan_for, run_shard, shards

__all__ = ["BUDGET", "Score", "score", "table"]

BUDGET = 2000
"""Programs that a mutant is given, as many as a certification runs by default."""
ENOUGH = 12
"""Failing programs after which the search ends; the shortest reduced one counts."""
PAGE = Path(__file__).parent.parent / "docs" / "mutants.md"
BEGIN, END = "<!-- begin scores -->", "<!-- end scores -->"


@dataclass(frozen=True)
class Score:
    """What became of one mutant."""

    mutant: Mutant
    programs: int
    """Programs up to the first that failed, or all that were run."""
    best: Failure | None
    """The shortest failing program, if any failed."""

    @property
    def length(self) -> int | None:
        """Operations of the shortest failing program."""
        return None if self.best is None else len(self.best.program)


def score(mutant: Mutant, seed: int = 1, budget: int = BUDGET) -> Score:
    """Certify a mutant until it fails often enough, or the budget is used up."""
    runner = InProcess(f"mutant:{mutant.id}")
    correct = InProcess(f"reference:{mutant.base}")
    search = _Search(Examiner(runner), correct, budget)
    for shard in shards(runner.description, seed):
        run_shard(plan_for(runner.description, runner.description.model, shard), shard, search.try_)
        if search.over:
            break
    best = min(search.failures, key=lambda failure: len(failure.program), default=None)
    return Score(mutant, search.first or search.programs, best)


class _Search:
    """The programs that fail on a mutant, and not on its correct base."""

    def __init__(self, examiner: Examiner, correct: InProcess, budget: int) -> None:
        self.examiner = examiner
        self.correct = correct
        self.budget = budget
        self.programs = 0
        self.first = 0
        self.failing = 0
        self.reduced: Counter[str] = Counter()
        self.failures: list[Failure] = []

    @property
    def over(self) -> bool:
        return self.programs >= self.budget or self.failing >= ENOUGH

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
            self.first = self.first or self.programs
            self.failures.append(failure)


def table(scores: list[Score]) -> str:
    """The scores as a Markdown table."""
    lines = [
        "| mutant | what goes wrong | seen in | made from | rule | programs | length | shortest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in scores:
        mutant = each.mutant
        rule = "survived" if each.best is None else each.best.violation.rule
        cells = [
            mutant.id,
            mutant.title,
            mutant.seen_in,
            mutant.base,
            rule,
            str(each.programs),
            "" if each.length is None else str(each.length),
            str(mutant.minimal),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Score all mutants, or those named, and rewrite the page."""
    names = sys.argv[1:] or list(MUTANTS)
    scores = [score(MUTANTS[name]) for name in track(names, "scoring")]
    if len(names) < len(MUTANTS):
        sys.stdout.write(table(scores) + "\n")
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(scores)}\n{END}{after}", encoding="utf-8")
    killed = sum(each.best is not None for each in scores)
    sys.stdout.write(f"{killed} of {len(scores)} killed\n")


if __name__ == "__main__":
    main()
