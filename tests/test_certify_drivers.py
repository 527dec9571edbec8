"""Certifying a driver: what is searched exhaustively, what PCT promises, and two profiles."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import msgspec
import pytest
from commanding import failures_in, lastwriter

from adapters.registry import open_candidate
from adapters.worker import InProcess
from conformance import exhaustive
from conformance.certificate import Certificate, Searched
from conformance.certify import Finished, Found, Request, certify
from conformance.expect import Expectation
from conformance.explore.bounds import Bound, Catalogue, Covered, Part
from conformance.pct import PctRuns, actors_of
from conformance.scheduling import SCHEDULES
from conformance.shards import plan_for, run_shard, shards
from conformance.store import load_program
from reference.model import judge
from reference.program import Program
from reference.protocol import Profile
from reference.schedule import Offer, Schedule, actor_number
from reference.text import parse
from reference.trace import Trace

BAD = Path(__file__).with_name("bad_drivers.py")
EXAMPLES = Path(__file__).parents[1] / "adapters" / "examples" / "drivers"
SMALL = "geometry page_size=4096 pages=1 processes=1 devices=1 files=0 keys=0 jobs=0\n"
OWN_EVENT = f"""lastwriter 1
model faulting
{SMALL}map p0 rw page=0 pages=1
attach d0 p0
exclusive d0 page=0 pages=1
"""


def bad(name: str) -> str:
    return f"driver:{BAD}:{name}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of our own: Hypothesis' database is there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Run:
    """A certification in this process."""

    def __init__(self, spec: str, **changes: object) -> None:
        description = open_candidate(spec).describe()
        fields: dict[str, object] = {
            "spec": spec, "description": description, "model": description.model,
            "out": Path("out"), "programs": 90, "in_process": True,
        }  # fmt: skip
        Path("out").mkdir(exist_ok=True)
        events = list(certify(Request(**(fields | changes))))  # type: ignore[arg-type]
        assert isinstance(events[-1], Finished)
        self.certificate: Certificate = events[-1].certificate
        self.found = [each for each in events if isinstance(each, Found)]

    @property
    def first(self) -> Searched:
        return self.certificate.exhaustive[0]


@pytest.fixture
def only_exhaustive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhaustive, "EXHAUSTIVE", 1)


class TestExhaustive:
    def test_it_has_its_share_of_the_programs(self, place: Path) -> None:
        run = Run("driver:faulting", programs=90)
        assert run.certificate.programs == 90
        assert sum(each.runs for each in run.certificate.exhaustive) == 30
        assert run.first.total == 25
        assert (run.first.operations, run.first.switches, run.first.pages) == (1, 1, 2)
        assert not run.first.complete
        assert not run.first.failed

    @pytest.mark.usefixtures("only_exhaustive", "place")
    def test_what_was_run_to_its_end_is_complete(self) -> None:
        certificate = Run("driver:registration", programs=720).certificate
        first, second = certificate.exhaustive
        assert (first.programs, first.complete) == (first.total, True)
        assert second.programs == second.runs == 720 - first.runs
        assert not second.complete

    def test_a_mirror_without_schedules_is_not_searched(self, place: Path) -> None:
        certificate = Run("reference:faulting", programs=30).certificate
        assert (certificate.programs, certificate.exhaustive, certificate.pct) == (30, [], [])

    @pytest.mark.usefixtures("only_exhaustive", "place")
    def test_a_program_that_failed_is_kept_and_left(self) -> None:
        run = Run(bad("WrongPage"), programs=300)
        assert run.found
        failed = sum(each.failed for each in run.certificate.exhaustive)
        assert failed == run.certificate.failing_programs >= run.first.failed > 0
        assert run.first.programs + run.first.failed <= run.first.total
        assert not run.first.complete
        kept = load_program(run.found[0].path)
        assert len(kept) <= 4
        with InProcess(bad("WrongPage")) as runner:
            assert judge(runner.run(kept)).violation is not None

    @pytest.mark.usefixtures("only_exhaustive", "place")
    def test_a_failure_that_is_expected_does_not_end_a_program(self) -> None:
        expected = (Expectation(rule="I6", reason="known", link="here"),)
        run = Run(bad("WrongPage"), programs=150, expected=expected)
        assert run.first.failed == 0
        assert run.first.programs > 0
        assert run.certificate.failing_programs > run.first.programs

    @pytest.mark.usefixtures("only_exhaustive", "place")
    def test_nothing_is_known_of_a_driver_that_breaks_down(self) -> None:
        for expected in ((), (Expectation(rule="R4", reason="known", link="here"),)):
            run = Run(bad("RaisesAtOnce"), programs=60, expected=expected)
            assert run.first.programs == 0
            assert run.first.failed > 0
            assert not run.first.complete

    @pytest.mark.usefixtures("only_exhaustive", "place")
    def test_an_interrupted_run_claims_what_it_has_done(self) -> None:
        run = Run(bad("Interrupted"), programs=2000)
        assert run.certificate.interrupted
        assert run.certificate.programs == run.first.runs < 30
        assert not run.first.complete
        again = Run("driver:faulting", programs=run.first.runs)
        assert again.first == run.first

    def test_a_driver_in_c_is_run_under_every_schedule(self) -> None:
        spec = f"driver:{EXAMPLES}/faulting.c"
        covered, runs = Covered(), Counter[tuple[object, ...]]()
        with InProcess(spec) as runner:

            def run(program: Program, length: int) -> Sequence[Offer]:
                trace = runner.run(program)
                assert judge(trace).violation is None
                assert trace.hosted is not None
                runs[program.operations] += 1
                return trace.hosted.offers

            description = runner.description
            part = Part(Bound(1, 1), 3, 2)
            Catalogue(description, description.model).explore(part, run, covered)
        assert (covered.programs, covered.pruned) == (2, 0)
        assert min(runs.values()) > 10
        assert runs.total() == covered.runs

    def test_it_does_not_depend_on_the_processes(self, place: Path) -> None:
        alone, shared = (
            Run("driver:faulting", programs=300, jobs=jobs).certificate for jobs in (1, 2)
        )
        assert alone.exhaustive == shared.exhaustive
        assert alone.pct == shared.pct
        assert alone.rules == shared.rules
        assert alone.programs == shared.programs == 300


class TestPct:
    def test_actors_are_all_who_run(self) -> None:
        program = parse(
            "lastwriter 1\n"
            "geometry page_size=4096 pages=1 processes=1 devices=2 files=0 keys=0 jobs=1\n"
            "map p0 rw page=0 pages=1\nattach d0 p0\nreclaim p0 page=0 pages=1\n"
            "dread d0 page=0 offset=0 length=8 job=1\nsubmit d0 job=1\nwait d0 job=1\n"
        )
        assert actors_of(program) == {*map(actor_number, ("p0", "d0", "d1", "k", "e0"))}

    def test_the_promise_is_the_product_over_the_runs(self) -> None:
        runs, other = PctRuns(), PctRuns()
        with InProcess("driver:faulting") as runner:
            one = parse(f"lastwriter 1\n{SMALL}map p0 rw page=0 pages=1\n")
            two = parse(OWN_EVENT)
            for number, program in enumerate((one, two, two)):
                for depth in (1, 2, 3):
                    pct = Schedule(strategy="pct", seed=number, depth=depth)
                    trace = runner.run(replace(program, schedule=pct))
                    (runs if number else other).add(trace)
            runs.add(runner.run(two))
            runs.add(Trace(replace(two, schedule=pct), ()))
        runs.update(other)
        # p0 and d0; 16 points, and 8 for each operation: 24 and 40.
        for depth, promise in enumerate(runs.promises(), 1):
            each = [1 / (2 * points ** (depth - 1)) for points in (24, 40, 40)]
            assert (promise.depth, promise.runs, promise.actors) == (depth, 3, 2)
            assert (promise.points, promise.longer) == (40, 0)
            assert promise.met == pytest.approx(min(each), rel=0.01)
            assert promise.met <= min(each)
            missed = math.prod(1 - met for met in each)
            assert promise.missed == pytest.approx(missed, rel=0.01)
            assert promise.missed >= missed

    def test_certificates_have_all_depths(self, place: Path) -> None:
        promises = Run("driver:faulting", programs=90).certificate.pct
        assert [each.depth for each in promises] == [1, 2, 3]
        # Of 60 programs each base has SCHEDULES, and one of these is under PCT.
        assert sum(each.runs for each in promises) == 60 // SCHEDULES
        assert all(0 < each.met < 1 and 0 < each.missed < 1 for each in promises)

    def test_few_runs_have_more_points_than_changes_are_drawn_from(self) -> None:
        runs = PctRuns()
        with InProcess("driver:faulting") as runner:
            description = runner.description

            def consume(program: Program, length: int) -> bool:
                if program.schedule.strategy == "pct":
                    runs.add(runner.run(program))
                return True

            for shard in islice(shards(description, 4), 4):
                run_shard(plan_for(description, description.model, shard), shard, consume)
        promises = list(runs.promises())
        assert sum(each.runs for each in promises) == 100
        assert all(each.longer < 10 for each in promises)


STRICT = ("--profile", "strict", "--in-process")


class TestCommand:
    def test_it_is_printed_what_was_covered(self, place: Path) -> None:
        done = lastwriter(place, "certify", "driver:faulting", "--programs", "120", "--in-process")
        assert (done.status, done.errors) == (3, "")
        (searched,) = done.certificate.exhaustive
        words = " ".join(done.out.split())
        assert (
            f" not complete: {searched.programs} of 25 programs of 1 operation on 2 pages, "
            "all schedules with up to 1 switch: 40 runs PCT depth d runs actors n points k "
        ) in words

    def test_the_strict_profile(self, place: Path) -> None:
        (place / "own.lw").write_text(OWN_EVENT)
        for command in ("replay", "sweep"):
            done = lastwriter(place, command, "own.lw", "driver:faulting", "--in-process")
            assert (done.status, done.errors) == (0, "")
            done = lastwriter(place, command, "own.lw", "driver:faulting", *STRICT)
            assert done.status == 1
            assert "FAIL I6" in done.out
            assert " driver:faulting --profile strict\n" in done.out
        shrunk = lastwriter(place, "shrink", "own.lw", "driver:faulting", *STRICT)
        assert shrunk.status == 1
        assert len(parse(shrunk.out)) == 3

    def test_certificates_name_the_profile(self, place: Path) -> None:
        failures = place / "lastwriter-out" / "failures"
        failures.mkdir(parents=True)
        (failures / "own.lw").write_text(OWN_EVENT)
        done = lastwriter(place, "certify", "driver:faulting", "--programs", "9", *STRICT)
        assert done.out.startswith(
            "certifying driver:faulting as faulting: 9 programs, seed 0, strict profile\n"
        )
        assert "FAIL  faulting as faulting, strict profile: " in done.out
        assert done.certificate.profile is Profile.STRICT
        (name,) = failures_in(place) - {"own.lw"}
        assert f"failures/{name} driver:faulting --profile strict" in done.out
        assert "# candidate driver:faulting; strict profile\n" in (failures / name).read_text()
        again = lastwriter(place, "certify", "driver:faulting", "--programs", "9", "--in-process")
        assert again.status == 3
        assert again.certificate.profile is Profile.TOLERANT
        assert "profile" not in again.out

    @pytest.mark.parametrize(
        "arguments",
        [
            ("certify", "reference:faulting", "--profile", "strict"),
            ("replay", "own.lw", "reference:faulting", "--profile", "tolerant"),
            ("shrink", "own.lw", "reference:faulting", "--profile", "strict"),
        ],
    )
    def test_a_mirror_has_no_profile(self, arguments: tuple[str, ...], place: Path) -> None:
        (place / "own.lw").write_text(OWN_EVENT)
        done = lastwriter(place, *arguments, "--in-process")
        assert done.status == 2
        problem = "reference:faulting is no driver on the host, and shows no protocol"
        assert done.error == f"--profile: {problem}"

    def test_a_mirror_without_a_profile_says_so(self, place: Path) -> None:
        text = Run("reference:faulting", programs=10).certificate.to_json()
        assert json.loads(text)["profile"] is None
        assert msgspec.json.decode(text, type=Certificate).profile is None
