"""The command line: what it accepts, what it refuses in one line, and what it prints."""

from __future__ import annotations

import os
import pty
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commanding import (
    COMMAND,
    ROOT,
    Running,
    apart,
    environment,
    failures_in,
    lastwriter,
    names_in,
)

from adapters import wire
from adapters.linux import NAMES
from adapters.wire import FrameType
from conformance.store import load_program
from reference.cheader import HEADER
from reference.mirrors import MIRRORS
from reference.rules import RULES

COMPILER = shutil.which("cc") or shutil.which("gcc")
MUTANT = "mutant:unmap-missed"
BUDGET = ("--programs", "60", "--seed", "1")
FAILING = """lastwriter 1
model faulting
geometry page_size=4096 pages=16 processes=1 devices=1 files=0 keys=0 jobs=0
map p0 rw page=0 pages=1
map p0 rw page=3 pages=2
attach d0 p0
write p0 page=4 offset=0 length=8 value=0x300000
dread d0 page=0 offset=0 length=8
unmap p0 page=0 pages=1
dread d0 page=0 offset=0 length=8
"""


@pytest.fixture
def failing(tmp_path: Path) -> str:
    (tmp_path / "failing.lw").write_text(FAILING)
    return "failing.lw"


class TestUsage:
    """Everything that is wrong is said in one line, with status 2, before anything is written."""

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ("nosuch", "No such command 'nosuch'."),
            ("certify --nosuch", "No such option"),
            ("certify a:b c:d", "Got unexpected extra argument (c:d)"),
            ("certify nosuch", "'nosuch' names no candidate; one is module:name, path/to/file.py"),
            ("certify nosuch:x", "no such module: nosuch"),
            ("certify json:nosuch", "json:nosuch: json has no nosuch"),
            ("certify json:loads", "json:loads: making it raised TypeError: "),
            ("certify json:JSONDecoder", "json:JSONDecoder: JSONDecoder has no method describe"),
            ("certify nosuch.py:x", "no such file: nosuch.py"),
            ("certify ./nosuch.so", "nosuch.so: no such file"),
            ("certify mutant:nosuch", "no mutant 'nosuch'; there are "),
            ("certify reference:nosuch", "no reference mirror 'nosuch'; there are "),
            ("certify linux:nosuch", "no Linux mirror 'nosuch'; there are "),
            ("certify unix:nosuch", "no agent at unix:nosuch: No such file or directory"),
            ("certify tcp:localhost", "tcp:localhost: an address is tcp:HOST:PORT or unix:PATH"),
            ("certify unix:x -j 2", "unix:x: an agent serves one client at a time; leave out -j"),
            ("certify {ok} --model bad", "Invalid value for '--model': 'bad' is not one of "),
            ("certify {ok} --programs 0", "Invalid value for '--programs': 0 is not in"),
            ("certify {ok} --seconds 0", "Invalid value for '--seconds': 0.0 is not in"),
            ("certify {ok} --seed -1", "Invalid value for '--seed': -1 is not in"),
            ("certify {ok} --hang 0", "Invalid value for '--hang': 0.0 is not in"),
            ("certify {ok} -j 0", "Invalid value for '-j' / '--jobs': 0 is not in"),
            ("certify {ok} --seconds 1 --programs 1", "--seconds and --programs exclude each"),
            ("certify {ok} --expect none.toml", "none.toml: No such file or directory"),
            ("certify {ok} --out /proc/x", "--out /proc/x: No such file or directory"),
            ("certify {ok} --out /dev/null/x", "--out /dev/null/x: Not a directory"),
            ("certify linux:process_vm --in-process", "--in-process: linux:process_vm cannot be"),
            ("certify unix:x --in-process", "--in-process: unix:x cannot be loaded"),
            ("replay", "Missing argument 'FILE'."),
            ("replay none.lw {ok}", "none.lw: No such file or directory"),
            ("replay . {ok}", ".: Is a directory"),
            ("shrink none.lw", "Missing argument 'CANDIDATE'."),
            ("agent {ok}", "Missing option '--listen'."),
            ("agent {ok} --listen x", "x: an address is tcp:HOST:PORT or unix:PATH"),
            ("agent {ok} --listen unix:s --key k", "TLS needs --certificate, --key and --auth"),
            ("rules I99", "no such rule: 'I99'; near: I9"),
        ],
    )
    def test_what_is_wrong(self, arguments: str, error: str, tmp_path: Path) -> None:
        words = arguments.format(ok="reference:faulting").split()
        done = lastwriter(tmp_path, *words)
        assert done.error.startswith(error)
        assert (done.status, done.out) == (2, "")
        assert names_in(tmp_path) == set()

    def test_an_output_folder_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        done = lastwriter(tmp_path, "certify", "reference:faulting", "--out", "out")
        assert (done.status, done.error) == (2, "--out out: it is no folder")
        assert (tmp_path / "out").read_text() == "mine"

    def test_a_candidate_with_a_mistake(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text("class Mine:\n    def run(self)\n        pass\n")
        done = lastwriter(tmp_path, "certify", "mine.py:Mine", "--out", "out")
        assert done.status == 2
        assert done.error.startswith("importing ")
        assert "mine.py raised SyntaxError: " in done.error
        assert done.error.endswith("mine.py:2)")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("data", "error"),
        [
            (b"lastwriter 1\nmap p0 rw page=0 pages=1\nread p0 oops\n", ":3:9: unexpected 'oops'"),
            (b"lastwriter 1\nmap p0 rw page=16 pages=1\n", ":2:1: "),
            (b"lastwriter 3\n", ":1:12: program of version 3, this is 1"),
            (b"\x7fELF\2\1\1\0\xfe\xff", ": byte 8 is no UTF-8 text"),
            (b"LWPROG" + bytes(200), ": packed program of version 0, this is 1"),
            (b"", ":1:1: "),
        ],
    )
    @pytest.mark.parametrize("command", ["replay", "shrink"])
    def test_files_that_are_no_programs(
        self, command: str, data: bytes, error: str, tmp_path: Path
    ) -> None:
        (tmp_path / "bad.lw").write_bytes(data)
        done = lastwriter(tmp_path, command, "bad.lw", "reference:faulting")
        assert done.status == 2
        assert done.error.startswith(f"bad.lw{error}")

    def test_a_program_for_another_candidate(self, failing: str, tmp_path: Path) -> None:
        done = lastwriter(tmp_path, "replay", failing, "reference:registration")
        assert done.status == 2
        assert done.error.startswith("failing.lw: not for reference:registration: its device acc")

    def test_without_arguments_it_shows_its_help(self, tmp_path: Path) -> None:
        done = lastwriter(tmp_path)
        assert (done.status, done.errors) == (0, "")
        assert done.out == lastwriter(tmp_path, "--help").out


@pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")
class TestLibraries:
    @pytest.mark.parametrize(
        ("source", "error"),
        [
            ("int nothing;", "lw_"),
            ("uint32_t lw_abi_version(void) { return 99; }", "version"),
            (None, "mine.so"),
        ],
    )
    def test_that_are_none(self, source: str | None, error: str, tmp_path: Path) -> None:
        if source is None:
            (tmp_path / "mine.so").write_bytes(b"\x7fELF" + bytes(100))
        else:
            template = (ROOT / "adapters/examples/template.c").read_text()
            old = "uint32_t lw_abi_version(void)"
            code = (
                template.replace(old, f"{source}\nuint32_t other(void)")
                if "lw" in source
                else source
            )
            assert "nothing" in source or code != template
            (tmp_path / "mine.c").write_text(code)
            options = ["-w", "-fPIC", "-shared", f"-I{HEADER.parent}", "mine.c", "-o", "mine.so"]
            subprocess.run([str(COMPILER), *options], cwd=tmp_path, check=True)
        done = lastwriter(tmp_path, "certify", "./mine.so", "--out", "out")
        assert done.status == 2
        assert "mine.so: " in done.error
        assert error in done.error
        assert not (tmp_path / "out").exists()


HELLO = wire.encode_hello()
GARBLED = random.Random(5).randbytes(4096)


@contextmanager
def peer(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of something that takes one client, in its own way."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def sends(data: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(data)
        drain(connection)

    return answer


def describes(description: bytes) -> Callable[[socket.socket], None]:
    """One that greets, and says this of its candidate when it is asked."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(frame(FrameType.HELLO, HELLO))
        asked = frame(FrameType.HELLO, HELLO) + frame(FrameType.DESCRIBE, b"")
        assert connection.recv(len(asked), socket.MSG_WAITALL) == asked
        connection.sendall(frame(FrameType.DESCRIPTION, description))
        drain(connection)

    return answer


def drain(connection: socket.socket) -> None:
    """Read until the client leaves."""
    try:
        while connection.recv(4096):
            pass
    except OSError:
        pass


def frame(kind: FrameType, payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "little") + bytes([kind]) + payload


class TestAgents:
    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (drain, "in time|within"),
            (lambda connection: None, "clos|reset|hung up"),
            (sends(frame(FrameType.HELLO, HELLO[:4] + b"\7\0" + HELLO[6:])), "version 7"),
            (sends(frame(FrameType.HELLO, b"HTTP" + HELLO[4:])), "does not greet in this protocol"),
            (sends(b"\xff\xff\xff\xff\1"), "4294967295 bytes"),
            (sends(GARBLED), "bytes|frame|type"),
            (sends(frame(FrameType.ERROR, b"no device\n\x1b[2Jhere")), "no device"),
            (sends(frame(FrameType.HELLO, HELLO)), "in time|within"),
            (sends(frame(FrameType.HELLO, HELLO) + GARBLED), "more than was asked for"),
            (describes(b"{}"), "missing required field"),
            (describes(b"\xff"), "description"),
        ],
        ids=["silence", "hang up", "version", "magic", "too long", "noise", "error", "no more",
             "too much", "empty description", "no text"],
    )  # fmt: skip
    def test_that_are_none(
        self, answer: Callable[[socket.socket], None], error: str, tmp_path: Path
    ) -> None:
        with peer(answer) as address:
            done = lastwriter(tmp_path, "certify", address, "--start", "0.5")
        assert done.status == 2
        assert address in done.error
        assert re.search(error, done.error), done.error
        assert "\x1b" not in done.error
        assert names_in(tmp_path) == set()

    def test_one_that_is(self, tmp_path: Path, failing: str) -> None:
        with Running(tmp_path, "agent", MUTANT, "--listen", "unix:socket") as agent:
            agent.await_line("listening on unix:socket")
            for expected in (1, 1):
                done = lastwriter(tmp_path, "replay", failing, "unix:socket")
                assert (done.status, done.errors) == (expected, "")
            os.killpg(agent.process.pid, signal.SIGINT)
            ended = agent.end()
        assert ended.status == 130
        assert "Traceback" not in ended.errors
        assert not (tmp_path / "socket").exists()


class TestCommands:
    def test_help(self, tmp_path: Path) -> None:
        for name in ("", "certify", "replay", "shrink", "agent", "rules", "candidates"):
            done = lastwriter(tmp_path, *name.split(), "--help")
            assert (done.status, done.errors) == (0, "")
            assert done.out.startswith(f"Usage: lastwriter {name}".rstrip())

    def test_version(self, tmp_path: Path) -> None:
        done = lastwriter(tmp_path, "--version")
        assert (done.status, done.errors) == (0, "")
        assert done.out.startswith("lastwriter, version ")

    def test_candidates(self, tmp_path: Path) -> None:
        done = lastwriter(tmp_path, "candidates")
        assert done.status == 0
        for name in MIRRORS:
            assert f"reference:{name} " in done.out
        for name in NAMES:
            assert f"linux:{name} " in done.out
        assert "tcp:HOST:PORT" in done.out

    def test_rules(self, tmp_path: Path) -> None:
        done = lastwriter(tmp_path, "rules")
        assert done.status == 0
        assert {line.split()[0] for line in done.out.splitlines() if line[0] != " "} == {
            "rule",
            *RULES,
        }

    def test_one_rule(self, tmp_path: Path) -> None:
        done = lastwriter(tmp_path, "rules", "I12")
        assert done.status == 0
        assert done.out.startswith("I12  ")
        assert "exercised 10 times" in done.out

    @pytest.mark.parametrize("option", [(), ("--in-process",)])
    def test_replay(self, option: tuple[str, ...], failing: str, tmp_path: Path) -> None:
        wrong = lastwriter(tmp_path, "replay", failing, MUTANT, *option)
        assert (wrong.status, wrong.errors) == (1, "")
        assert wrong.out.startswith("FAIL I12  ")
        assert f"     again: lastwriter replay failing.lw {MUTANT}\n" in wrong.out
        right = lastwriter(
            tmp_path, "replay", failing, "reference:caching", "--times", "3", *option
        )
        assert (right.status, right.errors) == (0, "")
        assert right.out == "PASS  failing.lw: 7 operations on reference:caching, 3 times\n"

    def test_shrink(self, failing: str, tmp_path: Path) -> None:
        done = lastwriter(tmp_path, "shrink", failing, MUTANT)
        assert done.status == 1
        assert "7 operations reduced to 5 in " in done.errors
        (tmp_path / "short.lw").write_text(done.out)
        assert len(load_program(tmp_path / "short.lw")) == 5
        written = lastwriter(tmp_path, "shrink", failing, MUTANT, "--out", "again.lw")
        assert (written.status, written.out) == (1, "")
        assert (tmp_path / "again.lw").read_text() == done.out
        assert "lastwriter replay again.lw" in written.errors

    def test_shrink_what_does_not_fail(self, failing: str, tmp_path: Path) -> None:
        done = lastwriter(tmp_path, "shrink", failing, "reference:caching", "--out", "x.lw")
        assert (done.status, done.out) == (0, "")
        assert done.errors == "failing.lw does not fail on reference:caching\n"
        assert names_in(tmp_path) == {"failing.lw"}

    def test_a_reduced_program_that_cannot_be_written_is_printed(
        self, failing: str, tmp_path: Path
    ) -> None:
        done = lastwriter(tmp_path, "shrink", failing, MUTANT, "--out", "none/x.lw")
        assert done.status == 2
        assert done.errors.endswith("lastwriter: none/x.lw: No such file or directory\n")
        assert done.out.startswith("lastwriter 1\n")


def with_limit(size: int) -> list[str]:
    """A command that runs another which cannot write files longer than this."""
    code = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0})); "
    return [sys.executable, "-c", code.format(size) + "os.execv(sys.argv[1], sys.argv[1:])"]


class TestOutput:
    def test_a_reader_that_leaves(self, tmp_path: Path) -> None:
        command = subprocess.Popen(
            [*COMMAND, "rules"], cwd=tmp_path, env=environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        with command:
            assert command.stdout is not None
            assert command.stderr is not None
            command.stdout.close()
            assert command.stderr.read() == ""
        assert command.returncode == 2

    def test_a_full_disk_for_what_is_printed(self, tmp_path: Path) -> None:
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [*COMMAND, "rules"], cwd=tmp_path, env=environment(), text=True,
                stdout=full, stderr=subprocess.PIPE, check=False,
            )  # fmt: skip
        assert (done.returncode, done.stderr) == (2, "lastwriter: No space left on device\n")

    def test_no_room_for_anything(self, tmp_path: Path) -> None:
        done = apart(tmp_path, "certify", MUTANT, *BUDGET, wrapped=with_limit(1000))
        assert (done.status, done.out) == (2, "")
        assert done.error == "--out lastwriter-out: File too large"
        assert names_in(tmp_path / "lastwriter-out") == set()

    def test_no_room_for_the_certificate(self, tmp_path: Path) -> None:
        done = apart(tmp_path, "certify", MUTANT, *BUDGET, wrapped=with_limit(4096))
        assert done.status == 2
        assert done.error == "lastwriter-out/certificate.json: File too large"
        assert f"\nFAIL  {MUTANT}" in done.out
        assert names_in(tmp_path / "lastwriter-out") == {"failures"}
        assert failures_in(tmp_path)

    def test_no_room_for_failing_programs(self, tmp_path: Path) -> None:
        (tmp_path / "lastwriter-out").mkdir()
        (tmp_path / "lastwriter-out" / "failures").write_text("in the way")
        done = lastwriter(tmp_path, "certify", MUTANT, *BUDGET)
        assert done.status == 2
        assert done.error.startswith("lastwriter-out/failures/")
        assert done.error.endswith(": File exists")
        assert f"\nFAIL  {MUTANT}" in done.out
        assert done.certificate.problem == done.error
        _, _, program = done.out.partition("; the program is\n")
        (tmp_path / "printed.lw").write_text(program[: program.index("\n\n")])
        assert lastwriter(tmp_path, "replay", "printed.lw", MUTANT).status == 1

    @pytest.mark.parametrize("columns", ["1", "20", "40"])
    def test_narrow_terminals(self, columns: str, failing: str, tmp_path: Path) -> None:
        done = lastwriter(tmp_path, "replay", failing, MUTANT, COLUMNS=columns)
        assert (done.status, done.errors) == (1, "")
        assert f"     again: lastwriter replay failing.lw {MUTANT}\n" in done.out
        assert lastwriter(tmp_path, "rules", COLUMNS=columns).status == 0

    def test_names_are_taken_literally(self, failing: str, tmp_path: Path) -> None:
        name = "[red]a:smile:.lw"
        (tmp_path / failing).rename(tmp_path / name)
        done = lastwriter(tmp_path, "replay", name, "reference:caching")
        assert done.out == f"PASS  {name}: 7 operations on reference:caching\n"

    def test_files_get_no_escape_codes(self, tmp_path: Path) -> None:
        done = lastwriter(tmp_path, "certify", MUTANT, *BUDGET, TERM="xterm-256color")
        assert done.status == 1
        assert "\x1b" not in done.out + done.errors

    @pytest.mark.parametrize("plain", [True, False])
    def test_terminals(self, plain: bool, tmp_path: Path) -> None:
        changes = {"TERM": "xterm-256color"} | ({"NO_COLOR": "1"} if plain else {})
        ours, theirs = pty.openpty()
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            command = subprocess.Popen(
                [*COMMAND, "certify", MUTANT, *BUDGET], cwd=tmp_path,
                env=environment(**changes), stdout=theirs, stderr=theirs, stdin=theirs,
            )  # fmt: skip
            os.close(theirs)
            with command:
                shown = b"".join(iter(lambda: read(terminal), b"")).decode()
        assert command.returncode == 1
        assert f"FAIL  {MUTANT}" in shown.replace("\x1b[1;31m", "").replace("\x1b[0m", "")
        assert ("\x1b" in shown) == (not plain)


def read(terminal: object) -> bytes:
    """What is on a terminal, nothing once the other side is gone."""
    try:
        data: bytes = terminal.read(4096)  # type: ignore[attr-defined]
    except OSError:
        return b""
    return data
