"""Running, judging and reducing programs, and counting what was tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
from mirror_programs import random_program, script

from adapters.candidate import CandidateError
from adapters.worker import InProcess, Limits, Worker
from conformance.examine import Coverage, Examiner, as_found
from conformance.explain import explain
from reference.description import Description
from reference.mirrors import MIRRORS, MUTANTS
from reference.model import judge
from reference.program import Program
from reference.trace import Breakdown, Cause, Judgement, Trace, Violation

MUTANT = "unmap-missed"
TINY = "adapters.examples.tiny:Tiny"


def failing(noise: int = 20) -> Program:
    """A program that the mutant fails, with operations that do not matter."""
    mutant = MUTANTS[MUTANT]
    program = script(mutant.make(), mutant.sequence)
    rest = random_program(MIRRORS["faulting"]().describe(), 1).operations
    plain = tuple(each for each in rest if each.kind in {1, 2, 4} and not each.process)
    return program.with_operations((*program.operations, *plain[:noise]))


class Scripted:
    """A runner that says of every program what a function says."""

    def __init__(self, answer: Callable[[Program], Trace]) -> None:
        self.answer = answer
        self.runs = 0

    @property
    def description(self) -> Description:
        return MIRRORS["faulting"]().describe()

    def run(self, program: Program) -> Trace:
        self.runs += 1
        return self.answer(program)

    depth = 1
    pending = 0

    def begin(self, program: Program) -> None:
        self.begun = program

    def finish(self) -> Trace:
        return self.run(self.begun)

    def close(self) -> None:
        pass


def crashing(program: Program) -> Trace:
    return Trace(program, (), Breakdown(Cause.CRASH, "was killed by SIGSEGV"))


def test_coverage_adds_up() -> None:
    coverage, other = Coverage(), Coverage()
    coverage.add(5, 8, Judgement(exercised=Counter({"C1": 2})))
    other.add(5, 5, Judgement(exercised=Counter({"C1": 1, "A1": 3})))
    other.add(7, 9, Judgement())
    coverage.update(other)
    assert (coverage.programs, coverage.operations, coverage.checks) == (3, 17, 5)
    assert coverage.lengths == {5: 2, 7: 1}
    assert coverage.exercised == {"C1": 3, "A1": 3}


def test_a_right_answer_is_counted() -> None:
    with InProcess("reference:faulting") as runner:
        examiner = Examiner(runner)
        program = random_program(runner.description, 4)
        assert examiner.examine(program, 10) is None
    assert examiner.trace.program == program
    assert examiner.coverage.operations == 10
    assert examiner.coverage.checks == len(program) - 10
    assert examiner.coverage.exercised["R1"] == 1


def test_a_wrong_one_is_found_and_reduced() -> None:
    with InProcess(f"mutant:{MUTANT}") as runner:
        examiner = Examiner(runner)
        program = failing()
        violation = examiner.examine(program)
        assert violation is not None
        programs = examiner.coverage.programs
        failure = examiner.reduce(program, violation)
    assert failure.violation.rule == MUTANTS[MUTANT].rule
    assert failure.found == program
    assert len(failure.program) <= (MUTANTS[MUTANT].minimal or 0) < len(program)
    assert failure.trace.program.operations == failure.program.operations
    assert len(failure.trace.outcomes) == len(failure.program)
    assert failure.runs > 3
    assert not failure.unstable
    assert examiner.coverage.programs == programs == 1, "reducing is no coverage"


def test_what_fails_once_only_is_kept_and_marked() -> None:
    program = failing()
    violation = Violation("C1", 0, "seen once")
    examiner = Examiner(Scripted(InProcess("reference:faulting").run))
    failure = examiner.reduce(program, violation)
    assert failure.unstable
    assert (failure.program, failure.violation) == (program, violation)
    assert failure.trace == Trace(program, ())


def test_a_wrong_word_that_is_seen_once_only_is_shown_as_it_was_seen() -> None:
    mutant, correct = InProcess(f"mutant:{MUTANT}"), InProcess("reference:faulting")
    traces = (mutant.run(random_program(mutant.description, seed)) for seed in range(500))
    seen = next(t for t in traces if (v := judge(t).violation) is not None and v.wrong is not None)
    examiner, program = Examiner(correct), seen.program
    violation = examiner.account(seen)
    assert violation is not None
    failure = examiner.reduce(program, violation)
    assert failure.unstable
    assert failure.trace.outcomes == seen.outcomes
    assert explain(failure).moments
    unseen = replace(failure, trace=Trace(program, ()))
    assert explain(unseen).moments == [], "nothing is known of what led to it"


def test_an_expected_rule_does_not_take_the_place_of_another() -> None:
    with InProcess(f"mutant:{MUTANT}") as runner:
        examiner = Examiner(runner, frozenset({"I12"}))
        program = failing()
        failure = examiner.reduce(program, Violation("A1", len(program) - 1, "something else"))
    assert failure.violation.rule == "A1"


@pytest.mark.parametrize(("rule", "most"), [("R1", 2000), ("R3", 60)])
def test_what_takes_long_is_reduced_in_fewer_runs(rule: str, most: int) -> None:
    cause = {"R1": Cause.CRASH, "R3": Cause.MEMORY}[rule]
    scripted = Scripted(lambda program: Trace(program, (), Breakdown(cause, "broke down")))
    program = random_program(scripted.description, 2, length=100)
    failure = Examiner(scripted).reduce(program, Violation(rule, 0, "broke down"))
    assert failure.runs <= most
    assert len(failure.program) < 5
    assert failure.trace.breakdown is not None


@pytest.mark.parametrize(("limit", "while_reducing"), [(10.0, 1.0), (0.5, 0.5)])
def test_hangs_are_reduced_with_less_patience(
    limit: float, while_reducing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[float] = set()
    with Worker(TINY, limits=Limits(seconds=limit)) as worker:

        def hang(program: Program) -> Trace:
            seen.add(worker.limits.seconds)
            return Trace(program, (), Breakdown(Cause.HANG, "no answer"))

        monkeypatch.setattr(worker, "run", hang)
        program = random_program(MIRRORS["faulting"]().describe(), 2)
        failure = Examiner(worker).reduce(program, Violation("R2", 0, "no answer"))
        assert worker.limits.seconds == limit
    assert seen == {limit, while_reducing}
    assert failure.violation.rule == "R2"
    assert len(failure.program) < len(program)


def test_what_is_only_slow_is_not_taken_to_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    with Worker(TINY) as worker:

        def slow(program: Program) -> Trace:
            hasty = worker.limits.seconds < 10
            return Trace(program, (), Breakdown(Cause.HANG, "no answer") if hasty else None)

        monkeypatch.setattr(worker, "run", slow)
        monkeypatch.setattr(Examiner, "judge", judged)
        program = random_program(MIRRORS["faulting"]().describe(), 2)
        failure = Examiner(worker).reduce(program, Violation("R2", 0, "no answer"))
    assert failure.unstable
    assert failure.program == program


def judged(_: Examiner, trace: Trace) -> Judgement:
    """The word on a trace without outcomes that may have broken down."""
    return Judgement(None) if trace.breakdown is None else judge(trace)


def test_an_interruption_is_passed_on() -> None:
    scripted = Scripted(crashing)

    class Interruption(AbstractContextManager[None]):
        def __enter__(self) -> None:
            if scripted.runs >= 6:
                raise KeyboardInterrupt

        def __exit__(self, *_: object) -> None:
            pass

    examiner = Examiner(scripted, interruption=Interruption())
    program = random_program(scripted.description, 2)
    violation = examiner.examine(program)
    assert violation is not None
    with pytest.raises(KeyboardInterrupt):
        examiner.reduce(program, violation)
    assert scripted.runs == 6
    assert examiner.coverage.programs == 1


def test_a_candidate_that_is_lost_is_the_callers_business() -> None:
    def lost(program: Program) -> Trace:
        raise CandidateError("no such file")

    examiner = Examiner(Scripted(lost))
    with pytest.raises(CandidateError, match="no such file"):
        examiner.examine(failing())
    assert examiner.coverage.programs == 0


def test_a_machine_is_not_replaced_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a breakdown another candidate runs already, to which no harm was done."""
    replacing = iter([True, True])
    with Worker("reference:faulting") as worker:
        wrong = worker.run(failing())
        outcome = next(each for each in wrong.outcomes if each.data)
        spoilt = replace(
            wrong,
            outcomes=tuple(
                each._replace(data=bytes(len(each.data) - 1) + b"\7") if each is outcome else each
                for each in wrong.outcomes
            ),
        )
        crashed = replace(wrong, outcomes=(), breakdown=Breakdown(Cause.CRASH, "it is gone"))
        monkeypatch.setattr(worker, "distrust", lambda: next(replacing))
        examiner = Examiner(worker)
        assert examiner.judge(crashed).violation is not None
        assert not examiner.distrust(crashed)
        assert examiner.judge(spoilt).violation is not None
        assert examiner.distrust(spoilt)
        assert next(replacing, None) is None, "twice, for what was wrong"


def test_as_found() -> None:
    program = failing()
    violation = Violation("C1", 3, "wrong")
    failure = as_found(crashing(program), violation)
    assert (failure.program, failure.found, failure.violation) == (program, program, violation)
    assert (failure.runs, failure.unstable) == (0, False)
