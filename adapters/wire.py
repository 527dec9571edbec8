"""The wire protocol: frames, their payloads, and a stream of them.

Encoding and decoding are pure functions; only `Stream` does input and output.  Whatever comes
from the peer is checked before it is used, and memory is never taken on a peer's word: a buffer
grows with the bytes that have arrived, not with the length that was announced.
docs/wire.md describes every byte.
"""

from __future__ import annotations

import enum
import os
import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec

from reference.description import Description
from reference.geometry import GEOMETRY, Geometry
from reference.operations import OPERATION, Operation, decode_operations, encode_operations
from reference.outcomes import OUTCOME, Outcome, decode_outcomes, encode_outcomes
from reference.schema import ABI_VERSION

from .candidate import CandidateError

__all__ = [
    "MAX_PAYLOAD",
    "ClosedError",
    "ComplaintError",
    "CrashedError",
    "DeadlineError",
    "Frame",
    "FrameDecoder",
    "FrameType",
    "HeavyError",
    "RefusedError",
    "Stream",
    "WireError",
    "check_hello",
    "decode_description",
    "decode_error",
    "decode_geometry",
    "decode_result",
    "decode_run",
    "encode_description",
    "encode_error",
    "encode_frame",
    "encode_geometry",
    "encode_hello",
    "encode_result",
    "encode_run",
    "printable",
]

T = TypeVar("T")

MAX_PAYLOAD = 64 << 20
"""Bytes of one payload; a frame that announces more is refused."""
MAX_DESCRIPTION = 1 << 20
MAX_ERROR = 64 << 10
TICK = 0.02
"""Seconds between two calls of a stream's `idle` while it waits."""
_CHUNK = 64 << 10
_READ, _WRITE = select.POLLIN, select.POLLOUT
_HEADER = struct.Struct("<IB")
_HELLO = struct.Struct("<4sHHHH")
_MAGIC = b"LWRT"
_COUNT = struct.Struct("<I")


class WireError(CandidateError):
    """What came is not the protocol."""


class DeadlineError(WireError):
    """Nothing, or not all of it, came in time."""


class ClosedError(WireError):
    """The peer is gone."""


class RefusedError(WireError):
    """The peer sent an ERROR frame; the message is its text."""


class CrashedError(WireError):
    """The peer says that its candidate died."""


class ComplaintError(WireError):
    """The kernel that the candidate is in says that something is wrong with it."""


class HeavyError(WireError):
    """The candidate holds too much memory."""


class FrameType(enum.IntEnum):
    """What a frame is.  Numbers are part of the protocol."""

    HELLO = 1
    DESCRIBE = 2
    DESCRIPTION = 3
    RESET = 4
    READY = 5
    RUN = 6
    RESULT = 7
    ERROR = 8
    BYE = 9
    PLAY = 10
    PLAYED = 11


class Frame(NamedTuple):
    """One frame."""

    type: FrameType
    payload: bytes = b""


_TYPES = {int(kind): kind for kind in FrameType}


def encode_frame(kind: FrameType, payload: bytes = b"") -> bytes:
    """A frame's bytes; `WireError` if the payload is too long to be sent."""
    if len(payload) > MAX_PAYLOAD:
        raise WireError(f"a payload of {len(payload)} bytes is too long for a frame")
    return _HEADER.pack(len(payload), kind) + payload


class FrameDecoder:
    """Cuts a stream of bytes into frames, whatever the pieces in which it arrives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def partial(self) -> bool:
        """Whether something has arrived that is not a whole frame yet."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes.

        Raises `WireError` at a header that cannot be one.  Frames before it are given out
        first: then the error comes with the next call.
        """
        self._buffer += data
        frames: list[Frame] = []
        try:
            while (frame := self._next()) is not None:
                frames.append(frame)
        except WireError:
            if not frames:
                raise
        return frames

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < _HEADER.size:
            return None
        length, number = _HEADER.unpack_from(buffer)
        if length > MAX_PAYLOAD:
            raise WireError(f"a frame of {length} bytes, more than {MAX_PAYLOAD}")
        if number not in _TYPES:
            raise WireError(f"a frame of unknown type {number}")
        end = _HEADER.size + length
        if len(buffer) < end:
            return None
        with memoryview(buffer) as view:
            payload = bytes(view[_HEADER.size : end])
        del buffer[:end]
        return Frame(_TYPES[number], payload)


def encode_hello() -> bytes:
    """The payload of our HELLO."""
    return _HELLO.pack(_MAGIC, ABI_VERSION, OPERATION.size, OUTCOME.size, 0)


def check_hello(payload: bytes) -> None:
    """`WireError` unless the peer speaks this version with these records.

    Only magic and version have a place that stays: the rest of another version is not looked at.
    """
    if payload[:4] != _MAGIC or len(payload) < 6:
        raise WireError("does not greet in this protocol")
    version = int.from_bytes(payload[4:6], "little")
    if version != ABI_VERSION:
        raise WireError(f"speaks version {version}, this is version {ABI_VERSION}")
    if payload != encode_hello():
        raise WireError(f"greets with other record sizes: {payload[6:14].hex(' ')}")


def encode_description(description: Description) -> bytes:
    """JSON text."""
    return msgspec.json.encode(description, order="deterministic")


def decode_description(payload: bytes) -> Description:
    """A checked description; `WireError` says what is wrong with it."""
    if len(payload) > MAX_DESCRIPTION:
        raise WireError(f"a description of {len(payload)} bytes, more than {MAX_DESCRIPTION}")
    try:
        description = msgspec.json.decode(payload, type=Description)
        description.check()
    except (ValueError, msgspec.DecodeError) as error:
        raise WireError(f"bad description: {printable(str(error))}") from None
    _check_texts(description)
    return description


def _check_texts(description: Description) -> None:
    texts = (
        description.name,
        description.version,
        *description.notes,
        *description.left_out.values(),
    )
    for text in texts:
        if not text.isprintable():
            raise WireError(f"bad description: unprintable characters in {text[:80]!r}")


def encode_geometry(geometry: Geometry) -> bytes:
    """The packed record."""
    return GEOMETRY.format.pack(*geometry)


def decode_geometry(payload: bytes) -> Geometry:
    """A checked geometry; `WireError` says what is wrong with it."""
    if len(payload) != GEOMETRY.size:
        raise WireError(f"a geometry has {GEOMETRY.size} bytes, not {len(payload)}")
    geometry = Geometry._make(GEOMETRY.format.unpack(payload))
    try:
        geometry.check()
    except ValueError as error:
        raise WireError(f"bad geometry: {error}") from None
    return geometry


def encode_run(operations: Sequence[Operation]) -> bytes:
    """A count and the packed operations."""
    return _COUNT.pack(len(operations)) + encode_operations(operations)


def decode_run(payload: bytes) -> list[Operation]:
    """The operations of a batch; `WireError` if they do not fill the payload exactly."""
    count = _count_of(payload)
    if len(payload) != _COUNT.size + count * OPERATION.size:
        raise WireError(f"{count} operations do not fill a payload of {len(payload)} bytes")
    try:
        return decode_operations(memoryview(payload)[_COUNT.size :])
    except ValueError as error:
        raise WireError(str(error)) from None


def encode_result(outcomes: Sequence[Outcome]) -> bytes:
    """A count, the packed outcomes and their side buffer."""
    records, data = encode_outcomes(outcomes)
    return b"".join((_COUNT.pack(len(outcomes)), records, data))


def decode_result(payload: bytes, asked: int) -> list[Outcome]:
    """The outcomes of a batch of `asked` operations; `WireError` unless there are as many."""
    count = _count_of(payload)
    split = _COUNT.size + count * OUTCOME.size
    if count != asked:
        raise WireError(f"{count} outcomes for {asked} operations")
    if len(payload) < split:
        raise WireError(f"{count} outcomes do not fit in a payload of {len(payload)} bytes")
    records, available = memoryview(payload)[_COUNT.size : split], len(payload) - split
    # Outcomes that share data could make little of it into very much.
    if count * available > MAX_PAYLOAD:
        _check_sizes(records, available)
    try:
        return decode_outcomes(records, payload, split)
    except ValueError as error:
        raise WireError(str(error)) from None


def _check_sizes(records: memoryview, available: int) -> None:
    total = sum(record[-1] for record in OUTCOME.format.iter_unpack(records))
    if total > available:
        raise WireError(f"outcomes with {total} bytes of data in a side buffer of {available}")


def _count_of(payload: bytes) -> int:
    if len(payload) < _COUNT.size:
        raise WireError(f"a payload of {len(payload)} bytes holds no count")
    return int.from_bytes(payload[: _COUNT.size], "little")


def encode_error(text: str) -> bytes:
    """UTF-8 text, cut to a bounded length."""
    return text.encode(errors="replace")[:MAX_ERROR]


def decode_error(payload: bytes) -> str:
    """Text that can be shown on a terminal, whatever came."""
    return printable(payload[:MAX_ERROR].decode(errors="replace")) or "no reason given"


def printable(text: str) -> str:
    """The text without control characters, which could do things to a terminal."""
    unknown = "\N{REPLACEMENT CHARACTER}"
    return "".join(c if c.isprintable() or c in "\n\t" else unknown for c in text)


class Stream:
    """Frames over a socket or a pair of file descriptors.

    Deadlines are absolute, in seconds of `time.monotonic()`; None waits for ever.  While it
    waits, `idle` is called every `TICK` seconds; what that raises ends the wait.
    """

    def __init__(
        self,
        receive: Callable[[int], bytes],
        send: Callable[[memoryview], int],
        files: tuple[int, int],
        close: Callable[[], None],
    ) -> None:
        self._receive = receive
        self._send = send
        self._input, self._output = files
        self._decoder = FrameDecoder()
        self._frames: deque[Frame] = deque()
        self.close = close
        self.idle: Callable[[], None] | None = None

    @classmethod
    def of_socket(cls, connection: socket.socket) -> Stream:
        """Over a connected socket, plain or TLS, which the stream then owns."""
        connection.setblocking(False)
        file = connection.fileno()
        return cls(connection.recv, connection.send, (file, file), connection.close)

    @classmethod
    def of_files(cls, input_file: int, output_file: int) -> Stream:
        """Over two file descriptors (pipes, say), which the stream then owns."""
        os.set_blocking(input_file, False)
        os.set_blocking(output_file, False)

        def close() -> None:
            os.close(input_file)
            os.close(output_file)

        return cls(
            lambda size: os.read(input_file, size),
            lambda data: os.write(output_file, data),
            (input_file, output_file),
            close,
        )

    @property
    def unread(self) -> bool:
        """Whether something has come that nobody has asked for yet."""
        return bool(self._frames) or self._decoder.partial

    @property
    def left(self) -> bool:
        """Whether the peer has hung up, or says that it will send no more."""
        poll = select.poll()
        poll.register(self._input, select.POLLRDHUP)
        return bool(poll.poll(0))

    def send(self, kind: FrameType, payload: bytes = b"", *, deadline: float | None = None) -> None:
        """Send one frame whole; `ClosedError`, `DeadlineError`."""
        rest = memoryview(encode_frame(kind, payload))
        while True:
            rest = rest[self._try(partial(self._send, rest), _WRITE, deadline) :]
            if not rest:
                return
            _check_time(deadline)

    def receive(self, *, deadline: float | None = None) -> Frame:
        """The next frame; `WireError` or one of its kinds if none comes."""
        # An empty piece brings out an error that stood behind frames already given out.
        self._frames += () if self._frames else self._decoder.feed(b"")
        while not self._frames:
            self._frames += self._decoder.feed(self._piece(deadline))
            if not self._frames:  # a peer that sends byte by byte never makes us wait
                _check_time(deadline)
        return self._frames.popleft()

    def _piece(self, deadline: float | None) -> bytes:
        piece = self._try(partial(self._receive, _CHUNK), _READ, deadline)
        if not piece:
            raise ClosedError("hung up" + " within a frame" * self._decoder.partial)
        return piece

    def _try(self, attempt: Callable[[], T], event: int, deadline: float | None) -> T:
        """What the attempt gives, once the file is ready for it.  TLS may wait the other way."""
        while True:
            try:
                return attempt()
            except BlockingIOError:
                needed = event
            except ssl.SSLWantReadError:
                needed = _READ
            except ssl.SSLWantWriteError:
                needed = _WRITE
            except OSError as error:
                raise ClosedError(_closed(error)) from None
            self._wait(needed, deadline)

    def _wait(self, event: int, deadline: float | None) -> None:
        poll = select.poll()
        poll.register(self._input if event == _READ else self._output, event)
        while not poll.poll(self._patience(deadline)):
            _check_time(deadline)
            if self.idle is not None:
                self.idle()

    def _patience(self, deadline: float | None) -> float | None:
        """Milliseconds to wait at most."""
        ticks = [] if self.idle is None else [TICK]
        if deadline is not None:
            ticks.append(max(0.0, deadline - time.monotonic()))
        return 1000 * min(ticks) if ticks else None


def _check_time(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() >= deadline:
        raise DeadlineError("no answer in time")


def _closed(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or 'the connection was cut'}"
    return f"hung up: {error.strerror or error}"
