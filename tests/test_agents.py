"""`lastwriter agent`, and the commands that certify what it serves, with TLS and without."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from authorities import Authority
from commanding import TROUBLE, Done, Running, failures_in, lastwriter

from adapters.client import RemoteCandidate
from adapters.linux import probe
from adapters.tls import TlsFiles
from adapters.wire import CrashedError, Stream
from adapters.worker import Limits, Worker
from conformance.display import replay_command
from conformance.store import load_program
from conformance.verdicts import Verdict
from reference.text import parse
from reference.trace import Cause

pytest_plugins = ["pytester"]

MISBEHAVING = Path(__file__).with_name("misbehaving.py")
TINY = "adapters.examples.tiny:Tiny"
MUTANT = "mutant:unmap-missed"
PATIENT = Limits(seconds=60)
FAR = "tcp:192.0.2.1:9"  # an address for documentation: never ours, and never connected to here
TEXT = """lastwriter 1
geometry page_size=4096 pages=4 processes=1 devices=1 files=0 keys=0 jobs=0
map p0 rw page=0 pages=1
attach d0 p0
dwrite d0 page=0 offset=0 length=8 value={:#x}
read p0 page=0 offset=0 length=8
"""
GOOD, BAD = parse(TEXT.format(7)), parse(TEXT.format(0xBAD))
FAILING = """lastwriter 1
geometry processes=1 devices=1 files=0 keys=0 jobs=0
map p0 rw page=0 pages=2
attach d0 p0
write p0 page=0 offset=0 length=8 value=0x300000
dread d0 page=0 offset=0 length=8
unmap p0 page=0 pages=1
dread d0 page=0 offset=0 length=8
"""


@contextmanager
def serving(folder: Path, spec: str, *options: str) -> Iterator[str]:
    """The address of an agent that serves the candidate until it is interrupted."""
    with Running(folder, "agent", spec, "--listen", "tcp:127.0.0.1:0", *options) as agent:
        agent.await_line("listening on ")
        yield agent.seen.split()[-1]
        os.killpg(agent.process.pid, signal.SIGINT)
        ended = agent.end()
    assert ended.status == 130
    assert "Traceback" not in ended.errors


def pid_of(worker: Worker) -> int:
    """Misbehaving candidates give the number of their process as their version."""
    return int(worker.description.version)


class TestBreakdowns:
    """The agent says what befell its candidate, and is there for the next client."""

    @pytest.mark.parametrize(
        ("name", "cause", "message"),
        [
            ("Exits", Cause.CRASH, "exited with status 3"),
            ("Aborts", Cause.CRASH, "was killed by SIGABRT\nlast output:\nassertion failed: "),
            ("Raises", Cause.REFUSED, "run raised ValueError: no such"),
            ("GivesTooFew", Cause.GARBAGE, "run gave 3 outcomes for 4 operations"),
            ("EatsInC", Cause.MEMORY, "holds "),
        ],
    )
    def test_are_told(self, name: str, cause: Cause, message: str, tmp_path: Path) -> None:
        options = ("--memory", "256")
        with (
            serving(tmp_path, f"{MISBEHAVING}:{name}", *options) as address,
            Worker(address, limits=PATIENT) as worker,
        ):
            for _ in range(2):
                assert worker.run(GOOD).breakdown is None
                trace = worker.run(BAD)
                assert trace.breakdown is not None
                assert trace.breakdown.cause is cause
                assert trace.breakdown.message.startswith(f"agent at {address}: {message}")

    def test_a_client_that_does_not_wait_frees_the_agent(self, tmp_path: Path) -> None:
        with (
            serving(tmp_path, f"{MISBEHAVING}:Loops") as address,
            Worker(address, limits=Limits(seconds=0.5)) as worker,
        ):
            trace = worker.run(BAD)
            assert trace.breakdown is not None
            assert trace.breakdown.cause is Cause.HANG
            worker.limits = PATIENT
            assert worker.run(GOOD).breakdown is None

    def test_every_client_has_a_process_of_its_own(self, tmp_path: Path) -> None:
        with serving(tmp_path, f"{MISBEHAVING}:Exits") as address:
            with Worker(address, limits=PATIENT) as first:
                pass
            with Worker(address, limits=PATIENT) as second:
                assert pid_of(first) != pid_of(second)

    def test_are_errors_for_a_bare_client(self, tmp_path: Path) -> None:
        with serving(tmp_path, f"{MISBEHAVING}:Exits") as address:
            client = RemoteCandidate.connect(address, seconds=60)
            client.reset(BAD.geometry)
            with pytest.raises(CrashedError, match=r"agent at .*: exited with status 3"):
                client.run(BAD.operations)
            client.close()

    def test_are_verdicts_with_a_program(self, tmp_path: Path) -> None:
        with serving(tmp_path, f"{TROUBLE}:Crashes") as address:
            done = lastwriter(tmp_path, "certify", address, "--programs", "25", "--seed", "4")
        assert (done.status, done.errors) == (1, "")
        assert done.rule("R1").verdict is Verdict.FAIL
        (record,) = done.certificate.failures
        first = record.message.partition("\n")[0]
        assert first == f"crash: agent at {address}: was killed by SIGABRT"
        assert len(load_program(tmp_path / "lastwriter-out" / record.file)) <= 2

    def test_a_candidate_that_is_gone_is_said_so(self, tmp_path: Path) -> None:
        source = tmp_path / "mine.py"
        source.write_text("from adapters.examples.tiny import Tiny\n")
        with serving(tmp_path, "mine.py:Tiny") as address:
            source.unlink()
            done = lastwriter(tmp_path, "certify", address)
        assert (done.status, done.error) == (2, f"agent at {address}: no such file: mine.py")

    def test_a_linux_mirror_is_served_likewise(self, tmp_path: Path) -> None:
        found = probe("process_vm")
        assert found.available, found.reason
        with (
            serving(tmp_path, "linux:process_vm") as address,
            Worker(address, limits=PATIENT) as worker,
        ):
            for _ in range(2):
                assert worker.run(GOOD).breakdown is None


def options(tls: TlsFiles, prefix: str = "--") -> list[str]:
    files = {"certificate": tls.certificate, "key": tls.key, "authority": tls.authority}
    return [word for name, file in files.items() for word in (f"{prefix}{name}", str(file))]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def address(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = authority.certify("server", "127.0.0.1")
    with serving(tmp_path_factory.mktemp("agent"), MUTANT, *options(server)) as address:
        yield address


class TestTls:
    @pytest.fixture
    def client(self, authority: Authority) -> TlsFiles:
        return authority.certify("client")

    def run(self, folder: Path, *arguments: str) -> Done:
        (folder / "failing.lw").write_text(FAILING)
        return lastwriter(folder, *arguments)

    def test_certify(self, address: str, client: TlsFiles, tmp_path: Path) -> None:
        budget = ("--programs", "60", "--seed", "1")
        done = self.run(tmp_path, "certify", address, *budget, *options(client))
        assert (done.status, done.errors) == (1, "")
        (name, *_) = sorted(failures_in(tmp_path))
        again = replay_command(Path("lastwriter-out/failures") / name, address, client)
        assert f"     again: {again}\n" in done.out
        replayed = lastwriter(tmp_path, *again.split()[1:])
        assert (replayed.status, replayed.errors) == (1, "")

    def test_replay_and_shrink(self, address: str, client: TlsFiles, tmp_path: Path) -> None:
        done = self.run(tmp_path, "replay", "failing.lw", address, *options(client))
        assert (done.status, done.errors) == (1, "")
        assert done.out.startswith("FAIL I12  ")
        shrunk = self.run(tmp_path, "shrink", "failing.lw", address, *options(client))
        assert shrunk.status == 1
        assert len(parse(shrunk.out)) == 5

    def test_pytest(
        self, address: str, client: TlsFiles, pytester: pytest.Pytester,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        result = pytester.runpytest_subprocess(
            *("-p", "conformance.plugin", "-p", "no:cacheprovider", "--lw-seed=3"),
            *("--lw-programs=20", "--lw-shards=1", "-kinvalidation", f"--candidate={address}"),
            *options(client, "--lw-"),
        )
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["FAIL I12 *", f"     again: *{address} --certificate *"])

    @pytest.mark.parametrize(
        ("words", "error"),
        [
            (("certify", "{}"), "agent at {}: "),
            (("replay", "failing.lw", "{}"), "agent at {}: "),
            (("shrink", "failing.lw", "{}"), "agent at {}: "),
            (("certify", FAR), f"{FAR}: not a loopback address, and plain TCP does not leave"),
        ],
    )
    def test_without_it_there_is_nothing(
        self, words: tuple[str, ...], error: str, address: str, tmp_path: Path
    ) -> None:
        done = self.run(tmp_path, *(word.format(address) for word in words))
        assert done.status == 2
        assert done.error.startswith(error.format(address))
        assert not (tmp_path / "lastwriter-out").exists()

    @pytest.mark.parametrize(
        ("words", "error"),
        [
            (("certify", TINY), f"{TINY}: TLS is for tcp: addresses"),
            (("certify", TINY, "--in-process"), f"{TINY}: TLS is for tcp: addresses"),
            (("certify", "unix:x"), "unix:x: TLS is for tcp: addresses"),
            (("replay", "failing.lw", TINY), f"{TINY}: TLS is for tcp: addresses"),
        ],
    )
    def test_is_for_tcp(
        self, words: tuple[str, ...], error: str, client: TlsFiles, tmp_path: Path
    ) -> None:
        done = self.run(tmp_path, *words, *options(client))
        assert (done.status, done.error) == (2, error)

    def test_needs_all_three_files(self, address: str, tmp_path: Path) -> None:
        done = self.run(tmp_path, "certify", address, "--key", "k")
        assert (done.status, done.error) == (
            2, "TLS needs --certificate, --key and --authority"
        )  # fmt: skip


def test_a_peer_that_hung_up_has_left() -> None:
    ours, theirs = socket.socketpair()
    stream = Stream.of_socket(ours)
    before = stream.left
    theirs.shutdown(socket.SHUT_WR)
    assert (before, stream.left) == (False, True)
    stream.close()
    theirs.close()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--listen", "tcp:0.0.0.0:0", TINY), "tcp:0.0.0.0:0: not a loopback address"),
        (("--listen", "tcp:127.0.0.1:0", "no.such:thing"), "no such module: no"),
        (("--listen", "tcp:127.0.0.1:0", f"{MISBEHAVING}:Exits", "--memory", "1"), "Invalid value"),
    ],
)
def test_an_agent_refuses(arguments: tuple[str, ...], problem: str, tmp_path: Path) -> None:
    done = lastwriter(tmp_path, "agent", *arguments)
    assert (done.status, done.out) == (2, "")
    assert done.error.startswith(problem)
