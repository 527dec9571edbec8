"""Workers: whatever a candidate does is a verdict, and the run goes on."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from adapters import linux
from adapters.candidate import CandidateError
from adapters.process import Child
from adapters.worker import InProcess, Limits, Runner, Worker
from reference.geometry import Geometry
from reference.operations import Flag, Kind, Operation
from reference.outcomes import Outcome, Status
from reference.program import Program
from reference.trace import Breakdown, Cause

MISBEHAVING = Path(__file__).with_name("misbehaving.py")
ROOT = Path(__file__).parents[1]
TINY = "adapters.examples.tiny:Tiny"
GEOMETRY = Geometry(pages=4, processes=1, devices=1, files=0, keys=0, jobs=0)
PATIENT = Limits(seconds=120)
BAD = 0xBAD
MANY_SECONDS = 60


def program(value: int = 7, *, geometry: Geometry = GEOMETRY) -> Program:
    """Map a page, have the device write a value, read it."""
    access = Operation(Kind.READ, 0, 0, 0, page=0, pages=0, offset=8, length=8)
    return Program(
        (
            Operation(Kind.MAP, 0, 0, Flag.READ | Flag.WRITE, page=0, pages=1),
            Operation(Kind.ATTACH, 0, 0, 0, page=0, pages=0),
            access._replace(kind=Kind.DWRITE, value=value),
            access,
        ),
        geometry,
    )


def expected(value: int = 7) -> tuple[Outcome, ...]:
    ok = Outcome(Status.OK)
    return ok, ok, Outcome(0, done=8), Outcome(0, done=8, data=value.to_bytes(8, "little"))


def misbehaving(name: str) -> str:
    return f"{MISBEHAVING}:{name}"


def broken(runner: Runner, bad: Program) -> Breakdown:
    """How a bad program ends, once the one before it and the one after it have passed."""
    assert runner.run(program()).outcomes == expected()
    trace = runner.run(bad)
    assert trace.breakdown is not None
    assert trace.outcomes == ()
    if isinstance(runner, Worker):
        runner.limits = PATIENT
    after = runner.run(program(8))
    assert (after.breakdown, after.outcomes) == (None, expected(8))
    return trace.breakdown


REFUSALS = [
    ("Raises", Cause.REFUSED, r"run raised ValueError: no such.*luck \(.*misbehaving\.py:\d+\)"),
    ("Leaves", Cause.REFUSED, r"run raised SystemExit: enough \(.*misbehaving\.py:\d+\)"),
    ("GivesTooFew", Cause.GARBAGE, r"run gave 3 outcomes for 4 operations"),
    ("GivesNone", Cause.GARBAGE, r"run gave None instead of a sequence of outcomes"),
    ("GivesStrings", Cause.GARBAGE, r"outcome of operation 0 \(map\): str is no Outcome"),
    ("GivesStringAsData", Cause.GARBAGE, r"operation 0 \(map\): data is str instead of bytes"),
    ("GivesUnknownStatus", Cause.GARBAGE, r"operation 3 \(read\): status 17 is no Status"),
    ("GivesNegativeCount", Cause.GARBAGE, r"operation 3 \(read\): done -8 is no number of bytes"),
    ("GivesHugeError", Cause.GARBAGE, r"operation 3 \(read\): error 65536 is no errno"),
]
DEATHS = [
    ("GivesTooMuch", Cause.GARBAGE, r"run gave \d+ bytes, more than a frame may hold"),
    ("Exits", Cause.CRASH, r"exited with status 3"),
    ("Segfaults", Cause.CRASH, r"was killed by SIGSEGV\nlast output:\n(.*\n)*.*in worst"),
    ("Aborts", Cause.CRASH, r"was killed by SIGABRT\n(.*\n)*assertion failed: \ufffd\[31mframes\n"),
    ("Scribbles", Cause.GARBAGE, r"a frame of 4294967295 bytes"),
    ("HangsUp", Cause.CRASH, r"closed its connection and lives on"),
    ("DiesBehindAChild", Cause.CRASH, r"was killed by SIGKILL"),
]


class TestVerdicts:
    @pytest.mark.parametrize(("name", "cause", "text"), REFUSALS + DEATHS)
    def test_in_a_worker(self, name: str, cause: Cause, text: str) -> None:
        with Worker(misbehaving(name), limits=PATIENT) as worker:
            breakdown = broken(worker, program(BAD))
        assert breakdown.cause == cause
        assert re.match(f".*{text}", breakdown.message)
        assert "\x1b" not in breakdown.message

    @pytest.mark.parametrize(("name", "cause", "text"), REFUSALS)
    def test_in_process(self, name: str, cause: Cause, text: str) -> None:
        with InProcess(misbehaving(name)) as runner:
            breakdown = broken(runner, program(BAD))
        assert breakdown.cause == cause
        assert re.match(f".*{text}", breakdown.message)

    @pytest.mark.parametrize("runner", [Worker, InProcess])
    def test_reset_raises(self, runner: type[Worker] | type[InProcess]) -> None:
        with runner(misbehaving("RaisesInReset")) as running:
            breakdown = broken(running, program(geometry=GEOMETRY._replace(pages=1)))
        assert breakdown.cause == Cause.REFUSED
        assert "reset raised OSError: [Errno 12]" in breakdown.message

    def test_hang(self) -> None:
        with Worker(misbehaving("Loops"), limits=PATIENT) as worker:
            assert worker.run(program()).breakdown is None
            worker.limits = Limits(seconds=0.5)
            trace = worker.run(program(BAD))
            assert trace.breakdown == Breakdown(Cause.HANG, "no answer within 0.5 s")
            worker.limits = PATIENT
            assert worker.run(program(8)).outcomes == expected(8)

    @pytest.mark.parametrize("name", ["Eats", "EatsInC", "EatsInAChild"])
    def test_memory(self, name: str) -> None:
        limits = Limits(seconds=120, memory=300 << 20)
        with Worker(misbehaving(name), limits=limits) as worker:
            breakdown = broken(worker, program(BAD))
        assert breakdown.cause == Cause.MEMORY
        assert re.match(
            r"holds \d+ MiB, more than 300 MiB, in program 2 since its start", breakdown.message
        )

    def test_prints_are_no_offence(self) -> None:
        with Worker(misbehaving("Prints"), limits=PATIENT) as worker:
            trace = worker.run(program(BAD))
            assert (trace.breakdown, trace.outcomes) == (None, expected(BAD))

    def test_only_the_tail_of_the_output_is_kept(self) -> None:
        with Worker(misbehaving("PrintsAndRaises"), limits=PATIENT) as worker:
            message = broken(worker, program(BAD)).message
        assert message.endswith("a\nthe last words")
        assert len(message) < 20_000

    def test_output_of_earlier_programs_is_left_out(self) -> None:
        with Worker(misbehaving("Chatters"), limits=PATIENT) as worker:
            message = broken(worker, program(BAD)).message
        assert message.endswith("\nlast output:\nto write 0xbad")

    def test_a_death_between_programs_is_not_overlooked(self) -> None:
        with Worker(misbehaving("Raises"), limits=PATIENT) as worker:
            pid = int(worker.description.version)
            with Gone(pid) as gone:
                os.kill(pid, signal.SIGKILL)
                gone.wait()
            breakdown = worker.run(program()).breakdown
            assert breakdown == Breakdown(
                Cause.CRASH,
                "was killed by SIGKILL, after it had answered the program before this one",
            )
            assert worker.run(program()).breakdown is None


class TestStarting:
    @pytest.mark.parametrize(
        ("name", "problem"),
        [
            (
                "RaisesInDescribe",
                r"describe raised LookupError: who am I\? \(.*misbehaving.py:\d+\)",
            ),
            ("DescribesAsDict", r"describe gave dict instead of a Description"),
            ("DescribesNonsense", r"bad description: operations: no such operation: fly"),
            ("RaisesWhenMade", r"making it raised RuntimeError: out of order \(.*\.py:\d+\)"),
            ("Nobody", r"has no Nobody"),
            ("ExitsInDescribe", r"at its start: exited with status 1: cannot find the device"),
        ],
    )
    def test_a_candidate_that_cannot_start(self, name: str, problem: str) -> None:
        with pytest.raises(CandidateError, match=problem) as caught:
            Worker(misbehaving(name))
        assert "misbehaving.py" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_candidate_that_never_starts(self) -> None:
        with pytest.raises(CandidateError, match="did not describe itself within 1 s"):
            Worker(misbehaving("LoopsInDescribe"), limits=Limits(start=1))

    def test_a_candidate_that_cannot_start_again(self, tmp_path: Path) -> None:
        source = tmp_path / "once.py"
        source.write_text("from misbehaving import *\n")
        (tmp_path / "misbehaving.py").write_text(MISBEHAVING.read_text())
        with Worker(f"{source}:Exits", limits=PATIENT) as worker:
            source.unlink()
            assert worker.run(program(BAD)).breakdown == Breakdown(
                Cause.CRASH, "exited with status 3"
            )
            for _ in range(2):
                with pytest.raises(CandidateError, match=r"no such file: .*once\.py"):
                    worker.run(program())
            source.write_text("from misbehaving import *\n")
            assert worker.run(program()).breakdown is None

    def test_one_that_ends_while_it_is_weighed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A descendant that is gone before it can be looked into weighs nothing."""
        code = "import os, signal; os.fork() and os.write({}, b'x'); signal.pause()"
        child = Child(lambda file: [sys.executable, "-c", code.format(file)], dict(os.environ))
        try:
            assert child.socket.recv(1) == b"x"
            looked: list[Path] = []

            def listed(folder: Path) -> Iterator[Path]:
                looked.append(folder)
                if folder != Path(f"/proc/{child.pid}/task"):
                    raise FileNotFoundError(folder)
                return iter([folder / str(child.pid)])

            monkeypatch.setattr(Path, "iterdir", listed)
            assert child.memory() > 1 << 20
            assert len(looked) == 2
        finally:
            monkeypatch.undo()
            child.end()

    def test_an_executable_that_is_not_there(self) -> None:
        with pytest.raises(CandidateError, match="cannot start /no/such/agent: No such file"):
            Child(lambda file: ["/no/such/agent", str(file)], {})

    def test_an_executable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        script = tmp_path / "agent"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m adapters.server "$@" {TINY}\n')
        script.chmod(0o755)
        monkeypatch.setattr(linux, "executable", {"x": script}.__getitem__)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        with Worker("linux:x", limits=PATIENT) as worker:
            assert worker.run(program()).outcomes == expected()

    def test_in_process_is_for_what_can_be_loaded(self) -> None:
        with pytest.raises(CandidateError, match="cannot be loaded into this process"):
            InProcess("unix:/no/such/socket")

    def test_a_worker_outlives_the_thread_that_started_it(self) -> None:
        workers: list[Worker] = []
        thread = threading.Thread(target=lambda: workers.append(Worker(TINY, limits=PATIENT)))
        thread.start()
        thread.join()
        with workers[0] as worker:
            assert worker.run(program()).outcomes == expected()


class TestJournal:
    def test_it_holds_the_program_that_broke_the_candidate(self, tmp_path: Path) -> None:
        journal = tmp_path / "journal"
        with Worker(misbehaving("Exits"), limits=PATIENT, journal=journal) as worker:
            worker.run(program())
            assert Program.from_bytes(journal.read_bytes()) == program()
            worker.run(program(BAD))
            assert Program.from_bytes(journal.read_bytes()) == program(BAD)

    def test_a_shorter_program_replaces_a_longer_one(self, tmp_path: Path) -> None:
        journal = tmp_path / "journal"
        short = program().with_operations(program().operations[:1])
        with Worker(TINY, limits=PATIENT, journal=journal) as worker:
            worker.run(program())
            worker.run(short)
        assert Program.from_bytes(journal.read_bytes()) == short

    def test_it_must_be_writable(self, tmp_path: Path) -> None:
        with pytest.raises(CandidateError, match=r"cannot write the journal .*: Is a directory"):
            Worker(TINY, journal=tmp_path)


class Gone:
    """Waits for the end of processes that are not our children."""

    def __init__(self, *pids: int) -> None:
        self.files = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # gone already
                self.files.append(os.pidfd_open(pid))

    def __enter__(self) -> Gone:
        return self

    def wait(self) -> None:
        for file in self.files:
            assert select.select([file], [], [], MANY_SECONDS)[0], "it lives"

    def __exit__(self, *_: object) -> None:
        for file in self.files:
            os.close(file)


PARENT = f"""
from pathlib import Path
import test_worker
from adapters.worker import Worker, Limits
with Worker({misbehaving("Loops")!r}, limits=Limits(seconds=1000)) as worker:
    worker.run(test_worker.program(test_worker.BAD))
"""


@pytest.fixture
def hung_parent(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that waits for a hung worker, and the numbers of the worker's processes."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    places = os.pathsep.join(map(str, (ROOT, MISBEHAVING.parent)))
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env=os.environ | {"MISBEHAVING_PIPE": str(pipe), "PYTHONPATH": places},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with parent:
        yield parent, [int(pid) for pid in pipe.read_text().split()]
        parent.kill()


class TestNothingIsLeftBehind:
    def test_when_the_parent_is_killed(
        self, hung_parent: tuple[subprocess.Popen[str], list[int]]
    ) -> None:
        parent, pids = hung_parent
        with Gone(*pids) as gone:
            assert len(gone.files) == 2
            parent.kill()
            gone.wait()

    def test_when_it_is_interrupted(
        self, hung_parent: tuple[subprocess.Popen[str], list[int]]
    ) -> None:
        parent, pids = hung_parent
        with Gone(*pids) as gone:
            assert len(gone.files) == 2
            os.killpg(parent.pid, signal.SIGINT)
            _, errors = parent.communicate(timeout=MANY_SECONDS)
            gone.wait()
        assert errors.count("Traceback") == 1
        assert errors.rstrip().endswith("KeyboardInterrupt")

    def test_when_a_hung_worker_is_replaced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        monkeypatch.setenv("MISBEHAVING_PIPE", str(pipe))
        with Worker(misbehaving("Loops"), limits=Limits(seconds=1)) as worker:
            thread = threading.Thread(target=worker.run, args=[program(BAD)])
            thread.start()
            with Gone(*map(int, pipe.read_text().split())) as gone:
                thread.join()
                gone.wait()


def test_in_this_process_words_are_judged_as_described() -> None:
    with InProcess("reference:faulting") as runner:
        assert runner.run(Program((), Geometry())).atomicity == 8
        runner.description = msgspec.structs.replace(runner.description, atomicity=1)
        assert runner.run(Program((), Geometry())).atomicity == 1
