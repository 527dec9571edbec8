"""The contents of one page slot, and what is not certain about them."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final, Protocol

from ..operations import WORD
from .values import Change, Values, apply, holds, union
from .words import words_of

__all__ = ["GRANULE", "Backing", "Page", "Side", "Watch"]

GRANULE: Final = 4096 // WORD
"""Words in the smallest page of a kernel: copy-on-write and lazy free work on these.

A slot of the arena may be larger.  Some candidates copy or drop it as a whole, others in granules,
and both are right.
"""
_BLOCK: Final = 64
"""Words that are compared at once: of a large page most is as it was, or zero."""
_BLANK: Final = bytes(_BLOCK * WORD)
_NONE: Final[frozenset[int]] = frozenset()
Word = tuple[int, int]
"""Number and value."""


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
        self.known = bytearray()
        """Words that hold one value, as bytes; zeros at the end are left out."""
        self.unsure: dict[int, frozenset[int]] = {}
        """Words that may hold several values; what `known` has for them means nothing."""
        self.lazy = False
        """Freed lazily: a granule that is not `kept` may turn to zero at any moment."""
        self.kept = _NONE
        """Granules that were written since the lazy free."""
        self.rewritten = False
        """Some word may have been written since the lazy free, before or after it was dropped."""
        self.backing: tuple[Backing, int] | None = None
        """File and page that granules which are not `copied` may still be read from."""
        self.copied = _NONE
        """Granules of a private copy that surely are its own."""
        self.doubtful = False
        """It may stand for two pages, one that is mapped and one that is only pinned."""
        self.writer = Side.NOBODY
        self.watch: Watch | None = None
        """What happened since a job in flight last looked, if one does look."""

    def copy(self) -> Page:
        twin = Page()
        twin.known, twin.unsure = self.known[:], self.unsure.copy()
        twin.writer = self.writer
        if self.lazy:
            twin.lazy, twin.kept, twin.rewritten = True, self.kept, self.rewritten
        if self.backing is not None:
            twin.backing, twin.copied = self.backing, self.copied
        return twin

    @property
    def plain(self) -> bool:
        """Whether its words are what was stored there, and nothing else."""
        return not self.lazy and self.backing is None

    # -- what a read may give -------------------------------------------------------------------

    def values(self, word: int) -> Values:
        """What a read of the word may give."""
        values = self._stored(word)
        if self.lazy and word // GRANULE not in self.kept:
            values = union(values, 0)
        if self.backing is not None:
            behind = self.behind(word)
            if behind is not None:
                values = union(values, behind)
        return values

    def behind(self, word: int) -> Values | None:
        """What a read of the word may find in its file; None if it surely does not read there."""
        if self.backing is None or word // GRANULE in self.copied:
            return None
        page = self._behind()
        return 0 if page is None else page.values(word)

    def _stored(self, word: int) -> Values:
        unsure = self.unsure.get(word)
        if unsure is not None:
            return unsure
        at = word * WORD
        return int.from_bytes(self.known[at : at + WORD], "little")

    def _behind(self) -> Page | None:
        """The file's page behind a private copy."""
        assert self.backing is not None
        file, index = self.backing
        return file.page(index)

    def values_in(self, first: int, count: int) -> list[Values]:
        """What a read may give for each of so many words."""
        found: list[Values] = list(words_of(self.known_in(first, count * WORD)))
        for word in self.unsure_in(first, count * WORD):
            found[word - first] = self.unsure[word]
        if self.plain:
            return found
        behind = self._behind() if self.backing is not None else None
        others = [0] * count if behind is None else behind.values_in(first, count)
        for at, word in enumerate(range(first, first + count)):
            values, granule = found[at], word // GRANULE
            if self.lazy and granule not in self.kept and values != 0:
                values = union(values, 0)
            if self.backing is not None and granule not in self.copied and values != others[at]:
                values = union(values, others[at])
            found[at] = values
        return found

    def fits(self, first: int, data: bytes) -> bool:
        """Whether a read from word `first` on may give this data."""
        expected = self.known_in(first, len(data))
        unsure = self.unsure_in(first, len(data)) if self.unsure else []
        if not unsure and expected == data:
            return True
        blocks = {(word - first) // _BLOCK for word in unsure}
        blocks.update(_differing_blocks(expected, data))
        return all(self._fits(first + block * _BLOCK, _block(data, block)) for block in blocks)

    def _fits(self, first: int, data: bytes | bytearray) -> bool:
        """The same word by word."""
        words = words_of(data)
        return all(map(holds, self.values_in(first, len(words)), words))

    def known_in(self, first: int, size: int) -> bytearray:
        """What `known` has from word `first` on, `size` bytes."""
        at = first * WORD
        expected = self.known[at : at + size]
        missing = size - len(expected)
        return expected + bytes(missing) if missing else expected

    def unsure_in(self, first: int, size: int) -> list[int]:
        """Words from `first` on, of `size` bytes, that may hold several values."""
        words, unsure = range(first, first + size // WORD), self.unsure
        if len(words) < len(unsure):
            return [word for word in words if word in unsure]
        return [word for word in unsure if word in words]

    def take(self, first: int, data: bytes) -> None:
        """A read from word `first` on gave this data, which fits: what that tells is kept."""
        if not self.unsure and not self.lazy:
            return
        unsure = self.unsure_in(first, len(data))
        if self.plain and not self.doubtful:
            self._settle(first, unsure, data)
            return
        for word in unsure:
            at = (word - first) * WORD
            self.narrow(word, int.from_bytes(data[at : at + WORD], "little"))
        if self.lazy:
            self._take_lazy(first, data)

    def _settle(self, first: int, unsure: list[int], data: bytes) -> None:
        """These words were seen to hold what they have in the data."""
        for word in unsure:
            del self.unsure[word]
            at = (word - first) * WORD
            self._keep(word * WORD, data[at : at + WORD])
        if unsure and self.watch is not None:
            self.watch.settled = True

    def _take_lazy(self, first: int, data: bytes) -> None:
        expected = self.known_in(first, len(data))
        if expected == data:
            return
        gone = -1
        for word, value in _differing(first, expected, data):
            granule, kept = word // GRANULE, self.kept
            # With its first word all of a granule is gone.
            if granule != gone or value:
                self.narrow(word, value)
            if self.kept is not kept:
                gone = granule

    def written(self) -> list[int]:
        """Words that may be other than zero."""
        return self._written_in(0, len(self.known) // WORD, self.unsure)

    def _written_in(self, first: int, end: int, unsure: Iterable[int]) -> list[int]:
        words = set(unsure)
        known = self.known[first * WORD : end * WORD]
        for at in range(0, len(known), len(_BLANK)):
            block = known[at : at + len(_BLANK)]
            if block != _BLANK[: len(block)]:
                held = enumerate(words_of(block), first + at // WORD)
                words.update(word for word, value in held if value)
        return sorted(words)

    @property
    def blank(self) -> bool:
        """Whether no word can be other than zero."""
        return not self.unsure and not self.known.strip(b"\0")

    def same(self, other: Page) -> bool:
        """Whether the stored contents of both are the same, as far as is known."""
        return self.unsure == other.unsure and (
            self.known == other.known or self.known.rstrip(b"\0") == other.known.rstrip(b"\0")
        )

    # -- what happens to it ---------------------------------------------------------------------

    def store(self, word: int, values: Values) -> None:
        """A write happened: the word has these values, and its granule stays."""
        if self.doubtful:
            self.may_claim(word, 1)
            self.may_store(word, values)
            return
        if self.lazy or self.backing is not None:
            self._claim(word // GRANULE)
        self._put(word, values)
        if self.watch is not None:
            self.watch.written.add(word)

    def store_run(self, first: int, data: bytes) -> None:
        """A write of consecutive words happened."""
        end = first + len(data) // WORD
        if self.doubtful:
            self.may_store_run(first, data)
            return
        if self.lazy or self.backing is not None:
            for granule in range(first // GRANULE, (end - 1) // GRANULE + 1):
                self._claim(granule)
        self._keep(first * WORD, data)
        if self.unsure:
            for word in self.unsure_in(first, len(data)):
                del self.unsure[word]
        if self.watch is not None:
            self.watch.written.update(range(first, end))

    def _keep(self, at: int, data: bytes) -> None:
        known = self.known
        if len(known) < at:
            known.extend(bytes(at - len(known)))
        known[at : at + len(data)] = data

    def may_claim(self, first: int = 0, count: int | None = None) -> None:
        """Granules with any of so many words, or all, may have become this page's own just now.

        What the file holds now may stay there, then, whatever becomes of the file.
        """
        if self.backing is None:
            return
        if count is None:
            granules: Iterable[int] = self._granules()
        else:
            granules = range(first // GRANULE, (first + count - 1) // GRANULE + 1)
        for granule in granules:
            self._take_from_file(granule)

    def may_store(self, word: int, values: Values) -> None:
        """A write may have happened; what that makes of its granule `may_claim` says."""
        self._put(word, union(self.values(word), values))
        self.rewritten = self.lazy
        if self.watch is not None:
            self.watch.written.add(word)

    def may_store_run(self, first: int, data: bytes) -> None:
        """A write of consecutive words may have happened."""
        unsure = self.unsure_in(first, len(data))
        self.may_claim(first, len(data) // WORD)
        if self.plain:
            self.may_turn_into(first, data)
            for word in unsure:
                at = (word - first) * WORD
                self.may_store(word, int.from_bytes(data[at : at + WORD], "little"))
            return
        words = words_of(data)
        held = self.values_in(first, len(words))
        for word, old, new in zip(range(first, first + len(words)), held, words, strict=True):
            self._put(word, union(old, new))
        self.rewritten = self.lazy
        if self.watch is not None:
            self.watch.written.update(range(first, first + len(words)))

    def may_turn_into(self, first: int, data: bytes) -> None:
        """The same for words that hold one value; those that are unsure stay as they are.

        Not for a page that is `lazy` or has a `backing`.
        """
        unsure, end = self.unsure, first + len(data) // WORD
        held = words_of(self.known_in(first, len(data)))
        for word, old, new in zip(range(first, end), held, words_of(data), strict=True):
            if old != new and word not in unsure:
                unsure[word] = frozenset((old, new))
        if self.watch is not None:
            self.watch.written.update(range(first, end))

    def may_change(self, word: int, change: Change) -> None:
        """A write that depends on what the word held may have happened."""
        held = self.values(word)
        values = union(held, apply(change, held))
        if values is not held or self.lazy or self.backing is not None:
            self._put(word, values)
            self.rewritten = self.lazy
        if self.watch is not None:
            self.watch.written.add(word)

    def may_become(self, word: int, values: Values) -> None:
        """A job in flight may have left any of these values, among them all that it held."""
        if self.lazy or self.backing is not None or values != self.values(word):
            self._put(word, values)
            self.rewritten = self.lazy

    def mix(self, other: Page) -> None:
        """Every word may be what the other page has there."""
        words = {*self.written(), *other.written()}
        if not self.plain or not other.plain:
            for word in words:
                self.may_store(word, other.values(word))
            return
        several = self.unsure.keys() | other.unsure.keys()
        size = max(len(self.known), len(other.known))
        ours, theirs = self.known_in(0, size), other.known_in(0, size)
        for word, value in _differing(0, ours, theirs):
            if word not in several:
                self._put(word, union(self._stored(word), value))
        for word in several:
            self._put(word, union(self.values(word), other.values(word)))
        if self.watch is not None:
            self.watch.written |= words

    def _put(self, word: int, values: Values) -> None:
        if not isinstance(values, int):
            self.unsure[word] = values
            return
        self.unsure.pop(word, None)
        self._keep(word * WORD, values.to_bytes(WORD, "little"))

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
            self.kept |= {granule}

    def free_lazily(self) -> None:
        """From here on every granule may be dropped, until it is written."""
        if self.watch is not None:
            self.watch.written.update(self.written())
        if self.lazy:
            for granule in {word // GRANULE for word in self.written()}:
                self._claim(granule)  # the free before this one may have dropped it
        self.lazy = True
        self.kept = _NONE

    def own(self) -> None:
        """Every granule was copied from the file, if it had not been before."""
        if self.backing is not None:
            for granule in self._granules():
                self._claim(granule)
            self.backing = None

    def _granules(self) -> set[int]:
        """Granules with anything but zeros, here or in the file."""
        behind = self._behind()
        words = {*self.written(), *(() if behind is None else behind.written())}
        return {word // GRANULE for word in words}

    def _claim(self, granule: int) -> None:
        """From here on the granule stays and is this page's own."""
        if self.backing is not None:
            self._take_from_file(granule)
            self.copied |= {granule}
        if self.lazy and granule not in self.kept:
            for word in self._in(granule):
                self._put(word, self.values(word))
            self.kept |= {granule}

    def _take_from_file(self, granule: int) -> None:
        """Keep what may be read of a granule from the file, as what may have been copied."""
        if granule not in self.copied:
            behind = self._behind()
            for word in {*self._in(granule), *(() if behind is None else behind._in(granule))}:
                self._put(word, self.values(word))

    def _in(self, granule: int) -> list[int]:
        """Words of the granule that may be other than zero."""
        first, end = granule * GRANULE, (granule + 1) * GRANULE
        return self._written_in(first, end, self.unsure_in(first, (end - first) * WORD))


def _differing(first: int, held: bytes | bytearray, data: bytes | bytearray) -> list[Word]:
    """Words, counted from `first`, that are others in the data, with what they are there."""
    found = []
    for block in _differing_blocks(held, data):
        pairs = zip(words_of(_block(held, block)), words_of(_block(data, block)), strict=True)
        words = enumerate(pairs, first + block * _BLOCK)
        found += [(word, new) for word, (old, new) in words if old != new]
    return found


def _differing_blocks(held: bytes | bytearray, data: bytes | bytearray) -> list[int]:
    if held == data:
        return []
    size, found = _BLOCK * len(_BLANK), list[int]()
    for start in range(0, len(data), size):
        ours, theirs = held[start : start + size], data[start : start + size]
        if ours != theirs:
            first = start // len(_BLANK)
            blocks = range(-(-len(theirs) // len(_BLANK)))
            found += [first + n for n in blocks if _block(ours, n) != _block(theirs, n)]
    return found


def _block(data: bytes | bytearray, block: int) -> bytes | bytearray:
    return data[block * len(_BLANK) : (block + 1) * len(_BLANK)]
