"""Devices that walk the process's page table: when the host tells their TLBs, and who is wrong."""

from __future__ import annotations

import errno
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from c_drivers import COMPILER, EXAMPLES, compile_driver
from driving import drive, programs, scheduled, script, unaccused

from adapters.driver_c import load_c_driver
from reference.drivers import Driver
from reference.drivers.faulting import FaultingDriver
from reference.drivers.sharing import SharingDriver
from reference.host.hardware import Device
from reference.host.kernel import Kernel
from reference.host.ranges import Range
from reference.host.run import Run, run_program
from reference.host.space import AddressSpace
from reference.outcomes import Outcome, Status
from reference.protocol import Violation, check
from reference.record import What
from reference.schedule import DEVICE, KERNEL, Schedule, Switch

OK = Outcome(Status.OK)

USED = """
    map p0 rw page=0 pages=2
    write p0 page=0 offset=0 length=8 value=1
    write p0 page=1 offset=0 length=8 value=2
    attach d0 p0
    dread d0 page=0 offset=0 length=8
    dread d0 page=1 offset=0 length=8
"""


def violation(driver: type[Driver], lines: str) -> Violation | None:
    found, _ = check(run_program(script(driver, lines), driver).record, driver.model)
    return found


def steps(run: Run, operation: int) -> list[What]:
    """What an operation did about notifiers and page tables, in order."""
    kinds = {What.START, What.TELL_TLB, What.CLEARED, What.CHANGE, What.FINISH, What.FLUSH}
    return [
        What(entry.what)
        for entry in run.record
        if entry.operation == operation and entry.what in kinds
    ]


# The host


@pytest.mark.parametrize(
    "operation",
    [
        "unmap p0 page=0 pages=1",
        "map p0 rw page=0 pages=1",
        "remap p0 page=0 pages=1 to=2",
        "protect p0 r page=0 pages=1",
        "discard p0 page=0 pages=1",
        "fork p0 child=p1",
        "reclaim p0 page=0 pages=1",
        "migrate p0 page=0 pages=1",
        "collapse p0 page=0 pages=2",
    ],
)
def test_tlbs_are_told_after_the_start_and_before_the_change(operation: str) -> None:
    run = drive(SharingDriver, USED + operation)
    told = [What.START, What.TELL_TLB, What.FLUSH, What.CLEARED, What.CHANGE, What.FINISH]
    assert steps(run, 6)[: len(told)] == told
    assert run.outcomes[-1] == OK


def test_tlbs_are_told_of_copy_on_write() -> None:
    lines = USED + "fork p0 child=p1\ndread d0 page=0 offset=0 length=8\n"
    run = drive(SharingDriver, lines + "write p0 page=0 offset=0 length=8 value=3")
    told = [entry.arguments[1:] for entry in run.record if entry.what == What.TELL_TLB]
    assert told == [(0, 4), (0, 1)]


def test_merging_tells_both_pages() -> None:
    same = USED + "write p0 page=1 offset=0 length=8 value=1\n"
    run = drive(SharingDriver, same + "merge p0 page=0 pages=2")
    told = [entry.arguments[1:] for entry in run.record if entry.what == What.TELL_TLB]
    assert sorted(told) == [(0, 1), (1, 2)]


def test_nobody_is_told_of_an_invalidation_that_changes_nothing() -> None:
    run = drive(SharingDriver, USED + "invalidate p0 page=0 pages=2 event=clear")
    assert steps(run, 6) == [What.START, What.FINISH]


def test_nothing_is_told_or_noted_without_a_device_that_shares() -> None:
    run = drive(FaultingDriver, USED + "unmap p0 page=0 pages=1")
    assert not {What.TELL_TLB, What.CLEARED} & {entry.what for entry in run.record}


class Both(SharingDriver):
    """Wants to be told of ranges too."""

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.notifier.invalidate_range_start = lambda range_: 0


def test_a_notifier_has_one_kind_of_callback() -> None:
    run = run_program(script(Both, "attach d0 p0"), Both)
    assert run.outcomes == [Outcome(Status.ERROR, errno.EINVAL)]


def test_the_page_table_gives_no_more_than_it_has() -> None:
    lines = USED + "protect p0 r page=0 pages=1\ndwrite d0 page=0 offset=0 length=8 value=4\n"
    run = drive(SharingDriver, lines + "dread d0 page=0 offset=0 length=8")
    assert [outcome.status for outcome in run.outcomes[-2:]] == [Status.FAULT, Status.OK]


def test_a_right_that_is_new_needs_no_flush() -> None:
    """The zero page is read, and then written: the TLB has an entry without the right."""
    lines = "map p0 rw page=0 pages=1\nattach d0 p0\ndread d0 page=0 offset=0 length=8\n"
    run = drive(SharingDriver, lines + "dwrite d0 page=0 offset=0 length=8 value=4")
    assert run.outcomes[-1].status == Status.OK


def test_who_walks_between_clear_and_set_waits_for_the_change() -> None:
    """The device reads while the kernel has the lock: it finds the new page at once."""
    lines = "migrate p0 page=0 pages=1\ndread d0 page=0 offset=0 length=8"
    waited = 0
    for point in range(1, 12):
        run = drive(SharingDriver, USED + lines, Schedule((Switch(KERNEL, 6, point, DEVICE),)))
        order = [
            What(entry.what)
            for entry in run.record
            if entry.operation >= 6 and entry.what in {What.SHARED_WALK, What.CHANGE, What.FETCH}
        ]
        waited += order == [What.CHANGE, What.SHARED_WALK, What.FETCH]
        assert order.count(What.SHARED_WALK) <= 1
        cleared = [each.what for each in run.record if each.what in {What.CLEARED, What.CHANGE}]
        walks = [each.what for each in run.record].index(What.CLEARED)
        between = run.record[walks : len(run.record)]
        first = next(each.what for each in between if each.what in {What.SHARED_WALK, What.CHANGE})
        assert first == What.CHANGE
        assert cleared == [What.CLEARED, What.CHANGE]
    assert waited > 1


# T3, of the host itself: who is told in time never sees a new page and then an old one.

LITMUS = """
    map p0 rw page=0 pages=2
    write p0 page=0 offset=0 length=8 value=1
    write p0 page=1 offset=0 length=8 value=2
    fork p0 child=p1
    attach d0 p1
    attach d1 p1
    dread d0 page=0 offset=0 length=8
    dread d0 page=1 offset=0 length=8
    write p1 page=0 offset=0 length=8 value=11
    dwrite d1 page=0 offset=0 length=8 value=21
    dwrite d1 page=1 offset=0 length=8 value=12
    dread d0 page=1 offset=0 length=8
    dread d0 page=0 offset=0 length=8
"""
"""Page 0 gets a copy, while the parent keeps the old one; d1 writes the copy, then page 1."""


class Late(SharingDriver):
    """Flushes at the end of the invalidation, when the new page may have been written."""

    name = "late"

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.notifier.arch_invalidate_secondary_tlbs = None
        self.notifier.invalidate_range_end = self.flush

    def flush(self, range_: Range) -> None:
        self.invalidate_secondary_tlbs(range_.start, range_.end)


def seen(driver: type[Driver]) -> set[tuple[int, int]]:
    """What d0 reads of the page that was written last, and then of the one written before.

    Wherever the process is interrupted in its write: d1 does both of its writes then, and d0 both
    of its reads, at once or in the middle of what d1 does.
    """
    found = set()
    for point, other in product(range(1, 20), range(1, 40)):
        stay = [Switch(actor, index, at, actor) for actor, index in STAY for at in range(1, 60)]
        leave = [Switch(1, 8, point, DEVICE + 1), Switch(DEVICE + 1, 10, other, DEVICE)]
        program = replace(script(driver, LITMUS), schedule=Schedule((*leave, *stay)))
        run = run_program(program, driver)
        later, first = (int.from_bytes(each.data, "little") for each in run.outcomes[-2:])
        found.add((later, first))
    return found


STAY = [(DEVICE + 1, 9), (DEVICE, 11)]
"""Actors and their operations behind which the next is theirs again."""


def test_new_and_then_old_is_never_seen() -> None:
    found = seen(SharingDriver)
    assert {(2, 21), (12, 21)} <= found
    assert (12, 1) not in found


def test_new_and_then_old_is_seen_by_who_waits_for_the_end() -> None:
    assert (12, 1) in seen(Late)


# The driver that is right


@pytest.mark.parametrize("strategy", ["random", "pct"])
@pytest.mark.parametrize("page_size", [4096, 65536])
def test_it_is_right_under_every_schedule(strategy: str, page_size: int) -> None:
    drawn = programs(SharingDriver, 150, 4, pages=3, most=30, page_size=page_size)
    assert unaccused(SharingDriver, scheduled(drawn, strategy))["T2"] > 10


@pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")
def test_the_driver_in_c_does_the_same(tmp_path: Path) -> None:
    compile_driver(tmp_path, EXAMPLES / "sharing.c")
    driver = load_c_driver(EXAMPLES / "sharing.c")
    given = list(scheduled(programs(SharingDriver, 60, 8, pages=2, most=20), "random"))
    assert unaccused(driver, given)["T2"] > 5
    for program in given:
        same = run_program(program, SharingDriver)
        if not same.switches:
            assert run_program(program, driver).outcomes == same.outcomes


MOVED = """
    fork p0 child=p1
    map p1 rw page=0 pages=2
    attach d0 p1
    dwrite d0 page=0 offset=4088 length=16 value=0x400000
    migrate p1 page=0 pages=2
    dread d0 page=0 offset=0 length=8
    remap p1 page=1 pages=1 to=0
    dread d0 page=0 offset=0 length=8
"""


def test_a_page_that_moves_while_it_is_migrated_is_told_of_where_it_is() -> None:
    """The bracket around its old place is no help, although the entry is still the same."""
    where = (Switch(KERNEL, 4, 12, DEVICE), Switch(DEVICE, 5, 2, 1))
    run = drive(SharingDriver, MOVED, Schedule(where))
    assert len(run.switches) == 2
    told = [e.arguments[1:3] for e in run.record if e.what == What.CHANGE and e.operation == 4]
    assert told == [(0, 1), (0, 1)], "each of the pages where it was when it moved"


# Drivers that are wrong


class Sleeps(SharingDriver):
    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.lock = kernel.mutex("flush lock")

    def invalidate_secondary_tlbs(self, start: int, end: int) -> None:
        self.lock.lock()
        super().invalidate_secondary_tlbs(start, end)
        self.lock.unlock()


def test_the_callback_may_not_sleep() -> None:
    broken = run_program(script(Sleeps, USED + "unmap p0 page=0 pages=1"), Sleeps).broken
    assert broken is not None
    assert broken.rule == "T1"
    assert str(broken) == (
        "mutex_lock(flush lock) may sleep in a callback that invalidates TLBs under a page table "
        "lock"
    )


class Allocates(SharingDriver):
    def invalidate_secondary_tlbs(self, start: int, end: int) -> None:
        super().invalidate_secondary_tlbs(start, end)
        self.kernel.kfree(self.kernel.kmalloc("a command"))


class Ignores(SharingDriver):
    def invalidate_secondary_tlbs(self, start: int, end: int) -> None:
        pass


class OnePage(SharingDriver):
    """Flushes one page, whatever the range."""

    def invalidate_secondary_tlbs(self, start: int, end: int) -> None:
        super().invalidate_secondary_tlbs(start, start + self.kernel.page_size)


class Deaf(SharingDriver):
    """Hears of the end of the process, and of nothing before."""

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.notifier.arch_invalidate_secondary_tlbs = None


class Early(Deaf):
    """Flushes at the start, when the device can take the entry again."""

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.notifier.invalidate_range_start = self.flush

    def flush(self, range_: Range) -> int:
        self.invalidate_secondary_tlbs(range_.start, range_.end)
        return 0


class Outlives(SharingDriver):
    """Does not hear of the end of the process."""

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.notifier.release = None


class KeepsTlb(SharingDriver):
    def unbind(self) -> None:
        self.device.unshare()


class KeepsTable(SharingDriver):
    def close(self) -> None:
        self.device.flush(0, 1 << 47)
        self.kernel.mmu_notifier_unregister(self.notifier)
        self.device.unshare()

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.notifier.release = None


UNMAP = "unmap p0 page=0 pages=2"
EXIT = "exit p0"


@pytest.mark.parametrize(
    ("driver", "operation", "rule", "message"),
    [
        (
            Ignores,
            UNMAP,
            "T2",
            "device 0 still has page 0 in its TLB, whose entry was cleared, although its callback "
            "has returned",
        ),
        (
            OnePage,
            UNMAP,
            "T2",
            "device 0 still has page 1 in its TLB, whose entry was cleared, although its callback "
            "has returned",
        ),
        (
            Late,
            UNMAP,
            "T2",
            "device 0 still has page 0 in its TLB, whose entry was cleared, although the entries "
            "are to be set anew",
        ),
        (
            Deaf,
            "migrate p0 page=1 pages=1",
            "T2",
            "device 0 still has page 1 in its TLB, whose entry was cleared, although the entries "
            "are to be set anew",
        ),
        (
            Outlives,
            EXIT,
            "L2",
            "device 0 still walks the page table of process 0 when the pages of process 0 are "
            "freed",
        ),
        (
            KeepsTlb,
            EXIT,
            "L2",
            "device 0 still has page 0 in its TLB when the pages of process 0 are freed",
        ),
        (
            KeepsTlb,
            "detach d0",
            "L4",
            "device 0 still has page 0 in its TLB when its notifier is unregistered",
        ),
        (
            KeepsTable,
            "detach d0",
            "L4",
            "device 0 still walks the page table of process 0 when its notifier is unregistered",
        ),
    ],
)
def test_a_wrong_driver_is_told_what_is_wrong(
    driver: type[Driver], operation: str, rule: str, message: str
) -> None:
    found = violation(driver, USED + operation)
    assert found is not None
    assert (found.rule, found.message) == (rule, message)
    assert found.operation == 6
    assert violation(SharingDriver, USED + operation) is None


def test_what_sleeps_only_if_memory_is_short_may_sleep() -> None:
    broken = run_program(script(Allocates, USED + UNMAP), Allocates).broken
    assert broken is not None
    assert broken.rule == "T1"


def test_a_flush_at_the_start_is_found_under_some_schedule() -> None:
    lines = USED + "migrate p0 page=0 pages=1\ndread d0 page=0 offset=0 length=8"
    rules = set()
    for point in range(1, 12):
        program = replace(
            script(Early, lines), schedule=Schedule((Switch(KERNEL, 6, point, DEVICE),))
        )
        found, _ = check(run_program(program, Early).record, Early.model)
        rules.add("" if found is None else found.rule)
    assert rules == {"", "T2"}


class Leaves(SharingDriver):
    """Forgets at the end that the device still walks."""

    def unbind(self) -> None:
        self.device.flush(0, 1 << 47)


def test_a_table_that_is_walked_in_the_end_is_left_over() -> None:
    broken = run_program(script(Leaves, "attach d0 p0"), Leaves).broken
    assert broken is not None
    assert broken.rule == "W5"
    assert str(broken) == "device 0 still walks the page table of process 0"


class Unlocked(SharingDriver):
    def fault(self, address: int, write: bool) -> int:
        assert isinstance(self.mm, AddressSpace)
        return self.kernel.handle_mm_fault(self.mm, address, write)


def test_a_fault_is_handled_with_mmap_lock_held() -> None:
    lines = "map p0 rw page=0 pages=1\nattach d0 p0\ndread d0 page=0 offset=0 length=8"
    broken = run_program(script(Unlocked, lines), Unlocked).broken
    assert broken is not None
    assert broken.rule == "H1"
