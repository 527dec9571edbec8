"""How fast drivers run on the host: protocol points, programs with schedules, whole searches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from rich.console import Console
from rich.table import Table

from conformance import collector
from conformance.explore.programs import small_programs
from conformance.explore.schedules import Explored, explore
from conformance.generate import Plan, random_programs
from reference.description import Description
from reference.drivers import DRIVERS
from reference.drivers.driver import Driver
from reference.geometry import Geometry
from reference.host import HOSTED, Run, run_program
from reference.model import judge
from reference.model.lastwriter import LastWriter
from reference.operations import Kind
from reference.program import Program
from reference.schedule import Schedule
from reference.trace import Trace

from .timing import best_of

__all__ = ["main"]

LENGTH = 8
"""Operations of a program."""
PROGRAMS = 1000
CHUNK = 50
"""Programs that are timed together, each chunk at its best of all repeats: a machine that others
share is disturbed in bursts, which a chunk may escape and a thousand programs do not."""
REPEATS = 5
STRATEGIES = (
    ("in order", "follow", 0),
    ("random, 1 in 5", "random", 5),
    ("PCT, depth 3", "pct", 3),
)
ONLY_KEYED = frozenset({Kind.REGISTER, Kind.UNREGISTER})
ONLY_FAULTING = frozenset({Kind.FAULT, Kind.TO_DEVICE, Kind.TO_SYSTEM, Kind.EXCLUSIVE})


@dataclass(frozen=True)
class Row:
    """One driver under one way to choose."""

    programs: int
    operations: int
    points: int
    running: float
    """Seconds of CPU time, without the model."""
    judged: float
    """Likewise, with it."""
    checked: float
    """Likewise, with the rules of the protocol too: all that a certification judges."""


def describe(driver: type[Driver]) -> Description:
    kinds = HOSTED - (ONLY_FAULTING if driver.keyed else ONLY_KEYED)
    return Description(
        name=driver.name,
        model=driver.model,
        keyed=driver.keyed,
        operations=frozenset(kind.name.lower() for kind in kinds),
        processes=2,
        devices=1,
        files=1,
        keys=2 if driver.keyed else 0,
        jobs=1,
    )


def programs(driver: type[Driver], strategy: str, depth: int, count: int) -> list[Program]:
    description = describe(driver)
    plan = Plan.for_candidate(description, description.limit(Geometry(pages=4)))
    return [
        replace(
            program,
            operations=program.operations[:LENGTH],
            schedule=Schedule(strategy=strategy, seed=number, depth=depth),
        )
        for number, program in enumerate(islice(random_programs(plan, 1, sweep=False), count))
    ]


def judged(program: Program, run: Run) -> None:
    model = LastWriter(program.geometry, program.model)
    for effect in run.history:
        model.step(effect.operation, effect.outcome)


def measure(driver: type[Driver], strategy: str, depth: int, count: int) -> Row:
    given = programs(driver, strategy, depth, count)
    collector.rest()  # as the processes of a certification do
    points = sum(run_program(program, driver).points for program in given)

    def run_all(programs: Sequence[Program]) -> None:
        for program in programs:
            run_program(program, driver)

    def judge_all(programs: Sequence[Program]) -> None:
        for program in programs:
            judged(program, run_program(program, driver))

    def check_all(programs: Sequence[Program]) -> None:
        for program in programs:
            run = run_program(program, driver)
            judge(Trace(program, tuple(run.outcomes), hosted=run.plain()))

    return Row(
        len(given),
        sum(map(len, given)),
        points,
        _spent(run_all, given),
        _spent(judge_all, given),
        _spent(check_all, given),
    )


def _spent(work: Callable[[Sequence[Program]], None], given: Sequence[Program]) -> float:
    """Seconds of CPU time for all programs."""
    chunks = [given[start : start + CHUNK] for start in range(0, len(given), CHUNK)]
    return sum(best_of(REPEATS, partial(work, chunk)).cpu for chunk in chunks)


def running(count: int) -> Table:
    table = Table(title=f"Programs of {LENGTH} operations, Python drivers, one core, CPU time")
    for heading in ("driver", "schedules"):
        table.add_column(heading)
    for heading in (
        *("points/s", "programs/s", "with the model", "with the protocol check"),
        "points a program",
    ):
        table.add_column(heading, justify="right")
    for name, driver in DRIVERS.items():
        for title, strategy, depth in STRATEGIES:
            row = measure(driver, strategy, depth, count)
            table.add_row(
                name,
                title,
                f"{row.points / row.running:,.0f}",
                f"{row.programs / row.running:,.0f}",
                f"{row.programs / row.judged:,.0f}",
                f"{row.programs / row.checked:,.0f}",
                f"{row.points / row.programs:.0f}",
            )
    return table


def exhaustive() -> Table:
    table = Table(title="Exhaustive search, faulting driver: 1 operation, up to 2 switches")
    for heading in ("states", "programs", "runs", "pruned", "seconds", "runs/s"):
        table.add_column(heading, justify="right")
    driver = DRIVERS["faulting"]
    given = list(small_programs(describe(driver), driver.model, 1))
    known, runs, seconds = _explored(given, lambda program: run_program(program, driver))
    pruned, states = sum(each.pruned for each in known), sum(len(each.seen) for each in known)
    table.add_row(
        f"{states:,}",
        f"{len(given):,}",
        f"{runs:,}",
        f"{pruned:,}",
        f"{seconds:.1f}",
        f"{runs / seconds:,.0f}",
    )
    return table


def _explored(
    given: Sequence[Program], run: Callable[[Program], Run]
) -> tuple[list[Explored], int, float]:
    start = time.process_time()
    known = []
    for program in given:
        covered = Explored()
        for _ in explore(program, run, 2, covered):
            pass
        known.append(covered)
    return known, sum(each.runs for each in known), time.process_time() - start


def main(count: int = PROGRAMS) -> None:
    console = Console(width=110)
    console.print(running(count))
    console.print(exhaustive())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else PROGRAMS)
