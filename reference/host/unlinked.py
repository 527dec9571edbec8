"""mmu_notifier_put: notifiers whose last user is gone, until nothing may call them any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reference.schedule import KERNEL

from .record import What
from .subscribers import ListNotifier, free_notifier
from .tasks import Job

if TYPE_CHECKING:
    from .host import Host

__all__ = ["Unlinked"]


class Unlinked:
    """Notifiers that were put for the last time: what `call_srcu` keeps until it frees them (L6).

    Callbacks of theirs may still be running, beside whoever has put them.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._waiting: list[ListNotifier] = []
        self._being_freed = 0

    def add(self, notifier: ListNotifier) -> None:
        self._waiting.append(notifier)
        operation = self._host.record.operation
        free = Job(operation, self._free, lambda: not _is_walked(notifier))
        self._host.tasks.add(KERNEL, free, first=True)

    def _free(self) -> None:
        """`mmu_notifier_free_rcu`, of all whose callbacks have returned."""
        for notifier in self._ready():
            self._waiting.remove(notifier)
            self._being_freed += 1
            free_notifier(self._host, notifier)
            notifier.mm = notifier.ops = None
            self._host.live_subscriptions.discard(notifier.number)
            self._host.record(What.FREED, notifier.number)
            self._being_freed -= 1

    def _ready(self) -> list[ListNotifier]:
        return [notifier for notifier in self._waiting if not _is_walked(notifier)]

    def synchronize(self) -> None:
        """`mmu_notifier_synchronize`: all of them are freed when it returns."""
        self._host.locks.might_sleep("mmu_notifier_synchronize")
        while self._waiting or self._being_freed:
            if not self._ready():
                self._host.locks.block(None, self._goes_on, "mmu_notifier_synchronize")
            self._free()

    def _goes_on(self) -> bool:
        return bool(self._ready()) or not (self._waiting or self._being_freed)


def _is_walked(notifier: ListNotifier) -> bool:
    return notifier.mm is not None and notifier.mm.subscriptions.is_walked(notifier)
