"""Interval subscriptions and their sequence: family I."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

from reference.operations import Event, Kind
from reference.outcomes import Status
from reference.record import Entry, What
from reference.syncmodels import Sync

from .checker import Checker
from .state import PASSED, State
from .violation import Breach, Profile

__all__ = ["Intervals"]

_MIRRORING = frozenset(map(int, (Kind.ATTACH, Kind.REGISTER)))
"""Operations that ask for something to be mirrored."""


class Intervals(Checker):
    """How sequence and user lock are used."""

    HANDLES: ClassVar[Mapping[What, str]] = {
        What.INSERT: "insert",
        What.CALLBACK: "callback",
        What.SET_SEQUENCE: "set_sequence",
        What.RETURNED: "returned",
        What.READ_BEGIN: "read_begin",
        What.READ_RETRY: "read_retry",
        What.REMOVE: "remove",
        What.REMOVED: "removed",
        What.REFUSED: "refused",
        What.END: "end",
    }

    def __init__(
        self, state: State, model: Sync, profile: Profile, exercised: Counter[str]
    ) -> None:
        super().__init__(state, model, profile, exercised)
        self._user_locks: dict[int, set[int]] = {}
        """By subscription: the locks held whenever its sequence was set or compared."""
        self._begun: dict[tuple[int, int], list[int]] = {}
        """By actor and subscription: sequences of read sections without their check."""
        self._removed: set[int] = set()
        self._refused: dict[int, int] = {}
        """By actor, what the insertion was answered that failed in its operation."""

    def insert(self, _index: int, entry: Entry) -> None:
        self._refused.pop(entry.actor, None)
        number, _device, space = map(int, entry.arguments[:3])
        if entry.arguments[5] == 0:
            self.count("L1")
            return
        self.count("I13")
        if any(range_.space == space for range_ in self.state.ranges.values()):
            self.count("I3", "I15")
        self._removed.discard(number)

    def refused(self, _index: int, entry: Entry) -> None:
        self._refused[entry.actor] = int(entry.arguments[2])

    def end(self, _index: int, entry: Entry) -> None:
        """Nothing is mirrored of which nobody tells the driver: the error is passed on (I1)."""
        kind, status = map(int, entry.arguments)
        answer = self._refused.pop(entry.actor, None)
        if answer is None:
            return
        if kind in _MIRRORING and status == Status.OK:
            text = f"{Kind(kind).name.lower()} succeeds, in which mmu_interval_notifier_insert"
            raise Breach("I1", f"{text} failed with {answer}")
        self.count("I1")

    def callback(self, _index: int, entry: Entry) -> None:
        number, _range, sequence = map(int, entry.arguments)
        if number in self._removed:
            raise Breach("I14", f"subscription {number} is called back after it was removed")
        if sequence:
            self.count("I5")

    # The sequence (I6)

    def set_sequence(self, _index: int, entry: Entry) -> None:
        number, sequence = map(int, entry.arguments)
        if number in self._removed:
            raise Breach("I14", f"the sequence of subscription {number} is set after its removal")
        call = self.state.call(entry.actor)
        if call is None or call.subscription.number != number:
            raise Breach("I6", f"the sequence of subscription {number} is set outside its callback")
        if sequence != call.sequence:
            text = f"the callback for {call.range} sets sequence {sequence}"
            raise Breach("I6", f"{text}, but was given {call.sequence}")
        locks = {lock for lock, shared in self.state.held[entry.actor].items() if not shared}
        if not locks:
            raise Breach("I6", f"the callback for {call.range} sets the sequence without a lock")
        self._agree("I6", number, locks)

    def _agree(self, rule: str, number: int, locks: set[int]) -> None:
        common = self._user_locks.get(number, locks) & locks
        if not common:
            text = f"the sequence of subscription {number} is set and compared under no common lock"
            raise Breach(rule, f"{text}: {self.names(locks)} is held here")
        self._user_locks[number] = common

    def returned(self, _index: int, entry: Entry) -> None:
        call = self.state.call(entry.actor)
        if call is None or call.subscription.listed or entry.arguments[2] not in PASSED:
            return
        range_, subscription = call.range, call.subscription
        own = range_.is_own_of(self.state.told_by(subscription))
        if not call.sequence_set and not (own and self.profile == Profile.TOLERANT):
            raise Breach("I6", f"the callback for {range_} returned without mmu_interval_set_seq")
        self.count("I6")
        if range_.event == Event.UNMAP and subscription.released:
            self.count("I16")

    # Read sections (I7 to I10)

    def read_begin(self, _index: int, entry: Entry) -> None:
        number, sequence = map(int, entry.arguments)
        subscription = self.state.subscriptions.get(number)
        if subscription is None:
            raise Breach("I14", f"a read section of subscription {number} begins after its removal")
        if subscription.released:
            text = f"a read section of subscription {number} begins"
            raise Breach("E.RELEASE", f"{text} after the end of process {subscription.space}")
        self._begun.setdefault((entry.actor, number), []).append(sequence)
        self.count("I7", "I2")

    def read_retry(self, _index: int, entry: Entry) -> None:
        number, sequence = map(int, entry.arguments[:2])
        if number not in self.state.subscriptions:
            raise Breach("I14", f"subscription {number} is checked after its removal")
        locks = self.held(entry)
        if not locks:
            raise Breach("I8", f"mmu_interval_read_retry of subscription {number} without a lock")
        self._agree("I8", number, locks)
        begun = self._begun.get((entry.actor, number), [])
        if sequence not in begun:
            text = f"mmu_interval_read_retry of subscription {number} asks about {sequence}"
            raise Breach("I8", f"{text}, with which no read section began that is still unchecked")
        begun.clear()
        self.count("I8")

    # Removal (I13, I14)

    def remove(self, _index: int, entry: Entry) -> None:
        number = int(entry.arguments[0])
        subscription = self.state.subscriptions.get(number)
        if subscription is None or subscription.removing:
            raise Breach("I13", f"subscription {number} is removed twice")
        if not subscription.listed:
            self.count("I14", "I13")

    def removed(self, _index: int, entry: Entry) -> None:
        self._removed.add(int(entry.arguments[0]))
