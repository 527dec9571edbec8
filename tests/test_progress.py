"""Progress: storms of invalidations, invalidations elsewhere and full devices stop nobody (W2)."""

from __future__ import annotations

import errno
from collections import Counter

import pytest
from driving import drive, script

from reference.drivers import Driver
from reference.drivers.counting import CountingDriver
from reference.drivers.faulting import FaultingDriver
from reference.drivers.mutants import DRIVER_MUTANTS
from reference.drivers.refcounting import RefcountingDriver
from reference.host.hardware import DEVICE_FRAMES
from reference.host.hmm import HmmRange
from reference.host.notifiers import IntervalNotifier
from reference.host.run import Run, run_program
from reference.host.space import AddressSpace
from reference.host.tasks import STEPS, STEPS_EACH
from reference.outcomes import Outcome, Status
from reference.protocol import check
from reference.record import What
from reference.schedule import DEVICE, Schedule, Switch
from reference.syncmodels import Sync

OK = Outcome(Status.OK)
POINTS = 400
"""More than a lookup takes that is sent back a few times."""
USES = {
    FaultingDriver: "dread d0 page=0 offset=0 length=8",
    CountingDriver: "dread d0 page=0 offset=0 length=8",
    RefcountingDriver: "register d0 key=1 rw page=0 pages=1",
}
"""By driver an operation for which page 0 is looked up."""


def storm(driver: type[Driver], times: int, page: int = 0) -> Run:
    """A lookup of page 0, with so many changes of a page at every point where one can come."""
    use = next(line for kind, line in USES.items() if issubclass(driver, kind))
    lines = f"map p0 rw page=0 pages=2\nattach d0 p0\n{use}\n"
    lines += f"discard p0 page={page} pages=1\n" * times
    switches = (Switch(DEVICE, 2, point, 0) for point in range(1, POINTS))
    return drive(driver, lines, Schedule(tuple(switches)), pages=2)


def sent_back(run: Run) -> int:
    """How often hmm_range_fault or a retry check sent a lookup back."""
    again = {(What.READ_RETRY, 1), (What.COLLECTED, -errno.EBUSY)}
    return sum((entry.what, entry.arguments[-1]) in again for entry in run.record)


def exercised(run: Run, model: Sync = Sync.FAULTING) -> Counter[str]:
    violation, counts = check(run.record, model)
    assert violation is None
    return counts


@pytest.mark.parametrize("driver", USES)
class TestStorms:
    def test_a_lookup_ends_when_the_storm_does(self, driver: type[Driver]) -> None:
        run = storm(driver, 20)
        assert run.broken is None
        assert sent_back(run) >= 2 or driver is CountingDriver
        assert run.outcomes[2].status == Status.OK
        assert all(outcome == OK for outcome in run.outcomes[3:])

    def test_it_takes_steps_by_the_length_of_the_storm(self, driver: type[Driver]) -> None:
        calm, short, long = (storm(driver, times).points for times in (0, 8, 16))
        assert calm < short < long
        assert long - short <= 1.5 * (short - calm)

    def test_changes_of_other_pages_do_not_stop_it(self, driver: type[Driver]) -> None:
        run = storm(driver, 20, page=1)
        assert run.broken is None
        assert run.outcomes[2].status == Status.OK
        if driver is RefcountingDriver:
            assert sent_back(run) == 0, "its subscription is to the buffer alone"


def test_a_storm_counts_as_one() -> None:
    counts = exercised(storm(FaultingDriver, 20))
    assert counts["W2/sent back"] == counts["W2/sent back often"] == 1
    assert exercised(storm(FaultingDriver, 1))["W2/sent back often"] == 0
    assert exercised(storm(FaultingDriver, 0))["W2/sent back"] == 0


class Impatient(FaultingDriver):
    """Looks a page up three times, and then has the access denied."""

    def collect(
        self,
        mm: AddressSpace,
        notifier: IntervalNotifier,
        start: int,
        flags: int,
        owner: object | None,
    ) -> tuple[int, HmmRange]:
        for _ in range(3):
            sequence = self.kernel.mmu_interval_read_begin(notifier)
            end = start + self.kernel.page_size
            range_ = HmmRange(notifier, sequence, start, end, flags, dev_private_owner=owner)
            self.kernel.mmap_read_lock(mm)
            answer = self.kernel.hmm_range_fault(range_)
            self.kernel.mmap_read_unlock(mm)
            if answer != -errno.EBUSY:
                break
        return answer, range_


def test_a_driver_that_gives_up_is_found() -> None:
    assert storm(Impatient, 1).outcomes[2].status == Status.OK
    with pytest.raises(AssertionError, match="fault"):
        storm(Impatient, 60)


class TestFullDevices:
    PAGES = DEVICE_FRAMES + 2
    MOVED = f"map p0 rw page=0 pages={PAGES}\nattach d0 p0\nto_device d0 page=0 pages={PAGES}\n"

    def test_what_has_no_room_stays(self) -> None:
        lines = self.MOVED + f"dread d0 page={self.PAGES - 1} offset=0 length=8\n"
        run = drive(FaultingDriver, lines, pages=self.PAGES)
        assert run.outcomes[2] == OK
        assert run.outcomes[3].status == Status.OK
        assert sum(entry.what == What.FULL for entry in run.record) == 2
        assert exercised(run)["W2/full device"] == 1

    def test_a_driver_that_waits_for_room_is_found(self) -> None:
        mutant = DRIVER_MUTANTS["full-device-spin"]
        run = run_program(script(mutant.make, self.MOVED, self.PAGES), mutant.make)
        assert run.broken is not None
        assert run.broken.rule == "W2"


def test_a_page_is_mapped_beside_the_invalidation_of_another() -> None:
    """A counting mirror has only the hull of the ranges under way closed to it."""
    lines = """
        map p0 rw page=0 pages=2
        write p0 page=0 offset=0 length=8 value=1
        attach d0 p0
        dread d0 page=1 offset=0 length=8
        discard p0 page=1 pages=1
        dread d0 page=0 offset=0 length=8
    """
    at_change = (Switch(0, 4, point, DEVICE) for point in range(2, 14))
    found = (drive(CountingDriver, lines, Schedule((each,))) for each in at_change)
    assert any(exercised(run)["W2/other pages"] for run in found)


@pytest.mark.parametrize("driver", USES)
def test_the_bound_is_far_above_what_a_storm_takes(driver: type[Driver]) -> None:
    run = storm(driver, 40)
    assert run.points < (STEPS + STEPS_EACH * len(run.outcomes)) / 4
