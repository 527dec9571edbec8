"""Certifying: what a run does, what it leaves behind, and what can cut it short."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from commanding import (
    ROOT,
    TROUBLE,
    Done,
    failures_in,
    lastwriter,
    names_in,
)

from adapters.candidate import CandidateError
from adapters.worker import InProcess
from conformance.certificate import Certificate, identify
from conformance.certify import (
    PER_RULE,
    Event,
    Finished,
    Found,
    Progress,
    Request,
    certify,
)
from conformance.expect import Expectation
from conformance.store import load_program
from conformance.verdicts import Verdict
from reference.mirrors import MIRRORS
from reference.rules import rules_for
from reference.syncmodels import Sync

MUTANT = "mutant:unmap-missed"
BASE = "reference:caching"
SHORT = ("--programs", "60", "--seed", "1")
EXPECT_I12 = '[[expect]]\nrule = "I12"\nreason = "not yet"\nlink = "https://example.org/1"\n'


def trouble(name: str) -> str:
    return f"{TROUBLE}:{name}"


class TestPass:
    def test_a_correct_mirror(self, tmp_path: Path) -> None:
        budget = ("--programs", "300", "--seed", "11")
        done = lastwriter(tmp_path, "certify", "reference:faulting", *budget, "--in-process")
        assert (done.status, done.errors) == (0, "")
        assert done.out.startswith(
            "certifying reference:faulting as faulting: 300 programs, seed 11\n"
        )
        assert (
            "\nPASS  reference:faulting (1) as faulting: every required rule passed\n" in done.out
        )
        assert "\n300 programs (mean " in done.out
        assert done.out.endswith("\ncertificate: lastwriter-out/certificate.json\n")
        assert "FAIL" not in done.out
        assert names_in(tmp_path / "lastwriter-out") == {"certificate.json"}

        certificate = done.certificate
        assert certificate.verdict is Verdict.PASS
        assert (certificate.failures, certificate.failing_programs) == ([], 0)
        assert (certificate.programs, certificate.seed, certificate.jobs) == (300, 11, 1)
        assert certificate.in_process
        assert done.rule("R3").verdict is Verdict.UNIMPLEMENTED
        assert "own process" in done.rule("R3").reason

    def test_too_little_to_tell(self, tmp_path: Path) -> None:
        done = lastwriter(tmp_path, "certify", "reference:faulting", "--programs", "2")
        assert (done.status, done.errors) == (3, "")
        assert "\nUNKNOWN  reference:faulting (1) as faulting: undecided" in done.out
        assert done.rule("R3").verdict is Verdict.UNKNOWN
        assert done.rule("R3").reason == "exercised 2 of 10 times"
        assert not done.certificate.in_process

    def test_a_time(self, tmp_path: Path) -> None:
        done = lastwriter(tmp_path, "certify", "reference:faulting", "--seconds", "0.01")
        assert done.status == 3
        assert done.certificate.programs >= 1
        assert done.certificate.budget == "0.01 s"


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return lastwriter(tmp_path_factory.mktemp("run"), "certify", BASE, *SHORT, "-j", "2")


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return lastwriter(tmp_path_factory.mktemp("run"), "certify", MUTANT, *SHORT)


class TestCertificate:
    def test_it_says_what_was_tested_and_how(self, passed: Done) -> None:
        certificate = passed.certificate
        assert certificate.candidate.spec == BASE
        assert certificate.candidate.name == "reference:caching"
        assert certificate.candidate.version == MIRRORS["caching"]().describe().version
        assert certificate.capabilities == MIRRORS["caching"]().describe()
        assert certificate.model is Sync.FAULTING
        assert (certificate.budget, certificate.jobs) == ("60 programs", 2)
        assert not certificate.interrupted
        assert certificate.problem == ""
        assert certificate.seconds > 0
        assert certificate.started.endswith("+00:00")
        assert certificate.versions["kernel"].startswith("Linux ")
        assert {"python", "hypothesis", "byteorder"} < certificate.versions.keys()

    def test_it_has_every_rule(self, passed: Done) -> None:
        rules = passed.certificate.rules
        assert [each.rule for each in rules] == [each.id for each in rules_for(Sync.FAULTING)]
        assert {each.verdict for each in rules} <= set(Verdict)
        assert passed.rule("C1").exercised == sum(passed.rule("C1").details.values()) > 10
        assert all(each.reason for each in rules if each.verdict is Verdict.UNIMPLEMENTED)

    def test_it_counts(self, passed: Done) -> None:
        certificate = passed.certificate
        assert certificate.programs == 60 == sum(certificate.lengths.by_tens.values())
        assert certificate.operations >= 60 * 5
        assert certificate.sweep_reads > 60
        assert certificate.lengths.mean == round(certificate.operations / 60, 1)
        assert certificate.lengths.longest >= certificate.lengths.mean

    def test_the_code_is_identified(self, tmp_path: Path) -> None:
        description = MIRRORS["faulting"]().describe()
        tiny = ROOT / "adapters" / "examples" / "tiny.py"
        (tmp_path / "copy.py").write_bytes(tiny.read_bytes())
        (tmp_path / "mine.so").write_bytes(tiny.read_bytes())
        hashes = {
            identify(spec, description).file_hash
            for spec in (
                "adapters.examples.tiny:Tiny",
                f"{tmp_path}/copy.py:Tiny",
                f"{tmp_path}/mine.so",
            )
        }
        assert len(hashes) == 1
        assert len(hashes.pop()) == 64
        for spec in ("linux:process_vm", "unix:mine.so", "no.such:module", f"{tmp_path}/x.so"):
            assert identify(spec, description).file_hash == ""


class TestFail:
    def test_it_is_told(self, failed: Done) -> None:
        assert (failed.status, failed.errors) == (1, "")
        assert "\nFAIL I12  When an invalidation returns" in failed.out
        assert f"\nFAIL  {MUTANT} (1) as faulting: a rule failed\n" in failed.out
        for name in failures_in(failed.folder):
            again = f"     again: lastwriter replay lastwriter-out/failures/{name} {MUTANT}\n"
            assert again in failed.out

    def test_every_rule_that_failed_has_a_program(self, failed: Done) -> None:
        certificate = failed.certificate
        rules = {each.rule for each in certificate.rules if each.verdict is Verdict.FAIL}
        assert rules == {each.rule for each in certificate.failures}
        assert "I12" in rules
        assert certificate.failing_programs == sum(each.failures for each in certificate.rules)
        assert certificate.failing_programs >= len(certificate.failures)

    def test_programs_are_saved_short_and_fail_again(self, failed: Done) -> None:
        records = failed.certificate.failures
        assert {Path(each.file).name for each in records} == failures_in(failed.folder)
        assert Counter(each.rule for each in records)["I12"] <= 3
        for each in records:
            path = f"lastwriter-out/{each.file}"
            assert len(load_program(failed.folder / path)) == each.operations <= 6
            assert each.found_with > each.operations
            assert not each.unstable
        wrong = lastwriter(failed.folder, "replay", path, MUTANT)
        assert (wrong.status, wrong.errors) == (1, "")
        right = lastwriter(failed.folder, "replay", path, BASE)
        assert (right.status, right.errors) == (0, "")
        shrunk = lastwriter(failed.folder, "shrink", path, MUTANT)
        assert shrunk.status == 1
        assert shrunk.out.count("\n") <= each.operations + 4


class Recording:
    """The events of a run in this process."""

    def __init__(self, spec: str, out: Path, **changes: object) -> None:
        with InProcess(spec) as runner:
            description = runner.description
        fields: dict[str, object] = {
            "spec": spec, "description": description, "model": description.model, "out": out,
            "seed": 1, "programs": 60, "in_process": True,
        }  # fmt: skip
        self.request = Request(**(fields | changes))  # type: ignore[arg-type]
        out.mkdir(exist_ok=True)
        self.events: list[Event] = list(certify(self.request))

    @property
    def certificate(self) -> Certificate:
        (finished,) = [each for each in self.events if isinstance(each, Finished)]
        assert self.events[-1] is finished
        return finished.certificate

    @property
    def found(self) -> list[Found]:
        return [each for each in self.events if isinstance(each, Found)]

    @property
    def progress(self) -> list[Progress]:
        return [each for each in self.events if isinstance(each, Progress)]


def counted(certificate: Certificate) -> dict[str, object]:
    """What must not depend on how the work was shared."""
    return {
        "programs": certificate.programs,
        "operations": certificate.operations,
        "sweep_reads": certificate.sweep_reads,
        "lengths": certificate.lengths,
        "exercised": {each.rule: (each.exercised, each.details) for each in certificate.rules},
    }


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of our own: Hypothesis' database is there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestRuns:
    @pytest.mark.parametrize("model", Sync)
    def test_the_numbers_do_not_depend_on_the_processes(self, model: Sync, place: Path) -> None:
        alone = Recording(f"reference:{model}", place / "1", seed=5)
        shared = Recording(f"reference:{model}", place / "2", seed=5, jobs=2)
        other = Recording(f"reference:{model}", place / "3", seed=6)
        assert counted(alone.certificate) == counted(shared.certificate)
        assert counted(alone.certificate) != counted(other.certificate)

    def test_nor_do_the_programs(self, place: Path) -> None:
        logs = []
        for jobs in ("1", "2"):
            log = place / f"log-{jobs}"
            options = ("--programs", "60", "--seed", "9", "-j", jobs, "--out", f"out-{jobs}")
            done = lastwriter(
                place, "certify", trouble("Logs"), *options, LASTWRITER_TEST_LOG=str(log)
            )
            assert done.errors == ""
            logs.append(log.read_text().splitlines())
        assert len(logs[0]) == 60
        assert len(set(logs[0])) > 50
        assert sorted(logs[0]) == sorted(logs[1])

    def test_progress_adds_up(self, place: Path) -> None:
        run = Recording("reference:faulting", place / "out")
        programs = [each.programs for each in run.progress]
        assert programs == sorted(programs)
        assert len(programs) >= 3
        assert programs[-1] == run.certificate.programs == 60
        assert run.progress[-1].operations == run.certificate.operations
        assert {each.failing for each in run.progress} == {0}

    def test_it_ends_when_enough_has_failed(self, place: Path) -> None:
        run = Recording(MUTANT, place / "out", programs=100_000)
        assert 20 <= run.certificate.failing_programs <= 20 + 25
        assert len(run.found) == len({each.path for each in run.found})
        # Failing programs that are reduced to the same one are one.
        rules = Counter(each.failure.violation.rule for each in run.found)
        assert 1 <= rules.most_common(1)[0][1] <= PER_RULE

    def test_a_failure_that_is_expected_does_not_end_it(self, place: Path) -> None:
        expected = tuple(
            Expectation(rule=rule, reason="known", link="here") for rule in ("I12", "H3")
        )
        run = Recording(MUTANT, place / "out", programs=400, expected=expected)
        certificate = run.certificate
        assert certificate.programs >= 400
        assert certificate.failing_programs > 45
        assert certificate.expected == list(expected)

    @pytest.mark.parametrize(("operation", "verdict"), [("map", "PASS"), ("wait", "FAIL")])
    def test_what_is_expected_of_other_programs_is_not(
        self, operation: str, verdict: str, place: Path
    ) -> None:
        """Every program maps; what this mutant is reduced to waits for nothing."""
        expected = tuple(
            Expectation(rule=rule, reason="known", link="here", operations=(operation,))
            for rule in ("I12", "H3")
        )
        run = Recording(MUTANT, place / "out", programs=75, expected=expected)
        failed = [each for each in run.certificate.rules if each.failures]
        assert failed
        assert {each.expected for each in failed} == {verdict == "PASS"}
        assert (run.certificate.verdict == "FAIL") == (verdict == "FAIL")

    @pytest.mark.parametrize("source", ["folder", "database"])
    def test_what_failed_before_comes_first(self, source: str, place: Path) -> None:
        first = Recording(MUTANT, place / "out")
        kept = {each.path.name: load_program(each.path) for each in first.found}
        assert kept
        if source == "folder":
            shutil.rmtree(place / ".hypothesis")
        else:
            shutil.rmtree(place / "out")
        again = Recording(MUTANT, place / "out", programs=1, seed=2)
        assert isinstance(again.events[0], Found)
        assert {each.path.name for each in again.found[: len(kept)]} == kept.keys()
        assert again.certificate.programs == len(kept) + 1
        assert set(kept) <= {path.name for path in (place / "out" / "failures").iterdir()}

    def test_known_failures_of_others_are_left_alone(self, place: Path) -> None:
        first = Recording(MUTANT, place / "out")
        assert first.found
        other = Recording("reference:registration", place / "out", programs=25)
        assert other.certificate.programs == 25
        mended = Recording(BASE, place / "out", programs=25)
        assert mended.certificate.programs == 25 + len(first.found)
        assert mended.certificate.failing_programs == 0

    def test_a_candidate_that_cannot_be_had(self, place: Path) -> None:
        description = MIRRORS["faulting"]().describe()
        for jobs in (1, 2):
            request = Request("none.py:x", description, Sync.FAULTING, place, jobs=jobs, programs=9)
            with pytest.raises(CandidateError, match=r"no such file: none\.py"):
                list(certify(request))
        assert not [path for path in place.iterdir() if path.name != ".hypothesis"]

    def test_a_run_that_nobody_wants_any_more(self, place: Path) -> None:
        run = Recording("reference:faulting", place / "out", programs=1)
        events = certify(replace(run.request, programs=100_000, in_process=False))
        assert isinstance(next(events), Progress)
        before = signal.getsignal(signal.SIGINT)
        events.close()  # type: ignore[attr-defined]
        assert before is not signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert names_in(place / "out") == set()


class TestExpected:
    def run(self, folder: Path, text: str, spec: str = MUTANT) -> Done:
        (folder / "expect.toml").write_text(text)
        return lastwriter(
            folder, "certify", spec, "--programs", "200", "--seed", "1",
            "--expect", "expect.toml", "--in-process",
        )  # fmt: skip

    def test_to_fail_and_does(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, EXPECT_I12 + EXPECT_I12.replace("I12", "H3"))
        assert "     expected: not yet (https://example.org/1)\n" in done.out
        assert (done.rule("I12").verdict, done.rule("I12").reason) == (Verdict.FAIL, "expected")
        assert done.rule("H3").verdict is Verdict.FAIL
        assert "a rule failed" not in done.out
        assert (done.status, done.errors) == (0, "")

    def test_to_fail_and_does_not(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, EXPECT_I12, BASE)
        line = "rule I12 was expected to fail (not yet), but is PASS"
        assert done.status == 1
        assert f"\n{line}\n" in done.out
        assert done.certificate.surprises == [line]
        assert done.certificate.verdict is Verdict.PASS

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            (EXPECT_I12.replace("I12", "I99"), "no such rule: 'I99'; near: I9, "),
            (EXPECT_I12 * 2, "rule I12 is named twice"),
            (EXPECT_I12.replace("not yet", ""), "rule I12 needs a reason and a link"),
            (
                EXPECT_I12.replace('reason = "not yet"\n', ""),
                "Object missing required field `reason`",
            ),
            ("[[expect\n", "Expected ']]'"),
        ],
    )
    def test_files_that_are_wrong(self, text: str, problem: str, tmp_path: Path) -> None:
        done = self.run(tmp_path, text)
        assert done.status == 2
        assert done.error.startswith(f"expect.toml: {problem}")
        assert names_in(tmp_path) == {"expect.toml"}
