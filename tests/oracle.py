"""A process without devices as dictionaries: what memory holds, in the most naive way."""

from __future__ import annotations

import errno
import struct

from reference.geometry import Geometry
from reference.operations import ACCESSES, WORD, Flag, Kind, Operation
from reference.outcomes import Outcome, Status

PLAIN = frozenset(
    {
        *(Kind.MAP, Kind.UNMAP, Kind.REMAP, Kind.PROTECT, Kind.DISCARD, Kind.PUNCH),
        *(Kind.TRUNCATE, Kind.READ, Kind.WRITE, Kind.ADD, Kind.CAS),
        *(Kind.RECLAIM, Kind.MIGRATE, Kind.COLLAPSE, Kind.SPLIT, Kind.MERGE),
    }
)
Words = dict[int, int]


class File:
    """Words by page; no end if `pages` is None."""

    def __init__(self, pages: int | None) -> None:
        self.pages = pages
        self.words: dict[int, Words] = {}


class Slot:
    """What is mapped at a slot of the oracle's one process."""

    def __init__(self, rights: int, file: File | None, page: int, shared: bool) -> None:
        self.rights = rights
        self.file = file
        self.page = page
        self.shared = shared
        self.own: Words | None = None if file else {}


class Oracle:
    """One process without devices, as dictionaries: no frames, no sharing, no events."""

    def __init__(self, geometry: Geometry) -> None:
        self.size = geometry.page_size
        self.files = [File(geometry.pages) for _ in range(geometry.files)]
        self.slots: dict[int, Slot] = {}

    def step(self, op: Operation) -> Outcome | None:
        """The outcome of an access; None for everything else, which is not compared."""
        if op.kind in ACCESSES:
            return self.access(op)
        method = getattr(self, Kind(op.kind).name.lower(), None)
        if method is not None:
            method(op)
        return None

    def access(self, op: Operation) -> Outcome:
        data, done = b"", 0
        for k in range(op.length // WORD):
            at = op.page * self.size + op.offset + k * WORD
            words = self.reach(at // self.size, op.kind != Kind.READ)
            if words is None:
                return Outcome(Status.FAULT, errno.EFAULT, done, data)
            place = at % self.size
            old = words.get(place, 0)
            if op.kind != Kind.WRITE:
                data += struct.pack("<Q", old)
            if op.kind == Kind.WRITE or (op.kind == Kind.CAS and old == op.expected + k):
                words[place] = op.value + k
            elif op.kind == Kind.ADD:
                words[place] = (old + op.value) % (1 << 64)
            done += WORD
        return Outcome(Status.OK, 0, done, data)

    def reach(self, number: int, write: bool) -> Words | None:
        slot = self.slots.get(number)
        need = 3 if write else 1
        if slot is None or slot.rights & need != need:
            return None
        if slot.file is None:
            return slot.own
        if slot.file.pages is not None and slot.page >= slot.file.pages:
            return None
        words = slot.file.words.setdefault(slot.page, {})
        if slot.own is None and write and not slot.shared:
            slot.own = dict(words)
        return words if slot.own is None else slot.own

    def map(self, op: Operation) -> None:
        shared = bool(op.flags & Flag.SHARED)
        file = self.files[op.file] if op.flags & Flag.FILE else File(None) if shared else None
        for index in range(op.pages):
            self.slots[op.page + index] = Slot(op.flags & 3, file, op.target + index, shared)

    def unmap(self, op: Operation) -> None:
        for number in range(op.page, op.page + op.pages):
            self.slots.pop(number, None)

    def remap(self, op: Operation) -> None:
        if abs(op.page - op.target) < op.pages:
            return
        self.unmap(op._replace(page=op.target))
        source = [self.slots.get(op.page + index) for index in range(op.pages)]
        if len({self._mapping(slot, index) for index, slot in enumerate(source)}) > 1:
            return
        for index, slot in enumerate(source):
            if slot is not None:
                self.slots[op.target + index] = slot
                del self.slots[op.page + index]
                if op.flags & Flag.DONTUNMAP:
                    left = Slot(slot.rights, slot.file, slot.page, slot.shared)
                    self.slots[op.page + index] = left

    @staticmethod
    def _mapping(slot: Slot | None, index: int) -> object:
        if slot is None:
            return None
        return slot.rights, slot.file, slot.shared, slot.file and slot.page - index

    def protect(self, op: Operation) -> None:
        for number in range(op.page, op.page + op.pages):
            if number not in self.slots:
                return
            self.slots[number].rights = op.flags & 3

    def discard(self, op: Operation) -> None:
        for number in range(op.page, op.page + op.pages):
            if (slot := self.slots.get(number)) is not None:
                slot.own = None if slot.file else {}

    def punch(self, op: Operation) -> None:
        for number in range(op.page, op.page + op.pages):
            if (slot := self.slots.get(number)) is None:
                continue
            if slot.file is None or not slot.shared:
                return
            slot.file.words.pop(slot.page, None)

    def truncate(self, op: Operation) -> None:
        file = self.files[op.file]
        file.pages = op.pages
        for page in [page for page in file.words if page >= op.pages]:
            del file.words[page]
        for slot in self.slots.values():
            if slot.file is file and slot.page >= op.pages:
                slot.own = None
