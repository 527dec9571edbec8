"""What a program is made of: one fixed-width record per operation.

Addresses are page slots of an arena that every process has at the same virtual address, so
`page` is the same number for every process and device.  Accesses work on whole 8-byte words,
aligned, in ascending order; each word is read or written atomically, the access as a whole is
not.  A multi-word write stores `value + k` in its k-th word.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Annotated, Final, NamedTuple

from .schema import U8, U16, U32, U64, layout_of

__all__ = [
    "ACCESSES",
    "ATOMICS",
    "CPU_ACCESSES",
    "DEVICE_ACCESSES",
    "DEVICE_KINDS",
    "EVENTS",
    "OPERATION",
    "WORD",
    "Event",
    "Flag",
    "Kind",
    "Operation",
    "decode_operations",
    "encode_operations",
]

WORD: Final = 8
"""Bytes in a word, the unit in which contents are compared."""


class Kind(enum.IntEnum):
    """What an operation does.  Numbers are part of the ABI and never reused."""

    MAP = 1
    UNMAP = 2
    REMAP = 3
    PROTECT = 4
    DISCARD = 5
    PUNCH = 6
    FREE = 7
    TRUNCATE = 8
    FORK = 9
    EXIT = 10
    READ = 11
    WRITE = 12
    ADD = 13
    CAS = 14
    RECLAIM = 20
    MIGRATE = 21
    COLLAPSE = 22
    SPLIT = 23
    MERGE = 24
    ATTACH = 32
    DETACH = 33
    DREAD = 34
    DWRITE = 35
    DADD = 36
    DCAS = 37
    FAULT = 38
    TO_DEVICE = 39
    TO_SYSTEM = 40
    EXCLUSIVE = 41
    REGISTER = 42
    UNREGISTER = 43
    SUBMIT = 44
    WAIT = 45
    INVALIDATE = 46
    SNAPSHOT = 47


CPU_ACCESSES: Final = frozenset({Kind.READ, Kind.WRITE, Kind.ADD, Kind.CAS})
DEVICE_ACCESSES: Final = frozenset({Kind.DREAD, Kind.DWRITE, Kind.DADD, Kind.DCAS})
ACCESSES: Final = CPU_ACCESSES | DEVICE_ACCESSES
ATOMICS: Final = frozenset({Kind.ADD, Kind.CAS, Kind.DADD, Kind.DCAS})
EVENTS: Final = frozenset({Kind.RECLAIM, Kind.MIGRATE, Kind.COLLAPSE, Kind.SPLIT, Kind.MERGE})
"""Memory management events of a process's pages that must not change contents."""
DEVICE_KINDS: Final = frozenset(kind for kind in Kind if kind >= Kind.ATTACH)


class Flag(enum.IntFlag):
    """Bits of an operation's `flags`."""

    READ = 1
    WRITE = 2
    SHARED = 4
    FILE = 8
    DONTUNMAP = 16
    NONBLOCK = 32


class Event(enum.IntEnum):
    """Invalidation events, numbered as in Linux's `enum mmu_notifier_event`.

    No kernel sends the last: it stands for one that a driver does not know (E1).
    """

    UNMAP = 0
    CLEAR = 1
    PROTECTION_VMA = 2
    PROTECTION_PAGE = 3
    SOFT_DIRTY = 4
    RELEASE = 5
    MIGRATE = 6
    EXCLUSIVE = 7
    UNKNOWN = 255


class Operation(NamedTuple):
    """One operation.  Fields that its kind does not use are zero."""

    kind: Annotated[int, U8, "what to do, see Kind"]
    process: Annotated[int, U8, "address space that acts, or that is attached or forked"]
    device: Annotated[int, U8, "device that acts"]
    flags: Annotated[int, U8, "rights and modifiers, see Flag"]
    page: Annotated[int, U16, "first page slot"]
    pages: Annotated[int, U16, "number of page slots; truncate: new size of the file"]
    offset: Annotated[int, U32, "accesses: byte in the first page, multiple of 8"] = 0
    length: Annotated[int, U32, "accesses: bytes, multiple of 8"] = 0
    target: Annotated[int, U16, "remap: destination slot; map: page of the file; fork: child"] = 0
    file: Annotated[int, U8, "map with FILE, truncate: which file"] = 0
    key: Annotated[int, U8, "registration, 1 and up; 0 is none"] = 0
    job: Annotated[int, U8, "job, 1 and up; 0 is an access that is done at once"] = 0
    event: Annotated[int, U8, "invalidate: see Event"] = 0
    reserved: Annotated[int, U16, "zero"] = 0
    value: Annotated[int, U64, "value written, or addend"] = 0
    expected: Annotated[int, U64, "compare-exchange: value compared with; word k: expected + k"] = 0


OPERATION: Final = layout_of(Operation)
_STRUCT: Final = OPERATION.format


def encode_operations(operations: Iterable[Operation]) -> bytes:
    """Operations as packed records, `OPERATION.size` bytes each."""
    pack = _STRUCT.pack
    return b"".join([pack(*operation) for operation in operations])


def decode_operations(data: bytes | memoryview) -> list[Operation]:
    """The reverse of `encode_operations`; `ValueError` on a partial record or unknown kind."""
    if len(data) % OPERATION.size:
        raise ValueError(f"{len(data)} bytes are no whole number of {OPERATION.size}-byte records")
    operations = [Operation._make(fields) for fields in _STRUCT.iter_unpack(data)]
    for index, operation in enumerate(operations):
        if operation.kind not in _KNOWN:
            raise ValueError(f"operation {index}: unknown kind {operation.kind}")
    return operations


_KNOWN: Final = frozenset(map(int, Kind))
