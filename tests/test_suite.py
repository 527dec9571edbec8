"""The suite's checks one by one, with candidates in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from hypothesis.database import InMemoryExampleDatabase

from adapters.candidate import CandidateError
from adapters.examples.tiny import Tiny
from adapters.python import describe
from conformance import suite as module
from conformance.expect import Expectation
from conformance.generate import PROFILES, Plan
from conformance.shards import plan_for
from conformance.store import Store
from conformance.suite import PROFILES_OF, Suite, Task
from conformance.summary import PROPERTY, Summary
from reference.operations import Kind, Operation
from reference.outcomes import Outcome, Status
from reference.program import Program
from reference.rules import RULES
from reference.syncmodels import Sync
from reference.trace import Breakdown, Cause, Trace

SPEC = "mirror.py:Mirror"


class Refuses(Tiny):
    """Nothing can be mapped, which is quick to reduce."""

    def map(self, op: Operation) -> Any:
        return Outcome(Status.ERROR, 12)


class Runner:
    """A worker without a process."""

    candidate: ClassVar[type[Tiny]] = Tiny
    programs: ClassVar[list[Program]] = []
    trouble: ClassVar[Callable[[Program], Breakdown | None]] = lambda _: None
    """Raises `CandidateError`, or says how the candidate breaks down."""

    def __init__(self, spec: str, **_: object) -> None:
        self.mirror = self.candidate()
        self.description = describe(self.mirror, spec)

    def run(self, program: Program) -> Trace:
        self.programs.append(program)
        breakdown = type(self).trouble(program)
        self.mirror.reset(program.geometry)
        outcomes = () if breakdown else tuple(self.mirror.run(program.operations))
        return Trace(program, outcomes, breakdown)

    def close(self) -> None: ...


Make = Callable[..., Suite]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    database = InMemoryExampleDatabase()

    def store(task: Task) -> Store:
        return Store(task.out / "failures", task.spec, task.model, database)

    monkeypatch.setattr(Task, "store", property(store))
    monkeypatch.setattr(module, "Worker", Runner)

    def make(mirror: type[Tiny] = Tiny, trouble: Any = None, **changes: Any) -> Suite:
        monkeypatch.setattr(Runner, "candidate", mirror)
        monkeypatch.setattr(Runner, "programs", [])
        monkeypatch.setattr(Runner, "trouble", staticmethod(trouble or (lambda _: None)))
        description = describe(mirror(), SPEC)
        values: dict[str, Any] = {"seed": 1, "out": tmp_path, "programs": 5, "shards": 2}
        values |= changes
        return Suite(Task(SPEC, description, description.model, **values))

    return make


def expects(rule: str, *operations: str) -> Expectation:
    return Expectation(rule=rule, reason="known", link="here", operations=operations)


def broken_rule(found: Any) -> str:
    assert found is not None
    return str(found.failure.violation.rule)


def test_every_group_that_can_be_tested_has_profiles() -> None:
    groups = {rule.group for rule in RULES.values()}
    assert set(PROFILES_OF) == groups
    assert {name for names in PROFILES_OF.values() for name in names} == set(PROFILES)


def test_the_programs_follow_from_seed_group_and_shard(make: Make) -> None:
    def programs(group: Any, number: int, seed: int = 1) -> list[Program]:
        make(seed=seed).check(group, number)
        return list(Runner.programs)

    first = programs("contents", 0)
    assert len(first) == 5
    assert programs("contents", 0) == first
    for others in (programs("contents", 1), programs("calls", 0), programs("contents", 0, 2)):
        assert not set(first) & set(others)


def test_more_programs_than_one_shard_of_a_run_holds(make: Make) -> None:
    suite = make(programs=60)
    checked = suite.check("access", 1)
    assert checked.coverage.programs == len(set(Runner.programs)) == 60
    assert checked.broken is None


def test_a_rule_of_the_group_ends_the_shard(make: Make) -> None:
    suite = make(Refuses)
    checked = suite.check("calls", 0)
    assert broken_rule(checked.broken) == "A6"
    assert checked.failing == {"A6": 1}
    assert checked.coverage.programs == 1
    assert checked.broken is not None
    assert [Kind(each.kind) for each in checked.broken.failure.program.operations] == [Kind.MAP]
    assert checked.broken.path.exists()


def test_a_rule_of_another_group_does_not_and_is_kept_once(make: Make) -> None:
    suite = make(Refuses)
    checked = suite.check("contents", 0)
    assert checked.broken is None
    assert checked.coverage.programs == checked.failing["A6"] == 5
    assert list(map(broken_rule, checked.passing)) == ["A6"]
    assert not suite.check("access", 0).passing


def test_a_candidate_that_is_lost_does_not_take_its_failure_along(make: Make) -> None:
    def trouble(program: Program) -> None:
        if len(Runner.programs) > 1:
            raise CandidateError("no agent any more")

    checked = make(Refuses, trouble).check("calls", 0)
    assert checked.broken is not None
    failure = checked.broken.failure
    assert (failure.violation.rule, failure.runs) == ("A6", 0)
    assert failure.program == Runner.programs[0]
    assert checked.broken.path.exists()


def test_a_candidate_that_is_lost_is_an_error(make: Make) -> None:
    def trouble(program: Program) -> None:
        raise CandidateError("no agent any more")

    with pytest.raises(CandidateError, match="no agent any more"):
        make(Tiny, trouble).check("calls", 0)
    assert len(Runner.programs) == 1


def test_a_known_failure_is_run_again_until_it_fails(make: Make) -> None:
    kept = make(Refuses).check("calls", 0).broken
    assert kept is not None
    program = kept.failure.program

    def trouble(_: Program) -> Breakdown | None:
        return Breakdown(Cause.CRASH, "at last") if len(Runner.programs) == 3 else None

    assert broken_rule(make(Tiny, trouble).replay(program)) == "R1"
    assert Runner.programs == [program] * 3
    again = make(Refuses).replay(program)
    assert again is not None
    assert again.path == kept.path
    assert make(Tiny).replay(program) is None


def test_an_expected_failure_is_sought_in_all_shards_of_its_group(make: Make) -> None:
    assert make().seek(expects("A6")) is None
    everywhere = set(Runner.programs)
    for number in range(2):
        make().check("calls", number)
        assert set(Runner.programs) < everywhere
    assert broken_rule(make(Refuses).seek(expects("A6"))) == "A6"
    assert make(Refuses).seek(expects("C1")) is None
    assert make(Refuses).seek(expects("B1")) is None


def test_an_expected_failure_may_be_known(make: Make) -> None:
    kept = make(Refuses).check("calls", 0).broken
    assert kept is not None
    known = {"A6-1": kept.failure.program}
    assert broken_rule(make(Refuses, known=known).seek(expects("A6"))) == "A6"
    assert Runner.programs == [kept.failure.program]


def test_expected_failures_do_not_count(make: Make) -> None:
    suite = make(Refuses, expected=(expects("A6"),))
    for checked in (suite.check("calls", 0), suite.check("contents", 0), suite.run_machine(0)):
        assert checked.broken is None
        assert not checked.passing
        assert checked.coverage.programs == 5


def test_what_is_expected_of_some_programs_is_not_of_others(make: Make) -> None:
    """Refused mappings show when reduced, whatever else the programs do that were found."""
    mapping = make(Refuses, expected=(expects("A6", "map"),))
    assert mapping.check("calls", 0).broken is None
    assert len(list(mapping.task.out.glob("failures/A6-*"))) == 1
    assert broken_rule(mapping.seek(expects("A6", "map"))) == "A6"
    assert mapping.seek(expects("A6", "unmap")) is None
    other = make(Refuses, expected=(expects("A6", "unmap"),))
    assert broken_rule(other.check("calls", 0).broken) == "A6"


# -- the state machine ------------------------------------------------------------------------


def test_hypothesis_reduces_what_its_machine_finds(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of short programs, as it takes its time."""

    def short_plan(*about: Any) -> Plan:
        return replace(plan_for(*about), max_operations=12)

    monkeypatch.setattr(module, "plan_for", short_plan)
    checked = make(Refuses).run_machine(0)
    assert broken_rule(checked.broken) == "A6"
    assert checked.broken is not None
    failure = checked.broken.failure
    assert [Kind(each.kind) for each in failure.program.operations] == [Kind.MAP]
    assert failure.trace.outcomes == (Outcome(Status.ERROR, 12),)
    assert not failure.unstable
    assert failure.runs > 1
    assert len(failure.found) > 1


def test_a_failure_that_does_not_come_again_is_unstable(make: Make) -> None:
    def trouble(_: Program) -> Breakdown | None:
        return Breakdown(Cause.CRASH, "once") if len(Runner.programs) == 1 else None

    checked = make(Tiny, trouble).run_machine(0)
    assert broken_rule(checked.broken) == "R1"
    assert checked.broken is not None
    assert checked.broken.failure.unstable


def test_hypothesis_does_not_reduce_what_takes_long_to_show(make: Make) -> None:
    def trouble(_: Program) -> Breakdown:
        return Breakdown(Cause.HANG, "no answer")

    checked = make(Tiny, trouble).run_machine(0)
    assert broken_rule(checked.broken) == "R2"
    assert len(Runner.programs) < 100
    assert checked.broken is not None
    assert len(checked.broken.failure.program) == 1


# -- what is reported -------------------------------------------------------------------------


def test_what_is_missing_is_named_with_its_reason(make: Make) -> None:
    task = make().task
    assert task.missing("contents") == ""
    assert task.missing("fork") == "the candidate has no fork"
    assert task.missing("registration") == "no rule of this group is part of the faulting model"
    description = describe(Tiny(), SPEC)
    because = description.__class__(
        name="one", operations=frozenset({"map"}), left_out={"submit": "no queue"}
    )
    one = Task(SPEC, because, Sync.FAULTING, 1, task.out)
    assert one.missing("jobs") == "the candidate has no dread, submit (no queue), unmap, wait"


def summary_of(
    task: Task, tests: Sequence[dict[str, Any]], *, allow_unknown: bool = True
) -> tuple[int, list[str]]:
    """The exit status and what is printed after tests that recorded this."""
    summary = Summary(task, allow_unknown=allow_unknown)
    for test in tests:
        usual = {"programs": 1, "operations": 9, "exercised": {}, "failing": {}, "broken": None}
        recorded = json.dumps(usual | {"passing": [], "shard": 0} | test)
        report = SimpleNamespace(when="call", user_properties=[(PROPERTY, recorded)])
        summary.pytest_runtest_logreport(cast("pytest.TestReport", report))
    session = SimpleNamespace(exitstatus=pytest.ExitCode.OK)
    summary.pytest_sessionfinish(cast("pytest.Session", session))
    lines: list[str] = []
    reporter = SimpleNamespace(
        write_line=lambda line, **_: lines.append(line),
        write_sep=lambda _, title, **__: lines.append(title),
    )
    summary.pytest_terminal_summary(cast("pytest.TerminalReporter", reporter))
    return session.exitstatus, lines


PASSING = {"group": "calls", "passing": [("C1", "wrong value", "C1-1.lw")]}


@pytest.mark.parametrize(
    ("others", "status", "shown"),
    [
        ([], 0, True),
        ([{"group": "contents"}], 1, True),
        ([{"group": "contents", "broken": "C1"}], 0, False),
    ],
    ids=["its group was not tested", "its group saw nothing", "its group saw it too"],
)
def test_no_group_is_green_with_a_broken_rule(
    make: Make, others: list[dict[str, Any]], status: int, shown: bool
) -> None:
    exit_status, lines = summary_of(make().task, [PASSING, *others])
    assert exit_status == status
    assert ("C1 (contents): wrong value" in lines) is shown
    assert (f"    again: lastwriter replay C1-1.lw {SPEC}" in lines) is shown


LITTLE: list[dict[str, Any]] = [
    {"group": "calls", "exercised": {"A6/map": 4, "A6": 2}},
    {"group": "calls", "exercised": {"A6": 1}, "shard": 1},
    {"group": "fork"},
]
REMEDY = "UNKNOWN is no pass: give them more (--lw-programs 10), or --lw-allow-unknown"


@pytest.mark.parametrize(
    ("tests", "allow_unknown", "status"),
    [(LITTLE, False, 1), (LITTLE, True, 0), (LITTLE[:1], False, 0)],
    ids=["undecided", "allowed", "not the whole group"],
)
def test_rules_that_were_tested_too_little_are_named(
    make: Make, tests: list[dict[str, Any]], allow_unknown: bool, status: int
) -> None:
    exit_status, lines = summary_of(make().task, tests, allow_unknown=allow_unknown)
    assert exit_status == status
    assert lines[0] == "undecided rules"
    times = 6 if len(tests) == 1 else 7
    assert f"A6 (calls) is UNKNOWN: exercised {times} of 10 times" in lines
    assert (REMEDY in lines) is bool(status)


def test_rules_that_were_tested_enough_are_not(make: Make) -> None:
    tests = [{"group": "calls", "shard": shard, "exercised": {"A6": 9}} for shard in range(2)]
    status, lines = summary_of(make().task, tests, allow_unknown=False)
    assert status == 0
    assert lines == ["lastwriter", "2 programs, 18 operations; the same again: --lw-seed 1"]


def test_nothing_is_summed_up_where_nothing_ran(make: Make) -> None:
    assert summary_of(make().task, []) == (0, [])
