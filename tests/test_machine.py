"""The state machine front end, and how violations shrink."""

from __future__ import annotations

import pytest
from generated import describe, quick
from hypothesis import given, seed, settings
from hypothesis.control import current_build_context
from hypothesis.stateful import run_state_machine_as_test

from conformance.backend import NAME
from conformance.generate import (
    Plan,
    programs,
)
from conformance.generate.machine import ProgramMachine, machine_for
from reference.operations import (
    Kind,
)
from reference.program import Program
from reference.validity import check_program


@pytest.fixture(params=[False, True], ids=["plain", "keyed"])
def plan(request: pytest.FixtureRequest) -> Plan:
    return Plan.for_candidate(describe(keyed=request.param))


def run_machine(machine: type[ProgramMachine], examples: int, backend: str) -> None:
    seed(5)(machine)
    count = machine.TestCase.settings.stateful_step_count
    run_state_machine_as_test(
        machine, settings=settings(quick(examples, backend), stateful_step_count=count)
    )


@pytest.mark.parametrize("backend", ["hypothesis", NAME])
def test_machine_programs_are_valid_and_cheap(plan: Plan, backend: str) -> None:
    found: list[Program] = []
    choices = 0

    def execute(program: Program) -> None:
        nonlocal choices
        check_program(program)
        found.append(program)
        choices += len(current_build_context().data.nodes)

    run_machine(machine_for(plan, execute), 60, backend)
    operations = sum(map(len, found))
    assert operations >= 90 * len(found)
    assert choices <= 4 * operations
    assert {each.kind for p in found for each in p.operations} == set(plan.profile.weights)


def test_machine_rules_are_the_supported_kinds() -> None:
    plan = Plan.for_candidate(describe(operations=frozenset({"map", "read", "fork"})))
    found: list[Program] = []
    machine = machine_for(plan, found.append)
    run_machine(machine, 10, NAME)
    kinds = {Kind(each.kind) for p in found for each in p.operations}
    assert kinds == {Kind.MAP, Kind.READ, Kind.FORK}
    assert not hasattr(machine, "dread")


def test_the_machine_works_with_hypothesis_own_choice_of_rules() -> None:
    plan = Plan.for_candidate(describe())
    found: list[Program] = []

    class Usual(machine_for(plan, found.append)):  # type: ignore[misc]
        def _choose_by_table(self) -> None: ...

    run_machine(Usual, 20, "hypothesis")
    for program in found:
        check_program(program)
    assert sum(map(len, found)) >= 40 * len(found)


def test_the_machine_shrinks_a_violation() -> None:
    def execute(program: Program) -> None:
        kinds = [operation.kind for operation in program.operations]
        if Kind.DREAD in kinds and Kind.UNMAP in kinds[kinds.index(Kind.DREAD) :]:
            failing.append(kinds)
            raise AssertionError("stale")

    failing: list[list[int]] = []
    machine = seed(1)(machine_for(Plan.for_candidate(describe()), execute))
    chosen = settings(max_examples=50, database=None, deadline=None, stateful_step_count=20)
    with pytest.raises(AssertionError, match="stale"):
        run_state_machine_as_test(machine, settings=chosen)
    assert len(failing[-1]) <= 8


def test_the_strategy_shrinks_a_violation() -> None:
    failing: list[Program] = []

    @seed(1)
    @settings(max_examples=200, database=None, deadline=None)
    @given(programs(Plan.for_candidate(describe(), max_operations=40)))
    def run(program: Program) -> None:
        kinds = [operation.kind for operation in program.operations]
        if Kind.DREAD in kinds and Kind.UNMAP in kinds[kinds.index(Kind.DREAD) :]:
            failing.append(program)
            raise AssertionError("stale")

    with pytest.raises(AssertionError, match="stale"):
        run()
    assert len(failing[-1]) <= 8
