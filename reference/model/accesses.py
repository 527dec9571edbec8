"""Loads, stores and atomics, by CPU or device: what they may give, and what they leave."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from ..operations import ACCESSES, WORD, Kind, Operation
from ..outcomes import Outcome, Status
from .history import Mark
from .page import Page, Side
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
    need = READ if CPU_KIND[operation.kind] == Kind.READ else READ_WRITE
    way = Way(state, operation, space, need)
    _Access(state, operation, outcome, process, way).judge()


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
                self._count("A1", page)
                return
        at = next(page for page, _, count, before in self.pieces if before + count > done)
        raise Broken(Problem.FAULT, f"page {at} allows the access, but it faulted", page=at)

    def _count(self, rule: str, page: int) -> None:
        exercised = self.state.history.exercised
        exercised[rule] += 1
        if self.by_device:
            exercised["H3"] += 1
            device = self.operation.device
            if self.state.history.pending(device, page):
                exercised["I12/fault"] += 1

    def _piece(self, page: int, first: int, count: int, before: int) -> None:
        if not self.way.reach(page).may:
            raise Broken(Problem.NO_FAULT, f"page {page} does not allow the access", page=page)
        kind = CPU_KIND[self.operation.kind]
        data = memoryview(self.outcome.data)[before * WORD : (before + count) * WORD]
        stores = kind != Kind.READ and not (kind == Kind.CAS and not self._swapped(data, before))
        if self.way.stale(page):
            self.state.history.marks[self.process][page] |= Mark.STALE
        contents = self.way.contents(page, stores=stores)
        if kind != Kind.WRITE:
            contents = self._check_values(page, first, count, data, contents)
        self._history(page)
        if stores:
            self._store(contents, first, count, before)
        elif kind == Kind.CAS:
            # Whether a failed compare-exchange counts as a write is up to the processor.
            maybe_copied(self.way.space, page)

    def _swapped(self, data: memoryview, before: int) -> bool:
        """Whether a compare-exchange found what it expected in some of these words."""
        old = struct.unpack(f"<{len(data) // WORD}Q", data)
        expected = self.operation.expected + before
        return any(value == (expected + k) & MASK for k, value in enumerate(old))

    def _history(self, page: int) -> None:
        history = self.state.history
        if self.by_device:
            history.device_access(self.operation.device, self.process, page)
        else:
            history.cpu_access(self.process, page)
        history.exercised["A2"] += 1

    def _check_values(
        self, page: int, first: int, count: int, data: memoryview, contents: list[Page]
    ) -> list[Page]:
        """Check the words read; the contents that agree with all of them."""
        size = self.state.geometry.page_size
        self.state.history.exercised["A4"] += 1
        if len(contents) == 1:
            self._count_last_writer(contents[0])
            if len(data) == size and self._same_page(page, data, contents):
                return contents
        for k, value in enumerate(struct.unpack(f"<{count}Q", data)):
            contents = self._check_value(page, first + k, value, contents)
        if self.way.registration is None or not self.way.pins:
            self._settle(page, contents)
        return contents

    def _same_page(self, page: int, data: memoryview, contents: list[Page]) -> bool:
        """Whether a whole page is as expected; its words are compared one by one if it is not."""
        image, unsure = contents[0].known(len(data))
        if not unsure:
            return bytes(data) == image
        patched = bytearray(data)
        for word in unsure:
            patched[word * WORD : (word + 1) * WORD] = bytes(WORD)
        if patched != image:
            return False
        for word in unsure:
            (value,) = struct.unpack_from("<Q", data, word * WORD)
            self._check_value(page, word, value, contents)
        return True

    def _check_value(self, page: int, word: int, value: int, contents: list[Page]) -> list[Page]:
        agreeing = [each for each in contents if holds(each.values(word), value)]
        if not agreeing:
            allowed: Values = contents[0].values(word) if contents else 0
            for each in contents[1:]:
                allowed = union(allowed, each.values(word))
            raise Broken(
                Problem.VALUE,
                f"page {page} word {word}: {describe(value)}, allowed: {describe(allowed)}",
                page=page,
                word=word,
                value=value,
            )
        if len(agreeing) == 1 and not isinstance(agreeing[0].values(word), int):
            agreeing[0].narrow(word, value)
        return agreeing

    def _settle(self, page: int, contents: list[Page]) -> None:
        """Mappings whose contents were not what was read were not there."""
        space = self.way.space
        slot = space.slots[page]
        if len(slot) > 1:
            space.slots[page] = tuple(
                mapping for mapping in slot if mapping is not None and mapping.page() in contents
            )

    def _count_last_writer(self, page: Page) -> None:
        if page.writer:
            reader = "device" if self.by_device else "cpu"
            writer = "cpu" if page.writer == Side.CPU else "device"
            self.state.history.exercised[f"C1/{reader} sees {writer}"] += 1

    def _store(self, contents: list[Page], first: int, count: int, before: int) -> None:
        certain = len(contents) == 1
        for page in contents:
            page.writer = self.side
            for k in range(count):
                change = change_of(self.operation, before + k)
                assert change is not None
                word = first + k
                if certain:
                    page.store(word, apply(change, page.values(word)))
                else:
                    page.may_store(word, apply(change, page.values(word)))

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
        for k in range(count):
            change = change_of(self.operation, before + k)
            assert change is not None
            page.may_store(first + k, apply(change, page.values(first + k)))
