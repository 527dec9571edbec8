"""All small programs: every sequence of so many operations on a few pages, up to renaming.

Each begins with what makes operations possible, a mapping and attached devices, and ends with
reads of every page by processor and device.  These do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from reference.description import Description
from reference.geometry import Geometry
from reference.operations import ACCESSES, Event, Flag, Kind, Operation
from reference.program import Program
from reference.syncmodels import Sync
from reference.validity import Liveness

__all__ = ["PAGES", "alphabet", "count_programs", "preamble", "small_programs"]

PAGES = 2
"""Pages that small programs use."""
_WORD = 8
_RW = Flag.READ | Flag.WRITE
_STAMP = 0x100000
"""Values of different operations differ by this, so that each tells who wrote it."""
_ON_PAGES = (Kind.UNMAP, Kind.DISCARD, Kind.FREE, Kind.RECLAIM, Kind.MIGRATE)
_MOVES = (Kind.TO_DEVICE, Kind.TO_SYSTEM, Kind.EXCLUSIVE)


def small_geometry(description: Description) -> Geometry:
    """The arena of small programs."""
    wanted = Geometry(pages=PAGES, processes=2, devices=1, files=0, keys=1, jobs=1)
    limited = description.limit(wanted)
    least = {name: min(getattr(limited, name), getattr(wanted, name)) for name in wanted._fields}
    return Geometry(**least)


def alphabet(description: Description) -> list[Operation]:
    """The operations that small programs are made of."""
    geometry = small_geometry(description)
    kinds = description.kinds(geometry.page_size)
    letters = [
        operation
        for page in range(PAGES)
        for operation in (
            *_of_process(page),
            *_of_device(page, int(description.keyed), range(min(geometry.jobs, 1) + 1)),
        )
    ]
    letters += [
        Operation(Kind.REMAP, 0, 0, 0, 0, 1, target=1),
        Operation(Kind.REMAP, 0, 0, 0, 1, 1, target=0),
        Operation(Kind.UNREGISTER, 0, 0, 0, 0, 0, key=1),
    ]
    if geometry.processes > 1:
        letters += [
            Operation(Kind.FORK, 0, 0, 0, 0, 0, target=1),
            Operation(Kind.EXIT, 0, 0, 0, 0, 0),
        ]
    if geometry.jobs:
        letters += [
            Operation(Kind.SUBMIT, 0, 0, 0, 0, 0, job=1),
            Operation(Kind.WAIT, 0, 0, 0, 0, 0, job=1),
        ]
    return [letter for letter in letters if letter.kind in kinds]


def _of_process(page: int) -> Iterator[Operation]:
    yield Operation(Kind.WRITE, 0, 0, 0, page, 0, length=_WORD)
    yield Operation(Kind.READ, 0, 0, 0, page, 0, length=_WORD)
    yield Operation(Kind.MAP, 0, 0, _RW, page, 1)
    for rights in (Flag(0), Flag.READ, _RW):
        yield Operation(Kind.PROTECT, 0, 0, rights, page, 1)
    for kind in _ON_PAGES:
        yield Operation(kind, 0, 0, 0, page, 1)
    for flags in (0, Flag.NONBLOCK):
        yield Operation(Kind.INVALIDATE, 0, 0, flags, page, 1, event=Event.CLEAR)


def _of_device(page: int, key: int, jobs: range) -> Iterator[Operation]:
    for job in jobs:
        yield Operation(Kind.DREAD, 0, 0, 0, page, 0, length=_WORD, key=key, job=job)
        yield Operation(Kind.DWRITE, 0, 0, 0, page, 0, length=_WORD, key=key, job=job)
    for kind in _MOVES:
        yield Operation(kind, 0, 0, 0, page, 1)
    for rights in (Flag.READ, _RW):
        yield Operation(Kind.FAULT, 0, 0, rights, page, 1)
        yield Operation(Kind.REGISTER, 0, 0, rights, page, 1, key=1)


def small_programs(description: Description, model: Sync, length: int) -> Iterator[Program]:
    """Every program of so many operations, in a fixed order."""
    geometry = small_geometry(description)
    letters = alphabet(description)
    before = preamble(description)
    for word in product(letters, repeat=length):
        if not _canonical(word):
            continue
        operations = (*before, *_stamped(word))
        state = Liveness(geometry)
        if any(state.step(operation) is not None for operation in operations):
            continue
        closing = tuple(_closing(state, description))
        yield Program((*operations, *closing), geometry, model)


def count_programs(description: Description, length: int) -> int:
    """How many there are."""
    state = Liveness(small_geometry(description))
    for operation in preamble(description):
        state.step(operation)
    return _count(state, alphabet(description), length, named=False)


def _count(state: Liveness, letters: list[Operation], left: int, *, named: bool) -> int:
    """The ways to go on from a state by so many letters; `named`: some letter names a page."""
    if not left:
        return 1
    count = 0
    for letter in letters:
        first_named = _names_page(letter) and not named
        after = state.copy()
        if not (first_named and letter.page) and after.step(letter) is None:
            count += _count(after, letters, left - 1, named=named or first_named)
    return count


def preamble(description: Description) -> tuple[Operation, ...]:
    """What each begins with."""
    begin = (
        Operation(Kind.MAP, 0, 0, _RW, 0, PAGES),
        Operation(Kind.ATTACH, 0, 0, 0, 0, 0),
    )
    if not description.keyed:
        return begin
    return (*begin, Operation(Kind.REGISTER, 0, 0, _RW, 0, PAGES, key=1))


def _canonical(word: tuple[Operation, ...]) -> bool:
    """Whether it is the one that stands for all that differ by the names of pages only."""
    named = next((letter for letter in word if _names_page(letter)), None)
    return named is None or named.page == 0


def _names_page(letter: Operation) -> bool:
    return bool(letter.pages) or letter.kind in ACCESSES


def _stamped(word: tuple[Operation, ...]) -> Iterator[Operation]:
    for place, letter in enumerate(word, 1):
        writes = letter.kind in {Kind.WRITE, Kind.DWRITE}
        yield letter._replace(value=place * _STAMP) if writes else letter


def _closing(state: Liveness, description: Description) -> Iterator[Operation]:
    """What is in flight is waited for; then everybody reads every page."""
    for device, job in sorted(state.in_flight):
        yield Operation(Kind.WAIT, 0, device, 0, 0, 0, job=job)
    for page in range(PAGES):
        for process in sorted(state.alive):
            yield Operation(Kind.READ, process, 0, 0, page, 0, length=_WORD)
        key = int(description.keyed)
        yield Operation(Kind.DREAD, 0, 0, 0, page, 0, length=_WORD, key=key)
