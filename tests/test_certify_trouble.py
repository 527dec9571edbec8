"""Runs that get into trouble: by the candidate, by the keyboard, by the machine."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commanding import TROUBLE, Running, apart, failures_in, lastwriter, names_in

from conformance.store import load_program
from conformance.verdicts import Verdict

MUTANT = "mutant:unmap-missed"
ENDLESS = ("--seconds", "100000", "--seed", "1")
EXPECT = '[[expect]]\nrule = "{}"\nreason = "not yet"\nlink = "https://example.org/1"\n'


def trouble(name: str) -> str:
    return f"{TROUBLE}:{name}"


class TestTrouble:
    @pytest.mark.parametrize(
        ("name", "rule", "message", "options"),
        [
            ("Crashes", "R1", "crash: was killed by SIGABRT", ()),
            ("Hangs", "R2", "hang: no answer within 0.5 s", ("--hang", "0.5")),
            ("Eats", "R3", "memory: holds ", ("--memory", "256")),
            ("Raises", "R4", "refused: run raised ValueError: no such", ()),
            ("AnswersGarbage", "R4", "garbage: outcome of operation 0 ", ()),
        ],
    )
    def test_is_a_failure_and_the_run_goes_on(
        self, name: str, rule: str, message: str, options: tuple[str, ...], tmp_path: Path
    ) -> None:
        budget = ("--programs", "12", "--seed", "4")
        done = lastwriter(tmp_path, "certify", trouble(name), *budget, *options)
        assert (done.status, done.errors) == (1, "")
        certificate = done.certificate
        assert 0 < certificate.failing_programs < certificate.programs <= 12
        assert done.rule(rule).verdict is Verdict.FAIL
        assert done.rule(rule).exercised == certificate.programs - certificate.failing_programs
        (record,) = certificate.failures
        assert record.rule == rule
        assert record.message.startswith(message)
        program = load_program(tmp_path / "lastwriter-out" / record.file)
        assert record.operations == len(program) <= 2
        assert f"FAIL {rule}  " in done.out

    @pytest.mark.parametrize("jobs", ["1", "2"])
    def test_always_ends_a_run_early(self, jobs: str, tmp_path: Path) -> None:
        options = ("--programs", "1000", "--hang", "0.1", "-j", jobs)
        done = lastwriter(tmp_path, "certify", trouble("AlwaysHangs"), *options)
        assert (done.status, done.errors) == (1, "")
        assert 5 <= done.certificate.programs <= 10
        assert done.certificate.failing_programs == done.certificate.programs
        assert done.rule("R2").failures == done.certificate.programs

    def test_always_crashing(self, tmp_path: Path) -> None:
        done = lastwriter(tmp_path, "certify", trouble("AlwaysCrashes"), "--programs", "1000")
        assert (done.status, done.errors) == (1, "")
        assert done.certificate.programs == 20
        assert done.certificate.failures[0].operations == 1

    @pytest.mark.parametrize("jobs", ["1", "2"])
    def test_a_candidate_that_cannot_be_started_again(self, jobs: str, tmp_path: Path) -> None:
        for source in (TROUBLE, TROUBLE.with_name("misbehaving.py")):
            shutil.copy(source, tmp_path)
        options = ("--programs", "500", "--seed", "4", "-j", jobs)
        done = lastwriter(tmp_path, "certify", "trouble.py:Vanishes", *options)
        assert (done.status, done.error) == (2, "no such file: trouble.py")
        certificate = done.certificate
        assert certificate.problem == done.error
        assert not certificate.interrupted
        assert 0 < certificate.programs < 500
        assert done.rule("R1").verdict is Verdict.FAIL
        assert certificate.failures[0].message == "crash: exited with status 3"
        assert failures_in(tmp_path) == {Path(each.file).name for each in certificate.failures}
        assert "ended early" in done.out
        assert names_in(tmp_path / "lastwriter-out") == {"certificate.json", "failures"}


@contextmanager
def endless(folder: Path, jobs: str) -> Iterator[Running]:
    """A run that has found something and has no end."""
    (folder / "expect.toml").write_text(EXPECT.format("I12") + EXPECT.format("H3"))
    options = ("--expect", "expect.toml", "-j", jobs)
    with Running(folder, "certify", MUTANT, *ENDLESS, *options) as running:
        running.await_line("     again: ")
        yield running


class TestInterruption:
    @pytest.mark.parametrize("jobs", ["1", "2"])
    def test_by_the_keyboard(self, jobs: str, tmp_path: Path) -> None:
        with endless(tmp_path, jobs) as running:
            os.killpg(running.process.pid, signal.SIGINT)
            done = running.end()
        assert (done.status, done.errors) == (130, "")
        assert "\ninterrupted: this is what was found until then\n" in done.out
        certificate = done.certificate
        assert certificate.interrupted
        assert certificate.programs > 0
        assert certificate.failures
        assert failures_in(tmp_path) == {Path(each.file).name for each in certificate.failures}
        assert names_in(tmp_path / "lastwriter-out") == {"certificate.json", "failures"}

    @pytest.mark.parametrize("jobs", ["1", "2"])
    def test_by_death(self, jobs: str, tmp_path: Path) -> None:
        with endless(tmp_path, jobs) as running:
            running.process.kill()
            done = running.end()
        assert done.status == -signal.SIGKILL
        assert failures_in(tmp_path)
        assert any(name.startswith("running-") for name in names_in(tmp_path / "lastwriter-out"))

    def test_by_the_death_of_a_process_that_shares_the_work(self, tmp_path: Path) -> None:
        with endless(tmp_path, "2") as running:
            victim, _ = running.pool()
            os.kill(victim, signal.SIGKILL)
            done = running.end()
        (path,) = (tmp_path / "lastwriter-out").glob(f"running-*-{victim}.lwb")
        journal = path.relative_to(tmp_path)
        assert done.status == 2
        assert done.error == (
            f"process {victim} of the run was killed by signal 9; its last program is in {journal}"
        )
        assert done.certificate.problem == done.error
        assert done.certificate.failures
        assert len(load_program(tmp_path / journal)) > 0

    @pytest.mark.parametrize("jobs", ["1", "2"])
    def test_while_a_candidate_hangs(
        self, jobs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = ("--hang", "1000", "-j", jobs)
        with hanging(tmp_path, monkeypatch, "certify", trouble("AlwaysHangs"), *options) as running:
            os.killpg(running.process.pid, signal.SIGINT)
            done = running.end()
        assert (done.status, done.errors) == (130, "")
        assert done.certificate.interrupted
        assert done.certificate.programs == 0

    def test_of_a_replay(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.lw").write_text("lastwriter 1\ngeometry processes=1 devices=1 files=0"
                                       " keys=0 jobs=0\nmap p0 rw page=0 pages=1\n")  # fmt: skip
        options = ("a.lw", trouble("AlwaysHangs"), "--hang", "1000")
        with hanging(tmp_path, monkeypatch, "replay", *options) as running:
            os.killpg(running.process.pid, signal.SIGINT)
            done = running.end()
        assert (done.status, done.out, done.errors.strip()) == (130, "", "")


@contextmanager
def hanging(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Iterator[Running]:
    """A command whose candidate hangs, and has said so."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setenv("MISBEHAVING_PIPE", str(pipe))
    with Running(folder, *arguments) as running:
        assert len(pipe.read_text().split()) >= 2
        yield running


class TestInProcess:
    def test_a_crash_leaves_the_program(self, tmp_path: Path) -> None:
        options = ("--programs", "50", "--seed", "4", "--in-process")
        done = apart(tmp_path, "certify", trouble("Crashes"), *options)
        assert done.status == -signal.SIGABRT
        (journal,) = names_in(tmp_path / "lastwriter-out")
        replayed = lastwriter(tmp_path, "replay", f"lastwriter-out/{journal}", trouble("Crashes"))
        assert replayed.status == 1
        assert replayed.out.startswith("FAIL R1  ")

    def test_a_crash_of_a_process_that_shares_the_work(self, tmp_path: Path) -> None:
        options = ("--programs", "50", "--seed", "4", "--in-process", "-j", "2")
        done = apart(tmp_path, "certify", trouble("Crashes"), *options)
        assert done.status == 2
        assert "of the run was killed by signal 6; its last program is in " in done.errors
        assert "Traceback" not in done.errors

    def test_an_exception_is_only_a_failure(self, tmp_path: Path) -> None:
        options = ("--programs", "50", "--seed", "4", "--in-process")
        done = apart(tmp_path, "certify", trouble("Raises"), *options)
        assert (done.status, done.errors) == (1, "")
        assert done.rule("R4").verdict is Verdict.FAIL
