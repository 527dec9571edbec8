"""An agent: holds a candidate and serves it to one client.

`python -m adapters.server --fd N SPEC` is what a worker starts.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

from reference.trace import Cause

from . import wire
from .candidate import Candidate, CandidateError, GarbageError, Scheduled
from .python import check_outcomes, describe, located
from .registry import open_candidate
from .wire import ClosedError, Frame, FrameType, Stream, WireError

__all__ = ["EndError", "Session", "converse", "serve"]

_GREETING_SECONDS = 10.0
_PARTING_SECONDS = 1.0


class EndError(Exception):
    """The conversation is over; the text is for the client."""


class Session(Protocol):
    """One client's use of a candidate."""

    def answer(self, question: Frame) -> Frame:
        """`EndError` or `WireError` if there is none, `ClosedError` if the client has left."""


def serve(stream: Stream, make: Callable[[], Candidate | Scheduled], name: str) -> None:
    """Serve one client a candidate that is made when it is first needed."""
    converse(stream, _Session(make, name))


def converse(stream: Stream, session: Session) -> None:
    """Answer one client until it leaves, and close the stream.

    Whatever is wrong, with the candidate or with the client, is said in an ERROR frame.
    """
    try:
        stream.send(FrameType.HELLO, wire.encode_hello(), deadline=_soon(_GREETING_SECONDS))
        _greet(stream)
        while (question := stream.receive()).type != FrameType.BYE:
            stream.send(*session.answer(question))
    except ClosedError:
        pass
    except (EndError, WireError) as end:
        _part(stream, str(end))
    finally:
        stream.close()


def _greet(stream: Stream) -> None:
    frame = stream.receive(deadline=_soon(_GREETING_SECONDS))
    if frame.type != FrameType.HELLO:
        raise WireError(f"{frame.type.name} before HELLO")
    wire.check_hello(frame.payload)


def _part(stream: Stream, text: str) -> None:
    """Send an ERROR frame, and wait a moment for the client to read it and leave.

    Closing while there is unread input would make TCP drop what the client has not read yet.
    """
    deadline = _soon(_PARTING_SECONDS)
    try:
        stream.send(FrameType.ERROR, wire.encode_error(text), deadline=deadline)
        while True:
            stream.receive(deadline=deadline)
    except WireError:
        pass


def _soon(seconds: float) -> float:
    return time.monotonic() + seconds


class _Session:
    """With a candidate in this process."""

    def __init__(self, make: Callable[[], Candidate | Scheduled], name: str) -> None:
        self._make = make
        self._name = name
        self._candidate: Candidate | Scheduled | None = None
        self._done: int | None = None
        """Operations since the last reset; None before the first."""
        self._answers: dict[FrameType, Callable[[bytes], Frame]] = {
            FrameType.DESCRIBE: self._describe,
            FrameType.RESET: self._reset,
            FrameType.RUN: self._run,
            FrameType.PLAY: self._play,
        }

    def answer(self, question: Frame) -> Frame:
        if question.type not in self._answers:
            raise WireError(f"unexpected {question.type.name}")
        return self._answers[question.type](question.payload)

    def _get(self) -> Candidate | Scheduled:
        if self._candidate is None:
            try:
                self._candidate = self._make()
            except CandidateError as error:
                raise EndError(str(error)) from None
        return self._candidate

    def _stepped(self) -> Candidate:
        candidate = self._get()
        if not hasattr(candidate, "run"):
            raise WireError("RESET or RUN for a candidate that takes schedules")
        return cast("Candidate", candidate)

    def _scheduled(self) -> Scheduled:
        candidate = self._get()
        if not hasattr(candidate, "run_scheduled"):
            raise WireError("PLAY for a candidate that takes no schedules")
        return cast("Scheduled", candidate)

    def _describe(self, payload: bytes) -> Frame:
        if payload:
            raise WireError("DESCRIBE with a payload")
        try:
            description = describe(self._get(), self._name)
        except CandidateError as error:
            raise EndError(str(error)) from None
        return Frame(FrameType.DESCRIPTION, wire.encode_description(description))

    def _reset(self, payload: bytes) -> Frame:
        geometry, candidate = wire.decode_geometry(payload), self._stepped()
        try:
            candidate.reset(geometry)
        except CandidateError as error:
            raise EndError(str(error)) from None
        except (Exception, SystemExit) as error:
            raise EndError(f"reset raised {located(error)}") from None
        self._done = 0
        return Frame(FrameType.READY)

    def _run(self, payload: bytes) -> Frame:
        if self._done is None:
            raise WireError("RUN before RESET")
        operations = wire.decode_run(payload)
        try:
            answer: object = self._stepped().run(operations)
            result = wire.encode_result(check_outcomes(operations, answer, self._done))
            if len(result) > wire.MAX_PAYLOAD:
                raise GarbageError(f"run gave {len(result)} bytes, more than a frame may hold")
        except GarbageError as error:
            raise EndError(f"{Cause.GARBAGE}: {error}") from None
        except (Exception, SystemExit) as error:
            raise EndError(f"run raised {located(error)}") from None
        self._done += len(operations)
        return Frame(FrameType.RESULT, result)

    def _play(self, payload: bytes) -> Frame:
        # Not at the top: most candidates take no schedules, and all have to start quickly.
        from .played import decode_play, encode_played  # noqa: PLC0415

        program, candidate = decode_play(payload), self._scheduled()
        try:
            played = encode_played(candidate.run_scheduled(program))
        except GarbageError as error:
            raise EndError(f"{Cause.GARBAGE}: {error}") from None
        except CandidateError as error:
            raise EndError(str(error)) from None
        except (Exception, SystemExit) as error:
            raise EndError(f"run raised {located(error)}") from None
        return Frame(FrameType.PLAYED, played)


def main() -> int:
    """The command; gives its exit status."""
    parser = argparse.ArgumentParser("python -m adapters.server", description="Serve a candidate.")
    parser.add_argument("--fd", type=int, required=True, help="the client, an inherited socket")
    parser.add_argument("spec", help="the candidate")
    arguments = parser.parse_args()
    # What the candidate prints, and how it died, goes to stderr.
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    faulthandler.enable()
    # The worker's parent decides when it ends, not a Ctrl-C at the terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(arguments.fd, False)
    # What was imported stays: the collector need not go through it again and again.
    gc.freeze()
    make = partial(open_candidate, arguments.spec)
    serve(Stream.of_socket(socket.socket(fileno=arguments.fd)), make, arguments.spec)
    return 0


if __name__ == "__main__":
    sys.exit(main())
