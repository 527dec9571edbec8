"""Drivers on the host: programs for them, and what the model says to a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from random import Random

from conformance.generate import Plan, random_programs
from reference.description import Description
from reference.drivers import Driver
from reference.geometry import Geometry
from reference.host.record import What
from reference.host.run import HOSTED, Run, run_program
from reference.model import judge
from reference.model.lastwriter import LastWriter
from reference.model.state import Broken
from reference.operations import Kind
from reference.program import Program
from reference.schedule import PLAIN, Schedule
from reference.text import parse
from reference.trace import Judgement, Trace

KEYED = frozenset({Kind.REGISTER, Kind.UNREGISTER})
UNKEYED = frozenset({Kind.FAULT, Kind.TO_DEVICE, Kind.TO_SYSTEM, Kind.EXCLUSIVE})


def describe(driver: type[Driver], page_size: int = 4096) -> Description:
    """What a driver can do on the host, which does the rest."""
    kinds = HOSTED - (UNKEYED if driver.keyed else KEYED)
    return Description(
        name=driver.name,
        model=driver.model,
        keyed=driver.keyed,
        operations=frozenset(kind.name.lower() for kind in kinds),
        page_sizes=(page_size,),
        processes=3,
        devices=2,
        files=4,
        keys=4 if driver.keyed else 0,
        jobs=2,
    )


def programs(
    driver: type[Driver], count: int, seed: int, *, pages: int, most: int, page_size: int = 4096
) -> Iterator[Program]:
    """Random programs of at most so many operations, and a sweep that reads all memory."""
    description = describe(driver, page_size)
    geometry = description.limit(Geometry(page_size=page_size, pages=pages))
    plan = Plan.for_candidate(description, geometry, max_operations=most)
    return islice(random_programs(plan, seed, sweep=True), count)


def schedule(strategy: str, seed: int) -> Schedule:
    """A schedule of a strategy, with one of several depths."""
    depths = {"follow": (0,), "random": (2, 5, 20), "pct": (1, 2, 3)}
    return Schedule(strategy=strategy, seed=seed, depth=Random(seed).choice(depths[strategy]))


def taken(program: Program, run: Run) -> Program:
    """The program with the schedule that a run has taken, whatever chose it."""
    injections = program.schedule.injections
    return replace(program, schedule=Schedule(tuple(run.switches), injections=injections))


def script(driver: type[Driver], lines: str, pages: int = 4) -> Program:
    """A program of one line for each operation; two processes and two devices."""
    geometry = f"geometry page_size=4096 pages={pages} processes=2 devices=2 files=2 keys=4 jobs=2"
    header = f"lastwriter 1\nmodel {driver.model}\n{geometry}\n"
    return parse(header + "\n".join(line.strip() for line in lines.splitlines()))


def drive(driver: type[Driver], lines: str, schedule: Schedule = PLAIN, *, pages: int = 4) -> Run:
    """The run of a script.  It is right, unless it was broken off or a failure was injected."""
    program = replace(script(driver, lines, pages), schedule=schedule)
    run = run_program(program, driver)
    wrong = complaint(program, run)
    assert run.broken is not None or wrong is None or wrong[0] in excused(program, run), wrong
    return run


def judged(driver: type[Driver], program: Program) -> Judgement:
    """What a certification says of one run: contents, the protocol, and what ended it."""
    run = run_program(program, driver)
    return judge(Trace(program, tuple(run.outcomes), hosted=run.plain()))


def rule(driver: type[Driver], lines: str, plan: Schedule = PLAIN) -> str:
    """The rule that a driver breaks in the run of a script; empty if none."""
    violation = judged(driver, replace(script(driver, lines), schedule=plan)).violation
    return "" if violation is None else violation.rule


def scheduled(given: Iterable[Program], strategy: str) -> Iterator[Program]:
    """Programs, each with a schedule of its own."""
    for seed, program in enumerate(given):
        yield replace(program, schedule=schedule(strategy, seed))


def unaccused(driver: type[Driver], given: Iterable[Program]) -> Counter[str]:
    """By rule, how many runs have put it to the test; nothing may be wrong with any of them."""
    runs = Counter[str]()
    for number, program in enumerate(given):
        found = judged(driver, program)
        assert found.violation is None, (number, found.violation)
        runs.update({cell.split("/")[0] for cell, times in found.exercised.items() if times})
    return runs


def excused(program: Program, run: Run) -> set[int]:
    """The operations that may fail because a failure was injected into what they do.

    What the engine does for a job is recorded under its submit and told by its wait.
    """
    failed = {entry.operation for entry in run.record if entry.what == What.FAIL}
    submits: dict[tuple[int, int], int] = {}
    for index, operation in enumerate(program.operations):
        job = operation.device, operation.job
        if operation.kind == Kind.SUBMIT:
            submits[job] = index
        elif operation.kind == Kind.WAIT and submits[job] in failed:
            failed.add(index)
    return failed


def complaint(program: Program, run: Run) -> tuple[int, str] | None:
    """The first operation with an effect that the model does not allow, and why; if any."""
    if run.broken is not None:
        return run.operation, f"{run.broken.rule}: {run.broken}"
    model = LastWriter(program.geometry, program.model)
    for effect in run.history:
        try:
            model.step(effect.operation, effect.outcome)
        except Broken as broken:
            return effect.index, str(broken)
    return None
