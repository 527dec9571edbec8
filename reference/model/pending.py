"""What jobs in flight may yet do to a word, each of their accesses once."""

from __future__ import annotations

from dataclasses import dataclass

from .page import Page
from .values import ANYTHING, MOST, Change, Values, collect, members, mixtures, union

__all__ = ["Exposure", "Pending"]


@dataclass(slots=True)
class Exposure:
    """One word of an address space that a job in flight may read or write."""

    changes: list[Change]
    """What its accesses make of the word, in order; none if they only read it."""
    pages: list[Page]
    """Contents that were at this address while the job was in flight."""
    before: Values
    """What the word held when the job was submitted."""
    seen: Values
    """Everything that it held while the job was in flight."""
    raced: bool = False
    """Somebody else wrote the word, or the mapping changed."""


class Pending:
    """One word of a page that jobs in flight may reach.

    Each value that the word may hold goes with the changes that were surely made on the way to it:
    these are not made of it again, so an atomic add happens once.  Whatever somebody else stores
    there is a new value, of which nothing was made yet.
    """

    __slots__ = (
        "behind",
        "changes",
        "exposures",
        "joined",
        "made",
        "page",
        "tears",
        "values",
        "word",
    )

    def __init__(self, page: Page, word: int, *, tears: bool = False) -> None:
        self.page = page
        self.word = word
        self.tears = tears
        """Changes are made byte by byte."""
        self.values = page.values(word)
        self.made = dict.fromkeys(members(self.values), 0)
        """By value: bit mask of the changes that led to it, on every way that is known."""
        self.behind = page.behind(word)
        self.exposures: list[Exposure] = []
        self.changes: list[tuple[int, Change, Exposure]] = []
        """Changes that may happen, each with its bit, and whose they are."""
        self.joined = 0
        """How many changes there have been."""

    def join(self, exposure: Exposure) -> None:
        """A job in flight may reach the word from here on.

        A word that is reached in two ways, at whatever addresses, is nobody's alone.
        """
        for other in self.exposures:
            exposure.raced = other.raced = True
        if self.page.backing is not None:
            exposure.raced = True
        self.exposures.append(exposure)
        for change in exposure.changes:
            self.changes.append((1 << self.joined, change, exposure))
            self.joined += 1
        self._spread()

    def race(self) -> None:
        """Somebody else wrote the word, or may have."""
        for exposure in self.exposures:
            exposure.raced = True

    def leave(self, exposure: Exposure) -> None:
        """The job's accesses are done."""
        self.exposures = [other for other in self.exposures if other is not exposure]
        self.changes = [change for change in self.changes if change[2] is not exposure]

    def look(self, *, written: bool) -> bool:
        """Take in what the word holds now; True if that is anything new.

        `written`: it was written, or may have been, since the last look.
        """
        behind, held = self.page.behind(self.word), self.page.values(self.word)
        written = written or behind != self.behind
        if not written and held == self.values:
            return False
        self.behind = behind
        self.made = {value: 0 if written else self.made.get(value, 0) for value in members(held)}
        self.values = held
        self._spread()
        return True

    def _spread(self) -> None:
        """Whatever may be made of a value may be there, too."""
        if self.changes:
            if self.values is not ANYTHING:
                self._close()
            self.page.may_become(self.word, self.values)
        for exposure in self.exposures:
            exposure.seen = union(self.values, exposure.seen)

    def _close(self) -> None:
        """All that the values may become by the changes, and in the midst of one."""
        self._follow()
        while self.tears and self.values is not ANYTHING:
            mixed = mixtures(self.values)
            if mixed == self.values:
                return
            self.values = mixed
            if mixed is not ANYTHING:
                self.made = dict.fromkeys(members(mixed), 0) | self.made
                self._follow()

    def _follow(self) -> None:
        """What the changes make of all values, one after another."""
        made, todo = self.made, list(self.made)
        while todo:
            value = todo.pop()
            before = made[value]
            for bit, change, _ in self.changes:
                if before & bit:
                    continue
                new = change(value)
                # On several ways to a value, only what lies on all of them was surely made.
                after = (before | self._sure(bit, change, new)) & made.get(new, -1)
                if made.get(new) != after:
                    made[new] = after
                    todo.append(new)
            if len(made) > MOST:
                self.values = ANYTHING
                return
        if not isinstance(self.values, int) or len(made) > 1:
            self.values = collect(made)

    def _sure(self, bit: int, change: Change, new: int) -> int:
        """The bit of a change that is over when the word holds what it makes of it.

        A write of bytes may have some left to do that are as they were.
        """
        return 0 if self.tears and change(new) == new else bit
