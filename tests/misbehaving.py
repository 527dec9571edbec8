"""Candidates that are correct until a program tells them to misbehave.

Each does its worst when the device writes the value `BAD`, in a way named by its class.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from adapters.examples.tiny import Tiny
from reference.description import Description
from reference.geometry import Geometry
from reference.operations import Operation
from reference.outcomes import Outcome

BAD = 0xBAD


class Misbehaving(Tiny):
    """The base: well-behaved but for what `worst` does."""

    def describe(self) -> Description:
        operations = super().describe().operations
        return Description(
            name=type(self).__name__, version=str(os.getpid()), operations=operations
        )

    def run(self, operations: Sequence[Operation]) -> Any:
        outcomes = super().run(operations)
        bad = any(operation.value == BAD for operation in operations)
        return self.worst(outcomes) if bad else outcomes

    def worst(self, outcomes: list[Outcome]) -> Any:
        raise NotImplementedError


class Raises(Misbehaving):
    def worst(self, outcomes: list[Outcome]) -> NoReturn:
        raise ValueError("no\nsuch\x1b[2J luck")


class Leaves(Misbehaving):
    def worst(self, outcomes: list[Outcome]) -> NoReturn:
        sys.exit("enough")


class Exits(Misbehaving):
    def worst(self, outcomes: list[Outcome]) -> NoReturn:
        os._exit(3)


class Segfaults(Misbehaving):
    def worst(self, outcomes: list[Outcome]) -> None:
        ctypes.string_at(0)


class Aborts(Misbehaving):
    def worst(self, outcomes: list[Outcome]) -> None:
        sys.stderr.write("assertion failed: \x1b[31mframes\n")
        os.abort()


class Loops(Misbehaving):
    """No signal that can be blocked stops it, and it says who it is through a pipe."""

    def worst(self, outcomes: list[Outcome]) -> NoReturn:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        child = os.fork()
        if child and "MISBEHAVING_PIPE" in os.environ:
            Path(os.environ["MISBEHAVING_PIPE"]).write_text(f"{os.getpid()} {child}\n")
        while True:
            signal.sigpending()


class Eats(Misbehaving):
    def worst(self, outcomes: list[Outcome]) -> NoReturn:
        hoard = []
        while True:
            hoard.append(bytearray(1 << 20))


class EatsInC(Misbehaving):
    def worst(self, outcomes: list[Outcome]) -> NoReturn:
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        while True:
            ctypes.memset(libc.malloc(ctypes.c_size_t(16 << 20)), 1, 16 << 20)


class EatsInAChild(Eats):
    def worst(self, outcomes: list[Outcome]) -> NoReturn:
        child = os.fork()
        if not child:
            super().worst(outcomes)
        os.waitpid(child, 0)
        raise AssertionError("the child has eaten all there is")


class GivesTooFew(Misbehaving):
    def worst(self, outcomes: list[Outcome]) -> Any:
        return outcomes[:-1]


class GivesNone(Misbehaving):
    def worst(self, outcomes: list[Outcome]) -> Any:
        return None


class GivesStrings(Misbehaving):
    def worst(self, outcomes: list[Outcome]) -> Any:
        return ["OK"] * len(outcomes)


class GivesStringAsData(Misbehaving):
    def worst(self, outcomes: list[Outcome]) -> Any:
        return [(0, 0, 8, "12345678")] * len(outcomes)


class GivesUnknownStatus(Misbehaving):
    def worst(self, outcomes: list[Outcome]) -> Any:
        return [*outcomes[:-1], Outcome(17)]


class GivesNegativeCount(Misbehaving):
    def worst(self, outcomes: list[Outcome]) -> Any:
        return [*outcomes[:-1], Outcome(0, 0, -8)]


class GivesHugeError(Misbehaving):
    def worst(self, outcomes: list[Outcome]) -> Any:
        return [*outcomes[:-1], Outcome(2, 1 << 16)]


class GivesTooMuch(Misbehaving):
    def worst(self, outcomes: list[Outcome]) -> Any:
        return [*outcomes[:-1], Outcome(0, 0, 8, bytes(65 << 20))]


def connections() -> list[socket.socket]:
    """Sockets of this process, the worker's own among them."""
    found = []
    for file in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 (numbers are wanted)
        try:
            found.append(socket.socket(fileno=os.dup(file)))
        except OSError:
            continue
    return found


class Scribbles(Misbehaving):
    """It answers itself, with a frame that announces more than a frame may hold."""

    def worst(self, outcomes: list[Outcome]) -> list[Outcome]:
        for connection in connections():
            connection.send(b"\xff" * 40)
        return outcomes


class HangsUp(Misbehaving):
    """It shuts its connection, and lives on."""

    def worst(self, outcomes: list[Outcome]) -> NoReturn:
        for connection in connections():
            connection.shutdown(socket.SHUT_RDWR)
        threading.Event().wait()
        raise AssertionError("nobody sets it")


class DiesBehindAChild(Misbehaving):
    """It is gone, but what it forked holds its connection open."""

    def worst(self, outcomes: list[Outcome]) -> NoReturn:
        if os.fork():
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            signal.pause()


class Prints(Misbehaving):
    """It prints by every way there is, which is no offence, and is interrupted."""

    def worst(self, outcomes: list[Outcome]) -> list[Outcome]:
        print("printed by Python")
        os.write(1, b"written to 1\n")
        ctypes.CDLL(None).puts(b"put by C")
        sys.stderr.write("x" * (3 << 20))
        os.kill(os.getpid(), signal.SIGINT)
        return outcomes


class PrintsAndRaises(Misbehaving):
    def worst(self, outcomes: list[Outcome]) -> NoReturn:
        print("a" * (3 << 20))
        print("the last words")
        raise ValueError


class Chatters(Raises):
    def dwrite(self, op: Operation) -> Outcome:
        print(f"to write {op.value:#x}")
        return super().dwrite(op)


class RaisesInReset(Misbehaving):
    def reset(self, geometry: Geometry) -> None:
        if geometry.pages == 1:
            raise OSError(12, "Cannot allocate memory")
        super().reset(geometry)


class RaisesInDescribe(Misbehaving):
    def describe(self) -> NoReturn:
        raise LookupError("who am I?")


class DescribesAsDict(Misbehaving):
    def describe(self) -> Any:
        return {"name": "tiny"}


class DescribesNonsense(Misbehaving):
    def describe(self) -> Description:
        return Description(name="nonsense", operations=frozenset({"fly"}))


class LoopsInDescribe(Misbehaving):
    def describe(self) -> NoReturn:
        while True:
            signal.sigpending()


class ExitsInDescribe(Misbehaving):
    def describe(self) -> NoReturn:
        sys.stderr.write("cannot find the device\n")
        os._exit(1)


class RaisesWhenMade(Misbehaving):
    def __init__(self) -> None:
        raise RuntimeError("out of order")


class NoRun:
    describe = Misbehaving.describe

    def reset(self, geometry: Geometry) -> None:
        pass


def factory() -> Tiny:
    return Tiny()


ready_made = Tiny()
number = 7
