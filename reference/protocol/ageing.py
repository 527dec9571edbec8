"""Young pages: what a driver says of its device's accessed bits, and does to them (family Y).

The bits are those of the device's page tables, which the TLB sets when it takes an entry.  Use
through what the TLB has kept is not to be seen, and nobody is blamed for it, unless the driver
was to flush.  A driver that says "young" too often only keeps pages from being reclaimed, as does
one that keeps a count of its own; nothing here says that it must not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from reference.record import Entry, What
from reference.syncmodels import Sync

from .checker import Checker, pages
from .mirror import Mirror
from .state import State
from .violation import Breach, Profile

__all__ = ["Ageing"]

_RULES = {"clear_flush_young": "Y1", "clear_young": "Y2", "test_young": "Y3"}
"""By callback the rule about it."""


class Bit(NamedTuple):
    """An accessed bit, by what it belongs to."""

    device: int
    table: int
    slot: int


@dataclass(slots=True)
class _Question:
    """A callback that is asked which pages are young."""

    callback: str
    mirrors: dict[int, Mirror]
    """By number, the devices that the notifier is for."""
    first: int
    end: int
    young: set[Bit] = field(default_factory=set)
    """Bits that were set at the beginning, and were never cleared since."""
    cleared: set[Bit] = field(default_factory=set)
    """Those that it has cleared, or dropped with their entries."""

    def __post_init__(self) -> None:
        self.young = {bit for bit in self._set() if self.is_about(bit)}

    def _set(self) -> Iterator[Bit]:
        for number, mirror in self.mirrors.items():
            yield from (Bit(number, *place) for place in mirror.young or ())

    def __str__(self) -> str:
        return f"{self.callback} for {pages(range(self.first, self.end))}"

    def is_about(self, bit: Bit) -> bool:
        """Whether an accessed bit is one of those that are asked for."""
        return bit.device in self.mirrors and self.first <= bit.slot < self.end

    def is_set(self, bit: Bit) -> bool:
        """Whether an accessed bit of one of the devices is set now."""
        return (bit.table, bit.slot) in (self.mirrors[bit.device].young or ())

    def is_unseen(self, bit: Bit) -> bool:
        """Whether the TLB has the translation, so that its use sets no bit."""
        return (bit.table, bit.slot) in self.mirrors[bit.device].tlb and not self.is_set(bit)


class Ageing(Checker):
    """What happens between question and answer."""

    HANDLES: ClassVar[Mapping[What, str]] = {
        What.ASK_YOUNG: "ask",
        What.SAID_YOUNG: "said",
        What.CLEAR_YOUNG: "changed",
        What.DEVICE_MAP: "changed",
        What.DEVICE_UNMAP: "changed",
    }

    def __init__(
        self, state: State, model: Sync, profile: Profile, exercised: Counter[str]
    ) -> None:
        super().__init__(state, model, profile, exercised)
        self._asked: dict[int, _Question] = {}
        """By actor."""

    def ask(self, _index: int, entry: Entry) -> None:
        number, callback, first, end = entry.arguments
        subscription = self.state.subscriptions.get(int(number))
        if subscription is None or not self.invalidated:
            return
        mirrors = {each.number: each for each in self.state.told_by(subscription)}
        question = _Question(str(callback), mirrors, int(first), int(end))
        self._asked[entry.actor] = question
        if question.young:
            self.count(_RULES[question.callback])

    def changed(self, _index: int, entry: Entry) -> None:
        """An accessed bit is cleared, alone or together with its entry."""
        if not self._asked:
            return
        bit = Bit(*map(int, entry.arguments[:3]))
        for actor, question in self._asked.items():
            if not question.is_about(bit):
                continue
            if actor != entry.actor:
                # What the bit said is another's now: an invalidation's, or who else asks.
                question.young.discard(bit)
                question.cleared.discard(bit)
            elif question.is_set(bit):
                self._clear(question, bit)

    def _clear(self, question: _Question, bit: Bit) -> None:
        if question.callback == "test_young":
            raise Breach("Y3", f"{question} clears the accessed bit of page {bit.slot}")
        question.young.discard(bit)
        question.cleared.add(bit)

    def said(self, _index: int, entry: Entry) -> None:
        question = self._asked.pop(entry.actor, None)
        if question is None:
            return
        rule = _RULES[question.callback]
        if not entry.arguments[1] and (question.young or question.cleared):
            used = pages(bit.slot for bit in question.young | question.cleared)
            text = f"{question} answered that nothing is young"
            raise Breach(rule, f"{text}, but the accessed bit of {used} was set")
        if question.callback == "test_young":
            return
        if question.young:
            left = pages(bit.slot for bit in question.young)
            raise Breach(rule, f"{question} left the accessed bit of {left} set")
        if question.callback == "clear_flush_young":
            self._check_flushed(question)

    def _check_flushed(self, question: _Question) -> None:
        """What the TLB still has is used unseen."""
        unseen = [bit for bit in question.cleared if question.is_unseen(bit)]
        if unseen:
            kept = pages(bit.slot for bit in unseen)
            raise Breach("Y1", f"{question} returned with {kept} in the device's TLB")
