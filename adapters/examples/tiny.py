"""A small mirror: one process, one device, anonymous memory."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from adapters.candidate import Stepwise
from reference.description import Description
from reference.geometry import Geometry
from reference.operations import WORD, Flag, Operation
from reference.outcomes import Outcome, Status

__all__ = ["UNMAPPED", "Tiny"]

Page = tuple[int, bytearray]
"""Rights and contents."""
UNMAPPED: Page = (0, bytearray())


class Tiny(Stepwise):
    """Device and CPU use the same table of pages, so they cannot differ."""

    def describe(self) -> Description:
        names = "map unmap read write attach dread dwrite"
        return Description(name="tiny", operations=frozenset(names.split()))

    def reset(self, geometry: Geometry) -> None:
        self.page_size = geometry.page_size
        self.pages: dict[int, Page] = {}

    def map(self, op: Operation) -> None:
        self.invalidate(op)
        for page in range(op.page, op.page + op.pages):
            self.pages[page] = op.flags, bytearray(self.page_size)

    def unmap(self, op: Operation) -> None:
        self.invalidate(op)
        for page in range(op.page, op.page + op.pages):
            self.pages.pop(page, None)

    def invalidate(self, op: Operation) -> None:
        """The notifier: a device that keeps what it knows of pages drops it here."""

    def translate(self, op: Operation, page: int) -> Page:
        """What a CPU, or the device, takes a page for."""
        return self.pages.get(page, UNMAPPED)

    def attach(self, op: Operation) -> None:
        pass

    def read(self, op: Operation) -> Outcome:
        words = [bytes(word) for word in self.words(op, Flag.READ)]
        return self.ended(op, b"".join(words), len(words))

    def write(self, op: Operation) -> Outcome:
        done = 0
        for done, word in enumerate(self.words(op, Flag.WRITE), 1):
            word[:] = ((op.value + done - 1) % 2**64).to_bytes(WORD, "little")
        return self.ended(op, b"", done)

    dread, dwrite = read, write

    def words(self, op: Operation, right: Flag) -> Iterator[memoryview]:
        """The words of an access, up to the first that may not be accessed."""
        start = op.page * self.page_size + op.offset
        for at in range(start, start + op.length, WORD):
            rights, page = self.translate(op, at // self.page_size)
            if not rights & right:
                return
            yield memoryview(page)[at % self.page_size :][:WORD]

    def ended(self, op: Operation, data: bytes, words: int) -> Outcome:
        if words * WORD == op.length:
            return Outcome(Status.OK, 0, op.length, data)
        return Outcome(Status.FAULT, errno.EFAULT, words * WORD, data)
