"""Drivers as candidates, from the spec to the report."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import msgspec
import pytest
from commanding import Running, failures_in, lastwriter
from driving import programs, schedule

from adapters.candidate import CandidateError
from adapters.registry import Reach, known, open_candidate, reach_of
from adapters.worker import InProcess, Limits, Worker
from conformance.examine import Examiner, as_found
from conformance.explain import explain, plain, render
from conformance.scheduling import SCHEDULES
from conformance.shards import SCHEDULED_PER_SHARD, plan_for, run_shard, shards
from conformance.store import load_program, obstacle
from reference.drivers import DRIVERS
from reference.drivers.faulting import FaultingDriver
from reference.model import judge
from reference.program import Program
from reference.schedule import PLAIN, Schedule
from reference.text import parse
from reference.trace import Cause, Trace
from reference.validity import check_program

BAD = Path(__file__).with_name("bad_drivers.py")
SMALL = "geometry page_size=4096 pages=1 processes=1 devices=1 files=0 keys=0 jobs=0\n"
RACE = parse(
    f"""lastwriter 1
{SMALL}switch d0 operation=2 point=7 to=p0
map p0 rw page=0 pages=1
attach d0 p0
dread d0 page=0 offset=0 length=8
write p0 page=0 offset=0 length=8 value=0x100000
dread d0 page=0 offset=0 length=8
"""
)


def bad(name: str) -> str:
    return f"driver:{BAD}:{name}"


@pytest.fixture(scope="module")
def no_retry() -> Iterator[Worker]:
    with Worker(bad("NoRetry")) as worker:
        yield worker


class TestSpecs:
    @pytest.mark.parametrize("name", DRIVERS)
    def test_the_correct_drivers_are_known_by_their_models(self, name: str) -> None:
        spec = f"driver:{name}"
        assert reach_of(spec) is Reach.HERE
        description = open_candidate(spec).describe()
        description.check()
        assert (description.name, description.model, description.schedules) == (name, name, True)
        assert description.keyed == ("register" in description.operations)
        assert spec in [each.spec for each in known() if each.available]

    def test_what_is_not_overridden_cannot_be_done(self) -> None:
        every = open_candidate("driver:faulting").describe().operations
        few = open_candidate(bad("OnlyFaults")).describe().operations
        assert every - few == {"to_device", "to_system", "exclusive"}

    def test_a_class_in_a_module(self) -> None:
        spec = f"driver:{FaultingDriver.__module__}:FaultingDriver"
        assert open_candidate(spec).describe() == open_candidate("driver:faulting").describe()

    @pytest.mark.parametrize(
        ("spec", "problem"),
        [
            (
                "driver:fauling",
                "no driver 'fauling'; there are ",
            ),
            ("driver:nowhere.py:Driver", "no such file: nowhere.py"),
            ("driver:nowhere:Driver", "no such module: nowhere"),
            ("driver:nowhere.c", "nowhere.c: no such file"),
            ("driver:nowhere.so", "nowhere.so: no such file"),
            (bad("Missing"), f"{BAD}:Missing: {BAD} has no Missing"),
            (bad("Nothing"), f"driver:{BAD}:Nothing is no subclass of reference.drivers"),
            ("driver:", "'driver:' names no candidate"),
        ],
    )
    def test_what_is_no_driver(self, spec: str, problem: str) -> None:
        with pytest.raises(CandidateError) as caught:
            open_candidate(spec)
        assert str(caught.value).startswith(problem)
        assert "\n" not in str(caught.value)

    def test_a_driver_in_c(self) -> None:
        path = Path(__file__).parents[1] / "adapters/examples/drivers/faulting.c"
        with InProcess(f"driver:{path}") as runner:
            assert judge(runner.run(RACE)).violation is None


class TestRuns:
    @pytest.mark.parametrize("name", DRIVERS)
    def test_a_worker_process_answers_as_this_one_does(self, name: str) -> None:
        spec = f"driver:{name}"
        with Worker(spec) as worker, InProcess(spec) as here:
            for number, program in enumerate(programs(DRIVERS[name], 30, 5, pages=3, most=8)):
                scheduled = replace(program, schedule=schedule("random", number))
                trace = worker.run(scheduled)
                assert trace == here.run(scheduled)
                assert judge(trace).violation is None
                again = worker.run(trace.as_taken())
                assert again.hosted == trace.hosted

    def test_the_protocol_comes_before_the_contents(self, no_retry: Worker) -> None:
        violation = judge(no_retry.run(RACE)).violation
        assert violation is not None
        assert (violation.rule, violation.index, violation.place) == ("I9", 2, None)
        assert judge(no_retry.run(replace(RACE, schedule=PLAIN))).violation is None

    @pytest.mark.parametrize(
        ("name", "rule", "message"),
        [
            ("Raises", "R4", "the driver raised KeyError: 'no such page'"),
            ("AnswersNonsense", "R4", "the driver answered 'yes'"),
            ("LockedTwice", "W3", "mirror lock"),
            ("WrongPage", "I6", ""),
        ],
    )
    def test_what_cannot_go_on_is_a_violation(self, name: str, rule: str, message: str) -> None:
        with Worker(bad(name)) as worker:
            trace = worker.run(replace(RACE, schedule=PLAIN))
            violation = judge(trace).violation
            assert trace.breakdown is None
            assert violation is not None
            assert violation.rule == rule
            assert message in violation.message
            assert worker.run(RACE).breakdown is None

    @pytest.mark.parametrize(
        ("name", "cause", "message"),
        [
            ("Exits", Cause.CRASH, "exited with status 3"),
            ("RaisesAtOnce", Cause.REFUSED, "run raised OSError: no such device"),
            ("Hangs", Cause.HANG, "no answer within 0.5 s"),
        ],
    )
    def test_a_breakdown_costs_the_process_only(
        self, name: str, cause: Cause, message: str
    ) -> None:
        with Worker(bad(name), limits=Limits(seconds=0.5)) as worker:
            for _ in range(2):
                trace = worker.run(RACE)
                assert trace.breakdown is not None
                assert trace.breakdown.cause is cause
                assert message in trace.breakdown.message
                assert judge(trace).violation is not None

    def test_an_injected_failure_may_fail_its_operation(self) -> None:
        with InProcess("driver:faulting") as runner:
            injected = parse(
                f"lastwriter 1\n{SMALL}fail allocation 2\n" + "map p0 rw page=0 pages=1\n"
                "attach d0 p0\ndread d0 page=0 offset=0 length=8\n"
            )
            for number in range(1, 6):
                program = replace(
                    injected,
                    schedule=Schedule(
                        injections=(injected.schedule.injections[0]._replace(number=number),)
                    ),
                )
                assert judge(runner.run(program)).violation is None


class TestPrograms:
    def test_each_comes_under_every_schedule(self) -> None:
        description = open_candidate("driver:faulting").describe()
        seen: list[Program] = []

        def consume(program: Program, length: int) -> bool:
            assert 0 < length <= len(program)
            seen.append(program)
            return True

        for shard in islice(shards(description, 4), 2):
            run_shard(plan_for(description, description.model, shard), shard, consume)
        assert len(seen) == 2 * SCHEDULED_PER_SHARD
        kinds = [each.schedule.strategy for each in seen[:SCHEDULES]]
        assert kinds[:3] == ["follow", "follow", "windows"]
        assert kinds[3] in {"follow", "random"}
        assert kinds[4:] == ["pct", "follow", "follow"]
        assert {"follow", "windows", "random", "pct"} == {each.schedule.strategy for each in seen}
        assert len({each.operations for each in seen[:SCHEDULES]}) == 1
        assert len({each.operations for each in seen}) > 40
        assert [len(each.schedule.injections) for each in seen[:SCHEDULES]] == [
            *([0] * (SCHEDULES - 2)),
            *(1, 1),
        ]
        assert sum(bool(each.schedule.switches) for each in seen) >= 40
        for program in seen:
            check_program(program)
            assert len(program) <= 12 + 16
            assert program.geometry.pages <= 4
            assert Program.from_bytes(program.to_bytes()) == replace(program, comments=())

    def test_a_mirror_takes_no_schedules(self) -> None:
        description = open_candidate("reference:faulting").describe()
        assert obstacle(RACE, description) == "it takes no schedules"
        assert obstacle(replace(RACE, schedule=PLAIN), description) is None


class TestReports:
    def test_the_table_says_who_was_interrupted_and_where(self, no_retry: Worker) -> None:
        lines = report(no_retry.run(RACE)).splitlines()[2:]
        assert [re.sub(r"(?<=\S)  +", "  ", line) for line in lines] == [
            "     operation  outcome",
            "  0  map p0 rw page=0 pages=1  ok",
            "  1  attach d0 p0  ok",
            "     d0 is interrupted at hmm_range_fault (operation 2, point 7): "
            "p0 begins operation 3",
            "  3  write p0 page=0 offset=0 length=8 value=0x100000  ok",
            "> 2  dread d0 page=0 offset=0 length=8  0x0",
            "  4  dread d0 page=0 offset=0 length=8  0x0",
            "     again: lastwriter replay …",
        ]

    def test_a_run_that_makes_no_sense_is_reported(self, no_retry: Worker) -> None:
        trace = no_retry.run(RACE)
        assert trace.hosted is not None
        senseless = tuple(entry._replace(arguments=()) for entry in trace.hosted.record)
        spoilt = replace(trace, hosted=msgspec.structs.replace(trace.hosted, record=senseless))
        lines = report(spoilt).splitlines()
        assert lines[0].startswith("FAIL R4 ")
        assert "a run that makes no sense" in lines[1]

    def test_operations_and_schedule_are_reduced_together(self, no_retry: Worker) -> None:
        taken = replace(RACE, operations=(*RACE.operations, *RACE.operations[2:]))
        examiner = Examiner(no_retry)
        violation = examiner.examine(taken)
        assert violation is not None
        failure = examiner.reduce(taken, violation)
        assert len(failure.program) == 4
        assert len(failure.program.schedule.switches) == 1
        assert not failure.unstable


def report(trace: Trace) -> str:
    violation = judge(trace).violation
    assert violation is not None
    return plain(render(explain(as_found(trace, violation)), "lastwriter replay …"))


class TestCommand:
    def test_certify_replay_and_shrink(self, tmp_path: Path) -> None:
        spec = bad("NoRetry")
        done = lastwriter(tmp_path, "certify", spec, "--programs", "400", "--seed", "2")
        assert done.status == 1
        assert "FAIL I9" in done.out
        assert " is interrupted at " in done.out
        name = min(failures_in(tmp_path))
        path = f"lastwriter-out/failures/{name}"
        assert f"again: lastwriter replay {path} {spec}" in done.out
        kept = load_program(tmp_path / path)
        assert kept.schedule.switches
        assert kept.schedule.strategy == "follow"

        again = lastwriter(tmp_path, "replay", path, spec)
        assert (again.status, again.errors) == (1, "")
        assert "FAIL I9" in again.out
        right = lastwriter(tmp_path, "replay", path, "driver:faulting")
        assert (right.status, right.errors) == (0, "")
        shrunk = lastwriter(tmp_path, "shrink", path, spec)
        assert shrunk.status == 1
        assert len(parse(shrunk.out)) <= len(kept)
        mirror = lastwriter(tmp_path, "replay", path, "reference:faulting")
        assert mirror.status == 2
        assert mirror.error.endswith("not for reference:faulting: it takes no schedules")

    @pytest.mark.parametrize("name", DRIVERS)
    def test_a_correct_driver_breaks_no_rule(self, name: str, tmp_path: Path) -> None:
        done = lastwriter(tmp_path, "certify", f"driver:{name}", "--programs", "140")
        assert done.errors == ""
        assert done.status in {0, 3}
        assert "FAIL" not in done.out
        assert done.certificate.programs == 140
        assert done.certificate.capabilities.schedules
        assert done.certificate.failures == []

    def test_an_agent_serves_a_driver(self, tmp_path: Path) -> None:
        address = f"unix:{tmp_path}/agent"
        with Running(tmp_path, "agent", bad("Raises"), "--listen", address) as agent:
            agent.await_line("listening on ")
            done = lastwriter(tmp_path, "certify", address, "--programs", "60")
        assert done.status == 1
        assert "FAIL R4" in done.out

    def test_several_processes_find_what_one_finds(self, tmp_path: Path) -> None:
        counts = []
        for jobs in ("1", "2"):
            done = lastwriter(
                tmp_path, "certify", "driver:faulting", "--programs", "400", "-j", jobs
            )
            assert done.errors == ""
            counts.append([(each.rule, each.exercised) for each in done.certificate.rules])
        assert counts[0] == counts[1]

    def test_it_is_listed(self, tmp_path: Path) -> None:
        out = lastwriter(tmp_path, "candidates").out
        for name in DRIVERS:
            assert f"driver:{name} " in out
