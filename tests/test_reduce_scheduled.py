"""Operations and schedule shrink together: fewest operations, then fewest switches."""

from __future__ import annotations

from dataclasses import replace

import pytest
from racing import Unchecked, attempt

from conformance.generate import Plan, random_programs
from conformance.reduce.scheduled import fitted, reduce_scheduled
from reference.description import Description
from reference.drivers.faulting import FaultingDriver
from reference.geometry import Geometry
from reference.host import HOSTED, run_program
from reference.operations import Kind
from reference.program import Program
from reference.schedule import DEVICE, ENGINE, Injection, Schedule, Switch
from reference.text import parse

DESCRIPTION = Description(
    name="racing",
    operations=frozenset(kind.name.lower() for kind in HOSTED - {Kind.REGISTER, Kind.UNREGISTER}),
    processes=2,
    devices=2,
    files=1,
    jobs=1,
)


def failing(seed: int) -> Program:
    """A program of 14 operations, with the schedule under which `Unchecked` fails it."""
    plan = Plan.for_candidate(DESCRIPTION, DESCRIPTION.limit(Geometry(pages=4)))
    for number, program in enumerate(random_programs(plan, seed, sweep=False)):
        tried = replace(
            program,
            operations=program.operations[:14],
            schedule=Schedule(strategy="random", seed=number, depth=5),
        )
        if attempt(tried, Unchecked).violation is not None:
            switches = tuple(run_program(tried, Unchecked).switches)
            return replace(tried, schedule=Schedule(switches))
    raise AssertionError("random_programs does not end")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_race_is_reduced_to_four_operations_and_one_switch(seed: int) -> None:
    program = failing(seed)
    violation = attempt(program, Unchecked).violation
    assert violation is not None
    reduced = reduce_scheduled(program, violation, lambda each: attempt(each, Unchecked))
    assert len(reduced.program) == 4
    assert len(reduced.program.schedule.switches) == 1
    assert attempt(reduced.program, Unchecked).violation == reduced.violation
    assert attempt(reduced.program, FaultingDriver).violation is None


TEXT = """\
lastwriter 1
map p0 rw page=0 pages=2
attach d1 p0
dread d1 page=0 offset=0 length=8
unmap p0 page=0 pages=1
"""


def test_switches_keep_their_operations_when_others_go() -> None:
    program = replace(parse(TEXT), schedule=Schedule((Switch(DEVICE + 1, 2, 7, 0),)))
    fewer = program.operations[1:]
    assert fitted(program, fewer).switches == (Switch(DEVICE + 1, 1, 7, 0),)


def test_a_switch_goes_with_its_operation() -> None:
    program = replace(
        parse(TEXT),
        schedule=Schedule((Switch(DEVICE + 1, 2, 7, 0),), injections=(Injection("copy", 1),)),
    )
    left = fitted(program, (*program.operations[:2], program.operations[3]))
    assert left == Schedule(injections=(Injection("copy", 1),))


def test_actors_follow_the_names_of_devices() -> None:
    program = replace(
        parse(TEXT),
        schedule=Schedule((Switch(DEVICE + 1, 2, 7, 0), Switch(0, 3, 1, ENGINE + 1))),
    )
    renamed = tuple(each._replace(device=0) for each in program.operations)
    assert fitted(program, renamed).switches == (Switch(DEVICE, 2, 7, 0), Switch(0, 3, 1, ENGINE))
