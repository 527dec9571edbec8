"""A mirror in a shared library, through ctypes: no compiler, nothing but the standard library.

The library exports the five functions of `include/lastwriter.h`.  Nothing that it says is
trusted: what comes back goes through `decode_outcomes`.  A library that scribbles over memory
can still take the process with it, so a worker process is the place to load one.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from reference.description import Description
from reference.geometry import GEOMETRY, Geometry
from reference.operations import OPERATION, Kind, Operation, encode_operations
from reference.outcomes import OUTCOME, Outcome, decode_outcomes
from reference.schema import ABI_VERSION

from .candidate import CandidateError, GarbageError

__all__ = ["Calls", "CtypesCalls", "Library", "load_library", "open_library"]

_FUNCTIONS = ("lw_abi_version", "lw_describe", "lw_open", "lw_run", "lw_close")
_SMALLEST_BUFFER = 4096
_LARGEST_BUFFER = 16 << 20
"""Bytes of data per call, except where a single operation needs more."""
_UNWRITTEN = b"\xff"
"""What outcome records are filled with before a call: no status, so one left out is noticed."""


class Calls(Protocol):
    """The functions of a loaded library, as `Library` needs them."""

    def open(self, geometry: bytes) -> tuple[int, int]:
        """A fresh mirror for a packed geometry, and errno; mirror 0 is a failure."""
        ...

    def run(
        self, mirror: int, operations: bytes, count: int, capacity: int
    ) -> tuple[int, memoryview, memoryview]:
        """Number done, `count` outcome records, `capacity` bytes of data.

        The views are good until the next call.
        """
        ...

    def close(self, mirror: int) -> None: ...


class Library:
    """A C mirror as a candidate.  `reset` opens a fresh mirror and closes the one before it."""

    def __init__(self, path: Path, description: Description, calls: Calls) -> None:
        self.path = path
        self._description = description
        self._calls = calls
        self._mirror = 0
        self._queued: dict[tuple[int, int], int] = {}

    def describe(self) -> Description:
        return self._description

    def reset(self, geometry: Geometry) -> None:
        """A fresh arena; `CandidateError` if `lw_open` fails."""
        self.close()
        mirror, error = self._calls.open(GEOMETRY.format.pack(*geometry))
        if not mirror:
            raise CandidateError(f"{self.path}: lw_open failed: {_error_text(error)}")
        self._mirror = mirror

    def close(self) -> None:
        """Close the mirror that is open, if any."""
        mirror, self._mirror = self._mirror, 0
        self._queued.clear()
        if mirror:
            self._calls.close(mirror)

    def run(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Do a batch; `GarbageError` if the library gives no proper answer."""
        if not self._mirror:
            raise RuntimeError(f"{self.path}: run before reset")
        packed = encode_operations(operations)
        capacity = self._capacity(operations)
        outcomes = self._call(packed, 0, len(operations), capacity)
        while len(outcomes) < len(operations):
            outcomes += self._call(packed, len(outcomes), len(operations), capacity)
        return outcomes

    def _call(self, packed: bytes, first: int, end: int, capacity: int) -> list[Outcome]:
        """Outcomes of one or more operations from `first` on; all that fit in the buffer."""
        count = end - first
        rest = packed[first * OPERATION.size :] if first else packed
        done, records, data = self._calls.run(self._mirror, rest, count, capacity)
        if done > count or done == 0 < count:
            raise GarbageError(
                f"lw_run was given {count} operations, from operation {first} of the batch on, "
                f"and an empty buffer of {capacity} bytes, and says that it did {done}"
            )
        try:
            return decode_outcomes(records[: done * OUTCOME.size], data)
        except ValueError as error:
            raise GarbageError(f"lw_run from operation {first} of the batch on: {error}") from None

    def _capacity(self, operations: Sequence[Operation]) -> int:
        """Bytes of side buffer: enough for the batch if that is little, else for each operation."""
        needs = [
            self._job_data(operation) if operation.job else operation.length
            for operation in operations
        ]
        return max(_SMALLEST_BUFFER, *needs, min(sum(needs), _LARGEST_BUFFER))

    def _job_data(self, operation: Operation) -> int:
        """Bytes that an operation of a job gives: all comes with the wait."""
        job = (operation.device, operation.job)
        if operation.kind == Kind.WAIT:
            return self._queued.pop(job, 0)
        if operation.kind != Kind.SUBMIT:
            self._queued[job] = self._queued.get(job, 0) + OUTCOME.size + operation.length
        return 0


class CtypesCalls:
    """The calls through ctypes, with buffers that are kept from call to call."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._open = library.lw_open
        self._open.restype = ctypes.c_void_p
        self._open.argtypes = [ctypes.c_char_p]
        self._run = library.lw_run
        self._run.restype = ctypes.c_uint32
        self._run.argtypes = [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_uint32,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_uint32,
        ]
        self._close = library.lw_close
        self._close.restype = None
        self._close.argtypes = [ctypes.c_void_p]
        self._records = _Buffer(64 * OUTCOME.size)
        self._data = _Buffer(_SMALLEST_BUFFER)

    def open(self, geometry: bytes) -> tuple[int, int]:
        ctypes.set_errno(0)
        return self._open(geometry) or 0, ctypes.get_errno()

    def run(
        self, mirror: int, operations: bytes, count: int, capacity: int
    ) -> tuple[int, memoryview, memoryview]:
        size = count * OUTCOME.size
        records, data = self._records.at_least(size), self._data.at_least(capacity)
        records.view[:size] = _UNWRITTEN * size
        done = self._run(mirror, operations, count, records.address, data.address, capacity)
        return done, records.view[:size], data.view[:capacity]

    def close(self, mirror: int) -> None:
        self._close(mirror)


class _Buffer:
    """Memory that C writes and Python reads; zero to begin with, aligned as malloc does."""

    def __init__(self, size: int) -> None:
        self._allocate(size)

    def _allocate(self, size: int) -> None:
        self._memory = (ctypes.c_uint64 * -(-size // 8))()
        self.address = ctypes.addressof(self._memory)
        self.view = memoryview(self._memory).cast("B")

    def at_least(self, size: int) -> _Buffer:
        """This buffer, grown if need be; contents are lost then."""
        if len(self.view) < size:
            self._allocate(max(size, 2 * len(self.view)))
        return self


def load_library(path: Path) -> Library:
    """Load a mirror from a shared library; `CandidateError` names the path and the problem."""
    library = open_library(path)
    return Library(path, describe_library(path, library), CtypesCalls(library))


def open_library(path: Path) -> ctypes.CDLL:
    """Load a shared library and see that it has the functions, in our ABI version."""
    if not path.exists():
        raise CandidateError(f"{path}: no such file")
    whole = path.resolve()  # a name without a slash would be looked for elsewhere
    try:
        library = ctypes.CDLL(str(whole), use_errno=True)
    except OSError as error:
        problem = " ".join(str(error).removeprefix(f"{whole}: ").split())
        raise CandidateError(f"{path}: not a loadable shared library: {problem}") from None
    missing = [name for name in _FUNCTIONS if not hasattr(library, name)]
    if missing:
        raise CandidateError(f"{path}: does not export {', '.join(missing)}")
    library.lw_abi_version.restype = ctypes.c_uint32
    version = library.lw_abi_version()
    if version != ABI_VERSION:
        raise CandidateError(
            f"{path}: has ABI version {version}, this lastwriter has ABI version {ABI_VERSION}"
        )
    return library


def describe_library(path: Path, library: ctypes.CDLL) -> Description:
    """The library's description, checked; `CandidateError` if it is none."""
    library.lw_describe.restype = ctypes.c_char_p
    text: bytes | None = library.lw_describe()
    if text is None:
        raise CandidateError(f"{path}: lw_describe returns NULL")
    try:
        description = msgspec.json.decode(text, type=Description)
        description.check()
    except msgspec.ValidationError as error:
        raise CandidateError(f"{path}: lw_describe: invalid description: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CandidateError(f"{path}: lw_describe: not JSON: {error}") from None
    except ValueError as error:
        raise CandidateError(f"{path}: lw_describe: invalid description: {error}") from None
    return description


def _error_text(error: int) -> str:
    return os.strerror(error) if error else "errno was not set"
