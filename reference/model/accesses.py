"""Loads, stores and atomics, by CPU or device: what they may give, and what they leave."""

from __future__ import annotations

from collections.abc import Iterable
from operator import eq

from ..operations import WORD, Operation
from ..outcomes import Outcome
from .history import STALE, WRITER_SEEN
from .memory import Mapping
from .page import Page, Side
from .plain import (
    ADD,
    ATTACH,
    CAS,
    CPU_KIND,
    NEED,
    OK,
    READ,
    READ_WRITE,
    SKIPPED,
    WRITE,
)
from .reach import Way, maybe_copied, permits, way_of
from .state import Broken, Problem, State
from .values import MASK, Change, Values, describe, holds, union
from .words import bytes_of, stamps, words_of

__all__ = ["access", "change_of", "check_answer", "pieces"]

Piece = tuple[int, int, int, int]
"""A page, the first word in it, the number of words, and how many words of the access it has
before them."""


def change_of(operation: Operation, k: int) -> Change | None:
    """What the access does to its k-th word; None for a read."""
    kind = CPU_KIND[operation.kind]
    if kind == READ:
        return None
    value = (operation.value + k) & MASK
    if kind == WRITE:
        return lambda old: value
    if kind == ADD:
        return lambda old: (old + operation.value) & MASK
    expected = (operation.expected + k) & MASK
    return lambda old: value if old == expected else old


def pieces(operation: Operation, page_size: int) -> list[Piece]:
    """The access page by page."""
    page, offset, left, before = operation.page, operation.offset, operation.length, 0
    if offset + left <= page_size:
        return [(page, offset // WORD, left // WORD, 0)]
    found = []
    while left:
        length = min(left, page_size - offset)
        found.append((page, offset // WORD, length // WORD, before))
        page, offset, left, before = page + 1, 0, left - length, before + length // WORD
    return found


def access(
    state: State, operation: Operation, outcome: Outcome, process: int, *, short: bool = True
) -> None:
    """Judge an access to the address space of `process` and take over what it did.

    Without `short`, the short way for the usual case is not taken; that makes no other difference.
    """
    status, kind = outcome.status, operation.kind
    check_answer(operation, outcome)
    if status >= SKIPPED:
        return
    space = state.spaces[process]
    if space is None:
        if status == OK:
            raise Broken(Problem.NO_FAULT, "the process has exited", page=operation.page)
        state.history.exercised["L2"] += 1
        return
    if (
        short
        and operation.offset + operation.length <= state.geometry.page_size
        and not (kind >= ATTACH and (operation.key or state.keyed))
    ):
        slot = space.slots[operation.page]
        if len(slot) == 1 and _simple(state, operation, outcome, process, slot[0]):
            return
    way = way_of(state, operation, space, NEED[kind])
    _Access(state, operation, outcome, process, way).judge()


def _simple(
    state: State, operation: Operation, outcome: Outcome, process: int, mapping: Mapping | None
) -> bool:
    """The short way for the usual case: one page, what is there is known, the outcome is right.

    Anything else is left to `_Access`, which decides the same way for these; a test holds one to
    the other.
    """
    kind = operation.kind
    need = NEED[kind]
    if mapping is None or not permits(mapping, need):
        if outcome.status == OK or outcome.done:
            return False
        _count_fault(state, operation, operation.page)
        return True
    if outcome.status != OK or mapping.must & need != need:
        return False
    contents = mapping.own
    if contents is None:
        if not mapping.shared and (need == READ_WRITE or kind >= ATTACH):
            return False  # it may get a copy of its own
        contents = mapping.page()
    first, data = operation.offset // WORD, outcome.data
    assert contents is not None, "permitted, so not behind the end of the file"
    if data:
        if not contents.fits(first, data):
            return False
        state.history.exercised["A4"] += 1
        _count_writer(state, contents, kind >= ATTACH)
        contents.take(first, data)
    _count_access(state, operation, process, operation.page)
    if need == READ_WRITE or kind >= ATTACH:
        _leave(contents, operation, data)
    return True


def _leave(contents: Page, operation: Operation, old: bytes) -> None:
    """What an access to one page, known to be there, does to it."""
    kind, first, count = operation.kind, operation.offset // WORD, operation.length // WORD
    new = _stored(operation, old, count, 0)
    if new is not None:
        contents.writer = Side.DEVICE if kind >= ATTACH else Side.CPU
        contents.store_run(first, new)
    elif kind == CAS or kind >= ATTACH:
        contents.may_claim(first, count)


def _count_fault(state: State, operation: Operation, page: int) -> None:
    """A fault that was right."""
    history = state.history
    history.exercised["A1"] += 1
    if operation.kind >= ATTACH:
        history.exercised["H3"] += 1
        if history.since[operation.device][page] > 0:
            history.exercised["I12/fault"] += 1


def _count_access(state: State, operation: Operation, process: int, page: int) -> None:
    """An access to a page that was right."""
    history = state.history
    if operation.kind >= ATTACH:
        history.device_access(operation.device, process, page)
    elif history.marks[process][page]:
        history.cpu_access(process, page)
    history.exercised["A2"] += 1


def _count_writer(state: State, page: Page, by_device: bool) -> None:
    """A read that was right, perhaps of a page that somebody has written."""
    if page.writer:
        state.history.exercised[WRITER_SEEN[by_device][page.writer]] += 1


def _stored(operation: Operation, old: bytes, count: int, before: int) -> bytes | None:
    """What the words hold afterwards, if their old values were read right; None: as before."""
    kind = CPU_KIND[operation.kind]
    if kind == READ:
        return None
    if kind == WRITE:
        return bytes_of(stamps(operation.value + before, count))
    words = words_of(old)
    if kind == ADD:
        return bytes_of([(word + operation.value) & MASK for word in words])
    expected = stamps(operation.expected + before, count)
    if not any(map(eq, words, expected)):
        return None
    new = stamps(operation.value + before, count)
    return bytes_of([n if w == e else w for w, e, n in zip(words, expected, new, strict=True)])


def check_answer(operation: Operation, outcome: Outcome) -> None:
    """`Broken` unless the outcome of an access is one: lengths fit, data where data belongs."""
    status, _, done, data = outcome
    length = operation.length
    if status == OK:
        if done != length:
            raise Broken(Problem.ANSWER, f"OK with {done} of {length} bytes done")
    elif done >= length or done % WORD:
        raise Broken(Problem.ANSWER, f"{done} of {length} bytes done, but not OK")
    size = 0 if CPU_KIND[operation.kind] == WRITE else done
    if len(data) != size:
        raise Broken(Problem.ANSWER, f"{len(data)} bytes of data where {size} belong")


def _wrong_value(page: int, first: int, words: Iterable[int], contents: list[Page]) -> Broken:
    """The first word that none of the contents allows, along with those before it."""
    for word, value in enumerate(words, first):
        allowed: Values = frozenset()
        for each in contents:
            allowed = union(allowed, each.values(word))
        contents = [each for each in contents if holds(each.values(word), value)]
        if not contents:
            break
    message = f"page {page} word {word}: {describe(value)}, allowed: {describe(allowed)}"
    return Broken(Problem.VALUE, message, page=page, word=word, value=value)


class _Access:
    """One access that was done, in whole or in part, on one way."""

    __slots__ = ("by_device", "operation", "outcome", "pieces", "process", "state", "way")

    def __init__(
        self, state: State, operation: Operation, outcome: Outcome, process: int, way: Way
    ) -> None:
        self.state = state
        self.operation = operation
        self.outcome = outcome
        self.process = process
        self.way = way
        self.by_device = operation.kind >= ATTACH
        self.pieces = pieces(operation, state.geometry.page_size)

    def judge(self) -> None:
        done = self.outcome.done // WORD
        faulted = self.outcome.status != OK
        if faulted:
            self._check_fault(done)
        if self.by_device and self.way.need == READ_WRITE and len(self.pieces) > 1:
            self._copied_ahead()
        for page, first, count, before in self.pieces:
            if before < done:
                self._piece(page, first, min(count, done - before), before)
        if faulted and self.by_device and self.way.need == READ_WRITE:
            self._unreported(done)

    def _check_fault(self, done: int) -> None:
        """A fault is right if some page at or behind it may be closed to the access."""
        if done and self.way.shut:
            raise Broken(Problem.NO_FAULT, "part of it was done", page=self.operation.page)
        if self.state.excused:
            return
        ahead = [page for page, _, count, before in self.pieces if before + count > done]
        for page in ahead:
            if not self.way.must(page):
                _count_fault(self.state, self.operation, page)
                return
        at = ahead[0]
        raise Broken(Problem.FAULT, f"page {at} allows the access, but it faulted", page=at)

    def _copied_ahead(self) -> None:
        """A device may fault in all pages before it writes to any, as get_user_pages does.

        So the copy that it makes of one may be older than what it writes to the same file by way
        of another.
        """
        slots = self.way.space.slots
        written = {
            (mapping.file, mapping.index)
            for page, *_ in self.pieces
            for mapping in slots[page]
            if mapping is not None and mapping.shared
        }
        for page, first, count, _ in self.pieces:
            private = [m for m in slots[page] if m is not None and not m.shared]
            if any((mapping.file, mapping.index) in written for mapping in private):
                maybe_copied(self.way.space, page, first, count)

    def _piece(self, page: int, first: int, count: int, before: int) -> None:
        if not self.way.may(page):
            raise Broken(Problem.NO_FAULT, f"page {page} does not allow the access", page=page)
        kind = CPU_KIND[self.operation.kind]
        old = self.outcome.data[before * WORD : (before + count) * WORD]
        new = _stored(self.operation, old, count, before)
        if self.way.stale(page):
            self.state.history.marks[self.process][page] |= STALE
        contents = self.way.contents(page, stores=new is not None)
        if kind != WRITE:
            contents = self._check_values(page, first, old, contents)
        _count_access(self.state, self.operation, self.process, page)
        if new is not None:
            self._store(contents, first, new, before)
        elif kind == CAS or self.by_device:
            # Whether a failed compare-exchange counts as a write is up to the processor, and
            # a device may pin for writing what it only reads.  mmap(2) leaves it open whether a
            # private mapping shows later changes of its file.
            maybe_copied(self.way.space, page, first, count)

    def _check_values(self, page: int, first: int, data: bytes, contents: list[Page]) -> list[Page]:
        """Check what was read; the contents that it may come from."""
        self.state.history.exercised["A4"] += 1
        fitting = [each for each in contents if each.fits(first, data)]
        if not fitting:
            raise _wrong_value(page, first, words_of(data), contents)
        if len(fitting) == 1:
            _count_writer(self.state, fitting[0], self.by_device)
            fitting[0].take(first, data)
        if len(fitting) < len(contents) and not self.way.pinned:
            self._settle(page, fitting)
        return fitting

    def _settle(self, page: int, contents: list[Page]) -> None:
        """Mappings whose contents were not what was read were not there."""
        space = self.way.space
        slot = space.slots[page]
        if len(slot) > 1:
            space.slots[page] = tuple(
                mapping for mapping in slot if mapping is not None and mapping.page() in contents
            )

    def _store(self, contents: list[Page], first: int, new: bytes, before: int) -> None:
        for page in contents:
            page.writer = Side.DEVICE if self.by_device else Side.CPU
        if len(contents) == 1:
            contents[0].store_run(first, new)
            return
        for page in contents:
            self._may_store(page, first, len(new) // WORD, before)

    def _unreported(self, done: int) -> None:
        """A device that faults need not tell how far it came: what lies behind may be done."""
        for page, first, count, before in self.pieces:
            if before + count <= done:
                continue
            if not self.way.may(page):
                return
            skipped = max(done - before, 0)
            maybe_copied(self.way.space, page)
            slot = self.way.space.slots[page]
            contents = [*self.way.stale(page), *(m.page() for m in slot if m is not None)]
            for each in dict.fromkeys(contents):
                if each is not None:
                    self._may_store(each, first + skipped, count - skipped, before + skipped)

    def _may_store(self, page: Page, first: int, count: int, before: int) -> None:
        operation = self.operation
        page.may_claim(first, count)
        if CPU_KIND[operation.kind] == WRITE:
            page.may_store_run(first, bytes_of(stamps(operation.value + before, count)))
            return
        words: Iterable[int] = range(first, first + count)
        if page.plain:
            old = bytes(page.known_in(first, count * WORD))
            words = page.unsure_in(first, count * WORD)
            page.may_turn_into(first, _stored(operation, old, count, before) or old)
        for word in words:
            change = change_of(operation, before + word - first)
            assert change is not None
            page.may_change(word, change)
