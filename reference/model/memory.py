"""Where contents are: pages, files, mappings and address spaces, as a program sees them.

This is a specification, not a memory manager.  A fork copies private pages at once, since that
has the same contents as copying them on the next write.  What is not known for certain is
explicit: a *slot* of an address space holds every mapping that may be there (`None`: nothing
mapped), a mapping its rights as `may` and `must`, a word every value that it may hold.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

from ..operations import WORD, Flag
from .values import Values, holds, union

__all__ = ["UNMAPPED", "AddressSpace", "File", "Mapping", "Page", "Side", "Slot", "Watch"]

RIGHTS = int(Flag.READ | Flag.WRITE)


class Side(enum.IntEnum):
    """Who last wrote to a page."""

    NOBODY = 0
    CPU = 1
    DEVICE = 2


class Watch:
    """What happened to a page since it was last looked at."""

    __slots__ = ("settled", "written")

    def __init__(self) -> None:
        self.written: set[int] = set()
        """Words that were, or may have been, written."""
        self.settled = False
        """A read has told more about some word."""

    @property
    def quiet(self) -> bool:
        return not self.written and not self.settled


class Page:
    """Contents of one page.  Words never written are zero."""

    __slots__ = ("doubtful", "image", "lazy", "rewritten", "watch", "words", "writer")

    def __init__(self, words: dict[int, Values] | None = None, *, lazy: bool = False) -> None:
        self.words: dict[int, Values] = {} if words is None else words
        self.lazy = lazy
        """Freed lazily: until it is written it may turn to zero at any moment."""
        self.rewritten = False
        """It may have been written since it was freed lazily, before or after it was dropped."""
        self.doubtful = False
        """It may stand for two pages, one that is mapped and one that is only pinned."""
        self.image: tuple[bytes, tuple[int, ...]] | None = None
        self.writer = Side.NOBODY
        self.watch: Watch | None = None
        """What happened since a job in flight last looked, if one does look."""

    def copy(self) -> Page:
        twin = Page(self.words.copy(), lazy=self.lazy)
        twin.rewritten = self.rewritten
        twin.writer = self.writer
        return twin

    def store(self, word: int, values: Values) -> None:
        """A write happened: the word has these values, and a lazy free ends."""
        if self.doubtful:
            self.may_store(word, values)
            return
        if self.lazy:
            self._end_lazy()
        self.image = None
        self.words[word] = values
        if self.watch is not None:
            self.watch.written.add(word)

    def may_store(self, word: int, values: Values) -> None:
        """A write may have happened, so a lazy free may or may not have ended."""
        self.image = None
        old = self.words.get(word, 0)
        self.words[word] = union(union(old, 0) if self.lazy else old, values)
        self.rewritten = self.lazy
        if self.watch is not None:
            self.watch.written.add(word)

    def narrow(self, word: int, value: int) -> None:
        """The word was seen to hold `value`."""
        if self.doubtful:
            return
        stored = self.words.get(word, 0)
        if holds(stored, value):
            # On a lazy page a zero may also be the page's end: that tells nothing.
            if not (self.lazy and value == 0):
                self.words[word] = value
        elif self.lazy:
            self._dropped(word)
        self.image = None
        if self.watch is not None:
            self.watch.settled = True

    def _dropped(self, word: int) -> None:
        """A word was seen to be gone, and with it all that was not written since."""
        if self.rewritten:
            self.words = {each: union(values, 0) for each, values in self.words.items()}
            self.words[word] = 0
        else:
            self.words.clear()
            self.lazy = False

    def values(self, word: int) -> Values:
        """What a read of the word may give."""
        values = self.words.get(word, 0)
        return union(values, 0) if self.lazy else values

    def free_lazily(self) -> None:
        """From here on the page may be dropped at any moment, until it is written."""
        self.lazy = True
        self.image = None
        if self.watch is not None:
            self.watch.written.update(self.words)

    def _end_lazy(self) -> None:
        """From here on the page stays, but it may have been dropped before."""
        self.lazy = self.rewritten = False
        self.words = {word: union(values, 0) for word, values in self.words.items()}

    def known(self, size: int) -> tuple[bytes, tuple[int, ...]]:
        """The whole page with zeros for the words that are not known, and these words."""
        if self.image is None:
            image = bytearray(size)
            unsure = []
            for word, values in self.words.items():
                if self.lazy or not isinstance(values, int):
                    unsure.append(word)
                else:
                    struct.pack_into("<Q", image, word * WORD, values)
            self.image = bytes(image), tuple(unsure)
        return self.image


class File:
    """A file, or the object behind a shared anonymous mapping."""

    __slots__ = ("contents", "pages")

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.contents: dict[int, Page] = {}

    def page(self, index: int) -> Page | None:
        """Contents of a page, or None behind the end of the file."""
        if index >= self.pages:
            return None
        return self.contents.setdefault(index, Page())

    def truncate(self, pages: int) -> None:
        self.pages = pages
        for index in [index for index in self.contents if index >= pages]:
            del self.contents[index]


class Mapping:
    """One page of an address space that is mapped.

    Private anonymous memory has a page and no file; shared memory a file and no page of its own;
    a private file mapping a file and, once written, a page of its own.
    """

    __slots__ = ("area", "file", "index", "may", "must", "own", "shared")

    def __init__(
        self, rights: int, area: tuple[int, int], file: File | None, index: int, *, shared: bool
    ) -> None:
        self.may = rights
        self.must = rights
        self.area = area
        """Identity of the area and page in it: neighbours of one area have neighbouring numbers."""
        self.file = file
        self.index = index
        self.shared = shared
        self.own: Page | None = Page() if file is None else None

    def copy(self) -> Mapping:
        """A mapping of the same memory: the private page, if any, is the same one."""
        twin = Mapping.__new__(Mapping)
        twin.may, twin.must, twin.area = self.may, self.must, self.area
        twin.file, twin.index, twin.shared, twin.own = self.file, self.index, self.shared, self.own
        return twin

    def forked(self) -> Mapping:
        """The child's mapping: private pages are copied, shared ones are not."""
        twin = self.copy()
        twin.own = None if self.own is None else self.own.copy()
        return twin

    def fresh(self) -> Mapping:
        """The mapping with its private contents dropped: zero, or what the file holds."""
        twin = self.copy()
        twin.own = Page() if self.file is None else None
        return twin

    @property
    def private_anonymous(self) -> bool:
        return self.file is None

    @property
    def through(self) -> bool:
        """A private file page without a copy of its own."""
        return self.file is not None and not self.shared and self.own is None

    def page(self) -> Page | None:
        """The contents that an access reads, or None behind the end of the file."""
        file = self.file
        if file is None:
            return self.own
        if self.own is None or self.index >= file.pages:
            return file.page(self.index)
        return self.own

    def break_cow(self) -> Page | None:
        """The contents that a write changes: a private file page gets its own copy first."""
        page = self.page()
        if page is not None and self.own is None and not self.shared:
            self.own = page = page.copy()
        return page


Slot = tuple[Mapping | None, ...]
"""Every mapping that may be at one page of an address space; almost always one."""

UNMAPPED: Slot = (None,)


class AddressSpace:
    """The slots of one process."""

    __slots__ = ("slots",)

    def __init__(self, slots: list[Slot]) -> None:
        self.slots = slots

    def fork(self) -> AddressSpace:
        return AddressSpace(
            [
                tuple(None if mapping is None else mapping.forked() for mapping in slot)
                for slot in self.slots
            ]
        )

    def mappings(self) -> Iterator[Mapping]:
        for slot in self.slots:
            for mapping in slot:
                if mapping is not None:
                    yield mapping


def surely_mapped(slot: Slot) -> bool:
    return None not in slot


def surely_unmapped(slot: Slot) -> bool:
    return slot == UNMAPPED


def uniform(slots: list[Slot]) -> bool:
    """Whether the slots are surely one area: same origin, neighbours, same certain rights."""
    first = slots[0][0]
    for distance, slot in enumerate(slots):
        mapping = slot[0]
        if len(slot) != 1 or mapping is None or first is None:
            return False
        area, index = first.area
        if mapping.area != (area, index + distance):
            return False
        if not mapping.may == mapping.must == first.must:
            return False
    return True
