"""A program: plain data that can be printed, saved, replayed, shrunk and sent over a wire."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from .geometry import GEOMETRY, Geometry
from .operations import OPERATION, Operation, decode_operations, encode_operations
from .packing import pack_schedule, unpack_schedule
from .schedule import PLAIN, Schedule
from .schema import ABI_VERSION
from .syncmodels import Sync

__all__ = ["HEADER_SIZE", "Comment", "Program"]

_MAGIC = b"LWPROG"
_HEADER = struct.Struct(f"<6sHB7xQ{GEOMETRY.size}sII")
HEADER_SIZE = _HEADER.size
"""Bytes of the packed form before the first operation."""
_PADDING = range(9, 16)
"""Offsets of the header's bytes that mean nothing yet."""
_MODELS = tuple(Sync)
MAX_OPERATIONS = 1 << 20
_DEFAULT = Geometry()


@dataclass(frozen=True)
class Comment:
    """A comment: alone on a line before operation `index`, or at the end of that line."""

    index: int
    text: str
    inline: bool = False


@dataclass(frozen=True)
class Program:
    """Operations with everything that a replay needs."""

    operations: tuple[Operation, ...]
    geometry: Geometry = _DEFAULT
    model: Sync = Sync.FAULTING
    seed: int = 0
    comments: tuple[Comment, ...] = ()
    schedule: Schedule = PLAIN
    """For a driver on the host: who runs when, and which failures are injected."""

    def __len__(self) -> int:
        return len(self.operations)

    def with_operations(self, operations: tuple[Operation, ...]) -> Program:
        """The same program with other operations, and no comments, which spoke of the old ones."""
        return replace(self, operations=operations, comments=())

    def to_bytes(self) -> bytes:
        """The packed form: header, operations, schedule.  Comments are not part of it."""
        schedule = pack_schedule(self.schedule)
        header = _HEADER.pack(
            _MAGIC,
            ABI_VERSION,
            _MODELS.index(self.model),
            self.seed,
            GEOMETRY.format.pack(*self.geometry),
            len(self.operations),
            len(schedule),
        )
        return header + encode_operations(self.operations) + schedule

    @staticmethod
    def from_bytes(data: bytes) -> Program:
        """The reverse of `to_bytes`; `ValueError` says what is wrong with the data.

        What is behind its end is ignored: a program is written over a longer one.
        """
        if len(data) < _HEADER.size:
            raise ValueError(f"a packed program has {_HEADER.size} bytes or more, got {len(data)}")
        magic, version, model, seed, packed, count, behind = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError("not a packed program")
        if version != ABI_VERSION:
            raise ValueError(f"packed program of version {version}, this is {ABI_VERSION}")
        if model >= len(_MODELS):
            raise ValueError(f"unknown sync model {model}")
        for offset in _PADDING:
            if data[offset]:
                raise ValueError(f"byte {offset} is {data[offset]:#04x}, not zero")
        end = _HEADER.size + count * OPERATION.size
        if count > MAX_OPERATIONS or end > len(data):
            raise ValueError(f"{count} operations do not fit in {len(data)} bytes")
        if end + behind > len(data):
            raise ValueError(f"a schedule of {behind} bytes does not fit in {len(data)} bytes")
        geometry = Geometry._make(GEOMETRY.format.unpack(packed))
        geometry.check()
        operations = tuple(decode_operations(data[_HEADER.size : end]))
        schedule = unpack_schedule(data[end : end + behind])
        return Program(operations, geometry, _MODELS[model], seed, schedule=schedule)
