"""Notifiers of `mmu_notifier_get`: one for each process and operations; the last put frees it."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from driving import programs, rule, scheduled, script, unaccused

from reference.drivers import Driver
from reference.drivers.counting import CountingDriver
from reference.host.hardware import Device
from reference.host.kernel import Kernel
from reference.host.notifiers import ListNotifier
from reference.host.ranges import Range
from reference.host.record import What
from reference.host.run import Run, run_program
from reference.host.space import AddressSpace
from reference.outcomes import Status
from reference.schedule import DEVICE, KERNEL, PLAIN, Injection, Schedule, Switch


class ProcessNotifier(ListNotifier):
    """One for a process and all devices that mirror it."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.memory = kernel.kmalloc("a notifier")
        self.mirrors: list[Sharing] = []
        self.invalidate_range_start = self.start
        self.invalidate_range_end = self.end
        self.release = self.tear_down
        self.free_notifier = self.free

    def start(self, range_: Range) -> int:
        for mirror in list(self.mirrors):
            mirror.invalidate_range_start(range_)
        return 0

    def end(self, range_: Range) -> None:
        for mirror in list(self.mirrors):
            if mirror.invalidations.count:
                mirror.invalidate_range_end(range_)

    def tear_down(self) -> None:
        for mirror in list(self.mirrors):
            CountingDriver.release(mirror)

    def free(self) -> None:
        self.kernel.kfree(self.memory)


class Operations:
    """`struct mmu_notifier_ops` of all devices of this driver."""

    kernel: Kernel

    def alloc_notifier(self, mm: AddressSpace) -> ListNotifier | int:
        made = ProcessNotifier(self.kernel)
        return made if made.memory else -errno.ENOMEM


OPS = Operations()


class Sharing(CountingDriver):
    """Two devices of a process have one notifier, which lives as long as either."""

    name = "sharing"

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.shared: ProcessNotifier | None = None

    def open(self, mm: AddressSpace) -> int:
        OPS.kernel = self.kernel
        notifier = self.kernel.mmu_notifier_get(OPS, mm)
        if isinstance(notifier, int):
            return notifier
        assert isinstance(notifier, ProcessNotifier)
        self.shared, self.mm = notifier, mm
        notifier.mirrors.append(self)
        return 0

    def close(self) -> None:
        self.drop_all()
        self.let_go()
        self.mm = None

    def drop_all(self) -> None:
        self.lock.lock()
        self.zap(0, 1 << 47)
        self.lock.unlock()

    def let_go(self) -> None:
        assert self.shared is not None
        self.shared.mirrors.remove(self)
        self.kernel.mmu_notifier_put(self.shared)
        self.kernel.mmu_notifier_synchronize()
        self.shared = None
        self.invalidations = type(self.invalidations)()


TWO = """
    map p0 rw page=0 pages=1
    attach d0 p0
    attach d1 p0
    dwrite d1 page=0 offset=0 length=8 value=7
    dread d0 page=0 offset=0 length=8
    discard p0 page=0 pages=1
    detach d0
    dread d1 page=0 offset=0 length=8
    discard p0 page=0 pages=1
    detach d1
"""
ONE = """
    map p0 rw page=0 pages=1
    attach d0 p0
    dread d0 page=0 offset=0 length=8
    discard p0 page=0 pages=1
    detach d0
"""


def run_of(lines: str, plan: Schedule = PLAIN) -> Run:
    return run_program(replace(script(Sharing, lines), schedule=plan), Sharing)


def told(run: Run, *kinds: What) -> list[tuple[int, tuple[int | str, ...]]]:
    return [(entry.operation, entry.arguments) for entry in run.record if entry.what in kinds]


def test_two_devices_of_a_process_share_one() -> None:
    run = run_of(TWO)
    assert run.broken is None
    assert len(told(run, What.INSERT)) == 1
    assert told(run, What.OBTAINED) == [(1, (1, 0)), (2, (1, 1))]
    assert told(run, What.DROPPED) == [(6, (1, 0, 1)), (9, (1, 1, 0))]
    assert told(run, What.FREED) == [(9, (1,))]
    assert rule(Sharing, TWO) == ""


def test_two_processes_have_one_each() -> None:
    lines = "attach d0 p0\nfork p0 child=p1\nattach d1 p1"
    assert told(run_of(lines), What.OBTAINED) == [(0, (1, 0)), (2, (2, 1))]
    assert rule(Sharing, lines) == ""


def test_after_the_last_put_another_is_made() -> None:
    run = run_of(ONE + "attach d0 p0\ndread d0 page=0 offset=0 length=8")
    assert told(run, What.OBTAINED) == [(1, (1, 0)), (5, (2, 0))]


@pytest.mark.parametrize(("site", "number"), [("insert", 1), ("allocation", 1)])
def test_one_that_cannot_be_made_leaves_nothing_behind(site: str, number: int) -> None:
    plan = Schedule(injections=(Injection(site, number),))
    run = run_of(ONE, plan)
    assert run.broken is None
    assert run.outcomes[1].status == Status.ERROR
    assert not told(run, What.OBTAINED)


def test_it_is_freed_when_the_last_callback_has_returned() -> None:
    """Nobody waits for that but `mmu_notifier_synchronize`."""
    orders = set()
    for point in range(1, 40):
        run = run_of(ONE, Schedule((Switch(0, 3, point, DEVICE),)))
        assert run.broken is None, run.broken
        whats = [entry.what for entry in run.record]
        freed = whats.index(What.FREED)
        dropped = whats.index(What.DROPPED)
        between = set(whats[dropped:freed])
        orders.add(What.RETURNED in between or What.ENDED in between)
        assert not {What.ENDED, What.CALLBACK} & set(whats[freed:])
    assert orders == {True, False}


class Forgetful(Sharing):
    """Drops its reference when the device is closed, its entries not."""

    def drop_all(self) -> None:
        pass


class NeverPut(Sharing):
    def let_go(self) -> None:
        assert self.shared is not None
        self.shared.mirrors.remove(self)


class PutTwice(Sharing):
    def let_go(self) -> None:
        assert self.shared is not None
        shared = self.shared
        super().let_go()
        self.kernel.mmu_notifier_put(shared)


class Unregisters(Sharing):
    def let_go(self) -> None:
        assert self.shared is not None
        self.kernel.mmu_notifier_unregister(self.shared)


class SleepsAtTheEnd(Sharing):
    def open(self, mm: AddressSpace) -> int:
        answer = super().open(mm)
        if self.shared is not None:
            self.shared.free_notifier = self.free
        return answer

    def free(self) -> None:
        mutex = self.kernel.mutex("list of notifiers")
        mutex.lock()
        mutex.unlock()


class UsedAgain(Sharing):
    """Hands out one that is there already."""

    kept: ProcessNotifier | None = None

    def alloc_notifier(self, mm: AddressSpace) -> ListNotifier | int:
        UsedAgain.kept = UsedAgain.kept or ProcessNotifier(self.kernel)
        return UsedAgain.kept

    def open(self, mm: AddressSpace) -> int:
        notifier = self.kernel.mmu_notifier_get(self, mm)
        assert isinstance(notifier, ProcessNotifier)
        self.shared, self.mm = notifier, mm
        notifier.mirrors.append(self)
        return 0


@pytest.mark.parametrize(
    ("driver", "lines", "broken"),
    [
        (Sharing, ONE, ""),
        (Forgetful, ONE.replace("discard p0 page=0 pages=1\n", ""), "L4"),
        (Forgetful, TWO.replace("discard p0 page=0 pages=1\n    detach d0", "detach d0"), "L4"),
        (NeverPut, ONE, "L5"),
        (PutTwice, ONE, "L5"),
        (Unregisters, ONE, "L5"),
        (UsedAgain, TWO, "L5"),
        (SleepsAtTheEnd, ONE, "L6"),
    ],
)
def test_a_rule_is_named(driver: type[Driver], lines: str, broken: str) -> None:
    assert rule(driver, lines) == broken


@pytest.mark.parametrize("strategy", ["follow", "random", "pct"])
def test_a_correct_driver_is_accused_of_nothing(strategy: str) -> None:
    given = programs(Sharing, 120, 5, pages=3, most=14)
    runs = unaccused(Sharing, scheduled(given, strategy))
    assert min(runs["L5"], runs["L6"]) > 20


def test_the_kernel_frees_what_nobody_waits_for() -> None:
    class Hasty(Sharing):
        def let_go(self) -> None:
            assert self.shared is not None
            self.shared.mirrors.remove(self)
            self.kernel.mmu_notifier_put(self.shared)
            self.invalidations = type(self.invalidations)()

    run = run_program(script(Hasty, ONE), Hasty)
    freed = [entry.actor for entry in run.record if entry.what == What.FREED]
    assert freed == [KERNEL]
    assert run.broken is None
