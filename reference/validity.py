"""Which programs make sense, whatever the candidate answers.

A valid program names only what exists: live processes, attached devices, jobs that were
submitted.  Candidates are only ever given valid programs, so they need not check for this.
What may go wrong at run time (no memory mapped there, no such right, no such key) is part of
the contract and not checked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from .geometry import Geometry
from .operations import ACCESSES, DEVICE_ACCESSES, DEVICE_KINDS, WORD, Event, Flag, Kind, Operation
from .program import Program
from .signatures import RIGHTS, SIGNATURES

__all__ = ["Liveness", "ProgramError", "check_program", "repair"]

MAX_JOB: Final = 8
"""Accesses in one job."""
MAX_LENGTH: Final = 4 << 20
"""Bytes of one access."""


_EVENTS: Final = frozenset(map(int, Event))
_OF_ATTACHED: Final = DEVICE_KINDS - {Kind.ATTACH, Kind.INVALIDATE}
_OF_JOBS: Final = frozenset({Kind.SUBMIT, Kind.WAIT})
_OF_KEYS: Final = frozenset({Kind.REGISTER, Kind.UNREGISTER})
_OF_IDLE: Final = frozenset({Kind.DETACH, Kind.UNREGISTER})
_FILE: Final = int(Flag.FILE)
_READ: Final = int(Flag.READ)
_RIGHTS: Final = int(Flag.READ | Flag.WRITE)
_SOUND: Final = frozenset(map(int, RIGHTS.values()))
"""Rights that there are."""


class _Use(NamedTuple):
    """What operations of a kind may say."""

    unused: tuple[int, ...]
    """Fields that are zero, by their numbers."""
    process: bool
    device: bool
    page: bool
    pages: bool
    others: bool
    """An event, a file, a key or a job."""
    flags: int
    rights: bool
    """Some of its flags are rights."""


def _use_of(kind: Kind) -> _Use:
    signature = SIGNATURES[kind]
    used, names = signature.fields | {"kind"}, Operation._fields
    rights = any(argument.style == "rights" for argument in signature.arguments)
    # An int, since the complement of a Flag leaves out bits without a name.
    flags = _RIGHTS if rights else 0
    for argument in signature.arguments:
        flags |= int(argument.flag)
    return _Use(
        unused=tuple(number for number, name in enumerate(names) if name not in used),
        process="process" in used,
        device="device" in used,
        page="page" in used,
        pages="pages" in used,
        others=not used.isdisjoint({"event", "file", "key", "job"}),
        flags=flags,
        rights=rights,
    )


_USES: Final = {kind: _use_of(kind) for kind in Kind}


class ProgramError(ValueError):
    """An operation that makes no sense where it stands."""

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(f"operation {index}: {problem}")
        self.index = index
        self.problem = problem


class Liveness:
    """What exists at one point of a program: processes, attachments and jobs."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.alive = {0}
        self.born = {0}
        self.attached: dict[int, int] = {}
        self.queued: dict[tuple[int, int], int] = {}
        self.in_flight: dict[tuple[int, int], int] = {}

    def copy(self) -> Liveness:
        """The same, to go on from in another way."""
        other = Liveness(self.geometry)
        other.alive, other.born = self.alive.copy(), self.born.copy()
        other.attached = self.attached.copy()
        other.queued, other.in_flight = self.queued.copy(), self.in_flight.copy()
        return other

    def step(self, operation: Operation) -> str | None:
        """Take one operation; the problem with it, if any, in which case nothing changes."""
        problem = self._problem(operation)
        if problem is None:
            self._apply(operation)
        return problem

    def _problem(self, operation: Operation) -> str | None:
        kind = Kind(operation.kind)
        return (
            _unused(operation, kind)
            or self._outside(operation, kind)
            or self._missing(operation, kind)
            or self._job(operation, kind)
        )

    def _outside(self, operation: Operation, kind: Kind) -> str | None:
        geometry, use = self.geometry, _USES[kind]
        if use.process and operation.process >= geometry.processes:
            return f"process {operation.process} is not below {geometry.processes}"
        if use.device and operation.device >= geometry.devices:
            return f"device {operation.device} is not below {geometry.devices}"
        if use.page and operation.page >= geometry.pages:
            return f"page {operation.page} is not below {geometry.pages}"
        problem = self._others(operation, kind) if use.others else None
        if problem is not None:
            return problem
        if kind in ACCESSES:
            return _span(operation, geometry)
        return _range(operation, kind, geometry) if use.pages else None

    def _others(self, operation: Operation, kind: Kind) -> str | None:
        geometry = self.geometry
        used = SIGNATURES[kind].fields
        if "event" in used and operation.event not in _EVENTS:
            return f"event {operation.event} is none of {', '.join(map(str, sorted(_EVENTS)))}"
        if "file" in used and (kind == Kind.TRUNCATE or operation.flags & _FILE):
            if operation.file >= geometry.files:
                return f"file {operation.file} is not below {geometry.files}"
        if "key" in used and operation.key > geometry.keys:
            return f"key {operation.key} is above {geometry.keys}"
        if "job" in used and operation.job > geometry.jobs:
            return f"job {operation.job} is above {geometry.jobs}"
        return None

    def _missing(self, operation: Operation, kind: Kind) -> str | None:
        if _USES[kind].process and operation.process not in self.alive:
            return f"process {operation.process} does not exist"
        if kind == Kind.FORK:
            if operation.target >= self.geometry.processes:
                return f"child {operation.target} is not below {self.geometry.processes}"
            if operation.target in self.born:
                return f"process {operation.target} exists or has existed"
        if kind == Kind.ATTACH and operation.device in self.attached:
            return f"device {operation.device} is attached already"
        if kind in _OF_ATTACHED:
            if operation.device not in self.attached:
                return f"device {operation.device} is not attached"
        return None

    def _job(self, operation: Operation, kind: Kind) -> str | None:
        job = (operation.device, operation.job)
        if kind in _OF_KEYS and operation.key == 0:
            return "key 0 is no key"
        if kind in DEVICE_ACCESSES and operation.job:
            if job in self.in_flight:
                return f"job {operation.job} is in flight"
            if self.queued.get(job, 0) == MAX_JOB:
                return f"job {operation.job} is full"
        if kind in _OF_JOBS:
            if kind == Kind.SUBMIT and job not in self.queued:
                return f"job {operation.job} is empty or in flight"
            if kind == Kind.WAIT and job not in self.in_flight:
                return f"job {operation.job} is not in flight"
        if kind in _OF_IDLE and self._busy(operation.device):
            return f"device {operation.device} has a job that was not waited for"
        return None

    def _busy(self, device: int) -> bool:
        return any(job[0] == device for job in (*self.queued, *self.in_flight))

    def _apply(self, operation: Operation) -> None:
        job = (operation.device, operation.job)
        match operation.kind:
            case Kind.FORK:
                self.alive.add(operation.target)
                self.born.add(operation.target)
            case Kind.EXIT:
                self.alive.discard(operation.process)
            case Kind.ATTACH:
                self.attached[operation.device] = operation.process
            case Kind.DETACH:
                del self.attached[operation.device]
            case Kind.SUBMIT:
                self.in_flight[job] = self.queued.pop(job)
            case Kind.WAIT:
                del self.in_flight[job]
            case kind if kind in DEVICE_ACCESSES and operation.job:
                self.queued[job] = self.queued.get(job, 0) + 1


def _unused(operation: Operation, kind: Kind) -> str | None:
    use = _USES[kind]
    for number in use.unused:
        if operation[number]:
            name = operation._fields[number]
            return f"{kind.name.lower()} does not use {name}, which is {operation[number]}"
    return _bad_flags(operation, kind) if use.flags or operation.flags else None


def _bad_flags(operation: Operation, kind: Kind) -> str | None:
    use = _USES[kind]
    if use.rights and operation.flags & _RIGHTS not in _SOUND:
        return "write without read"
    if operation.flags & ~use.flags:
        return f"{kind.name.lower()} does not use flags {operation.flags & ~use.flags:#x}"
    if kind == Kind.MAP and not operation.flags & _FILE and (operation.file or operation.target):
        return "an anonymous mapping has neither file nor from"
    if kind in {Kind.FAULT, Kind.REGISTER} and not operation.flags & _READ:
        return f"{kind.name.lower()} asks for no right"
    return None


def _span(operation: Operation, geometry: Geometry) -> str | None:
    if operation.offset % WORD or operation.offset >= geometry.page_size:
        return f"offset {operation.offset} is not a multiple of {WORD} below {geometry.page_size}"
    if operation.length % WORD or not 0 < operation.length <= MAX_LENGTH:
        return f"length {operation.length} is not a multiple of {WORD} in 1..{MAX_LENGTH}"
    end = operation.page * geometry.page_size + operation.offset + operation.length
    if end > geometry.pages * geometry.page_size:
        return f"the access ends at byte {end}, behind the arena"
    return None


def _range(operation: Operation, kind: Kind, geometry: Geometry) -> str | None:
    if kind == Kind.TRUNCATE:
        if operation.pages > geometry.pages:
            return f"pages {operation.pages} is above {geometry.pages}"
        return None
    if operation.pages == 0 or operation.page + operation.pages > geometry.pages:
        return f"pages {operation.page}+{operation.pages} is not inside 0..{geometry.pages}"
    if kind in {Kind.REMAP, Kind.MAP} and operation.target + operation.pages > geometry.pages:
        return f"pages {operation.target}+{operation.pages} is not inside 0..{geometry.pages}"
    return None


def check_program(program: Program) -> None:
    """`ProgramError` at the first operation that makes no sense where it stands."""
    state = Liveness(program.geometry)
    for index, operation in enumerate(program.operations):
        problem = state.step(operation)
        if problem is not None:
            raise ProgramError(index, problem)


def repair(operations: Iterable[Operation], geometry: Geometry) -> Iterator[Operation]:
    """The operations without those that make no sense where they stand."""
    state = Liveness(geometry)
    return (operation for operation in operations if state.step(operation) is None)
