"""The command as a new user has it, in an empty folder: in this process or one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import select
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import msgspec
import pytest

from conformance.certificate import Certificate
from conformance.command import main
from conformance.verdicts import RuleResult

ROOT = Path(__file__).parents[1]
TROUBLE = Path(__file__).with_name("trouble.py")
COMMAND = [sys.executable, "-m", "conformance.command"]
SECONDS = 180
"""Far more than anything here takes."""
MARK = "LASTWRITER_TEST_RUN"
_STYLE = {"FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "TERM"}


def environment(**changes: str) -> dict[str, str]:
    """With the checkout, and nothing that changes what is printed."""
    kept = {name: value for name, value in os.environ.items() if name not in _STYLE}
    return kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"} | changes


@dataclass(frozen=True)
class Done:
    """What came of a command."""

    status: int
    out: str
    errors: str
    folder: Path

    @property
    def error(self) -> str:
        """The one line on standard error, without the name of the command."""
        assert "Traceback" not in self.out + self.errors
        lines = self.errors.splitlines()
        assert len(lines) == 1, self.errors
        assert lines[0].startswith("lastwriter: ")
        return lines[0].removeprefix("lastwriter: ")

    @property
    def certificate(self) -> Certificate:
        return certificate_in(self.folder)

    def rule(self, rule: str) -> RuleResult:
        return next(each for each in self.certificate.rules if each.rule == rule)


def certificate_in(folder: Path) -> Certificate:
    data = (folder / "lastwriter-out" / "certificate.json").read_bytes()
    return msgspec.json.decode(data, type=Certificate)


def lastwriter(folder: Path, *arguments: str, **changes: str) -> Done:
    """Run the command to its end: here, in this process, but in that folder."""
    streams = (io.StringIO(), io.StringIO())
    with ExitStack() as stack:
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(mock.patch.dict(os.environ, environment(**changes), clear=True))
        stack.enter_context(contextlib.redirect_stdout(streams[0]))
        stack.enter_context(contextlib.redirect_stderr(streams[1]))
        with pytest.raises(SystemExit) as ended:
            main(arguments)
    assert isinstance(ended.value.code, int)
    return Done(ended.value.code, streams[0].getvalue(), streams[1].getvalue(), folder)


def apart(folder: Path, *arguments: str, wrapped: Sequence[str] = (), **changes: str) -> Done:
    """Run it in a process of its own, as a new user does; `wrapped` is a command that runs it."""
    done = subprocess.run(
        [*wrapped, *COMMAND, *arguments],
        cwd=folder,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr, folder)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def failures_in(folder: Path) -> set[str]:
    return names_in(folder / "lastwriter-out" / "failures")


class Running:
    """A command that is still at it, in a process group of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=folder,
            env=environment(**{MARK: self.mark}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.seen = ""

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.kill()

    def await_line(self, start: str) -> None:
        """Wait until it has printed a line that starts so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen += line
            if line.startswith(start):
                return
        raise AssertionError(f"ended without {start!r}: {self.seen}")

    def end(self) -> Done:
        """Wait for its end, and that of all that it started."""
        with gone(self.pids()):
            out, errors = self.process.communicate(timeout=SECONDS)
        assert self.pids() == []
        return Done(self.process.returncode, self.seen + out, errors, self.folder)

    def await_nobody(self) -> None:
        """Wait until all that it started has ended, and what those may still have started."""
        while pids := self.pids():
            with gone(pids):
                pass

    def pids(self) -> list[int]:
        """Every process that it started, however far removed, and itself."""
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if self._is_ours(path)]

    def _is_ours(self, path: Path) -> bool:
        try:
            return f"{MARK}={self.mark}".encode() in (path / "environ").read_bytes()
        except OSError:  # gone, or not ours to look at
            return False

    def pool(self) -> list[int]:
        """The processes that share the work."""
        return [pid for pid in self.pids() if b"spawn_main" in command_line(pid)]


def command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@contextlib.contextmanager
def gone(pids: list[int]) -> Iterator[None]:
    """Afterwards wait until none of these processes is there any more."""
    files = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            files.append(os.pidfd_open(pid))
    try:
        yield
        for file in files:
            assert select.select([file], [], [], SECONDS)[0], "a process was left behind"
    finally:
        for file in files:
            os.close(file)
