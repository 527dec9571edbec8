"""How short failing programs of 100 operations become, and in how many runs of the candidate."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, seed, settings
from rich.console import Console
from rich.table import Table

from conformance.generate import programs
from conformance.reduce import reduce
from reference.mirrors import MUTANTS
from reference.program import Program

from .planted import LENGTH, Planted, fails, find, plan_of

__all__ = ["main"]

SEEDS = 20
COMPARED = "discard-missed"
COMPARISONS = 5


@dataclass(frozen=True)
class Result:
    """What became of one program."""

    length: int
    runs: int
    seconds: float
    """CPU time, of candidate, model and reducer together."""


def reduced(planted: Planted) -> Result:
    start = time.process_time()
    result = reduce(planted.program, planted.violation, planted.reproduce)
    return Result(len(result.program), result.runs, time.process_time() - start)


def row(name: str, minimal: int, results: Sequence[Result]) -> list[str]:
    lengths = [each.length for each in results]
    runs = [each.runs for each in results]
    return [
        name,
        str(minimal),
        f"{sum(length <= minimal for length in lengths)} of {len(lengths)}",
        f"{statistics.mean(lengths):.1f}",
        str(max(lengths)),
        f"{statistics.median(runs):.0f}",
        str(max(runs)),
        f"{1000 * statistics.median(each.seconds for each in results):.0f} ms",
    ]


def _table(title: str) -> Table:
    table = Table(title=title)
    for heading in ("mutant", "minimal", "at minimal", "mean", "longest"):
        table.add_column(heading, justify="left" if heading == "mutant" else "right")
    for heading in ("runs, median", "runs, most", "CPU, median"):
        table.add_column(heading, justify="right")
    return table


def ours(seeds: int) -> Table:
    """The reducer on programs of `LENGTH` operations and a closing sweep."""
    table = _table(f"Reduction of programs of {LENGTH} operations, {seeds} seeds each")
    whole: list[Result] = []
    for name, mutant in MUTANTS.items():
        results = [reduced(find(name, number)) for number in range(seeds)]
        table.add_row(*row(name, mutant.minimal, results))
        whole += results
    median = statistics.median(each.runs for each in whole)
    table.caption = f"all: runs, median {median:.0f}, most {max(each.runs for each in whole)}"
    return table


class _Found(Exception):
    """The program that Hypothesis has just run fails."""


def by_hypothesis(mutant: str, number: int) -> tuple[Planted, Result]:
    """What Hypothesis finds first, and what its own shrinking makes of it."""
    plan, mirror = plan_of(mutant), MUTANTS[mutant].make()
    found: list[Planted] = []
    runs = 0
    start = 0.0

    @seed(number)
    @settings(
        max_examples=5000,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs(plan))
    def run(program: Program) -> None:
        nonlocal runs, start
        runs += bool(found)
        violation = fails(mirror, program)
        if violation is not None:
            start = start or time.process_time()
            found.append(Planted(mirror, program, violation))
            raise _Found

    try:
        run()
    except _Found:
        # The one that is run last is the shortest.
        length = found[-1].violation.index + 1
        return found[0], Result(length, runs, time.process_time() - start)
    raise AssertionError(f"nothing found for {mutant} with seed {number}")


def compared() -> Table:
    """The same failing programs reduced both ways."""
    table = _table(
        f"{COMPARED}: what Hypothesis finds, without a sweep, reduced; {COMPARISONS} seeds"
    )
    both = [by_hypothesis(COMPARED, number) for number in range(COMPARISONS)]
    minimal = MUTANTS[COMPARED].minimal
    table.add_row(*row("by Hypothesis", minimal, [each for _, each in both]))
    own = [reduced(planted) for planted, _ in both]
    table.add_row(*row("by our reducer", minimal, own))
    return table


def main(seeds: int = SEEDS) -> None:
    console = Console(width=120)
    console.print(ours(seeds))
    console.print(compared())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS)
