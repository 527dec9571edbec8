"""Where operations aim: page ranges at the edges of mappings, accesses at the edges of pages.

Everything is decided by the bytes of one choice, a fixed byte for each question, so that a
smaller byte means a simpler answer and each answer shrinks alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from reference.geometry import Geometry
from reference.operations import WORD
from reference.validity import MAX_LENGTH

from .sketch import Aim, Sketch

__all__ = [
    "HOW",
    "LENGTH",
    "OFFSET",
    "OTHER",
    "PAGE",
    "WHERE",
    "WHO",
    "Span",
    "area_range",
    "inner_range",
    "pick",
    "runs_range",
    "shape",
    "slot_in",
    "widened",
]

WHERE: Final = 0
PAGE: Final = 1
PAGES: Final = 2
OFFSET: Final = 3
LENGTH: Final = 4
HOW: Final = 5
OTHER: Final = 6
WHO: Final = 7
"""Which byte of a choice decides what."""

_LONGEST_USUAL: Final = 1 << 16
"""Bytes: on bigger pages, an access of a whole page would take most of the time."""

T = TypeVar("T")
Span = tuple[int, int]
"""First slot and number of slots."""


def _spread(*shares: tuple[int, int]) -> tuple[int, ...]:
    """A table of 256 values from `(value, share)`, in this order."""
    table = [value for value, share in shares for _ in range(share)]
    return tuple(table)


_COUNTS: Final = _spread((1, 120), (2, 76), (3, 28), (4, 22), (8, 10))
_WORDS: Final = _spread((1, 116), (2, 44), (3, 20), (4, 24), (6, 12), (8, 26), (0, 14))
"""Words of an access; 0 stands for about a page."""


def pick(items: Sequence[T], byte: int) -> T:
    """One of the items, the first for the smallest bytes."""
    return items[byte * len(items) >> 8]


def area_range(sketch: Sketch, process: int, choice: bytes) -> Span:
    """Slots for an operation on a range: hot ones, at the edges of a mapping, or anywhere."""
    where, arena = choice[WHERE], sketch.plan.geometry.pages
    if where < 120:
        area = sketch.areas[process]
        hot = [page for page in sketch.hot if page in area] or sketch.hot
        if hot:
            return _clip(pick(hot, choice[PAGE]), _COUNTS[choice[PAGES]], arena)
    if where < 216:
        runs = sketch.runs(process)
        if runs:
            return runs_range(runs, arena, choice)
    return _clip(_low(choice[PAGE], arena), _COUNTS[choice[PAGES]], arena)


def runs_range(runs: Sequence[Span], arena: int, choice: bytes) -> Span:
    """A range at, in or across the edges of one of the mappings `(first, end)`."""
    first, end = _low_run(runs, choice[PAGE])
    size = end - first
    match choice[PAGES] >> 5:
        case 0:
            return first, 1
        case 1 | 2:
            return first, size
        case 3:
            return end - 1, 1
        case 4:
            return _clip(first - 1, 2, arena)
        case 5:
            return _clip(end - 1, 2, arena)
        case 6:
            return first + size // 2, (size + 1) // 2
        case _:
            return _clip(first - 1, size + 2, arena)


def widened(page: int, pages: int, arena: int, byte: int) -> Span:
    """Now and then a few more slots on both sides: what is done to many pages may go half way."""
    if byte < 160:
        return page, pages
    more = 1 + (byte & 3)
    return _clip(page - 1, pages + 1 + more, arena)


def inner_range(runs: Sequence[Span], choice: bytes, least: int = 1) -> Span:
    """A range inside one of the mappings: mostly all of it, else a part of so many or more."""
    first, end = _low_run(runs, choice[PAGE])
    size = end - first
    part = min(least, size)
    byte = choice[PAGES]
    if byte < 128:
        return first, size
    if byte < 176:
        return first, part
    if byte >= 208:
        part = max((size + 1) // 2, part)
    return end - part, part


def _clip(page: int, pages: int, arena: int) -> Span:
    end = min(page + pages, arena)
    page = max(page, 0)
    return page, end - page


def _low(byte: int, arena: int) -> int:
    """A slot anywhere in the arena, low ones more often: programs need to meet."""
    return byte * byte * byte * arena >> 24


def _low_run(runs: Sequence[Span], byte: int) -> Span:
    return runs[byte * byte * len(runs) >> 16]


def slot_in(sketch: Sketch, process: int, choice: bytes, aim: Aim | None, rights: int) -> int:
    """The first slot of an access: where it is aimed, hot, at the edge of a mapping, or any.

    Slots that give the rights are preferred, except where something just happened.
    """
    where, arena = choice[WHERE], sketch.plan.geometry.pages
    if aim is not None and where < 224:
        return aim.page + (choice[PAGE] * aim.pages >> 8)
    if where < 176:
        usable = [page for page in sketch.hot if sketch.allows(process, page, rights)]
        if usable:
            return pick(usable, choice[PAGE])
    if where < 246:
        runs = sketch.runs(process)
        usable_runs = [run for run in runs if sketch.allows(process, run[0], rights)] or runs
        if usable_runs:
            first, end = _low_run(usable_runs, choice[PAGE])
            return (first, end - 1, (first + end) // 2, first)[choice[PAGES] >> 6]
    return _low(choice[PAGE], arena)


def shape(geometry: Geometry, page: int, end_page: int, choice: bytes) -> Span:
    """Offset and length (bytes) of an access that begins in `page` and ends before `end_page`."""
    size = geometry.page_size
    length = _WORDS[choice[LENGTH]] * WORD or _long(size, choice[OTHER])
    offset = _offset(size, length, choice)
    room = (end_page - page) * size - offset
    return offset, min(length, room, MAX_LENGTH)


def _long(size: int, byte: int) -> int:
    usual = min(size, _LONGEST_USUAL)
    return (usual, usual, usual + WORD, usual - WORD, 2 * usual)[byte * 5 >> 8]


def _offset(size: int, length: int, choice: bytes) -> int:
    """First word, ending at the page's end, last word, middle, across the end, or anywhere."""
    byte = choice[OFFSET]
    if byte < 90:
        return 0
    if byte < 126:
        return max(size - length, 0)
    if byte < 146:
        return size - WORD
    if byte < 176:
        return size // 2
    if byte < 216:
        words = length // WORD
        return size - max(words // 2, 1) * WORD if length <= size else size - WORD
    return (choice[OTHER] * 257 + byte) * WORD % size
