"""Drivers with something wrong: with their contents, with the protocol, or with themselves."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from reference.drivers.driver import Driver
from reference.drivers.faulting import FaultingDriver
from reference.host.ranges import Range
from reference.host.record import What
from reference.host.space import AddressSpace

Nothing = 3
"""No driver at all."""


class NoRetry(FaultingDriver):
    """Installs what it has looked up, whatever happened since."""

    name = "no-retry"

    def populate(self, mm: AddressSpace, notifier: Any, start: int, flags: int) -> int:
        answer, range_ = self.collect(mm, notifier, start, flags, self.device.owner)
        if answer:
            return answer
        self.lock.lock()
        self.kernel.mmu_interval_read_retry(notifier, range_.notifier_seq)
        answer = self.install(start, range_.hmm_pfns[0])
        self.lock.unlock()
        return answer


class WrongPage(FaultingDriver):
    """Forgets page 0 of every invalidation, and says so to nobody."""

    name = "wrong-page"

    def invalidate(self, notifier: Any, range_: Range, sequence: int) -> bool:
        self.kernel.mmu_interval_set_seq(notifier, sequence)
        return True


class Raises(FaultingDriver):
    name = "raises"

    def invalidate(self, notifier: Any, range_: Range, sequence: int) -> bool:
        raise KeyError("no such page")


class RaisesAtOnce(FaultingDriver):
    name = "raises-at-once"

    def __init__(self, *given: Any) -> None:
        raise OSError("no such device")


class Exits(FaultingDriver):
    name = "exits"

    def fault(self, address: int, write: bool) -> int:
        os._exit(3)


class Hangs(FaultingDriver):
    name = "hangs"

    def fault(self, address: int, write: bool) -> int:
        while True:
            pass


class AnswersNonsense(FaultingDriver):
    name = "answers-nonsense"

    def fault(self, address: int, write: bool) -> Any:
        return "yes"


class LockedTwice(FaultingDriver):
    name = "locked-twice"

    def invalidate(self, notifier: Any, range_: Range, sequence: int) -> bool:
        self.lock.lock()
        self.lock.lock()
        return True


class CannotFail(FaultingDriver):
    """Takes the process down when an allocation fails."""

    name = "cannot-fail"

    def migrate_to_device(self, start: int, end: int) -> int:
        host = self.device.host
        failed = [entry for entry in host.record.entries if entry.what == What.FAIL]
        answer = super().migrate_to_device(start, end)
        if len([each for each in host.record.entries if each.what == What.FAIL]) > len(failed):
            sys.exit(3)
        return answer


class Interrupted(FaultingDriver):
    """Somebody presses Ctrl-C while it runs for the so-many-th time in a process."""

    name = "interrupted"
    runs = 0
    interrupted_in = 30

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        Interrupted.runs += 1
        if self.runs == self.interrupted_in:
            os.kill(os.getpid(), signal.SIGINT)


class OnlyFaults(FaultingDriver):
    """Has no memory of its own."""

    name = "only-faults"
    migrate_to_device = Driver.migrate_to_device
    migrate_to_system = Driver.migrate_to_system
    make_exclusive = Driver.make_exclusive
