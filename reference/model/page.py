"""The contents of one page slot, and what is not certain about them."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from typing import Protocol

from ..operations import WORD
from .values import Values, holds, union

__all__ = ["GRANULE", "Backing", "Page", "Side", "Watch"]

GRANULE = 4096 // WORD
"""Words in the smallest page of a kernel: copy-on-write and lazy free work on these.

A slot of the arena may be larger.  Some candidates copy or drop it as a whole, others in granules,
and both are right.
"""


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


class Backing(Protocol):
    """Where a private copy of a file's page came from."""

    def page(self, index: int) -> Page | None: ...


class Page:
    """Contents of one page slot.  Words never written are zero."""

    __slots__ = (
        "backing",
        "copied",
        "doubtful",
        "image",
        "kept",
        "lazy",
        "rewritten",
        "watch",
        "words",
        "writer",
    )

    def __init__(self, words: dict[int, Values] | None = None) -> None:
        self.words: dict[int, Values] = {} if words is None else words
        self.lazy = False
        """Freed lazily: a granule that is not `kept` may turn to zero at any moment."""
        self.kept: set[int] = set()
        """Granules that were written since the lazy free."""
        self.rewritten = False
        """Some word may have been written since the lazy free, before or after it was dropped."""
        self.backing: tuple[Backing, int] | None = None
        """File and page that granules which are not `copied` may still be read from."""
        self.copied: set[int] = set()
        """Granules of a private copy that surely are its own."""
        self.doubtful = False
        """It may stand for two pages, one that is mapped and one that is only pinned."""
        self.image: tuple[bytes, tuple[int, ...]] | None = None
        self.writer = Side.NOBODY
        self.watch: Watch | None = None
        """What happened since a job in flight last looked, if one does look."""

    def copy(self) -> Page:
        twin = Page(self.words.copy())
        twin.lazy, twin.kept, twin.rewritten = self.lazy, self.kept.copy(), self.rewritten
        twin.backing, twin.copied = self.backing, self.copied.copy()
        twin.writer = self.writer
        return twin

    # -- what a read may give -------------------------------------------------------------------

    def values(self, word: int) -> Values:
        """What a read of the word may give."""
        values = self.words.get(word, 0)
        if self.lazy and word // GRANULE not in self.kept:
            values = union(values, 0)
        if self.backing is not None and word // GRANULE not in self.copied:
            values = union(values, self._behind(word))
        return values

    def _behind(self, word: int) -> Values:
        """What the file holds there, for a granule that may not have been copied."""
        assert self.backing is not None
        file, index = self.backing
        page = file.page(index)
        return 0 if page is None else page.values(word)

    def unsettled(self, word: int) -> bool:
        """Whether what a read gives may change without a write to this page."""
        granule = word // GRANULE
        lazy = self.lazy and granule not in self.kept
        return lazy or (self.backing is not None and granule not in self.copied)

    def known(self, size: int) -> tuple[bytes, tuple[int, ...]]:
        """The whole page with zeros for the words that are not known, and these words."""
        if self.image is None or self.backing is not None:
            image = bytearray(size)
            unsure = []
            for word in self._words_behind():
                values = self.words.get(word, 0)
                if not isinstance(values, int) or self.unsettled(word):
                    unsure.append(word)
                else:
                    struct.pack_into("<Q", image, word * WORD, values)
            self.image = bytes(image), tuple(unsure)
        return self.image

    def _words_behind(self) -> Iterable[int]:
        """Words that may be other than zero."""
        if self.backing is None:
            return self.words
        file, index = self.backing
        page = file.page(index)
        return self.words if page is None else {**self.words, **page.words}

    # -- what happens to it ---------------------------------------------------------------------

    def store(self, word: int, values: Values) -> None:
        """A write happened: the word has these values, and its granule stays."""
        if self.doubtful:
            self.may_store(word, values)
            return
        if self.lazy or self.backing is not None:
            self._claim(word // GRANULE)
        self.image = None
        self.words[word] = values
        if self.watch is not None:
            self.watch.written.add(word)

    def may_store(self, word: int, values: Values) -> None:
        """A write may have happened, so the granule may or may not have been claimed."""
        self.image = None
        self.words[word] = union(self.values(word), values)
        self.rewritten = self.lazy
        if self.watch is not None:
            self.watch.written.add(word)

    def narrow(self, word: int, value: int) -> None:
        """The word was seen to hold `value`."""
        if self.doubtful or (self.backing is not None and word // GRANULE not in self.copied):
            return
        lazy = self.unsettled(word)
        if holds(self.words.get(word, 0), value):
            # On a lazy page a zero may also be the page's end: that tells nothing.
            if not (lazy and value == 0):
                self.words[word] = value
        elif lazy:
            self._dropped(word)
        self.image = None
        if self.watch is not None:
            self.watch.settled = True

    def _dropped(self, word: int) -> None:
        """A word was seen to be gone, and with it all of its granule that was not written since."""
        granule = word // GRANULE
        for each in self._in(granule):
            self.words[each] = union(self.words[each], 0) if self.rewritten else 0
        self.words[word] = 0
        if not self.rewritten:
            self.kept.add(granule)

    def free_lazily(self) -> None:
        """From here on every granule may be dropped, until it is written."""
        for granule in {word // GRANULE for word in self.words} if self.lazy else ():
            self._claim(granule)  # the free before this one may have dropped it
        self.lazy = True
        self.kept.clear()
        self.image = None
        if self.watch is not None:
            self.watch.written.update(self.words)

    def own(self) -> None:
        """Every granule was copied from the file, if it had not been before."""
        if self.backing is not None:
            for granule in {word // GRANULE for word in self._words_behind()}:
                self._claim(granule)
            self.backing = None

    def _claim(self, granule: int) -> None:
        """From here on the granule stays and is this page's own."""
        if self.backing is not None and granule not in self.copied:
            words = {each for each in self._words_behind() if each // GRANULE == granule}
            self.words |= {each: self.values(each) for each in words}
            self.copied.add(granule)
        if self.lazy and granule not in self.kept:
            self.words |= {each: self.values(each) for each in self._in(granule)}
            self.kept.add(granule)

    def _in(self, granule: int) -> list[int]:
        return [word for word in self.words if word // GRANULE == granule]
