"""Agents and clients whose peer speaks something else than the protocol."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from adapters import wire
from adapters.address import listen
from adapters.client import RemoteCandidate
from adapters.examples.tiny import Tiny
from adapters.server import serve
from adapters.wire import (
    ClosedError,
    DeadlineError,
    FrameDecoder,
    FrameType,
    RefusedError,
    Stream,
    WireError,
)
from adapters.worker import Limits, Worker
from reference.geometry import Geometry
from reference.operations import Kind, Operation
from reference.program import Program
from reference.trace import Breakdown, Cause

MANY_SECONDS = 60.0
PATIENT = Limits(seconds=MANY_SECONDS)
GEOMETRY = Geometry(pages=4, processes=1, devices=1, files=0, keys=0, jobs=0)
READS = (Operation(Kind.READ, 0, 0, 0, page=0, pages=0, length=8),) * 4
PROGRAM = Program(READS, GEOMETRY)


def talk(*frames: tuple[FrameType, bytes]) -> str:
    """What an agent says to a client that sends these frames, in its ERROR frame."""
    ours, theirs = socket.socketpair()
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve, Stream.of_socket(theirs), Tiny, "tiny")
        stream = Stream.of_socket(ours)
        for frame in frames:
            stream.send(*frame)
        while (frame := stream.receive()).type != FrameType.ERROR:
            pass
        stream.close()
        served.result(MANY_SECONDS)
    return wire.decode_error(frame.payload)


HELLO = (FrameType.HELLO, wire.encode_hello())
RESET = (FrameType.RESET, wire.encode_geometry(GEOMETRY))


class TestClientsThatSpeakSomethingElse:
    @pytest.mark.parametrize(
        ("frames", "answer"),
        [
            ([(FrameType.DESCRIBE, b"")], "DESCRIBE before HELLO"),
            ([(FrameType.HELLO, b"LWRT\x07\0")], "speaks version 7, this is version 1"),
            ([HELLO, HELLO], "unexpected HELLO"),
            ([HELLO, (FrameType.READY, b"")], "unexpected READY"),
            ([HELLO, (FrameType.DESCRIBE, b"?")], "DESCRIBE with a payload"),
            ([HELLO, (FrameType.RUN, bytes(4))], "RUN before RESET"),
            ([HELLO, (FrameType.RESET, bytes(15))], "a geometry has 16 bytes, not 15"),
            ([HELLO, (FrameType.RESET, bytes(16))], "bad geometry: page_size: 0 is none of"),
            ([HELLO, RESET, (FrameType.RUN, b"\1\0\0\0")], "1 operations do not fill"),
            ([HELLO, RESET, (FrameType.RUN, b"\1\0\0\0" + bytes(40))], "unknown kind 0"),
        ],
    )
    def test_are_told_so(self, frames: list[tuple[FrameType, bytes]], answer: str) -> None:
        assert answer in talk(*frames)

    def test_random_bytes(self) -> None:
        ours, theirs = socket.socketpair()
        with ThreadPoolExecutor(1) as pool, ours:
            served = pool.submit(serve, Stream.of_socket(theirs), Tiny, "tiny")
            ours.sendall(random.Random(1).randbytes(1000))
            ours.shutdown(socket.SHUT_WR)
            with ours.makefile("rb") as file:
                assert b"a frame of " in file.read()
            served.result(MANY_SECONDS)


@contextlib.contextmanager
def fake_agent(*answers: bytes, hold: bool = False) -> Iterator[str]:
    """An agent that sends the first answer to its only client at once, and then one to each frame.

    At the end it hangs up, or holds the connection until the client does.
    """

    def speak() -> None:
        connection, _ = listener.accept()
        with connection:
            left = list(answers)
            connection.sendall(left.pop(0))
            decoder = FrameDecoder()
            asked = -1  # the client's greeting is no question
            while not (asked >= 0 and not left and not hold):
                data = connection.recv(1000)
                if not data:
                    return
                for _ in decoder.feed(data):
                    asked += 1
                    if asked and left:
                        connection.sendall(left.pop(0))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1000):
                pass

    listener, address = listen("tcp:127.0.0.1:0", None)
    listener.settimeout(MANY_SECONDS)
    with listener, ThreadPoolExecutor(1) as pool:
        spoken = pool.submit(speak)
        yield address
        spoken.result(MANY_SECONDS)


def frame(kind: FrameType, payload: bytes = b"") -> bytes:
    return wire.encode_frame(kind, payload)


def verdict(
    *answers: bytes, hold: bool = False, limits: Limits = PATIENT
) -> tuple[str, Breakdown | None]:
    """Where a fake agent was, and what became of a program there."""
    with fake_agent(*answers, hold=hold) as address, Worker(address, limits=limits) as worker:
        return address, worker.run(PROGRAM).breakdown


GREETING = frame(*HELLO)
DESCRIPTION = frame(FrameType.DESCRIPTION, wire.encode_description(Tiny().describe()))


class TestAgentsThatSpeakSomethingElse:
    @pytest.mark.parametrize(
        ("answer", "kind", "problem"),
        [
            (
                frame(FrameType.HELLO, b"LWRT\x07\0"),
                WireError,
                "speaks version 7, this is version 1",
            ),
            (b"", ClosedError, "hung up"),
            (GREETING[:9], ClosedError, "hung up within a frame"),
            (b"\xff\xff\xff\xff\x01", WireError, "a frame of 4294967295 bytes, more than 67108864"),
            (random.Random(2).randbytes(500), WireError, "a frame of "),
            (b"SSH-2.0-OpenSSH_9.9\r\n", WireError, "a frame of 759714643 bytes"),
            (b"\x04\0\0\0\x01HTTP", WireError, "does not greet in this protocol"),
            (frame(FrameType.READY), WireError, "greets with READY"),
            (frame(FrameType.ERROR, b"busy"), RefusedError, "busy"),
        ],
    )
    def test_greetings(self, answer: bytes, kind: type[WireError], problem: str) -> None:
        with fake_agent(answer) as address, pytest.raises(kind) as caught:
            RemoteCandidate.connect(address, seconds=MANY_SECONDS)
        assert type(caught.value) is kind
        assert str(caught.value).startswith(f"agent at {address}: {problem}")

    def test_silence(self) -> None:
        with fake_agent(b"", hold=True) as address, pytest.raises(DeadlineError) as caught:
            RemoteCandidate.connect(address, seconds=0.2)
        assert str(caught.value) == f"agent at {address}: no answer in time"

    @pytest.mark.parametrize(
        ("answer", "kind", "problem"),
        [
            (frame(FrameType.READY), WireError, "answered DESCRIBE with READY"),
            (frame(FrameType.DESCRIPTION, b"{}"), WireError, "bad description: .*missing required"),
            (frame(FrameType.ERROR, b"ill\x07"), RefusedError, "ill\ufffd"),
            (frame(FrameType.ERROR, b"garbage: 3"), WireError, "3"),
            (b"", ClosedError, "hung up"),
        ],
    )
    def test_descriptions(self, answer: bytes, kind: type[WireError], problem: str) -> None:
        with fake_agent(GREETING, answer) as address:
            client = RemoteCandidate.connect(address, seconds=MANY_SECONDS)
            with pytest.raises(kind, match=f"^agent at {address}: {problem}") as caught:
                client.describe()
            assert type(caught.value) is kind
            client.close()

    @pytest.mark.parametrize(
        ("answer", "breakdown"),
        [
            (frame(FrameType.READY, b"!"), (Cause.GARBAGE, "READY with a payload of 1 bytes")),
            (frame(FrameType.READY) * 2, (Cause.GARBAGE, "answered RUN with READY")),
            (frame(FrameType.READY) + b"!", (Cause.CRASH, "hung up within a frame")),
            (frame(FrameType.RESULT, bytes(4)), (Cause.GARBAGE, "answered RESET with RESULT")),
            (frame(FrameType.ERROR, b"ill"), (Cause.REFUSED, "ill")),
            (b"\xff" * 5, (Cause.GARBAGE, "a frame of 4294967295 bytes, more than 67108864")),
            (b"", (Cause.CRASH, "hung up")),
        ],
    )
    def test_resets(self, answer: bytes, breakdown: tuple[Cause, str]) -> None:
        cause, text = breakdown
        address, found = verdict(GREETING, DESCRIPTION, answer)
        assert found == Breakdown(cause, f"agent at {address}: {text}")

    @pytest.mark.parametrize(
        ("answer", "text"),
        [
            (bytes(4), "0 outcomes for 4 operations"),
            (b"\4\0\0\0", "4 outcomes do not fit in a payload of 4 bytes"),
            (b"\4\0\0\0" + b"\xff" * 64, "outcome 0: unknown status 255"),
            (b"", "a payload of 0 bytes holds no count"),
        ],
    )
    def test_results(self, answer: bytes, text: str) -> None:
        answers = (GREETING, DESCRIPTION, frame(FrameType.READY), frame(FrameType.RESULT, answer))
        address, found = verdict(*answers)
        assert found == Breakdown(Cause.GARBAGE, f"agent at {address}: {text}")

    @pytest.mark.parametrize("more", [frame(FrameType.READY), b"!"])
    def test_what_nobody_asked_for(self, more: bytes) -> None:
        address, found = verdict(GREETING, DESCRIPTION + more, frame(FrameType.READY))
        text = f"agent at {address}: sent more than was asked for"
        assert found == Breakdown(Cause.GARBAGE, text)

    def test_no_result(self) -> None:
        answers = (GREETING, DESCRIPTION, frame(FrameType.READY))
        _, found = verdict(*answers, hold=True, limits=Limits(seconds=0.5))
        assert found == Breakdown(Cause.HANG, "no answer within 0.5 s")
