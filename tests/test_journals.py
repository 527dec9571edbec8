"""Journals: runs that share a folder, and what those that were killed leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from commanding import (
    COMMAND,
    SECONDS,
    TROUBLE,
    Running,
    apart,
    environment,
    failures_in,
    lastwriter,
)
from commanding import names_in as names

from adapters.candidate import CandidateError
from adapters.journal import Journal, journal_path, journals_of, left_behind
from conformance.store import load_program
from reference.program import Program
from reference.text import parse

pytest_plugins = ["pytester"]

MUTANT = "mutant:unmap-missed"
ENDLESS = ("--seconds", "100000", "--seed", "1")
EXPECT = '[[expect]]\nrule = "{}"\nreason = "not yet"\nlink = "https://example.org/1"\n'
PROGRAM = parse("""lastwriter 1
geometry processes=1 devices=1 files=0 keys=0 jobs=0
map p0 rw page=0 pages=4
unmap p0 page=0 pages=4
""")
"""What `trouble` cannot stand."""


def leave(folder: Path, data: bytes, name: str = "running-x-1.lwb") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    return path


def running_in(folder: Path) -> set[str]:
    return {each for each in names(folder / "lastwriter-out") if each.startswith("running-")}


class TestJournals:
    def test_hold_the_last_program(self, tmp_path: Path) -> None:
        path = journal_path(tmp_path, "x")
        journal = Journal(path)
        for data in (b"a longer one", b"short"):
            journal.write(data)
        assert path.read_bytes() == b"short" + bytes(8) + bytes(7)
        assert names(tmp_path) == {f"running-x-{os.getpid()}.lwb"}
        journal.close()
        assert journals_of(tmp_path, "x") == [path]
        assert journals_of(tmp_path, "y") == []

    def test_are_not_left_behind_while_their_owner_lives(self, tmp_path: Path) -> None:
        journal = Journal(journal_path(tmp_path, "x"))
        journal.write(PROGRAM.to_bytes())
        assert list(left_behind(tmp_path)) == []
        journal.close()
        assert list(left_behind(tmp_path)) == [(journal_path(tmp_path, "x"), [PROGRAM])]

    def test_belong_to_one_finder_at_a_time(self, tmp_path: Path) -> None:
        path = leave(tmp_path, PROGRAM.to_bytes())
        finder = left_behind(tmp_path)
        assert next(finder) == (path, [PROGRAM])
        assert list(left_behind(tmp_path)) == []
        assert list(finder) == []
        assert list(left_behind(tmp_path)) == [(path, [PROGRAM])]

    def test_without_a_program_are_passed_over(self, tmp_path: Path) -> None:
        torn = leave(tmp_path, PROGRAM.to_bytes()[:-1])
        leave(tmp_path, b"", "running-x-2.lwb")
        whole = leave(tmp_path, PROGRAM.to_bytes(), "running-x-3.lwb")
        assert list(left_behind(tmp_path)) == [(whole, [PROGRAM])]
        assert names(tmp_path) == {torn.name, whole.name}

    def test_with_several_programs_give_those_that_are_whole(self, tmp_path: Path) -> None:
        other = replace(PROGRAM, operations=PROGRAM.operations[:1])
        journal = Journal(journal_path(tmp_path, "x"))
        journal.write(PROGRAM.to_bytes(), PROGRAM.to_bytes(), PROGRAM.to_bytes())
        journal.write(PROGRAM.to_bytes(), other.to_bytes())
        journal.close()
        torn = leave(tmp_path, PROGRAM.to_bytes() + other.to_bytes()[:-1], "running-x-y.lwb")
        endless = leave(tmp_path, PROGRAM.to_bytes() * 1000, "running-x-z.lwb")
        found = dict(left_behind(tmp_path))
        assert found.pop(torn) == [PROGRAM]
        assert found.pop(endless) == [PROGRAM] * 16
        assert list(found.values()) == [[PROGRAM, other]]

    def test_that_cannot_be_had(self, tmp_path: Path) -> None:
        with pytest.raises(CandidateError, match=r"cannot write the journal .*: No such file"):
            Journal(tmp_path / "none" / "journal")
        with pytest.raises(CandidateError, match=r"cannot write the journal .*: Is a directory"):
            Journal(tmp_path)


class TestSharedFolders:
    @pytest.mark.parametrize("jobs", ["1", "2"])
    def test_one_run_leaves_the_journals_of_another(self, jobs: str, tmp_path: Path) -> None:
        (tmp_path / "expect.toml").write_text(EXPECT.format("I12") + EXPECT.format("H3"))
        options = ("--expect", "expect.toml", "-j", jobs)
        with Running(tmp_path, "certify", MUTANT, *ENDLESS, *options) as first:
            first.await_line("     again: ")
            before = running_in(tmp_path)
            second = lastwriter(tmp_path, "certify", "reference:faulting", "--programs", "20")
            assert second.status == 3
            after = running_in(tmp_path)
            os.killpg(first.process.pid, signal.SIGINT)
            assert first.end().status == 130
        assert before
        # A process of the first run may have begun its own since.
        assert after >= before
        assert not any("killed" in each for each in failures_in(tmp_path))
        assert names(tmp_path / "lastwriter-out") == {"certificate.json", "failures"}

    def test_what_a_killed_run_was_at_is_run_first(self, tmp_path: Path) -> None:
        out = tmp_path / "lastwriter-out"
        leave(out, PROGRAM.to_bytes())
        spec = f"{TROUBLE}:Crashes"
        done = lastwriter(tmp_path, "certify", spec, "--programs", "1", "--seed", "4")
        assert done.status == 1
        assert names(out) == {"certificate.json", "failures"}
        (kept,) = (each for each in failures_in(tmp_path) if each.startswith("killed-"))
        program = load_program(out / "failures" / kept)
        assert [comment.text for comment in program.comments] == ["running when x-1 was killed"]
        assert program.operations == PROGRAM.operations
        assert any(each.rule == "R1" for each in done.certificate.failures)

    def test_of_a_real_death(self, tmp_path: Path) -> None:
        """In the suite's own process a crash is one of the run: the next one has its program."""
        options = ("--programs", "50", "--seed", "4")
        spec = f"{TROUBLE}:Crashes"
        died = apart(tmp_path, "certify", spec, *options, "--in-process")
        assert died.status == -signal.SIGABRT
        (journal,) = names(tmp_path / "lastwriter-out")
        program = Program.from_bytes((tmp_path / "lastwriter-out" / journal).read_bytes())
        done = lastwriter(tmp_path, "certify", spec, "--programs", "1", "--seed", "5")
        assert done.rule("R1").failures == 1
        (kept,) = (each for each in failures_in(tmp_path) if each.startswith("killed-"))
        kept_program = load_program(tmp_path / "lastwriter-out" / "failures" / kept)
        assert kept_program.operations == program.operations

    def test_pytest_takes_them_in_too(
        self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        leave(pytester.path / "lastwriter-out", PROGRAM.to_bytes())
        result = pytester.runpytest_subprocess(
            *("-p", "conformance.plugin", "-p", "no:cacheprovider", "-kknown_failures"),
            f"--candidate={TROUBLE}:Crashes",
        )
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["*, 1 known failures", "*test_known_failures?killed-*"])
        assert not list(pytester.path.glob("lastwriter-out/running-*"))


class TestReadersThatLeave:
    """What is found is kept, and the verdict is the exit status, if nobody reads what is shown."""

    def certify(self, folder: Path, stdout: int) -> subprocess.CompletedProcess[str]:
        budget = ("--programs", "60", "--seed", "1")
        return subprocess.run(
            [*COMMAND, "certify", MUTANT, *budget], cwd=folder, env=environment(), text=True,
            stdout=stdout, stderr=subprocess.PIPE, timeout=SECONDS, check=False,
        )  # fmt: skip

    def test_a_broken_pipe(self, tmp_path: Path) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        broken = self.certify(tmp_path, writer)
        os.close(writer)
        assert (broken.returncode, broken.stderr) == (1, "")
        kept = (tmp_path / "lastwriter-out" / "certificate.json").read_bytes()
        failures = failures_in(tmp_path)
        assert failures
        whole = lastwriter(tmp_path, "certify", MUTANT, "--programs", "60", "--seed", "1")
        assert whole.status == 1
        assert f'"verdict": "{whole.certificate.verdict}"'.encode() in kept
        assert failures_in(tmp_path) == failures

    def test_a_full_disk_for_what_is_shown(self, tmp_path: Path) -> None:
        with Path("/dev/full").open("w") as full:
            done = self.certify(tmp_path, full.fileno())
        assert (done.returncode, done.stderr) == (2, "lastwriter: No space left on device\n")
        assert (tmp_path / "lastwriter-out" / "certificate.json").exists()
        assert failures_in(tmp_path)
