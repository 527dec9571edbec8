"""Young pages: whom the host asks, what it makes of the answers, and what is wrong with some."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from c_drivers import COMPILER, compile_driver
from driving import drive, programs, scheduled, script, unaccused

from adapters.driver_c import load_c_driver
from reference.drivers import Driver
from reference.drivers.ageing import AgeingDriver
from reference.drivers.counting import CountingDriver
from reference.host.hardware import Device
from reference.host.kernel import Kernel
from reference.host.notifiers import ListNotifier
from reference.host.ranges import BASE, Range
from reference.host.run import Run, run_program
from reference.host.space import AddressSpace
from reference.outcomes import Outcome, Status
from reference.protocol import Violation, check
from reference.record import What
from reference.schedule import DEVICE, KERNEL, Schedule, Switch

OK = Outcome(Status.OK)
BUSY = Outcome(Status.SKIPPED, errno.EBUSY)

USED = """
    map p0 rw page=0 pages=2
    write p0 page=0 offset=0 length=8 value=1
    attach d0 p0
    dread d0 page=0 offset=0 length=8
"""
RECLAIM = "reclaim p0 page=0 pages=1\n"
MIGRATE = "migrate p0 page=0 pages=1\n"
COLLAPSE = "collapse p0 page=0 pages=2\n"
DREAD = "dread d0 page=0 offset=0 length=8\n"


def violation(driver: type[Driver], lines: str) -> Violation | None:
    found, _ = check(run_program(script(driver, lines), driver).record, driver.model)
    return found


def exercised(driver: type[Driver], lines: str) -> dict[str, int]:
    return check(run_program(script(driver, lines), driver).record, driver.model)[1]


def asked(run: Run) -> list[str]:
    """Which callbacks were asked, in order."""
    return [str(entry.arguments[1]) for entry in run.record if entry.what == What.ASK_YOUNG]


# The host


class Witnesses(Driver):
    """Two notifiers, each of which says what a test wants, and what it is asked."""

    answers: ClassVar[tuple[bool, bool]]
    seen: ClassVar[list[tuple[object, ...]]]

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.notifiers = [self.witness(place) for place in (0, 1)]
        type(self).seen = []

    def witness(self, place: int) -> ListNotifier:
        notifier = ListNotifier()

        def clear_flush_young(start: int, end: int) -> bool:
            self.seen.append((place, "clear_flush_young", start - BASE, end - BASE))
            return self.answers[place]

        def clear_young(start: int, end: int) -> bool:
            self.seen.append((place, "clear_young", start - BASE, end - BASE))
            return self.answers[place]

        def test_young(address: int) -> bool:
            self.seen.append((place, "test_young", address - BASE))
            return self.answers[place]

        notifier.clear_flush_young = clear_flush_young
        notifier.clear_young = clear_young
        notifier.test_young = test_young
        return notifier

    def open(self, mm: AddressSpace) -> int:
        return sum(self.kernel.mmu_notifier_register(each, mm) for each in self.notifiers)

    def close(self) -> None:
        for each in self.notifiers:
            self.kernel.mmu_notifier_unregister(each)


def with_answers(first: bool, second: bool, lines: str) -> Run:
    class Told(Witnesses):
        answers = first, second

    written = "map p0 rw page=0 pages=2\nwrite p0 page=0 offset=0 length=8 value=1\nattach d0 p0\n"
    run = drive(Told, written + lines)
    assert run.broken is None
    Witnesses.seen = Told.seen
    return run


PAIRS = pytest.mark.parametrize(
    ("first", "second"), [(False, False), (True, False), (False, True), (True, True)]
)


@PAIRS
def test_reclaim_asks_everybody_and_one_is_enough(first: bool, second: bool) -> None:
    run = with_answers(first, second, RECLAIM)
    assert run.outcomes[-1] == (BUSY if first or second else OK)
    assert Witnesses.seen == [(place, "clear_flush_young", 0, 4096) for place in (0, 1)]


@PAIRS
def test_migration_makes_a_page_old_and_tests_it_later(first: bool, second: bool) -> None:
    run = with_answers(first, second, MIGRATE)
    assert run.outcomes[-1] == (BUSY if first or second else OK)
    tested = [(place, "test_young", 0) for place in ((0,) if first else (0, 1))]
    assert Witnesses.seen == [*((place, "clear_young", 0, 4096) for place in (0, 1)), *tested]


@PAIRS
def test_collapse_only_looks(first: bool, second: bool) -> None:
    run = with_answers(first, second, COLLAPSE)
    assert run.outcomes[-1] == OK
    assert Witnesses.seen == [(place, "test_young", 0) for place in ((0,) if first else (0, 1))]


def test_a_huge_page_is_asked_about_as_one() -> None:
    with_answers(False, False, COLLAPSE + RECLAIM)
    assert Witnesses.seen[-1] == (1, "clear_flush_young", 0, 2 * 4096)


def test_every_process_that_maps_a_page_is_asked() -> None:
    lines = "fork p0 child=p1\nattach d1 p1\n" + RECLAIM.replace("p0", "p1")
    run = with_answers(False, False, lines)
    assert asked(run) == ["clear_flush_young"] * 4
    subscriptions = [entry.arguments[0] for entry in run.record if entry.what == What.ASK_YOUNG]
    assert len(set(subscriptions)) == 4


@pytest.mark.parametrize("lines", [RECLAIM, MIGRATE, COLLAPSE])
def test_nobody_is_asked_who_has_no_callback(lines: str) -> None:
    assert not asked(drive(CountingDriver, USED + lines))


# The driver that is right


def test_a_used_page_is_reclaimed_in_the_second_round() -> None:
    run = drive(AgeingDriver, USED + 2 * RECLAIM + DREAD + RECLAIM)
    assert [run.outcomes[place] for place in (4, 5, 7)] == [BUSY, OK, BUSY]


def test_use_through_the_tlb_is_seen_after_a_flush_and_not_without() -> None:
    again = DREAD + RECLAIM
    assert drive(AgeingDriver, USED + RECLAIM + again).outcomes[-1] == BUSY

    class Stays(AgeingDriver):
        def invalidate_range_start(self, range_: Range) -> int:
            self.clear_young(range_.start, range_.end)
            return 0

        def invalidate_range_end(self, range_: Range) -> None:
            pass

    lines = USED + "invalidate p0 page=0 pages=1 event=clear\n" + again
    assert run_program(script(Stays, lines), Stays).outcomes[-1] == OK


def test_a_page_that_is_used_between_two_looks_stays() -> None:
    lines = USED + RECLAIM + MIGRATE + DREAD
    alone = drive(AgeingDriver, lines)
    assert alone.outcomes[5] == OK
    stayed = [
        run.outcomes[5] == BUSY
        for point in range(1, 20)
        for run in [drive(AgeingDriver, lines, Schedule((Switch(KERNEL, 5, point, DEVICE),)))]
    ]
    assert any(stayed)
    assert not all(stayed)


@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_it_is_right_under_every_schedule(strategy: str) -> None:
    given = programs(AgeingDriver, 500, 3, pages=2, most=20)
    runs = unaccused(AgeingDriver, scheduled(given, strategy))
    assert min(runs[rule] for rule in ("Y1", "Y2", "Y3")) > 0, runs


class Unmapping(AgeingDriver):
    """Its device has no accessed bits that it trusts: what is mapped counts as used, once."""

    name = "unmapping"

    def clear_flush_young(self, start: int, end: int) -> bool:
        self.lock.lock()
        there = bool(self.slots(start, end))
        self.zap(start, end)
        self.lock.unlock()
        return there


def test_a_driver_may_unmap_instead() -> None:
    assert not violation(Unmapping, USED + 2 * RECLAIM + DREAD + MIGRATE + COLLAPSE)


# The same in C

AGEING_C = Path(__file__).parent / "ageing.c"


@pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")
@pytest.mark.parametrize(("flush", "rule"), [("true", ""), ("false", "Y1")])
def test_a_driver_in_c_is_asked_as_well(tmp_path: Path, flush: str, rule: str) -> None:
    source = tmp_path / "ageing.c"
    source.write_text(AGEING_C.read_text().replace("FLUSH);", f"{flush});"))
    compile_driver(tmp_path, source)
    driver = load_c_driver(source)
    found = violation(driver, USED + RECLAIM)
    assert (found.rule if found else "") == rule
    run = run_program(script(driver, USED + RECLAIM + MIGRATE + DREAD + COLLAPSE), driver)
    assert [run.outcomes[place] for place in (4, 5, 7)] == [BUSY, OK, OK]
    assert asked(run) == ["clear_flush_young", "clear_young", "test_young", "test_young"]
    answers = [entry.arguments[1] for entry in run.record if entry.what == What.SAID_YOUNG]
    assert answers == [1, 0, 0, 1]


# Drivers that are wrong


class NoFlush(AgeingDriver):
    def clear_flush_young(self, start: int, end: int) -> bool:
        return self.clear_young(start, end)


class FlushesFirst(AgeingDriver):
    """Flushes before it clears: the TLB can take the entry again in between."""

    def clear_flush_young(self, start: int, end: int) -> bool:
        host = self.device.host
        self.device.flush(host.slot(start), host.slot(end))
        return self.clear_young(start, end)


class Forgetful(AgeingDriver):
    """Flushes and tells, and clears nothing."""

    def clear_flush_young(self, start: int, end: int) -> bool:
        host = self.device.host
        self.device.flush(host.slot(start), host.slot(end))
        return self.test_young(start)


class Silent(AgeingDriver):
    def clear_flush_young(self, start: int, end: int) -> bool:
        super().clear_flush_young(start, end)
        return False


class ClearsNothing(AgeingDriver):
    def clear_young(self, start: int, end: int) -> bool:
        return self.test_young(start)


class SaysNothing(AgeingDriver):
    def clear_young(self, start: int, end: int) -> bool:
        super().clear_young(start, end)
        return False


class LookClears(AgeingDriver):
    def test_young(self, address: int) -> bool:
        return self.clear_young(address, address + 4096)


class LookUnmaps(AgeingDriver):
    def test_young(self, address: int) -> bool:
        young = super().test_young(address)
        self.lock.lock()
        self.zap(address, address + 4096)
        self.lock.unlock()
        return young


class LooksAway(AgeingDriver):
    def test_young(self, address: int) -> bool:
        return False


@pytest.mark.parametrize(
    ("driver", "rule", "message"),
    [
        (NoFlush, "Y1", "clear_flush_young for page 0 returned with page 0 in the device's TLB"),
        (Forgetful, "Y1", "clear_flush_young for page 0 left the accessed bit of page 0 set"),
        (
            Silent,
            "Y1",
            "clear_flush_young for page 0 answered that nothing is young, but the accessed bit of "
            "page 0 was set",
        ),
        (ClearsNothing, "Y2", "clear_young for page 0 left the accessed bit of page 0 set"),
        (
            SaysNothing,
            "Y2",
            "clear_young for page 0 answered that nothing is young, but the accessed bit of page "
            "0 was set",
        ),
        (LookClears, "Y3", "test_young for page 0 clears the accessed bit of page 0"),
        (LookUnmaps, "Y3", "test_young for page 0 clears the accessed bit of page 0"),
        (
            LooksAway,
            "Y3",
            "test_young for page 0 answered that nothing is young, but the accessed bit of page 0 "
            "was set",
        ),
    ],
)
def test_a_wrong_driver_is_told_what_is_wrong(
    driver: type[Driver], rule: str, message: str
) -> None:
    lines = USED + {"Y1": RECLAIM, "Y2": MIGRATE, "Y3": COLLAPSE}[rule]
    found = violation(driver, lines)
    assert found is not None
    assert (found.rule, found.message) == (rule, message)
    assert found.operation == 4
    assert violation(AgeingDriver, lines) is None
    assert exercised(AgeingDriver, lines)[rule]


def test_a_flush_that_comes_too_early_is_found_under_some_schedule() -> None:
    lines = USED + RECLAIM + DREAD
    rules = set()
    for point in range(1, 12):
        program = replace(
            script(FlushesFirst, lines), schedule=Schedule((Switch(KERNEL, 4, point, DEVICE),))
        )
        found, _ = check(run_program(program, FlushesFirst).record, FlushesFirst.model)
        rules.add("" if found is None else found.rule)
    assert rules == {"", "Y1"}


class Sleeps(AgeingDriver):
    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.mutex = kernel.mutex("young lock")

    def test_young(self, address: int) -> bool:
        self.mutex.lock()
        self.mutex.unlock()
        return super().test_young(address)


def test_the_callbacks_may_not_sleep() -> None:
    broken = run_program(script(Sleeps, USED + COLLAPSE), Sleeps).broken
    assert broken is not None
    assert broken.rule == "W4"
    assert "a callback that asks for young pages" in str(broken)


class Mumbles(AgeingDriver):
    def clear_young(self, start: int, end: int) -> bool:
        return 2  # type: ignore[return-value]


def test_the_answer_is_true_or_false() -> None:
    broken = run_program(script(Mumbles, USED + MIGRATE), Mumbles).broken
    assert broken is not None
    assert (broken.rule, str(broken)) == ("Y2", "clear_young answered 2, neither true nor false")
