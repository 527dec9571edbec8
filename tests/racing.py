"""Drivers with a bug that only an interleaving shows, and what judges their runs; for tests."""

from __future__ import annotations

from conformance.reduce.scheduled import Attempt
from reference.drivers.driver import Driver
from reference.drivers.faulting import FaultingDriver
from reference.host import Run, run_program
from reference.host.notifiers import IntervalNotifier
from reference.host.record import What
from reference.host.space import AddressSpace
from reference.model.lastwriter import LastWriter
from reference.model.state import Broken
from reference.program import Program
from reference.trace import Violation


class Unchecked(FaultingDriver):
    """Installs what it has collected without asking whether that still holds."""

    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        answer, range_ = self.collect(mm, notifier, start, flags, self.device.owner)
        if answer:
            return answer
        self.lock.lock()
        answer = self.install(start, range_.hmm_pfns[0])
        self.lock.unlock()
        return answer


def wrong(program: Program, run: Run) -> tuple[int, int, str] | None:
    """The first effect that the model does not allow: operation, place in the record, why."""
    model = LastWriter(program.geometry, program.model)
    for effect in run.history:
        try:
            model.step(effect.operation, effect.outcome)
        except Broken as broken:
            return effect.index, effect.entry, str(broken)
    return None


def attempt(program: Program, driver: type[Driver]) -> Attempt:
    """Run a program and judge its contents."""
    run = run_program(program, driver)
    end, violation = len(run.record), None
    found = wrong(program, run)
    if run.broken is not None:
        violation = Violation(run.broken.rule, run.operation, str(run.broken))
    elif found is not None:
        index, end, message = found
        violation = Violation("C1", index, message)
    begun = [each.operation for each in run.record[:end] if each.what == What.BEGIN]
    return Attempt(violation, min(max(begun, default=0), len(program) - 1), run.offers)
