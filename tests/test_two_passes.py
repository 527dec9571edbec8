"""Invalidation in two passes: what a driver may leave for the second, and what not (I17)."""

from __future__ import annotations

import pytest
from driving import programs, rule, scheduled, script, unaccused

from reference.drivers import Driver
from reference.drivers.faulting import FaultingDriver
from reference.host.hardware import Device
from reference.host.kernel import Kernel
from reference.host.notifiers import Finish, IntervalNotifier
from reference.host.ranges import Range
from reference.host.record import What
from reference.host.run import run_program
from reference.outcomes import Status
from reference.schedule import Schedule


class Rest(Finish):
    """Of a range: translations that are out of the table, and may still be in use."""

    def __init__(self, memory: int, range_: Range) -> None:
        self.memory = memory
        self.start, self.end = range_.start, range_.end


class TwoPasses(FaultingDriver):
    """Waits for its device in the second pass, when all devices have been told."""

    name = "two-passes"
    invalidate = None  # type: ignore[assignment]

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.dying: dict[int, int] = {}
        """DMA addresses by page address, of translations that are not flushed yet."""

    def invalidate_start(
        self, notifier: IntervalNotifier, range_: Range, sequence: int
    ) -> tuple[bool, Finish | None]:
        if self.is_for_us(range_):
            return True, None
        if range_.blockable:
            self.lock.lock()
        elif not self.lock.trylock():
            return self.refuse()
        self.kernel.mmu_interval_set_seq(notifier, sequence)
        rest = self.begin(range_)
        self.lock.unlock()
        return True, rest

    def refuse(self) -> tuple[bool, Finish | None]:
        return False, None

    def begin(self, range_: Range) -> Rest | None:
        """Take translations out of the table; the rest is for later if there is memory for it."""
        memory = self.kernel.kmalloc("the rest", atomic=True)
        for address in [each for each in self.entries if range_.start <= each < range_.end]:
            self.device.unmap(0, self.device.host.slot(address))
            self.dying[address] = self.entries.pop(address)
        if memory:
            return Rest(memory, range_)
        self.finish(range_.start, range_.end)
        return None

    def finish(self, start: int, end: int) -> None:
        """Wait for the device; also for what another range has taken out of the table."""
        host = self.device.host
        first, last = max(host.slot(start), 0), min(host.slot(end - 1), host.geometry.pages - 1)
        self.device.flush(first, last + 1)
        for address in [each for each in self.dying if start <= each < end]:
            dma = self.dying.pop(address)
            if dma:
                self.kernel.dma_unmap_page(dma)

    def invalidate_finish(self, finish: Finish) -> None:
        assert isinstance(finish, Rest)
        self.finish(finish.start, finish.end)
        self.kernel.kfree(finish.memory)


class SaysItIsAll(TwoPasses):
    """Cannot remember what is left to do, and says that nothing is."""

    def begin(self, range_: Range) -> Rest | None:
        rest = super().begin(range_)
        if rest is not None:
            self.kernel.kfree(rest.memory)
        return None


class NeverFlushes(TwoPasses):
    def invalidate_finish(self, finish: Finish) -> None:
        assert isinstance(finish, Rest)
        self.kernel.kfree(finish.memory)


class OneForAll(TwoPasses):
    """Has room for one range that is not finished, and does not look whether it is in use."""

    rest: Rest | None = None

    def begin(self, range_: Range) -> Rest | None:
        rest = super().begin(range_)
        if self.rest is None or rest is None:
            self.rest = rest
            return rest
        self.kernel.kfree(rest.memory)
        self.rest.start = min(self.rest.start, rest.start)
        self.rest.end = max(self.rest.end, rest.end)
        return self.rest

    def invalidate_finish(self, finish: Finish) -> None:
        super().invalidate_finish(finish)
        self.rest = None


class RefusesHalf(TwoPasses):
    """Cannot do it all now, and leaves it for the second pass, which there is none after that."""

    def refuse(self) -> tuple[bool, Finish | None]:
        return False, Finish()


class Contended(TwoPasses):
    """A refusal for every range that may not block."""

    def invalidate_start(
        self, notifier: IntervalNotifier, range_: Range, sequence: int
    ) -> tuple[bool, Finish | None]:
        return (
            super().invalidate_start(notifier, range_, sequence)
            if range_.blockable
            else (self.refuse())
        )


class ContendedHalf(Contended, RefusesHalf):
    pass


class SleepsLater(TwoPasses):
    def invalidate_finish(self, finish: Finish) -> None:
        self.lock.lock()
        super().invalidate_finish(finish)
        self.lock.unlock()


TWICE = """
    map p0 rw page=0 pages=2
    attach d0 p0
    attach d1 p0
    dwrite d0 page=0 offset=0 length=8 value=1
    dread d1 page=0 offset=0 length=8
    discard p0 page=0 pages=1
    dread d0 page=0 offset=0 length=8
"""
NONBLOCK = TWICE.replace("discard p0", "invalidate p0 event=clear nonblock")


def passes(lines: str, driver: type[Driver] = TwoPasses) -> list[tuple[str, int]]:
    """What the last invalidation called, each with the subscription."""
    run = run_program(script(driver, lines), driver)
    assert run.broken is None, run.broken
    start = max(n for n, entry in enumerate(run.record) if entry.what == What.START)
    wanted = {What.CALLBACK, What.FINISHING, What.STARTED}
    return [
        (What(entry.what).name, int(entry.arguments[0]))
        for entry in run.record[start:]
        if entry.what in wanted
    ]


@pytest.mark.parametrize("lines", [TWICE, NONBLOCK])
def test_second_passes_come_in_order_after_all_first_ones(lines: str) -> None:
    lines = lines.rsplit("\n", 2)[0]
    *called, started = passes(lines)
    assert called == [("CALLBACK", 1), ("CALLBACK", 2), ("FINISHING", 1), ("FINISHING", 2)]
    assert started[0] == "STARTED"


def test_a_refusal_does_not_keep_back_second_passes() -> None:
    """The first subscription did its part, and is to finish it; the second one refuses (B9)."""

    class SecondRefuses(TwoPasses):
        def invalidate_start(
            self, notifier: IntervalNotifier, range_: Range, sequence: int
        ) -> tuple[bool, Finish | None]:
            if self.device.number and not range_.blockable:
                return False, None
            return super().invalidate_start(notifier, range_, sequence)

    lines = NONBLOCK.rsplit("\n", 2)[0]
    assert passes(lines, SecondRefuses)[:3] == [
        *(("CALLBACK", 1), ("CALLBACK", 2), ("FINISHING", 1)),
    ]
    run = run_program(script(SecondRefuses, lines), SecondRefuses)
    assert run.outcomes[-1].status == Status.ERROR
    assert rule(SecondRefuses, lines) == ""


@pytest.mark.parametrize(
    ("driver", "lines", "broken"),
    [
        (TwoPasses, TWICE, ""),
        (TwoPasses, NONBLOCK, ""),
        (Contended, NONBLOCK, ""),
        (SaysItIsAll, TWICE, "I17"),
        (ContendedHalf, NONBLOCK, "I17"),
        (NeverFlushes, TWICE, "I12"),
        (SleepsLater, TWICE, ""),
        (SleepsLater, NONBLOCK, "B6"),
    ],
)
def test_a_rule_is_named(driver: type[Driver], lines: str, broken: str) -> None:
    assert rule(driver, lines) == broken


def test_what_waits_for_its_pass_is_not_handed_back_again() -> None:
    """It takes a second range that begins before the first is finished."""
    lines = """
        map p0 rw page=0 pages=2
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=1
        dwrite d0 page=1 offset=0 length=8 value=1
        discard p0 page=0 pages=1
        reclaim p0 page=1 pages=1
    """
    plans = [Schedule(strategy="random", seed=seed, depth=5) for seed in range(1, 60)]
    assert "I17" in {rule(OneForAll, lines, plan) for plan in plans}
    assert {rule(TwoPasses, lines, plan) for plan in plans} == {""}


@pytest.mark.parametrize("strategy", ["follow", "random", "pct"])
def test_a_correct_driver_is_accused_of_nothing(strategy: str) -> None:
    given = programs(TwoPasses, 150, 6, pages=3, most=14)
    assert unaccused(TwoPasses, scheduled(given, strategy))["I17"] > 20
