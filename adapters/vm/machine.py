"""One QEMU: its command line, its start from a saved state, and the lines one can say to it."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from ..candidate import CandidateError
from ..process import Child
from ..wire import printable
from .kernel_log import KernelLog
from .places import digest
from .tools import QEMU

__all__ = ["Boot", "Lines", "Machine"]

_TICK = 0.02
_LONGEST = 64 << 10
"""Bytes of a line."""
_SAVE_SECONDS = 120.0
_DEATH_SECONDS = 2.0
_PARAMETERS = (
    # An Oops ends the machine, and a panic does so at once: QEMU exits.
    "console=ttyS0 loglevel=5 oops=panic panic=-1 reboot=t",
    # The agent marks there where each program begins, however many there are in a second.
    "printk.devkmsg=on",
    # Without these the guest measures time against clocks that a busy host keeps unsteady, and
    # may never come to an end of it.
    "tsc_early_khz=2596000 tsc=reliable no_timer_check",
    # Kernels know this time limit only as a number of seconds; a program's own is shorter.
    "sysctl.kernel.hung_task_timeout_secs=20 sysctl.kernel.hung_task_warnings=-1",
    "nokaslr",
)


@dataclass(frozen=True)
class Boot:
    """What a machine is made of."""

    image: Path
    initramfs: Path
    modules: Sequence[str]
    """Of the kernel, as the guest is to load them."""
    processor: str = "qemu64"
    cpus: int = 1
    nodes: int = 2
    merge: bool = True
    memory: int = 512
    """MiB."""

    def parameters(self) -> str:
        """The kernel's command line."""
        own = {
            "modules": ",".join(self.modules),
            "nodes": self.nodes,
            "merge": "on" if self.merge else "off",
        }
        return " ".join((*_PARAMETERS, *(f"lastwriter.{name}={own[name]}" for name in own)))

    def command(self, agent: int, control: int, monitor: int, log: int) -> list[str]:
        """QEMU's command line, with the numbers of inherited files to be its ends of sockets."""
        return [
            QEMU,
            *("-accel", "tcg", "-cpu", self.processor, "-machine", "microvm,acpi=off"),
            *("-smp", str(self.cpus), "-m", f"{self.memory}M"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-kernel", str(self.image), "-initrd", str(self.initramfs)),
            *("-append", self.parameters()),
            *("-chardev", f"file,id=log,path=/dev/fd/{log},append=on", "-serial", "chardev:log"),
            *("-device", "virtio-serial-device"),
            *("-chardev", f"socket,id=agent,fd={agent}"),
            *("-device", "virtserialport,chardev=agent,name=agent,nr=1"),
            *("-chardev", f"socket,id=control,fd={control}"),
            *("-device", "virtserialport,chardev=control,name=control,nr=2"),
            *("-chardev", f"socket,id=monitor,fd={monitor}", "-qmp", "chardev:monitor"),
        ]

    def name(self, qemu: Path) -> str:
        """What identifies a saved state: changes with anything that went into it."""
        files = [path.stat() for path in (self.image, self.initramfs, qemu)]
        stamps = [f"{each.st_size}/{each.st_mtime_ns}" for each in files]
        return digest(*self.command(0, 0, 0, 0), *stamps)


class _HungUpError(CandidateError):
    """Nobody is at the other end."""


class Lines:
    """Lines of text over a socket, within a deadline and a length.

    `attend` is called now and then while it waits; what that raises ends the wait.
    """

    def __init__(self, connection: socket.socket, attend: Callable[[], None]) -> None:
        self._socket = connection
        self._socket.settimeout(_TICK)
        self._attend = attend
        self._buffer = b""

    def ask(self, line: str, deadline: float, payload: bytes = b"") -> str:
        """Say a line, with a payload behind it, and give the line that comes back."""
        self.say(line, deadline, payload)
        return self.hear(deadline)

    def say(self, line: str, deadline: float, payload: bytes = b"") -> None:
        rest = memoryview(line.encode() + b"\n" + payload)
        while rest:
            with self._patient(deadline):
                rest = rest[self._socket.send(rest) :]

    def hear(self, deadline: float) -> str:
        """The next line; `CandidateError` if none comes."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > _LONGEST:
                raise CandidateError(f"a line of more than {_LONGEST} bytes")
            with self._patient(deadline):
                piece = self._socket.recv(4096)
                if not piece:
                    raise ConnectionResetError(errno.ECONNRESET, "the end of the stream")
                self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return printable(line.decode(errors="replace").strip())

    @contextlib.contextmanager
    def _patient(self, deadline: float) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            pass
        except OSError as error:
            raise _HungUpError(f"the machine hung up: {error.strerror or error}") from None
        if time.monotonic() >= deadline:
            raise CandidateError("no answer in time")
        self._attend()

    def close(self) -> None:
        self._socket.close()


class Machine:
    """A machine that runs, from its boot on or from a saved state on.

    `CandidateError` if it cannot be started.
    """

    def __init__(self, boot: Boot, state: Path | None = None) -> None:
        self.boot = boot
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as given:
            self.log = KernelLog()
            undo.callback(self.log.close)
            control, theirs = _pair(undo, given)
            monitor, monitors = _pair(undo, given)
            files = [theirs, monitors, self.log.file]
            source: list[str] = []
            if state is not None:
                files.append(given.enter_context(state.open("rb")).fileno())
                source = ["-incoming", f"fd:{files[-1]}"]
            self.child = Child(
                lambda agent: [*boot.command(agent, *files[:3]), *source],
                dict(os.environ),
                keep=files,
            )
            undo.callback(self.child.end)
            self._control = Lines(control, self._attend)
            self._monitor = Lines(monitor, self._attend)
            self._parts = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _attend(self) -> None:
        self.log.look()
        self.child.output.trim()
        death = self.child.death()
        if death is not None:
            raise CandidateError(f"QEMU {death}")

    def ask(self, line: str, deadline: float, payload: bytes = b"") -> str:
        """What the guest answers on its control port; `CandidateError`."""
        try:
            return self._control.ask(line, deadline, payload)
        except _HungUpError as error:
            death = self.child.death(_DEATH_SECONDS)
            raise CandidateError(f"QEMU {death}" if death else str(error)) from None

    def end(self) -> None:
        """Kill it."""
        self._parts.close()

    def save(self, path: Path) -> None:
        """Stop it and write its state to a file; it does not run on."""
        deadline = time.monotonic() + _SAVE_SECONDS
        self._monitor.hear(deadline)
        self._command("qmp_capabilities", deadline)
        self._command("migrate", deadline, uri=f"exec:cat >{shlex.quote(str(path))}")
        while True:
            answer = self._command("query-migrate", deadline)
            status = answer.get("status")
            if status == "completed":
                return
            if status not in {"setup", "active", "device"}:
                raise CandidateError(f"cannot save the machine: {answer}")
            time.sleep(_TICK)

    def _command(self, name: str, deadline: float, **arguments: str) -> dict[str, object]:
        """What QEMU answers to a command; events in between are passed over."""
        text = msgspec.json.encode({"execute": name, "arguments": arguments}).decode()
        self._monitor.say(text, deadline)
        while True:
            answer = msgspec.json.decode(self._monitor.hear(deadline), type=dict[str, object])
            if "error" in answer:
                raise CandidateError(f"QEMU: {name}: {answer['error']}")
            if isinstance(result := answer.get("return"), dict):
                return result


def _pair(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[socket.socket, int]:
    """A socket of ours, and the number of the file that is its other end."""
    near, far = socket.socketpair()
    ours.enter_context(near)
    return near, theirs.enter_context(far).fileno()
