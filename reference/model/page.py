"""The contents of one page slot, and what is not certain about them."""

from __future__ import annotations

import enum
import sys
from array import array
from typing import Protocol, TypeAlias

import numpy as np

from ..operations import WORD
from .values import Values, holds, union

__all__ = ["GRANULE", "Backing", "Page", "Side", "Watch", "Words", "words_of"]

Words: TypeAlias = "array[int]"

GRANULE = 4096 // WORD
"""Words in the smallest page of a kernel: copy-on-write and lazy free work on these.

A slot of the arena may be larger.  Some candidates copy or drop it as a whole, others in granules,
and both are right.
"""


def words_of(data: bytes | memoryview) -> Words:
    """The words in data that a candidate gave, which is little-endian."""
    words = array("Q")
    words.frombytes(data)
    if sys.byteorder == "big":
        words.byteswap()
    return words


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
        "kept",
        "known",
        "lazy",
        "rewritten",
        "unsure",
        "watch",
        "writer",
    )

    def __init__(self) -> None:
        self.known: Words = array("Q")
        """Words that hold one value; zeros at the end are left out."""
        self.unsure: dict[int, frozenset[int]] = {}
        """Words that may hold several values; what `known` has for them means nothing."""
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
        self.writer = Side.NOBODY
        self.watch: Watch | None = None
        """What happened since a job in flight last looked, if one does look."""

    def copy(self) -> Page:
        twin = Page()
        twin.known, twin.unsure = self.known[:], self.unsure.copy()
        twin.lazy, twin.kept, twin.rewritten = self.lazy, self.kept.copy(), self.rewritten
        twin.backing, twin.copied = self.backing, self.copied.copy()
        twin.writer = self.writer
        return twin

    # -- what a read may give -------------------------------------------------------------------

    def values(self, word: int) -> Values:
        """What a read of the word may give."""
        values = self._stored(word)
        if self.lazy and word // GRANULE not in self.kept:
            values = union(values, 0)
        if self.backing is not None and word // GRANULE not in self.copied:
            behind = self._behind()
            values = union(values, 0 if behind is None else behind.values(word))
        return values

    def _stored(self, word: int) -> Values:
        if self.unsure and word in self.unsure:
            return self.unsure[word]
        return self.known[word] if word < len(self.known) else 0

    def _behind(self) -> Page | None:
        """The file's page behind a private copy."""
        assert self.backing is not None
        file, index = self.backing
        return file.page(index)

    def fits(self, first: int, words: Words) -> bool:
        """Whether a read from word `first` on may give these words."""
        end = first + len(words)
        expected = self._expected(first, end)
        for word in [word for word in self.unsure if first <= word < end] if self.unsure else ():
            if holds(self.values(word), words[word - first]):
                expected[word - first] = words[word - first]
        if expected == words:
            return True
        if not self.lazy and self.backing is None:
            return False
        return all(holds(self.values(word), value) for word, value in enumerate(words, first))

    def _expected(self, first: int, end: int) -> Words:
        expected = self.known[first:end]
        if len(expected) < end - first:
            expected.frombytes(bytes((end - first - len(expected)) * WORD))
        return expected

    def take(self, first: int, words: Words) -> None:
        """A read from word `first` on gave these words, which fit: what that tells is kept."""
        end = first + len(words)
        for word in [word for word in self.unsure if first <= word < end] if self.unsure else ():
            self.narrow(word, words[word - first])
        if self.lazy:
            expected = self._expected(first, end)
            for k, value in enumerate(words):
                if expected[k] != value:
                    self.narrow(first + k, value)

    def written(self) -> list[int]:
        """Words that may be other than zero."""
        words = np.flatnonzero(np.frombuffer(self.known, dtype=np.uint64)) if self.known else ()
        return sorted({*map(int, words), *self.unsure})

    def same(self, other: Page) -> bool:
        """Whether the stored contents of both are the same, as far as is known."""
        return self.unsure == other.unsure and self.known.tobytes().rstrip(
            b"\0"
        ) == other.known.tobytes().rstrip(b"\0")

    # -- what happens to it ---------------------------------------------------------------------

    def store(self, word: int, values: Values) -> None:
        """A write happened: the word has these values, and its granule stays."""
        if self.doubtful:
            self.may_store(word, values)
            return
        if self.lazy or self.backing is not None:
            self._claim(word // GRANULE)
        self._put(word, values)
        if self.watch is not None:
            self.watch.written.add(word)

    def store_run(self, first: int, words: Words) -> None:
        """A write of consecutive words happened."""
        end = first + len(words)
        if self.doubtful:
            for word in range(first, end):
                self.may_store(word, words[word - first])
            return
        if self.lazy or self.backing is not None:
            for granule in range(first // GRANULE, (end - 1) // GRANULE + 1):
                self._claim(granule)
        if len(self.known) < first:
            self.known.frombytes(bytes((first - len(self.known)) * WORD))
        self.known[first:end] = words
        for word in [word for word in self.unsure if first <= word < end] if self.unsure else ():
            del self.unsure[word]
        if self.watch is not None:
            self.watch.written.update(range(first, end))

    def may_store(self, word: int, values: Values) -> None:
        """A write may have happened, so the granule may or may not have been claimed."""
        self._put(word, union(self.values(word), values))
        self.rewritten = self.lazy
        if self.watch is not None:
            self.watch.written.add(word)

    def mix(self, other: Page) -> None:
        """Every word may be what the other page has there."""
        for word in {*self.written(), *other.written()}:
            self.may_store(word, other.values(word))

    def _put(self, word: int, values: Values) -> None:
        if not isinstance(values, int):
            self.unsure[word] = values
            return
        self.unsure.pop(word, None)
        if word >= len(self.known):
            self.known.frombytes(bytes((word + 1 - len(self.known)) * WORD))
        self.known[word] = values

    def narrow(self, word: int, value: int) -> None:
        """The word was seen to hold `value`."""
        granule = word // GRANULE
        if self.doubtful or (self.backing is not None and granule not in self.copied):
            return
        lazy = self.lazy and granule not in self.kept
        if holds(self._stored(word), value):
            # On a lazy page a zero may also be the page's end: that tells nothing.
            if not (lazy and value == 0):
                self._put(word, value)
        elif lazy:
            self._dropped(word)
        if self.watch is not None:
            self.watch.settled = True

    def _dropped(self, word: int) -> None:
        """A word was seen to be gone, and with it all of its granule that was not written since."""
        granule = word // GRANULE
        for each in self._in(granule):
            self._put(each, union(self._stored(each), 0) if self.rewritten else 0)
        self._put(word, 0)
        if not self.rewritten:
            self.kept.add(granule)

    def free_lazily(self) -> None:
        """From here on every granule may be dropped, until it is written."""
        written = self.written()
        for granule in {word // GRANULE for word in written} if self.lazy else ():
            self._claim(granule)  # the free before this one may have dropped it
        self.lazy = True
        self.kept.clear()
        if self.watch is not None:
            self.watch.written.update(written)

    def own(self) -> None:
        """Every granule was copied from the file, if it had not been before."""
        if self.backing is not None:
            behind = self._behind()
            words = {*self.written(), *(() if behind is None else behind.written())}
            for granule in {word // GRANULE for word in words}:
                self._claim(granule)
            self.backing = None

    def _claim(self, granule: int) -> None:
        """From here on the granule stays and is this page's own."""
        if self.backing is not None and granule not in self.copied:
            behind = self._behind()
            words = {*self._in(granule), *(() if behind is None else behind._in(granule))}
            for word in words:
                self._put(word, self.values(word))
            self.copied.add(granule)
        if self.lazy and granule not in self.kept:
            for word in self._in(granule):
                self._put(word, self.values(word))
            self.kept.add(granule)

    def _in(self, granule: int) -> list[int]:
        return [word for word in self.written() if word // GRANULE == granule]
