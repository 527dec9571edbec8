"""Loads, stores and atomics, by CPU or device: what they may give, and what they leave."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

from ..operations import ACCESSES, DEVICE_ACCESSES, WORD, Kind, Operation
from ..outcomes import Outcome, Status
from .history import Mark
from .page import Page, Side, Words, words_of
from .reach import READ, READ_WRITE, Way, maybe_copied
from .state import Broken, Problem, State
from .values import MASK, Values, apply, describe, holds, union

__all__ = ["access", "change_of", "check_answer", "cpu_kind", "pieces"]

Change = Callable[[int], int]
_CPU_KINDS = {
    Kind.DREAD: Kind.READ,
    Kind.DWRITE: Kind.WRITE,
    Kind.DADD: Kind.ADD,
    Kind.DCAS: Kind.CAS,
}
CPU_KIND = {int(kind): _CPU_KINDS.get(kind, kind) for kind in ACCESSES}
"""READ, WRITE, ADD or CAS for every access, whoever does it."""
_KEYED = frozenset(map(int, DEVICE_ACCESSES))
_ATTACH = int(Kind.ATTACH)


def cpu_kind(operation: Operation) -> Kind:
    """READ, WRITE, ADD or CAS, whoever does it."""
    return CPU_KIND[operation.kind]


def change_of(operation: Operation, k: int) -> Change | None:
    """What the access does to its k-th word; None for a read."""
    kind = CPU_KIND[operation.kind]
    if kind == Kind.READ:
        return None
    value = (operation.value + k) & MASK
    if kind == Kind.WRITE:
        return lambda old: value
    if kind == Kind.ADD:
        return lambda old: (old + operation.value) & MASK
    expected = (operation.expected + k) & MASK
    return lambda old: value if old == expected else old


def pieces(operation: Operation, page_size: int) -> Iterator[tuple[int, int, int, int]]:
    """The access page by page: (page, first word in it, number of words, words before it)."""
    page, offset, left, before = operation.page, operation.offset, operation.length, 0
    while left:
        length = min(left, page_size - offset)
        yield page, offset // WORD, length // WORD, before
        page, offset, left, before = page + 1, 0, left - length, before + length // WORD


def access(state: State, operation: Operation, outcome: Outcome, process: int) -> None:
    """Judge an access to the address space of `process` and take over what it did."""
    space = state.spaces[process]
    check_answer(operation, outcome)
    if outcome.status >= Status.SKIPPED:
        return
    if space is None:
        if outcome.status == Status.OK:
            raise Broken(Problem.NO_FAULT, "the process has exited", page=operation.page)
        state.history.exercised["L2"] += 1
        return
    if _plain(state, operation, outcome, process):
        return
    need = READ if CPU_KIND[operation.kind] == Kind.READ else READ_WRITE
    way = Way(state, operation, space, need)
    _Access(state, operation, outcome, process, way).judge()


def _plain(state: State, operation: Operation, outcome: Outcome, process: int) -> bool:
    """The short way for the usual case: one page, one mapping, and an outcome that is right.

    Anything else is left to `_Access`, which decides the same way for these; a test holds one to
    the other.
    """
    space = state.spaces[process]
    end = operation.offset + operation.length
    if (
        space is None
        or end > state.geometry.page_size
        or (
            operation.kind in _KEYED
            and (operation.key or state.sync.pins or state.sync.revalidates)
        )
    ):
        return False
    slot = space.slots[operation.page]
    mapping = slot[0]
    if len(slot) != 1:
        return False
    if mapping is None:
        if outcome.status == Status.OK or outcome.done:
            return False
        _count_fault(state, operation, operation.page)
        return True
    kind = CPU_KIND[operation.kind]
    need = READ if kind == Kind.READ else READ_WRITE
    if outcome.status != Status.OK or mapping.must & need != need:
        return False
    page = mapping.page()
    if page is None or (mapping.through and (need == READ_WRITE or operation.kind >= _ATTACH)):
        return False
    first = operation.offset // WORD
    old = words_of(outcome.data)
    if kind != Kind.WRITE:
        if not page.fits(first, old):
            return False
        state.history.exercised["A4"] += 1
        count_last_writer(state, operation, page)
        page.take(first, old)
    count_access(state, operation, process, operation.page)
    new = _new_words(operation, old, operation.length // WORD, 0)
    if new is not None:
        page.writer = Side.DEVICE if operation.kind >= _ATTACH else Side.CPU
        page.store_run(first, new)
    return True


def _count_fault(state: State, operation: Operation, page: int) -> None:
    """A fault that was right."""
    history = state.history
    history.exercised["A1"] += 1
    if operation.kind >= _ATTACH:
        history.exercised["H3"] += 1
        if history.since[operation.device][page] > 0:
            history.exercised["I12/fault"] += 1


def count_access(state: State, operation: Operation, process: int, page: int) -> None:
    """An access to a page that was right."""
    history = state.history
    if operation.kind >= _ATTACH:
        history.device_access(operation.device, process, page)
    else:
        history.cpu_access(process, page)
    history.exercised["A2"] += 1


def count_last_writer(state: State, operation: Operation, page: Page) -> None:
    """A read that was right, of a page that somebody has written."""
    if page.writer:
        reader = "device" if operation.kind >= _ATTACH else "cpu"
        writer = "cpu" if page.writer == Side.CPU else "device"
        state.history.exercised[f"C1/{reader} sees {writer}"] += 1


def _new_words(operation: Operation, old: Words, count: int, before: int) -> Words | None:
    """What the words hold afterwards, if their old values were read right; None: as before."""
    kind = CPU_KIND[operation.kind]
    value, expected = operation.value + before, operation.expected + before
    if kind == Kind.READ:
        return None
    if kind == Kind.WRITE:
        return array("Q", [(value + k) & MASK for k in range(count)])
    if kind == Kind.ADD:
        return array("Q", [(each + operation.value) & MASK for each in old])
    swapped = [each == (expected + k) & MASK for k, each in enumerate(old)]
    if not any(swapped):
        return None
    return array("Q", [(value + k) & MASK if swapped[k] else each for k, each in enumerate(old)])


def check_answer(operation: Operation, outcome: Outcome) -> None:
    """`Broken` unless the outcome of an access is one: lengths fit, data where data belongs."""
    done, length = outcome.done, operation.length
    if outcome.status == Status.OK:
        if done != length:
            raise Broken(Problem.ANSWER, f"OK with {done} of {length} bytes done")
    elif done >= length or done % WORD:
        raise Broken(Problem.ANSWER, f"{done} of {length} bytes done, but not OK")
    size = 0 if CPU_KIND[operation.kind] == Kind.WRITE else done
    if len(outcome.data) != size:
        raise Broken(Problem.ANSWER, f"{len(outcome.data)} bytes of data where {size} belong")


def _wrong_value(page: int, first: int, words: Words, contents: list[Page]) -> Broken:
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

    def __init__(
        self, state: State, operation: Operation, outcome: Outcome, process: int, way: Way
    ) -> None:
        self.state = state
        self.operation = operation
        self.outcome = outcome
        self.process = process
        self.way = way
        self.by_device = operation.kind >= Kind.ATTACH
        self.side = Side.DEVICE if self.by_device else Side.CPU
        self.pieces = list(pieces(operation, state.geometry.page_size))

    def judge(self) -> None:
        done = self.outcome.done // WORD
        if self.outcome.status != Status.OK:
            self._check_fault(done)
        for page, first, count, before in self.pieces:
            if before < done:
                self._piece(page, first, min(count, done - before), before)
        if self.by_device and self.outcome.status != Status.OK and self.way.need == READ_WRITE:
            self._unreported(done)

    def _check_fault(self, done: int) -> None:
        """A fault is right if some page at or behind it may be closed to the access."""
        if done and self.way.shut:
            raise Broken(Problem.NO_FAULT, "part of it was done", page=self.operation.page)
        for page, _, count, before in self.pieces:
            if before + count > done and not self.way.reach(page).must:
                _count_fault(self.state, self.operation, page)
                return
        at = next(page for page, _, count, before in self.pieces if before + count > done)
        raise Broken(Problem.FAULT, f"page {at} allows the access, but it faulted", page=at)

    def _piece(self, page: int, first: int, count: int, before: int) -> None:
        if not self.way.reach(page).may:
            raise Broken(Problem.NO_FAULT, f"page {page} does not allow the access", page=page)
        kind = CPU_KIND[self.operation.kind]
        old = words_of(self.outcome.data[before * WORD : (before + count) * WORD])
        new = _new_words(self.operation, old, count, before)
        if self.way.stale(page):
            self.state.history.marks[self.process][page] |= Mark.STALE
        contents = self.way.contents(page, stores=new is not None)
        if kind != Kind.WRITE:
            contents = self._check_values(page, first, old, contents)
        count_access(self.state, self.operation, self.process, page)
        if new is not None:
            self._store(contents, first, new, before)
        elif kind == Kind.CAS or self.by_device:
            # Whether a failed compare-exchange counts as a write is up to the processor, and
            # a device may pin for writing what it only reads.  mmap(2) leaves it open whether a
            # private mapping shows later changes of its file.
            maybe_copied(self.way.space, page)

    def _check_values(
        self, page: int, first: int, words: Words, contents: list[Page]
    ) -> list[Page]:
        """Check the words read; the contents that they may come from."""
        self.state.history.exercised["A4"] += 1
        fitting = [each for each in contents if each.fits(first, words)]
        if not fitting:
            raise _wrong_value(page, first, words, contents)
        if len(fitting) == 1:
            count_last_writer(self.state, self.operation, fitting[0])
            fitting[0].take(first, words)
        if len(fitting) < len(contents) and not (self.way.registration and self.way.pins):
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

    def _store(self, contents: list[Page], first: int, new: Words, before: int) -> None:
        for page in contents:
            page.writer = self.side
        if len(contents) == 1:
            contents[0].store_run(first, new)
            return
        for page in contents:
            self._may_store(page, first, len(new), before)

    def _unreported(self, done: int) -> None:
        """A device that faults need not tell how far it came: what lies behind may be done."""
        for page, first, count, before in self.pieces:
            if before + count <= done:
                continue
            if not self.way.reach(page).may:
                return
            skipped = max(done - before, 0)
            maybe_copied(self.way.space, page)
            slot = self.way.space.slots[page]
            contents = [*self.way.stale(page), *(m.page() for m in slot if m is not None)]
            for each in dict.fromkeys(contents):
                if each is not None:
                    self._may_store(each, first + skipped, count - skipped, before + skipped)
            if not self.way.reach(page).must:
                continue

    def _may_store(self, page: Page, first: int, count: int, before: int) -> None:
        if CPU_KIND[self.operation.kind] == Kind.WRITE:
            value = self.operation.value + before
            for k in range(count):
                page.may_store(first + k, (value + k) & MASK)
            return
        for k in range(count):
            change = change_of(self.operation, before + k)
            assert change is not None
            page.may_store(first + k, apply(change, page.values(first + k)))
