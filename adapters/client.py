"""A candidate at the other end of a stream: in a process of its own, or on another machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import TypeVar

from reference.description import Description
from reference.geometry import Geometry
from reference.operations import (
    ATOMICS,
    DEVICE_ACCESSES,
    OPERATION,
    Kind,
    Operation,
    encode_operations,
)
from reference.outcomes import OUTCOME, Outcome
from reference.program import Program
from reference.trace import Cause, Trace

from . import wire
from .address import connect
from .tls import TlsFiles
from .wire import (
    ClosedError,
    ComplaintError,
    CrashedError,
    Frame,
    FrameType,
    HeavyError,
    RefusedError,
    Stream,
    WireError,
)

T = TypeVar("T")

__all__ = ["BATCH_DATA", "RemoteCandidate", "batches", "refusal"]

BATCH_DATA = 16 << 20
"""Bytes of data that the answer to one batch may have, unless a single operation needs more."""
_BATCH_OPERATIONS = 1 << 20
_ANSWERS = {
    FrameType.DESCRIBE: FrameType.DESCRIPTION,
    FrameType.RESET: FrameType.READY,
    FrameType.RUN: FrameType.RESULT,
    FrameType.PLAY: FrameType.PLAYED,
}
_BREAKDOWNS: dict[str, type[WireError]] = {
    Cause.GARBAGE: WireError,
    Cause.CRASH: CrashedError,
    Cause.MEMORY: HeavyError,
    Cause.KERNEL: ComplaintError,
}


class RemoteCandidate:
    """The client of one agent.

    Every request raises `WireError` or one of its kinds if it gets no proper answer; the
    conversation is over then.  `name` stands before the problem in messages.  `deadline` is a
    time of `time.monotonic()` that requests obey from now on; None waits for ever.
    """

    def __init__(self, stream: Stream, name: str = "", *, deadline: float | None = None) -> None:
        self.stream = stream
        self.deadline = deadline
        self._name = name
        self._description: Description | None = None
        self._waiting = 0
        """Questions that have no answer yet."""
        try:
            self._greet()
        except WireError as error:
            stream.close()
            raise self._named(error) from None
        except BaseException:
            stream.close()
            raise

    @classmethod
    def connect(
        cls, address: str, *, tls: TlsFiles | None = None, seconds: float = 10.0
    ) -> RemoteCandidate:
        """Reach the agent at an address within some seconds; `CandidateError` if that fails."""
        deadline = time.monotonic() + seconds
        stream = Stream.of_socket(connect(address, tls, deadline))
        client = cls(stream, f"agent at {address}", deadline=deadline)
        client.deadline = None
        return client

    def _greet(self) -> None:
        self.stream.send(FrameType.HELLO, wire.encode_hello(), deadline=self.deadline)
        frame = self.stream.receive(deadline=self.deadline)
        if frame.type == FrameType.ERROR:
            raise refusal(frame)
        if frame.type != FrameType.HELLO:
            raise WireError(f"greets with {frame.type.name}")
        wire.check_hello(frame.payload)

    def describe(self) -> Description:
        """What the candidate says of itself; asked only once."""
        if self._description is None:
            self._description = self._ask(FrameType.DESCRIBE, b"", wire.decode_description)
        return self._description

    def reset(self, geometry: Geometry) -> None:
        self._ask(FrameType.RESET, wire.encode_geometry(geometry), _check_empty)

    def run(self, operations: Sequence[Operation]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for batch in self.steps(operations, encode_operations(operations)):
            outcomes += batch
        return outcomes

    def steps(self, operations: Sequence[Operation], records: bytes) -> Iterator[list[Outcome]]:
        """Run the operations, `records` when packed, batch by batch, and give their outcomes."""
        for count, payload in _requests(operations, records):
            yield self._ask(FrameType.RUN, payload, partial(wire.decode_result, asked=count))

    def begin(
        self, geometry: Geometry, operations: Sequence[Operation], records: bytes
    ) -> tuple[Iterator[list[Outcome]], bool]:
        """Reset, and have the first operations run; nothing is waited for.

        The outcomes are what comes of `steps`, when they are asked for; and whether those are all
        operations, so that something else may be begun before they are asked for.
        """
        requests = _requests(operations, records)
        first, second = next(requests, None), next(requests, None)
        self._put(FrameType.RESET, wire.encode_geometry(geometry))
        if first is not None:
            # If it has hung up, what it answered to the reset says more.
            with suppress(ClosedError):
                self.stream.send(FrameType.RUN, first[1], deadline=self.deadline)
            self._waiting += 1
        rest = requests if second is None else chain((second,), requests)
        return self._outcomes(first, rest), second is None

    def _outcomes(
        self, first: tuple[int, bytes] | None, rest: Iterator[tuple[int, bytes]]
    ) -> Iterator[list[Outcome]]:
        self._take(FrameType.RESET, _check_empty)
        if first is not None:
            yield self._take(FrameType.RUN, partial(wire.decode_result, asked=first[0]))
        for count, payload in rest:
            yield self._ask(FrameType.RUN, payload, partial(wire.decode_result, asked=count))

    def begin_scheduled(self, program: Program) -> Callable[[], Trace]:
        """Have a program run under its schedule, by a candidate that takes schedules.

        What is given waits for what comes of it.
        """
        from .played import decode_played, encode_play  # noqa: PLC0415 (few candidates do)

        self._put(FrameType.PLAY, encode_play(program))
        return partial(self._take, FrameType.PLAY, partial(decode_played, program=program))

    def close(self) -> None:
        """Say goodbye, without waiting for anything."""
        try:
            self.stream.send(FrameType.BYE, deadline=-math.inf)
        except WireError:
            pass  # gone already
        finally:
            self.stream.close()

    def _ask(self, question: FrameType, payload: bytes, decode: Callable[[bytes], T]) -> T:
        self._put(question, payload)
        return self._take(question, decode)

    def _put(self, question: FrameType, payload: bytes) -> None:
        """Ask; the answer is taken later."""
        try:
            self._send(question, payload)
        except WireError as error:
            raise self._named(error) from None
        self._waiting += 1

    def _take(self, question: FrameType, decode: Callable[[bytes], T]) -> T:
        """The answer to the question that was put first of those that have none."""
        self._waiting -= 1
        try:
            return decode(self._receive(question))
        except WireError as error:
            raise self._named(error) from None

    def _named(self, error: WireError) -> WireError:
        return type(error)(f"{self._name}: {error}") if self._name else error

    def _send(self, question: FrameType, payload: bytes) -> None:
        if self.stream.unread and not self._waiting:
            raise WireError("sent more than was asked for")
        try:
            self.stream.send(question, payload, deadline=self.deadline)
        except ClosedError as error:
            if self._waiting:
                raise
            raise self._last_words() or error from None

    def _receive(self, question: FrameType) -> bytes:
        frame = self.stream.receive(deadline=self.deadline)
        if frame.type == FrameType.ERROR:
            raise refusal(frame)
        if frame.type != _ANSWERS[question]:
            raise WireError(f"answered {question.name} with {frame.type.name}")
        return frame.payload

    def _last_words(self) -> WireError | None:
        """An agent that hangs up may have said why before."""
        try:
            frame = self.stream.receive(deadline=self.deadline)
        except WireError:
            return None
        return refusal(frame) if frame.type == FrameType.ERROR else None


def refusal(frame: Frame) -> WireError:
    """What an ERROR frame means: the agent refuses, or says what befell its candidate."""
    text = wire.decode_error(frame.payload)
    cause, colon, rest = text.partition(": ")
    return _BREAKDOWNS[cause](rest) if colon and cause in _BREAKDOWNS else RefusedError(text)


def _check_empty(payload: bytes) -> None:
    if payload:
        raise WireError(f"READY with a payload of {len(payload)} bytes")


def _requests(operations: Sequence[Operation], records: bytes) -> Iterator[tuple[int, bytes]]:
    """How many operations are run at a time, each with what asks for it."""
    at = 0
    for count in batches(operations):
        end = at + count * OPERATION.size
        yield count, count.to_bytes(4, "little") + records[at:end]
        at = end


def batches(operations: Sequence[Operation]) -> Iterator[int]:
    """How many operations go into each batch, so that the data of an answer stays bounded."""
    # No operation gives more than its length, here or in the wait for its job, or a byte for
    # each page, and most programs are small: one sum tells that they fit.
    if (
        len(operations) <= _BATCH_OPERATIONS
        and sum([operation.length + operation.pages for operation in operations])
        + OUTCOME.size * len(operations)
        <= BATCH_DATA
    ):
        if operations:
            yield len(operations)
        return
    count, size = 0, 0
    for data in _data_sizes(operations):
        if count and (size + data > BATCH_DATA or count == _BATCH_OPERATIONS):
            yield count
            count, size = 0, 0
        count += 1
        size += data
    if count:
        yield count


def _data_sizes(operations: Sequence[Operation]) -> Iterator[int]:
    """Bytes of data that each operation gives at most."""
    queued: dict[tuple[int, int], int] = {}
    for operation in operations:
        job = (operation.device, operation.job)
        if operation.kind == Kind.WAIT:
            yield queued.pop(job, 0)
        elif operation.kind in DEVICE_ACCESSES and operation.job:
            queued[job] = queued.get(job, 0) + _data_size(operation) + OUTCOME.size
            yield 0
        else:
            yield _data_size(operation)


def _data_size(operation: Operation) -> int:
    if operation.kind == Kind.SNAPSHOT:
        return operation.pages
    reads = operation.kind in ATOMICS or operation.kind in {Kind.READ, Kind.DREAD}
    return operation.length if reads else 0
