"""Accesses: words of an operation's span, reached through one frame after the other."""

from __future__ import annotations

import errno
from collections.abc import Callable

from reference.operations import WORD, Kind, Operation
from reference.outcomes import Outcome, Status

from .frames import Frame

__all__ = ["FAULT", "Translate", "is_write", "perform", "slots_of"]

Translate = Callable[[int, bool], Frame | None]
"""The frame at a slot for reading or (True) writing; None if it may not be accessed so."""

FAULT = Outcome(Status.FAULT, errno.EFAULT)
"""Denied before anything was done."""

_OK = int(Status.OK)
_READ = int(Kind.READ), int(Kind.DREAD)
_WRITE = int(Kind.WRITE), int(Kind.DWRITE)
_ADD = int(Kind.ADD), int(Kind.DADD)


def is_write(op: Operation) -> bool:
    """Whether an access needs the right to write."""
    return op.kind not in _READ


def slots_of(op: Operation, page_size: int) -> range:
    """The slots that an access touches."""
    return range(op.page, op.page + (op.offset + op.length - 1) // page_size + 1)


def perform(op: Operation, translate: Translate, page_size: int) -> Outcome:
    """Do an access, in ascending order, up to its end or to the first page that is denied."""
    if op.offset + op.length > page_size:
        return _perform_long(op, translate, page_size)
    frame = translate(op.page, op.kind not in _READ)
    if frame is None:
        return FAULT
    data = _apply(op, frame, op.offset // WORD, op.length // WORD, 0)
    return Outcome(_OK, 0, op.length, data)


def _perform_long(op: Operation, translate: Translate, page_size: int) -> Outcome:
    pieces: list[bytes] = []
    slot, first, done = op.page, op.offset // WORD, 0
    while done < op.length:
        count = min(page_size // WORD - first, (op.length - done) // WORD)
        frame = translate(slot, is_write(op))
        if frame is None:
            return Outcome(Status.FAULT, errno.EFAULT, done, b"".join(pieces))
        pieces.append(_apply(op, frame, first, count, done // WORD))
        slot, first, done = slot + 1, 0, done + count * WORD
    return Outcome(_OK, 0, done, b"".join(pieces))


def _apply(op: Operation, frame: Frame, first: int, count: int, k: int) -> bytes:
    """Do `count` words of one frame, the first of which is word `k` of the access; its data."""
    kind = op.kind
    if kind in _READ:
        return frame.read(first, count)
    if kind in _WRITE:
        frame.write(first, count, op.value + k)
        return b""
    if kind in _ADD:
        return frame.add(first, count, op.value)
    return frame.compare_exchange(first, count, op.expected + k, op.value + k)
