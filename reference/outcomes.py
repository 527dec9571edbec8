"""What a candidate answers for one operation: a fixed-width record and, for reads, data."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Annotated, NamedTuple

from .schema import U8, U16, U32, layout_of

__all__ = [
    "OUTCOME",
    "Outcome",
    "Record",
    "Seen",
    "Status",
    "decode_outcomes",
    "decode_wait",
    "encode_outcomes",
    "encode_wait",
    "seen_text",
]


class Status(enum.IntEnum):
    """How an operation ended.  Numbers are part of the ABI."""

    OK = 0
    FAULT = 1
    """An access hit memory it may not touch: SIGSEGV, SIGBUS, or EFAULT for a device."""
    ERROR = 2
    """The operation was refused; `error` holds the errno."""
    SKIPPED = 3
    """An event could not be made to happen (`error` says why) and nothing changed."""
    UNSUPPORTED = 4
    """The candidate cannot do this combination, and did nothing."""


class Seen(enum.IntFlag):
    """Bits of a byte of a `snapshot`: what a device sees of a page, without faulting it in.

    0 is no entry.  A page slot may be made of several pages of the kernel: then rights and places
    are those of any of them, and `ZERO` and `HUGE` what all of them are.
    """

    READ = 1
    WRITE = 2
    SYSTEM = 4
    """In system memory."""
    HERE = 8
    """In the memory of this device."""
    ELSEWHERE = 16
    """In the memory of another device."""
    ZERO = 32
    """The page of zeros that all processes share."""
    HUGE = 64
    """Part of a huge mapping."""


class Record(NamedTuple):
    """The fixed-width part of an outcome; `data` points into a side buffer."""

    status: Annotated[int, U8, "see Status"]
    reserved: Annotated[int, U8, "zero"]
    error: Annotated[int, U16, "errno, 0 when OK"]
    done: Annotated[int, U32, "accesses: bytes done before a fault, the whole length when OK"]
    data: Annotated[int, U32, "offset of this outcome's data in the side buffer"]
    size: Annotated[int, U32, "bytes of data: reads and atomics give `done` bytes of old values"]


OUTCOME = layout_of(Record)
_STRUCT = OUTCOME.format
_STATUSES = frozenset(map(int, Status))


class Outcome(NamedTuple):
    """An outcome with its data at hand.

    A read gives the words read, an atomic the old words, both `done` bytes.  A `wait` gives the
    outcomes of the job's accesses as `encode_wait` packs them, a `snapshot` that is OK one byte
    for each page, see `Seen`.  Everything else gives none.
    """

    status: int
    error: int = 0
    done: int = 0
    data: bytes = b""


def encode_outcomes(outcomes: Sequence[Outcome]) -> tuple[bytes, bytes]:
    """Records and side buffer."""
    records, chunks, at = [], [], 0
    for status, error, done, data in outcomes:
        records.append(_STRUCT.pack(status, 0, error, done, at, len(data)))
        chunks.append(data)
        at += len(data)
    return b"".join(records), b"".join(chunks)


def decode_outcomes(
    records: bytes | memoryview, data: bytes | memoryview, at: int = 0
) -> list[Outcome]:
    """The reverse of `encode_outcomes`, trusting nothing; the side buffer is `data` from `at` on.

    Raises `ValueError`, naming the outcome, for a partial record, an unknown status, a reserved
    byte that is not zero or data that lies outside the side buffer.
    """
    if len(records) % OUTCOME.size:
        raise ValueError(f"{len(records)} bytes are no whole number of {OUTCOME.size}-byte records")
    data = bytes(data)
    available = len(data) - at
    outcomes: list[Outcome] = []
    for status, reserved, error, done, start, size in _STRUCT.iter_unpack(records):
        if status not in _STATUSES or reserved or start + size > available:
            raise ValueError(
                f"outcome {len(outcomes)}: "
                + _complaint(status, reserved, f"{start}+{size}", available)
            )
        # By its class this takes a third longer, and there is one for every operation.
        found = data[at + start : at + start + size] if size else b""
        outcomes.append(tuple.__new__(Outcome, (status, error, done, found)))
    return outcomes


def _complaint(status: int, reserved: int, span: str, available: int) -> str:
    if status not in _STATUSES:
        return f"unknown status {status}"
    if reserved:
        return f"reserved byte is {reserved}"
    return f"data {span} lies outside the side buffer of {available} bytes"


def seen_text(byte: int) -> str:
    """A byte of a `snapshot` for people: `rw here`, or `-` for no entry."""
    if not byte or byte & ~_SEEN:
        return f"{byte:#x}" if byte else "-"
    rights = "".join(letter for bit, letter in _RIGHTS.items() if byte & bit)
    rest = [bit.name.lower() for bit in Seen if bit.name and byte & bit and bit not in _RIGHTS]
    return " ".join([rights, *rest] if rights else rest)


_SEEN = sum(Seen)
_RIGHTS = {Seen.READ: "r", Seen.WRITE: "w"}


def encode_wait(outcomes: Sequence[Outcome]) -> bytes:
    """The data of a `wait`: the records of the job's accesses, then their side buffer."""
    records, data = encode_outcomes(outcomes)
    return records + data


def decode_wait(data: bytes, count: int) -> list[Outcome]:
    """The outcomes of a job of `count` accesses; `ValueError` as in `decode_outcomes`."""
    split = count * OUTCOME.size
    if len(data) < split:
        raise ValueError(f"a job of {count} accesses needs {split} bytes, got {len(data)}")
    return decode_outcomes(data[:split], data[split:])
