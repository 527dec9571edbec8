"""What `hmm_range_fault` says of areas that it may not look into, and of holes (H3, H8)."""

from __future__ import annotations

import errno
from typing import ClassVar

import pytest
from driving import drive, script

from reference.drivers.faulting import FaultingDriver
from reference.host.hmm import HMM_PFN_ERROR, HMM_PFN_REQ_FAULT, HMM_PFN_VALID, HmmRange
from reference.host.notifiers import IntervalNotifier
from reference.host.record import What
from reference.host.run import run_program
from reference.host.space import AddressSpace
from reference.model import judge
from reference.protocol import check
from reference.trace import Trace


class Looks(FaultingDriver):
    """Looks at the first two pages instead of mapping any."""

    flags = 0
    seen: ClassVar[list[tuple[int, list[int]]]] = []

    def fault(self, address: int, write: bool) -> int:
        assert self.mm is not None
        assert self.notifier is not None
        start, kernel = self.device.host.address(0), self.kernel
        sequence = kernel.mmu_interval_read_begin(self.notifier)
        end = start + 2 * kernel.page_size
        range_ = HmmRange(self.notifier, sequence, start, end, default_flags=self.flags)
        kernel.mmap_read_lock(self.mm)
        answer = kernel.hmm_range_fault(range_)
        kernel.mmap_read_unlock(self.mm)
        kinds = [pfn & (HMM_PFN_ERROR | HMM_PFN_VALID) for pfn in range_.hmm_pfns]
        self.seen.append((answer, kinds))
        return -errno.EFAULT


class Asks(Looks):
    flags = HMM_PFN_REQ_FAULT


@pytest.mark.parametrize(
    ("driver", "second", "expected"),
    [
        (Looks, "map p0 r page=1 pages=1", (0, [HMM_PFN_VALID, 0])),
        (Looks, "map p0 none page=1 pages=1", (0, [HMM_PFN_VALID, HMM_PFN_ERROR])),
        (Looks, "unmap p0 page=1 pages=1", (0, [HMM_PFN_VALID, HMM_PFN_ERROR])),
        (Asks, "map p0 r page=1 pages=1", (0, [HMM_PFN_VALID, HMM_PFN_VALID])),
        (Asks, "map p0 none page=1 pages=1", (-errno.EFAULT, [HMM_PFN_VALID, 0])),
        (Asks, "unmap p0 page=1 pages=1", (-errno.EFAULT, [HMM_PFN_VALID, 0])),
    ],
)
def test_a_fault_is_an_error_and_a_look_an_entry(
    driver: type[Looks], second: str, expected: tuple[int, list[int]]
) -> None:
    lines = f"map p0 rw page=0 pages=1\nwrite p0 page=0 offset=0 length=8 value=1\n{second}"
    driver.seen.clear()
    run = drive(driver, f"{lines}\nattach d0 p0\ndread d0 page=3 offset=0 length=8")
    assert driver.seen == [expected]
    barred = [entry.arguments for entry in run.record if entry.what == What.BARRED]
    assert barred == ([(0, 1)] if " none " in second else [])
    violation, exercised = check(run.record, driver.model)
    assert violation is None
    assert exercised["H8"] == len(barred)


class MapsSnapshots(FaultingDriver):
    """Asks for nothing, and takes what it finds for a page."""

    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        return super().populate(mm, notifier, start, 0)


class KeepsTheOld(FaultingDriver):
    """Goes on with the page that it had, where it is told that there is none."""

    pfn = 0

    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        answer, range_ = self.collect(mm, notifier, start, flags, self.device.owner)
        self.pfn = self.pfn if answer else range_.hmm_pfns[0]
        self.lock.lock()
        again = self.kernel.mmu_interval_read_retry(notifier, range_.notifier_seq)
        answer = 0 if again else self.install(start, self.pfn)
        self.lock.unlock()
        return answer


UNREADABLE = """
    map p0 rw page=0 pages=1
    attach d0 p0
    dread d0 page=0 offset=0 length=8
    protect p0 none page=0 pages=1
    dread d0 page=0 offset=0 length=8
"""


@pytest.mark.parametrize(
    ("driver", "rule"), [(FaultingDriver, ""), (MapsSnapshots, "H8"), (KeepsTheOld, "H8")]
)
def test_who_maps_it_all_the_same_breaks_the_rule(driver: type[FaultingDriver], rule: str) -> None:
    lines = UNREADABLE if driver is not MapsSnapshots else UNREADABLE.replace("p0 rw", "p0 none")
    program = script(driver, lines)
    run = run_program(program, driver)
    violation = judge(Trace(program, tuple(run.outcomes), hosted=run.plain())).violation
    assert (violation.rule if violation is not None else "") == rule
