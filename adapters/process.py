"""A child process that holds an agent: started, watched, and surely ended.

The child leads a process group of its own, so that a Ctrl-C at the terminal does not reach it
and that it can be killed together with whatever it forked.  It does not outlive its parent, not
even one that is killed: it holds the reading end of a pipe that was set up to send SIGKILL to
the group when its writing end closes, and nobody but the parent has that end.  (PR_SET_PDEATHSIG
would fire when the *thread* that started the child ends, would not reach the child's own
children, and would need code to run between fork and exec.)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from .candidate import CandidateError
from .wire import printable

__all__ = ["Child"]

_TAIL = 16 << 10
"""Bytes of output that are kept for messages."""
_TRIM = 1 << 20
"""Bytes of output from which on it is cut down to its tail."""
_DEATH_SECONDS = 30.0


class Output:
    """What a child prints, in a file in memory.

    Unlike a pipe it needs nobody to read it, so that a chatty child never blocks; the parent
    cuts it when it gets long.
    """

    def __init__(self) -> None:
        self.file = os.memfd_create("output", os.MFD_CLOEXEC)
        fcntl.fcntl(self.file, fcntl.F_SETFL, os.O_APPEND)  # so that cutting moves the writer
        self._kept = b""

    def clear(self) -> None:
        """Forget what was printed up to now."""
        self._kept = b""
        if os.fstat(self.file).st_size:
            os.ftruncate(self.file, 0)

    def trim(self) -> None:
        if os.fstat(self.file).st_size > _TRIM:
            self._kept = self._read()
            os.ftruncate(self.file, 0)

    def tail(self) -> str:
        return printable((self._kept + self._read())[-_TAIL:].decode(errors="replace")).strip()

    def _read(self) -> bytes:
        size = os.fstat(self.file).st_size
        return os.pread(self.file, _TAIL, max(0, size - _TAIL))

    def close(self) -> None:
        os.close(self.file)


class Child:
    """A running child, with a socket to it.  `CandidateError` if it cannot be started.

    `command` gives the command line when told the number of the child's socket.  It inherits the
    files in `keep`, too, under the numbers that they have here, and may be given a `stdin`.
    """

    def __init__(
        self,
        command: Callable[[int], list[str]],
        environment: dict[str, str],
        keep: Sequence[int] = (),
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        with contextlib.ExitStack() as undo:
            self.output = Output()
            undo.callback(self.output.close)
            self.socket, theirs = socket.socketpair()
            undo.callback(self.socket.close)
            watch, self._lifeline = os.pipe()
            undo.callback(os.close, self._lifeline)
            try:
                files = (theirs.fileno(), watch, *keep)
                line = command(theirs.fileno())
                self._process = self._start(line, files, watch, environment, stdin)
            finally:
                theirs.close()
                os.close(watch)
            undo.pop_all()

    def _start(
        self,
        command: list[str],
        files: tuple[int, ...],
        watch: int,
        environment: dict[str, str],
        stdin: int,
    ) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=self.output.file,
                stderr=self.output.file,
                pass_fds=files,
                start_new_session=True,
                env=environment,
            )
        except OSError as error:
            raise CandidateError(f"cannot start {command[0]}: {error.strerror}") from None
        try:
            fcntl.fcntl(watch, fcntl.F_SETOWN, -process.pid)
            fcntl.fcntl(watch, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(watch, fcntl.F_SETFL, os.O_ASYNC)
            with contextlib.suppress(OSError):  # if memory runs out, it is the one to go
                Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process

    @property
    def pid(self) -> int:
        return self._process.pid

    def death(self, seconds: float = 0.0) -> str | None:
        """How the child died, after waiting for that for some seconds; None if it lives.

        The child stays a zombie, so that its number still means its group and nobody else.
        """
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        result = os.waitid(os.P_PID, self.pid, options)
        if result is None and seconds:
            self._await_exit(seconds)
            result = os.waitid(os.P_PID, self.pid, options)
        if result is None:
            return None
        if result.si_code == os.CLD_EXITED:
            return f"exited with status {result.si_status}"
        return f"was killed by {_signal_name(result.si_status)}"

    def _await_exit(self, seconds: float) -> None:
        file = os.pidfd_open(self.pid)
        try:
            select.select([file], [], [], seconds)
        finally:
            os.close(file)

    def memory(self) -> int:
        """Bytes in use by the child and its descendants, swapped ones too.

        Counted in resident pages: a limit on address space would stop sanitizers, which
        reserve terabytes for their shadow, and so would one on data size.  Pages that may be
        shared among them are counted once.
        """
        used = [_memory_of(pid) for pid in _family(self.pid)]
        return sum(private for private, _ in used) + max([shared for _, shared in used], default=0)

    def end(self) -> None:
        """Kill the child with its whole group, and free what belonged to it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        try:
            self._process.wait(_DEATH_SECONDS)
        except subprocess.TimeoutExpired:
            raise CandidateError(f"process {self.pid} cannot be killed") from None
        finally:
            self.socket.close()
            os.close(self._lifeline)
            self.output.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _family(pid: int) -> list[int]:
    """The process and its descendants, as far as the kernel lists them."""
    found = [pid]
    for member in found:
        found += _children(member)
    return found


def _children(pid: int) -> list[int]:
    """The children of a process's threads; those of what ends meanwhile may be left out."""
    found: list[int] = []
    # Threads, and the process as a whole, may end between being listed and being read.
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def _memory_of(pid: int) -> tuple[int, int]:
    """Private and shared bytes of a process; zeros if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {
        name: int(value.split()[0]) << 10
        for name, _, value in (line.partition(":") for line in lines)
        if name in {"RssAnon", "VmSwap", "RssFile", "RssShmem"}
    }
    return (
        sizes.get("RssAnon", 0) + sizes.get("VmSwap", 0),
        sizes.get("RssFile", 0) + sizes.get("RssShmem", 0),
    )
