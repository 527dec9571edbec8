"""A machine for a candidate, with a QEMU that has none behind it: whatever it does is a verdict."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from commanding import Running
from machines import fake_qemu
from test_worker import BAD, MISBEHAVING, PATIENT, broken, expected, program

from adapters.candidate import CandidateError
from adapters.registry import Reach, open_candidate, reach_of
from adapters.vm import initramfs as archives
from adapters.vm import start
from adapters.vm.initramfs import place
from adapters.vm.machine import Boot, Machine
from adapters.vm.places import DONE, Kernel, Record, digest, fragment, root
from adapters.worker import InProcess, Limits, Worker
from reference.model import judge
from reference.trace import Cause, Trace

COMPLAINING = Path(__file__).with_name("complaining.py")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel that counts as built with its agent, and a QEMU."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = root() / "kernels" / "lean-0"
    (folder / "build" / "lib").mkdir(parents=True)
    (folder / "build" / "vmlinux").touch()
    (folder / "build" / "lib" / "test_hmm.ko").touch()
    (folder / "in-use").touch()
    record = Record(
        flavour="lean", version="6.12.1", source="", options=digest(fragment("lean")),
        built="2026-01-01", seconds=1,
    )  # fmt: skip
    (folder / DONE).write_bytes(msgspec.json.encode(record))
    (root() / "lean").symlink_to(folder)
    archive = place(Kernel(folder))
    archive.parent.mkdir()
    archive.touch()
    fake_qemu(tmp_path, monkeypatch)
    monkeypatch.setenv("FAKE_CANDIDATE", f"{MISBEHAVING}:Prints")
    return folder


def holds(name: str, monkeypatch: pytest.MonkeyPatch, file: Path = COMPLAINING) -> None:
    monkeypatch.setenv("FAKE_CANDIDATE", f"{file}:{name}")


def run_bad() -> Trace:
    with Worker("linux:hmm", limits=PATIENT) as worker:
        assert worker.run(program()).outcomes == expected()
        return worker.run(program(BAD))


@pytest.mark.usefixtures("machine")
class TestVerdicts:
    def test_a_program(self) -> None:
        with Worker("linux:hmm", limits=PATIENT) as worker:
            assert worker.run(program()).outcomes == expected()
            assert worker.run(program(BAD)).breakdown is None
            assert worker.description.version.startswith("6.12.1, lean machine lean-0")

    @pytest.mark.parametrize(
        ("name", "cause", "text"),
        [
            ("HangsUp", Cause.CRASH, "closed its connection and lives on"),
            ("Scribbles", Cause.GARBAGE, "a frame of 4294967295 bytes"),
            ("GivesUnknownStatus", Cause.GARBAGE, "status 17 is no Status"),
        ],
    )
    def test_an_agent_that_lies(
        self, name: str, cause: Cause, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        holds(name, monkeypatch, MISBEHAVING)
        with Worker("linux:hmm", limits=PATIENT) as worker:
            breakdown = broken(worker, program(BAD))
        assert breakdown.cause == cause
        assert text in breakdown.message

    def test_an_agent_that_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        holds("Loops", monkeypatch, MISBEHAVING)
        with Worker("linux:hmm", limits=PATIENT) as worker:
            assert worker.run(program()).breakdown is None
            worker.limits = Limits(seconds=0.3)
            hung = worker.run(program(BAD)).breakdown
            assert hung is not None
            assert hung.cause is Cause.HANG

    def test_a_warning_though_every_answer_is_right(self, monkeypatch: pytest.MonkeyPatch) -> None:
        holds("Complains", monkeypatch)
        trace = run_bad()
        assert trace.outcomes == expected(BAD)
        assert trace.breakdown is not None
        first, *rest = trace.breakdown.message.splitlines()
        assert first == "WARNING: CPU: 0 PID: 42 at lib/test_hmm.c:123 dmirror_fops_release+0x5/0x9"
        assert rest == ["the kernel's log:", "[    7.250002] CPU: 0 UID: 0 PID: 42 Comm: init"]
        violation = judge(trace).violation
        assert violation is not None
        assert (violation.rule, violation.index) == ("R5", 3)
        assert violation.message.startswith("kernel: WARNING: CPU: 0")

    def test_after_a_warning_there_is_another_machine(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        holds("Complains", monkeypatch)
        with Worker("linux:hmm", limits=PATIENT) as worker:
            for value in (7, BAD, 8, BAD):
                assert (worker.run(program(value)).breakdown is None) == (value != BAD)

    def test_a_warning_in_a_program_that_was_sent_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is in the log before the answer to the first one is looked at."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        monkeypatch.setenv("FAKE_PIPE", str(pipe))
        holds("Marks", monkeypatch)
        with Worker("linux:hmm", limits=PATIENT) as worker:
            for value in (7, BAD):
                worker.begin(program(value))
            assert pipe.read_text("utf-8") == "complained"
            first, second = worker.finish(), worker.finish()
        assert (first.breakdown, first.outcomes) == (None, expected())
        assert second.outcomes == expected(BAD)
        assert second.breakdown is not None
        assert second.breakdown.message.startswith("WARNING: CPU: 0")

    def test_a_mark_that_is_forged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        holds("Forges", monkeypatch)
        breakdown = run_bad().breakdown
        assert breakdown is not None
        assert breakdown.cause is Cause.KERNEL

    def test_an_oops(self, monkeypatch: pytest.MonkeyPatch) -> None:
        holds("Oopses", monkeypatch)
        breakdown = run_bad().breakdown
        assert breakdown is not None
        assert breakdown.cause is Cause.CRASH
        lines = breakdown.message.splitlines()
        assert re.fullmatch(
            r"BUG: kernel NULL .*: 0000000000000008 \(was killed by SIGKILL\)", lines[0]
        )
        assert lines[1:3] == ["the kernel's log:", "#PF: supervisor read access in kernel mode"]

    def test_a_flood(self, monkeypatch: pytest.MonkeyPatch) -> None:
        holds("Floods", monkeypatch)
        breakdown = run_bad().breakdown
        assert breakdown is not None
        assert breakdown.cause is Cause.KERNEL
        assert len(breakdown.message) < 100_000


class TestStart:
    def test_the_state_is_saved_once(self, machine: Path) -> None:
        for _ in range(2):
            with Worker("linux:hmm", limits=PATIENT) as worker:
                worker.run(program())
        states = list((machine / "states").iterdir())
        assert [path.read_bytes() for path in states] == [b"a state"]

    @pytest.mark.usefixtures("machine")
    @pytest.mark.parametrize(
        ("control", "text"),
        [
            ("WARNING", "does not come up: WARNING"),
            ("silence", "does not come up: no answer in time"),
            ("flood", "does not come up: a line of more than 65536 bytes"),
        ],
    )
    def test_a_machine_that_does_not_come_up(
        self, control: str, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_CONTROL", control)
        seconds = 0.5 if control == "silence" else 60
        monkeypatch.setattr(start, "_BOOT_SECONDS", seconds)
        with pytest.raises(CandidateError, match=text):
            Worker("linux:hmm", limits=PATIENT)

    def test_a_qemu_that_dies(self, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        qemu = machine.parents[4] / "bin" / "qemu-system-x86_64"
        qemu.write_text("#!/bin/sh\necho no such machine >&2; exit 1\n")
        with pytest.raises(CandidateError, match="QEMU exited with status 1\nno such machine"):
            Worker("linux:hmm", limits=PATIENT)
        assert not list((machine / "states").iterdir())

    def test_a_state_that_came_to_harm_is_saved_again(self, machine: Path) -> None:
        with Worker("linux:hmm", limits=PATIENT) as worker:
            worker.run(program())
        (state,) = (machine / "states").iterdir()
        state.write_bytes(b"harmed")
        with Worker("linux:hmm", limits=PATIENT) as worker:
            assert worker.run(program()).outcomes == expected()
        assert state.read_bytes() == b"a state"

    def test_states_of_an_agent_that_was_are_removed(self, machine: Path) -> None:
        old = machine / "states" / "hmm-old"
        old.parent.mkdir()
        old.touch()
        os.utime(old, (1, 1))
        with Worker("linux:hmm", limits=PATIENT) as worker:
            worker.run(program())
        assert not old.exists()

    def test_a_half_saved_state_does_not_count(
        self, machine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Machine, "save", _half)
        with pytest.raises(KeyboardInterrupt):
            Worker("linux:hmm", limits=PATIENT)
        monkeypatch.undo()
        assert [path.suffix for path in (machine / "states").iterdir()] == [".part"]

    @pytest.mark.usefixtures("machine")
    def test_not_in_process(self) -> None:
        assert reach_of("linux:hmm,flavour=debug") is Reach.MACHINE
        with pytest.raises(CandidateError, match="cannot be loaded into"):
            InProcess("linux:hmm")
        with pytest.raises(CandidateError, match="cannot be loaded into"):
            open_candidate("linux:hmm")


def _half(_: object, path: Path) -> None:
    path.write_bytes(b"a st")
    raise KeyboardInterrupt


@pytest.fixture
def restored(machine: Path, monkeypatch: pytest.MonkeyPatch) -> list[Machine]:
    """The machines that are started from a saved state from now on; each is broken by `BAD`."""
    assert machine.exists()
    machines: list[Machine] = []
    begin = Machine.__init__

    def note(each: Machine, boot: Boot, state: Path | None = None) -> None:
        begin(each, boot, state)
        if state is not None:
            machines.append(each)

    monkeypatch.setattr(Machine, "__init__", note)
    holds("Complains", monkeypatch)
    return machines


def break_once(worker: Worker) -> None:
    assert worker.run(program(BAD)).breakdown is not None
    assert worker.run(program()).outcomes == expected()


class TestSpare:
    """A machine that is started before the one that it replaces is broken."""

    def test_there_is_none_before_it_is_known_to_be_needed(self, restored: list[Machine]) -> None:
        with Worker("linux:hmm", limits=PATIENT) as worker:
            for _ in range(3):
                assert worker.run(program()).breakdown is None
        assert len(restored) == 1

    def test_it_is_taken_next(self, restored: list[Machine]) -> None:
        with Worker("linux:hmm", limits=PATIENT) as worker:
            break_once(worker)
            spare = restored[2]
            break_once(worker)
            assert len(restored) == 4, "the spare one was taken, and there is another"
            assert spare.child.death() is None
        assert not any(Path(f"/proc/{each.child.pid}").exists() for each in restored)

    def test_one_that_has_died_is_not_taken(self, restored: list[Machine]) -> None:
        with Worker("linux:hmm", limits=PATIENT) as worker:
            break_once(worker)
            os.kill(restored[2].child.pid, signal.SIGKILL)
            break_once(worker)
        assert len(restored) == 5

    def test_one_of_another_kind_is_not_taken(self, restored: list[Machine]) -> None:
        """The kernel may have been built anew in the meantime."""
        with Worker("linux:hmm", limits=PATIENT) as worker:
            break_once(worker)
            restored[2].boot = replace(restored[2].boot, memory=1024)
            break_once(worker)
            assert not Path(f"/proc/{restored[2].child.pid}").exists()
        assert len(restored) == 5

    def test_it_ends_where_none_can_be_started(
        self, restored: list[Machine], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Worker("linux:hmm", limits=PATIENT) as worker:
            break_once(worker)
            monkeypatch.setattr("adapters.vm.holder.lacks", lambda _: "needs luck")
            assert worker.run(program(BAD)).breakdown is not None
            with pytest.raises(CandidateError, match="needs luck"):
                worker.run(program())
            assert not Path(f"/proc/{restored[2].child.pid}").exists()


class TestDrivers:
    def test_a_module_is_swapped_in(self, machine: Path, tmp_path: Path) -> None:
        module = tmp_path / "changed.ko"
        module.write_bytes(b"\x7fELF" + bytes(100_000))
        with Worker(f"linux:hmm,module={module}", limits=PATIENT) as worker:
            assert worker.run(program()).outcomes == expected()
            assert ", driver " in worker.description.version

    @pytest.mark.usefixtures("machine")
    def test_a_module_that_is_none(self, tmp_path: Path) -> None:
        module = tmp_path / "changed.ko"
        module.write_bytes(b"#!/bin/sh")
        with pytest.raises(CandidateError, match="does not take it: error: no module"):
            Worker(f"linux:hmm,module={module}", limits=PATIENT)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_suite_that_is_killed_leaves_no_machine(
    jobs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds("Loops", monkeypatch, MISBEHAVING)
    folder = tmp_path / "run"
    folder.mkdir()
    with Running(folder, "certify", "linux:hmm", "--seconds", "1000", "-j", jobs) as running:
        running.await_line("certifying linux:hmm")
        running.process.kill()
        running.await_nobody()


class TestInitramfs:
    @pytest.fixture
    def agent(self, machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = machine / "agent.c"
        path.write_text('#include "lastwriter.h"\nint main(void) { return LW_ABI_VERSION; }\n')
        monkeypatch.setattr(archives, "sources", lambda _: [path])
        return path

    @pytest.mark.usefixtures("agent")
    def test_what_is_in_it(self, machine: Path) -> None:
        path = archives.initramfs(Kernel(machine))
        with path.open("rb") as archive:
            listed = subprocess.run(
                ["cpio", "--list", "--quiet"], stdin=archive, capture_output=True, check=True
            )
        assert {b"init", b"lib/modules/test_hmm.ko"} <= set(listed.stdout.split())

    def test_it_is_made_once_for_an_agent(self, agent: Path, machine: Path) -> None:
        first = archives.initramfs(Kernel(machine))
        made = first.stat().st_mtime_ns
        assert archives.initramfs(Kernel(machine)).stat().st_mtime_ns == made
        agent.write_text("int main(void) { return 1; }\n")
        assert archives.initramfs(Kernel(machine)) != first

    def test_an_agent_that_does_not_compile(self, agent: Path, machine: Path) -> None:
        agent.write_text("int main(void) { return nothing; }\n")
        with pytest.raises(CandidateError, match=r"cannot compile the agent: (.|\n)*nothing"):
            archives.initramfs(Kernel(machine))
