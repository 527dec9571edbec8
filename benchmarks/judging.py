"""How fast the model judges: traces recorded once, then judged again and again.

Operations are those of the program and of its closing sweep, whose reads are of whole pages.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from types import FunctionType

import msgspec
from rich.console import Console
from rich.table import Table

from conformance.generate import Plan, random_programs
from reference.mirrors import MIRRORS
from reference.model import judge
from reference.trace import Trace

from .timing import Spent, best_of

__all__ = ["main"]

MODELS = ("faulting", "refcounting", "registration")
PROGRAMS = 300
REPEATS = 5


@dataclass(frozen=True)
class Row:
    """One kind of traces, and what judging all of them once took."""

    model: str
    sweep: bool
    jobs: bool
    operations: int
    spent: Spent


def record(model: str, programs: int, *, sweep: bool, jobs: bool) -> list[Trace]:
    """Traces of generated programs on a correct mirror."""
    mirror = MIRRORS[model]()
    description = mirror.describe()
    if not jobs:
        description = msgspec.structs.replace(
            description, operations=description.operations - {"submit", "wait"}, jobs=0
        )
    plan = Plan.for_candidate(description)
    traces = []
    for program in islice(random_programs(plan, 1, sweep=sweep), programs):
        mirror.reset(program.geometry)
        traces.append(Trace(program, tuple(mirror.run(program.operations))))
    return traces


def measure(model: str, programs: int, *, sweep: bool, jobs: bool) -> Row:
    traces = record(model, programs, sweep=sweep, jobs=jobs)
    violations = [judge(trace).violation for trace in traces]
    assert not any(violations), "the mirrors are correct"
    operations = sum(len(trace.outcomes) for trace in traces)
    return Row(model, sweep, jobs, operations, best_of(REPEATS, lambda: _judge_all(traces)))


def _judge_all(traces: Sequence[Trace]) -> None:
    for trace in traces:
        judge(trace)


def main(programs: int = PROGRAMS) -> None:
    form = "pure Python" if isinstance(judge, FunctionType) else "compiled"
    table = Table(title=f"The model alone, {form}, one core, best of {REPEATS}")
    for heading in ("sync model", "closing sweep", "jobs"):
        table.add_column(heading)
    for heading in ("operations", "op/s (wall)", "op/s (CPU)", "µs/op (CPU)"):
        table.add_column(heading, justify="right")
    for model in MODELS:
        for sweep in (False, True):
            for jobs in (False, True):
                row = measure(model, programs, sweep=sweep, jobs=jobs)
                table.add_row(
                    row.model,
                    "with" if row.sweep else "without",
                    "with" if row.jobs else "without",
                    f"{row.operations:,}",
                    f"{row.operations / row.spent.wall:,.0f}",
                    f"{row.operations / row.spent.cpu:,.0f}",
                    f"{1e6 * row.spent.cpu / row.operations:.2f}",
                )
    Console(width=100).print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else PROGRAMS)
