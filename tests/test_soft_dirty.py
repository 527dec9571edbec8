"""Soft-dirty bits are cleared, and devices that write pages unseen after that (E.SOFT_DIRTY)."""

from __future__ import annotations

from pathlib import Path

import pytest
from c_drivers import COMPILER, EXAMPLES, compile_driver, unjudged
from driving import drive, judged, script

from adapters.driver_c import load_c_driver
from reference.drivers import DRIVERS
from reference.drivers.counting import CountingDriver
from reference.drivers.driver import Driver
from reference.drivers.faulting import FaultingDriver
from reference.host.notifiers import IntervalNotifier
from reference.host.ranges import Range
from reference.operations import Event
from reference.record import What

LINES = """
    map p0 rw page=0 pages=2
    attach d0 p0
    {access} d0 page=1 offset=0 length=8 {value}
    invalidate p0 page=0 pages=1 event=soft_dirty
"""
WRITTEN = LINES.format(access="dwrite", value="value=7")
READ = f"""
    map p0 rw page=0 pages=2
    write p0 page=1 offset=0 length=8 value=7
    {LINES.split("pages=2", 1)[1].format(access="dread", value="").strip()}
"""


class KeepsAll(FaultingDriver):
    """Has a fault sent back, and keeps its translations: pages are what they were."""

    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
        if range_.event != Event.SOFT_DIRTY:
            return super().invalidate(notifier, range_, sequence)
        self.lock.lock()
        self.kernel.mmu_interval_set_seq(notifier, sequence)
        self.unwrite()
        self.lock.unlock()
        return True

    def unwrite(self) -> None:
        """Nothing."""


class KeepsReading(KeepsAll):
    """Keeps what its device may read, without the right to write."""

    def unwrite(self) -> None:
        for address, dma in self.entries.items():
            slot = self.device.host.slot(address)
            self.device.map(0, slot, dma, False)
            self.device.flush(slot, slot + 1)


class KeepsAllListed(CountingDriver):
    """Keeps its translations, and its pages are not marked."""

    def invalidate_range_start(self, range_: Range) -> int:
        if range_.event != Event.SOFT_DIRTY:
            return super().invalidate_range_start(range_)
        self.lock.lock()
        self.invalidations.begin(range_.start, range_.end)
        self.lock.unlock()
        return 0


class Marks(KeepsAllListed):
    """Keeps them too, and has its pages count as written."""

    def invalidate_range_end(self, range_: Range) -> None:
        if range_.event == Event.SOFT_DIRTY:
            assert self.mm is not None
            for address in self.entries:
                self.kernel.pte_mksoft_dirty(self.mm, address)
        super().invalidate_range_end(range_)


def test_it_is_of_the_whole_process_and_writes_fault_again() -> None:
    run = drive(DRIVERS["faulting"], f"write p0 page=3 offset=0 length=8 value=1\n{WRITTEN}")
    starts = [e.arguments for e in run.record if e.what == What.START]
    assert [each[1:5] for each in starts] == [(0, 0, 4, Event.SOFT_DIRTY)]
    changes = [e.arguments for e in run.record if e.what == What.CHANGE]
    assert changes == [(0, 0, 4, Event.SOFT_DIRTY, "wr--")], "a page that is not there may be"


def test_none_is_cleared_where_it_may_not_sleep() -> None:
    run = drive(DRIVERS["faulting"], f"{WRITTEN.rstrip()} nonblock")
    assert [e for e in run.record if e.what == What.START]
    assert not [e for e in run.record if e.what == What.CHANGE]


@pytest.mark.parametrize("lines", [WRITTEN, READ])
@pytest.mark.parametrize("driver", [*DRIVERS.values(), KeepsReading, Marks])
def test_who_drops_or_marks_is_right(driver: type[Driver], lines: str) -> None:
    if driver.keyed:
        lines = lines.replace("dwrite d0", "register d0 key=1 rw page=1 pages=1\ndwrite d0 key=1")
        lines = lines.replace("dread d0", "register d0 key=1 r page=1 pages=1\ndread d0 key=1")
    found = judged(driver, script(driver, f"{lines}\nread p0 page=1 offset=0 length=8"))
    assert found.violation is None


@pytest.mark.parametrize("driver", [KeepsAll, KeepsAllListed])
def test_who_keeps_the_right_to_write_is_not(driver: type[Driver]) -> None:
    violation = judged(driver, script(driver, WRITTEN)).violation
    assert violation is not None
    assert violation.rule == "E.SOFT_DIRTY"
    assert "may still write page 1 through its page table after SOFT_DIRTY" in violation.message


def test_the_right_to_write_is_not_given_anew() -> None:
    """What hmm_range_fault finds is what the processor may do without a fault."""
    lines = f"{WRITTEN}dread d0 page=1 offset=0 length=8"
    maps = [e.arguments for e in drive(FaultingDriver, lines).record if e.what == What.DEVICE_MAP]
    assert [(slot, writable) for _, _, slot, _, writable in maps] == [(1, 1), (1, 0)]


@pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")
@pytest.mark.parametrize("marks", [False, True])
def test_drivers_in_c(marks: bool, tmp_path: Path) -> None:
    """The pages are marked in the callback; a list notifier would have an end for it."""
    source = (EXAMPLES / "faulting.c").read_text()
    zap = "    mirror_zap(mirror, range->start, range->end);\n"
    assert source.count(zap) == 1
    mark = "pte_mksoft_dirty(mirror->mm, 0x7f0000001000);" if marks else "(void)mirror;"
    kept = f"    if (range->event == MMU_NOTIFY_SOFT_DIRTY) {{ {mark} }}\n    else\n    {zap}"
    path = tmp_path / "keeping.c"
    path.write_text(source.replace(zap, kept))
    driver = load_c_driver(compile_driver(tmp_path, path))
    violation = judged(driver, script(driver, WRITTEN)).violation
    # Marked before they are cleared, the bits are lost.
    assert violation is not None
    assert violation.rule == "E.SOFT_DIRTY"
    marked = [e.arguments for e in unjudged(driver, WRITTEN).record if e.what == What.SOFT_DIRTY]
    assert marked == ([(0, 1)] if marks else [])
