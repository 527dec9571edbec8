"""Where contents are: pages, files, mappings and address spaces, as a program sees them.

This is a specification, not a memory manager.  A fork copies private pages at once, since that
has the same contents as copying them on the next write.  What is not known for certain is
explicit: a *slot* of an address space holds every mapping that may be there (`None`: nothing
mapped), a mapping its rights as `may` and `must`, a word every value that it may hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..operations import WORD, Flag
from .page import GRANULE, Page

__all__ = ["UNMAPPED", "AddressSpace", "File", "Mapping", "Slot"]

RIGHTS: Final = int(Flag.READ | Flag.WRITE)


class File:
    """A file, or the object behind a shared anonymous mapping."""

    __slots__ = ("contents", "large", "pages")

    def __init__(self, pages: int, page_size: int) -> None:
        self.pages = pages
        self.large = page_size > GRANULE * WORD
        """A slot is more than one granule."""
        self.contents: dict[int, Page] = {}

    def page(self, index: int) -> Page | None:
        """Contents of a page, or None behind the end of the file."""
        if index >= self.pages:
            return None
        page = self.contents.get(index)
        if page is None:
            page = self.contents[index] = Page()
        return page

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
        self,
        rights: int,
        area: tuple[int, int],
        file: File | None,
        index: int,
        own: Page | None,
        *,
        shared: bool,
    ) -> None:
        self.may = rights
        self.must = rights
        self.area = area
        """Identity of the area and page in it: neighbours of one area have neighbouring numbers."""
        self.file = file
        self.index = index
        self.own = own
        self.shared = shared

    def _with(self, own: Page | None) -> Mapping:
        """The same mapping with these private contents."""
        twin = Mapping(self.must, self.area, self.file, self.index, own, shared=self.shared)
        twin.may = self.may
        return twin

    def copy(self) -> Mapping:
        """A mapping of the same memory: the private page, if any, is the same one."""
        return self._with(self.own)

    def forked(self) -> Mapping:
        """The child's mapping: private pages are copied, shared ones are not."""
        return self._with(None if self.own is None else self.own.copy())

    def fresh(self) -> Mapping:
        """The mapping with its private contents dropped: zero, or what the file holds."""
        return self._with(Page() if self.file is None else None)

    @property
    def private_anonymous(self) -> bool:
        return self.file is None

    @property
    def through(self) -> bool:
        """A private file page without a copy of its own."""
        return self.own is None and not self.shared

    def page(self) -> Page | None:
        """The contents that an access reads, or None behind the end of the file."""
        file = self.file
        if file is None or (self.own is not None and self.index < file.pages):
            return self.own
        return file.page(self.index)

    def break_cow(self, *, whole: bool = False) -> Page | None:
        """The contents that a write changes: a private file page gets its own copy first.

        A write copies what it touches, which of a large slot need not be all; `whole` says that
        everything was touched.
        """
        page = self.page()
        if page is None or self.shared:
            return page
        if self.own is None:
            self.own = page.copy()
            if self.file is not None and self.file.large:
                self.own.backing = self.file, self.index
        if whole:
            self.own.own()
        return self.own


Slot = tuple[Mapping | None, ...]
"""Every mapping that may be at one page of an address space; almost always one."""

UNMAPPED: Final[Slot] = (None,)


class AddressSpace:
    """The slots of one process."""

    __slots__ = ("slots",)

    def __init__(self, slots: list[Slot]) -> None:
        self.slots = slots

    def fork(self) -> AddressSpace:
        return AddressSpace(
            [
                tuple([None if mapping is None else mapping.forked() for mapping in slot])
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
