"""Life cycle, and what must not wait under a lock that callbacks take: L, S8, I7 and I14."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

from reference.record import Entry, What
from reference.syncmodels import Sync

from .checker import Checker
from .state import State
from .violation import Breach, Profile

__all__ = ["Life"]


class Life(Checker):
    """Removal in time, and waiting where no callback can be waited for."""

    HANDLES: ClassVar[Mapping[What, str]] = {
        What.ACQUIRE: "acquire",
        What.READ_BEGIN: "read_begin",
        What.REMOVE: "remove",
        What.REMOVED: "removed",
        What.DROPPED: "dropped",
        What.FREED: "freed",
        What.RELEASE: "release",
        What.ALLOCATE: "allocate",
        What.COLLECT: "collect",
        What.PIN: "pin",
    }

    def __init__(
        self, state: State, model: Sync, profile: Profile, exercised: Counter[str]
    ) -> None:
        super().__init__(state, model, profile, exercised)
        self._called_under: set[int] = set()
        """Locks that some callback has taken."""
        self._waited_under: dict[int, tuple[str, str]] = {}
        """By lock under which somebody waited: the rule that this breaks if a callback takes it."""

    # Waiting under locks

    def acquire(self, _index: int, entry: Entry) -> None:
        lock = int(entry.arguments[0])
        call = self.state.call(entry.actor)
        if call is None or lock not in self.state.locks or lock in call.held:
            return
        self._called_under.add(lock)
        if lock in self._waited_under:
            rule, what = self._waited_under[lock]
            text = f"the callback for {call.range} takes {self.names([lock])}"
            raise Breach(rule, f"{text}, under which {what}")

    def _waits(self, rule: str, entry: Entry, what: str) -> None:
        held = self.held(entry)
        if held & self._called_under:
            names = self.names(held & self._called_under)
            raise Breach(rule, f"{what} under {names}, which a callback takes")
        for lock in held:
            self._waited_under.setdefault(lock, (rule, what))
        if rule == "S8":
            self.count(rule)

    def read_begin(self, _index: int, entry: Entry) -> None:
        self._waits("I7", entry, "a read section begins, which may sleep")

    def remove(self, _index: int, entry: Entry) -> None:
        subscription = self.state.subscriptions.get(int(entry.arguments[0]))
        rule = "L4" if subscription is not None and subscription.listed else "I14"
        self._waits(rule, entry, f"subscription {entry.arguments[0]} is removed")

    def allocate(self, _index: int, entry: Entry) -> None:
        if entry.arguments[1]:
            self._waits("S8", entry, f"{entry.arguments[0]} is allocated, which may reclaim")

    def collect(self, _index: int, entry: Entry) -> None:
        self._waits("S8", entry, "hmm_range_fault is called, which may reclaim")

    def pin(self, _index: int, entry: Entry) -> None:
        self._waits("S8", entry, "pages are pinned, which may reclaim")

    # The end

    def removed(self, _index: int, entry: Entry) -> None:
        subscription = self.state.subscriptions.get(int(entry.arguments[0]))
        if subscription is not None and subscription.listed and self.invalidated:
            self.count("L4")
            for device in subscription.devices:
                self._check_let_go(device, "when its notifier is unregistered")

    def _check_let_go(self, device: int, when: str) -> None:
        """What nobody would tell a device of any more is out of its reach."""
        if len(self.state.of_device(device)) == 1:
            for way, (_table, slot), _translation in self.state.mirror(device).reachable():
                raise Breach("L4", f"device {device} still has page {slot} in {way} {when}")

    # Get and put

    def dropped(self, _index: int, entry: Entry) -> None:
        number, device, left = map(int, entry.arguments)
        subscription = self.state.subscriptions[number]
        self.count("L5")
        if self.invalidated and (not left or subscription.devices[device] == 1):
            self._check_let_go(device, "when its notifier is put")

    def freed(self, _index: int, entry: Entry) -> None:
        self.count("L6")

    def release(self, _index: int, entry: Entry) -> None:
        kinds = {
            each.listed
            for each in self.state.subscriptions.values()
            if each.space == entry.arguments[0]
        }
        if len(kinds) > 1:
            self.count("L3")
        for mirror in self.state.mirrors.values():
            if mirror.space == entry.arguments[0] and any(mirror.reachable()):
                self.count("L2")
