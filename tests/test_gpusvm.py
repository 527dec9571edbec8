"""drm_gpusvm on the host, the driver that uses it, and drivers that do not as D1 says."""

from __future__ import annotations

import errno
from dataclasses import replace
from itertools import islice

import pytest
from driving import drive, judged, programs, rule, scheduled, script, unaccused

from reference.drivers import Driver
from reference.drivers.faulting import FaultingDriver
from reference.drivers.svm import EVERYWHERE, SvmDriver
from reference.host.gpusvm import GpuSvm, GpuSvmContext, GpuSvmNotifier, GpuSvmRange
from reference.host.ranges import Range
from reference.host.record import What
from reference.host.run import Run, run_program
from reference.operations import Event
from reference.outcomes import Status
from reference.protocol import check
from reference.protocol.coverage import count
from reference.schedule import DEVICE, Injection, Schedule, Switch

P0 = 0
"""The actor."""

MAPPED = """
    map p0 rw page=0 pages=4
    attach d0 p0
"""
READ = MAPPED + "dread d0 page=0 offset=0 length=8\n"
WRITTEN = MAPPED + "dwrite d0 page=0 offset=0 length=8 value=1\n"
"""Pages 0 and 1 are a range, and in the device's memory."""


def told(run: Run, what: What) -> list[tuple[int | str, ...]]:
    """What the entries of a kind say of device 0."""
    return [each.arguments[1:] for each in run.record if each.what == what]


def violated(driver: type[Driver], lines: str) -> tuple[str, str]:
    """The rule of the protocol that the run of a script breaks, and the message."""
    found, _ = check(run_program(script(driver, lines), driver).record, driver.model)
    return ("", "") if found is None else (found.rule, found.message)


# The service


@pytest.mark.parametrize(
    ("mapped", "page", "slots"),
    [
        ("map p0 rw page=0 pages=4", 0, (0, 2)),
        ("map p0 rw page=0 pages=4", 3, (2, 4)),
        ("map p0 rw page=1 pages=3", 1, (1, 2)),
        ("map p0 rw page=1 pages=3", 2, (2, 4)),
        ("map p0 rw page=0 pages=1\nmap p0 r page=1 pages=1", 0, (0, 1)),
    ],
)
def test_a_range_is_the_largest_chunk_of_its_area(
    mapped: str, page: int, slots: tuple[int, int]
) -> None:
    run = drive(SvmDriver, f"{mapped}\nattach d0 p0\ndread d0 page={page} offset=0 length=8")
    assert told(run, What.SVM_INSERT) == [(1, *slots)]


def test_a_range_keeps_off_those_that_are_there() -> None:
    lines = "map p0 rw page=1 pages=1\nattach d0 p0\ndread d0 page=1 offset=0 length=8\n"
    lines += "map p0 rw page=0 pages=1\ndread d0 page=0 offset=0 length=8"
    assert told(drive(SvmDriver, lines), What.SVM_INSERT) == [(1, 1, 2), (2, 0, 1)]


def test_a_notifier_comes_with_the_first_range_and_goes_with_the_last() -> None:
    lines = "map p0 rw page=0 pages=6\nattach d0 p0\n"
    lines += "dread d0 page=0 offset=0 length=8\ndread d0 page=2 offset=0 length=8\n"
    lines += "dread d0 page=4 offset=0 length=8\nunmap p0 page=0 pages=4\n"
    run = drive(SvmDriver, lines + "dread d0 page=5 offset=0 length=8", pages=6)
    inserted = [each for each in run.record if each.what == What.INSERT]
    assert [each.arguments[3:5] for each in inserted] == [(0, 4), (4, 6)]
    removed = [each.operation for each in run.record if each.what == What.REMOVED]
    assert removed == [7, 7], "both at the end: nothing has faulted since the unmap"


def test_nothing_is_left_of_a_notifier_for_which_there_is_no_range() -> None:
    run = drive(SvmDriver, "attach d0 p0\ndread d0 page=0 offset=0 length=8")
    assert run.outcomes[-1].status == Status.FAULT
    assert [each.what for each in run.record].count(What.REMOVED) == 1


def test_a_callback_that_may_not_block_is_refused() -> None:
    run = drive(SvmDriver, READ + "invalidate p0 event=clear nonblock page=0 pages=1")
    assert [answer for *_, answer in told(run, What.RETURNED)] == [0]
    assert run.outcomes[-1].error == errno.EAGAIN


def test_every_page_of_a_range_goes_with_the_first() -> None:
    lines = READ + "discard p0 page=1 pages=1\ndread d0 page=0 offset=0 length=8"
    assert len(told(drive(SvmDriver, lines), What.SVM_GOT)) == 2


def test_ranges_are_told_apart_by_what_is_unmapped_of_them() -> None:
    run = drive(SvmDriver, WRITTEN + "unmap p0 page=1 pages=3")
    assert told(run, What.SVM_UNMAPPED) == [(1, 1, 2, 1)], "page 0 is in the device's memory"
    run = drive(SvmDriver, WRITTEN + "unmap p0 page=0 pages=2")
    assert told(run, What.SVM_UNMAPPED) == [(1, 0, 2, 0)]


def test_pages_of_both_memories_are_brought_home() -> None:
    """One page of two has been read by the processor: the range is mapped as a whole."""
    lines = WRITTEN + "read p0 page=1 offset=0 length=8\ndread d0 page=0 offset=0 length=8"
    run = drive(SvmDriver, lines)
    assert run.outcomes[-1].data == (1).to_bytes(8, "little")
    assert [each.what for each in run.record].count(What.TO_RAM) == 2


def test_a_range_is_made_smaller_where_rights_differ() -> None:
    lines = READ + "protect p0 r page=1 pages=1\ndwrite d0 page=0 offset=0 length=8 value=2\n"
    run = drive(SvmDriver, lines + "dwrite d0 page=1 offset=0 length=8 value=3")
    assert [outcome.status for outcome in run.outcomes[-2:]] == [Status.OK, Status.FAULT]
    assert told(run, What.SVM_INSERT)[:2] == [(1, 0, 2), (2, 0, 1)]


@pytest.mark.parametrize("page_size", [4096, 65536])
@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_the_driver_is_right_under_every_schedule(strategy: str, page_size: int) -> None:
    drawn = programs(SvmDriver, 100, 4, pages=3, most=20, page_size=page_size)
    assert unaccused(SvmDriver, scheduled(drawn, strategy))["D1"] > 50


@pytest.mark.parametrize("site", ["allocation", "copy", "insert"])
def test_the_driver_is_right_whatever_fails(site: str) -> None:
    lines = WRITTEN + "unmap p0 page=0 pages=1\ndread d0 page=1 offset=0 length=8\n"
    program = script(SvmDriver, lines + "dwrite d0 page=2 offset=0 length=8 value=4")
    failing = (Schedule(injections=(Injection(site, number),)) for number in range(1, 12))
    unaccused(SvmDriver, (replace(program, schedule=schedule) for schedule in failing))


@pytest.mark.parametrize("rest", ["", "protect p0 none page=1 pages=1\n"])
def test_the_rest_is_brought_home_whatever_its_rights(rest: str) -> None:
    lines = WRITTEN + "unmap p0 page=0 pages=1\n" + rest + "dread d0 page=2 offset=0 length=8"
    run = drive(SvmDriver, lines)
    assert told(run, What.SVM_REMOVE)[0] == (1,)
    assert violated(SvmDriver, lines) == ("", "")


def test_what_is_unmapped_between_callback_and_close_is_no_matter() -> None:
    lines = READ + "unmap p0 page=0 pages=1\ndetach d0"
    for point in range(1, 8):
        program = replace(
            script(SvmDriver, lines), schedule=Schedule((Switch(P0, 3, point, DEVICE),))
        )
        assert judged(SvmDriver, program).violation is None


def test_a_part_may_go_while_a_range_is_made_smaller() -> None:
    lines = WRITTEN + "protect p0 r page=1 pages=1\ndwrite d0 page=0 offset=0 length=8 value=2\n"
    program = script(SvmDriver, lines + "unmap p0 page=1 pages=1")
    switches = (Switch(DEVICE, 4, point, P0) for point in range(1, 90))
    given = (replace(program, schedule=Schedule((switch,))) for switch in switches)
    assert unaccused(SvmDriver, given)["D1"] == 89


def test_the_cells_of_the_rule_are_counted() -> None:
    exercised = judged(
        SvmDriver,
        script(SvmDriver, WRITTEN + "unmap p0 page=1 pages=1\ndread d0 page=2 offset=0 length=8"),
    ).exercised
    assert count(exercised, "D1/partial unmap") == count(exercised, "D1/device memory") == 1
    assert count(exercised, "D1/commit") == 4
    assert not judged(FaultingDriver, script(FaultingDriver, READ)).exercised["D1/find"]


# Drivers that are wrong


class Later(SvmDriver):
    """Removes what was unmapped when that turns out to be in the way."""

    tried = False

    def handle(self, gpusvm: GpuSvm, address: int, write: bool) -> int:
        self.tried = False
        return super().handle(gpusvm, address, write)

    def collect_garbage(self, gpusvm: GpuSvm) -> None:
        if self.tried:
            super().collect_garbage(gpusvm)
        self.tried = True


class OnlyWhole(SvmDriver):
    """Removes ranges that are unmapped as a whole, and lets the others be."""

    def collect_garbage(self, gpusvm: GpuSvm) -> None:
        for range_ in [each for each in self.garbage if not each.partial_unmap]:
            self.remove(gpusvm, range_)


class LeavesTheRest(SvmDriver):
    """Removes what is partly unmapped like all else."""

    def evict_range(self, range_: GpuSvmRange) -> None:
        pass


class AsDocumented(SvmDriver):
    """As the example of drm_gpusvm.c does it, whose walk ends at the first hole."""

    def evict_range(self, range_: GpuSvmRange) -> None:
        range_.notifier.gpusvm.range_evict(range_)


class KeepsTheRest(LeavesTheRest):
    """Takes from the device what is unmapped, and no more; removal takes nothing either."""

    def invalidate(self, gpusvm: GpuSvm, notifier: GpuSvmNotifier, mmu_range: Range) -> None:
        if mmu_range.event != Event.UNMAP:
            super().invalidate(gpusvm, notifier, mmu_range)
            return
        for range_ in notifier.ranges_in(mmu_range.start, mmu_range.end):
            self.zap(max(range_.start, mmu_range.start), min(range_.end, mmu_range.end))
            gpusvm.range_unmap_pages(range_, GpuSvmContext(in_notifier=True))
            gpusvm.range_set_unmapped(range_, mmu_range)
            self.garbage.append(range_)

    def unbind(self, gpusvm: GpuSvm, range_: GpuSvmRange) -> None:
        pass


class Trusting(SvmDriver):
    """Maps what it has got, whatever has come of it."""

    def bind(self, gpusvm: GpuSvm, range_: GpuSvmRange) -> bool:
        pages = list(range_.pages)
        gpusvm.notifier_lock()
        first = self.device.host.slot(range_.start)
        self.zap(range_.start, range_.end)
        for slot, page in enumerate(pages, first):
            self.device.map(0, slot, page.address, page.writable)
            self.mapped.add(slot)
        gpusvm.notifier_unlock()
        return True


class ChecksFirst(Trusting):
    """Checks, gives the lock up and takes it again."""

    def bind(self, gpusvm: GpuSvm, range_: GpuSvmRange) -> bool:
        gpusvm.notifier_lock()
        valid = gpusvm.range_pages_valid(range_)
        gpusvm.notifier_unlock()
        return valid and super().bind(gpusvm, range_)


class Unheeding(SvmDriver):
    """Asks, and does not listen."""

    def bind(self, gpusvm: GpuSvm, range_: GpuSvmRange) -> bool:
        pages = list(range_.pages)
        gpusvm.notifier_lock()
        gpusvm.range_pages_valid(range_)
        first = self.device.host.slot(range_.start)
        self.zap(range_.start, range_.end)
        for slot, page in enumerate(pages, first):
            self.device.map(0, slot, page.address, page.writable)
            self.mapped.add(slot)
        gpusvm.notifier_unlock()
        return True


class ChecksOutside(SvmDriver):
    """Checks without the lock."""

    def bind(self, gpusvm: GpuSvm, range_: GpuSvmRange) -> bool:
        return gpusvm.range_pages_valid(range_) and super().bind(gpusvm, range_)


class FindsUnlocked(SvmDriver):
    """Handles faults without the lock that it has told of."""

    def fault(self, address: int, write: bool) -> int:
        assert self.gpusvm is not None
        return self.handle(self.gpusvm, address, write)


class RemovesTwice(SvmDriver):
    """Is quick to free what it has freed."""

    def remove(self, gpusvm: GpuSvm, range_: GpuSvmRange) -> None:
        super().remove(gpusvm, range_)
        gpusvm.range_remove(range_)


class UsesRemoved(SvmDriver):
    """Goes on with a range that is there no more."""

    def handle(self, gpusvm: GpuSvm, address: int, write: bool) -> int:
        answer = super().handle(gpusvm, address, write)
        range_ = gpusvm.notifiers[0].ranges[0]
        self.remove(gpusvm, range_)
        gpusvm.range_get_pages(range_, GpuSvmContext())
        return answer


class RetriesAsDocumented(SvmDriver):
    """As the example does where pages cannot be had: from the start, and with the same range."""

    def remove(self, gpusvm: GpuSvm, range_: GpuSvmRange) -> None:
        if range_.unmapped:
            super().remove(gpusvm, range_)


class Sticky(SvmDriver):
    """Leaves the pages of invalidated ranges mapped for DMA."""

    def invalidate(self, gpusvm: GpuSvm, notifier: GpuSvmNotifier, mmu_range: Range) -> None:
        self.zap(*EVERYWHERE)


FAULT = "dread d0 page=2 offset=0 length=8"
JOB = f"{FAULT} job=1\nsubmit d0 job=1\nwait d0 job=1"


@pytest.mark.parametrize(
    ("driver", "lines", "message"),
    [
        (
            Later,
            READ + "unmap p0 page=0 pages=1\n" + FAULT,
            "device 0 handles a fault on page 2 while range 1 (pages 0, 1) is there, which was "
            "unmapped before",
        ),
        (
            Later,
            READ + "unmap p0 page=0 pages=2\n" + JOB,
            "device 0 handles a fault on page 2 while range 1 (pages 0, 1) is there, which was "
            "unmapped before",
        ),
        (
            OnlyWhole,
            WRITTEN + "unmap p0 page=0 pages=1\n" + FAULT,
            "device 0 handles a fault on page 2 while range 1 (pages 0, 1) is there, which was "
            "unmapped before",
        ),
        (
            LeavesTheRest,
            WRITTEN + "unmap p0 page=1 pages=1\n" + FAULT,
            "device 0 removes range 1 (pages 0, 1), of which page 1 was unmapped, and leaves page "
            "0 in its memory",
        ),
        (
            AsDocumented,
            WRITTEN + "unmap p0 page=0 pages=1\n" + FAULT,
            "device 0 removes range 1 (pages 0, 1), of which page 0 was unmapped, and leaves page "
            "1 in its memory",
        ),
        (
            KeepsTheRest,
            WRITTEN + "unmap p0 page=1 pages=1\n" + FAULT,
            "device 0 removes range 1 (pages 0, 1), of which page 1 was unmapped, and still has "
            "page 0 in its page table",
        ),
        (
            Trusting,
            READ,
            "device 0 maps page 0 of range 1 (pages 0, 1) without drm_gpusvm_range_pages_valid",
        ),
        (
            ChecksFirst,
            READ,
            "device 0 maps page 0 of range 1 (pages 0, 1) after giving up the lock of "
            "drm_gpusvm_range_pages_valid",
        ),
    ],
)
def test_a_wrong_driver_is_told_what_is_wrong(
    driver: type[Driver], lines: str, message: str
) -> None:
    assert violated(driver, lines) == ("D1", message)
    assert violated(SvmDriver, lines) == ("", "")


def test_what_is_mapped_against_the_answer_is_found_under_some_schedule() -> None:
    lines = READ + "discard p0 page=0 pages=1"
    found = set()
    for point in range(1, 60):
        program = replace(
            script(Unheeding, lines), schedule=Schedule((Switch(DEVICE, 2, point, P0),))
        )
        wrong, _ = check(run_program(program, Unheeding).record, Unheeding.model)
        found.add("" if wrong is None else wrong.message)
    said = "although drm_gpusvm_range_pages_valid said no"
    assert found == {"", f"device 0 maps page 0 of range 1 (pages 0, 1) {said}"}


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (ChecksOutside, "drm_gpusvm_range_pages_valid is called without notifier_lock held"),
        (FindsUnlocked, "drm_gpusvm_range_find_or_insert is called without svm_lock"),
    ],
)
def test_locks_are_asked_for(driver: type[Driver], message: str) -> None:
    broken = run_program(script(driver, READ), driver).broken
    assert broken is not None
    assert (broken.rule, str(broken)) == ("D1", message)


@pytest.mark.parametrize(
    ("driver", "service"), [(RemovesTwice, "remove"), (UsesRemoved, "get_pages")]
)
def test_a_range_that_was_removed_is_of_no_use(driver: type[Driver], service: str) -> None:
    lines = READ + "unmap p0 page=0 pages=2\n" + FAULT
    broken = run_program(script(driver, lines), driver).broken
    assert broken is not None
    assert broken.rule == "W6"
    assert str(broken) == f"drm_gpusvm_range_{service} of range 1, which was removed"


@pytest.mark.parametrize(
    ("driver", "times"), [(Later, 4), (LeavesTheRest, 2), (AsDocumented, 1), (Trusting, 20)]
)
def test_a_wrong_driver_is_found_and_accused_of_nothing_else(
    driver: type[Driver], times: int
) -> None:
    """By random programs under random schedules, until it is accused so many times."""
    drawn = scheduled(programs(driver, 600, 3, pages=4, most=20), "random")
    accused = (judged(driver, program).violation for program in drawn)
    rules = [wrong.rule for wrong in islice(filter(None, accused), times)]
    assert rules == ["D1"] * times


def test_pages_that_stay_mapped_for_dma_are_told_as_of_any_driver() -> None:
    assert violated(Sticky, READ + "discard p0 page=0 pages=1")[0] == "I12"


def test_to_start_over_with_the_same_range_comes_to_no_end() -> None:
    lines = READ + "protect p0 r page=1 pages=1\ndwrite d0 page=0 offset=0 length=8 value=2"
    assert rule(RetriesAsDocumented, lines) == "W2"
