"""The host's own mechanics: notifiers, locks, waiting, and what it finds out on the spot."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import ClassVar

import pytest
from driving import drive

from reference.drivers import Driver
from reference.host.hardware import Device, Job
from reference.host.kernel import Kernel
from reference.host.notifiers import IntervalNotifier, ListNotifier
from reference.host.ranges import BASE, Range
from reference.host.record import What
from reference.host.run import Run
from reference.host.space import AddressSpace
from reference.operations import Event
from reference.outcomes import Outcome, Status

PAGE = 4096
OK = Outcome(Status.OK)
AGAIN = Outcome(Status.ERROR, errno.EAGAIN)


class Probe(Driver):
    """A driver that does what a test writes into its methods, and notes what it sees."""

    seen: ClassVar[list[object]]

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        type(self).seen = []
        self.mm: AddressSpace

    def open(self, mm: AddressSpace) -> int:
        self.mm = mm
        return 0

    def close(self) -> None:
        pass

    def subscribe(self, first: int, pages: int) -> IntervalNotifier:
        notifier = self.kernel.mmu_interval_notifier_insert(
            self, self.mm, BASE + first * PAGE, pages * PAGE
        )
        assert isinstance(notifier, IntervalNotifier)
        return notifier

    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
        self.kernel.mmu_interval_set_seq(notifier, sequence)
        return True


def sequences(mm: AddressSpace) -> tuple[int, int]:
    return mm.subscriptions.sequence, mm.subscriptions.active


class TestSequences:
    """Families B and I, as in mm/mmu_notifier.c."""

    def test_an_idle_insert_is_one_behind(self) -> None:
        class Idle(Probe):
            def open(self, mm: AddressSpace) -> int:
                self.mm = mm
                self.notifier = self.subscribe(0, 1)
                self.seen.append((sequences(mm), self.notifier.invalidate_seq))
                return 0

            def close(self) -> None:
                self.kernel.mmu_interval_notifier_remove(self.notifier)

        assert drive(Idle, "attach d0 p0").broken is None
        assert Idle.seen == [((2, 0), 1)]

    def test_a_range_that_nobody_is_subscribed_to_is_no_epoch(self) -> None:
        class Elsewhere(Probe):
            def open(self, mm: AddressSpace) -> int:
                self.mm = mm
                self.notifier = self.subscribe(2, 1)
                return 0

            def close(self) -> None:
                self.seen.append(sequences(self.mm))
                self.kernel.mmu_interval_notifier_remove(self.notifier)

        lines = "attach d0 p0\ninvalidate p0 page=0 pages=2 event=clear"
        run = drive(Elsewhere, lines)
        assert Elsewhere.seen == [(2, 0)]
        assert What.CALLBACK not in {entry.what for entry in run.record}
        drive(Elsewhere, lines + "\ninvalidate p0 page=0 pages=3 event=clear")
        assert Elsewhere.seen == [(4, 0)]

    @pytest.mark.parametrize("overlapping", [True, False])
    def test_an_insert_while_a_range_is_active(self, overlapping: bool) -> None:
        """It counts as affected until the range ends; if that is an epoch, so long it waits."""

        class Second(Probe):
            entered = inserted = False

            def open(self, mm: AddressSpace) -> int:
                self.mm = mm
                self.first = self.subscribe(0, 1)
                self.list = ListNotifier()
                self.list.invalidate_range_start = self.start
                self.kernel.mmu_notifier_register(self.list, mm)
                return 0

            def start(self, range_: Range) -> int:
                self.entered = True
                self.kernel.wait_event(lambda: self.inserted)
                return 0

            def fault(self, address: int, write: bool) -> int:
                self.kernel.wait_event(lambda: self.entered)
                added = self.subscribe(3, 1)
                self.seen.append((sequences(self.mm), added.invalidate_seq, added.in_tree))
                self.inserted = True
                self.kernel.mmu_interval_read_begin(added)
                self.seen.append((sequences(self.mm), added.invalidate_seq, added.in_tree))
                self.kernel.mmu_interval_notifier_remove(added)
                return -errno.EFAULT

            def close(self) -> None:
                self.kernel.mmu_notifier_unregister(self.list)
                self.kernel.mmu_interval_notifier_remove(self.first)

        page = 0 if overlapping else 1
        run = drive(
            Second,
            f"""
            attach d0 p0
            invalidate p0 page={page} pages=1 event=clear
            fault d0 r page=0 pages=1
            """,
        )
        assert run.broken is None
        # An epoch that is open defers the addition (I15); without one it begins here (I3).
        assert Second.seen == [((3, 1), 3, not overlapping), ((4, 0), 3, True)]

    def test_ranges_that_overlap_in_time_are_one_epoch(self) -> None:
        class Nested(Probe):
            def open(self, mm: AddressSpace) -> int:
                self.mm = mm
                self.notifier = self.subscribe(0, 4)
                return 0

            def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
                self.kernel.mmu_interval_set_seq(notifier, sequence)
                self.seen.append((sequence, *sequences(self.mm)))
                if range_.event == Event.UNMAP:
                    self.kernel.wait_event(lambda: len(self.seen) == 2)
                return True

            def close(self) -> None:
                self.seen.append(sequences(self.mm))
                self.kernel.mmu_interval_notifier_remove(self.notifier)

        lines = """
            map p0 rw page=0 pages=1
            attach d0 p0
            unmap p0 page=0 pages=1
            invalidate p0 page=1 pages=1 event=clear
        """
        assert drive(Nested, lines).broken is None
        assert Nested.seen == [(3, 3, 1), (3, 3, 2), (4, 0)]


class Listener(Probe):
    """A list notifier; that of device 0 refuses what it may."""

    ends = True

    def open(self, mm: AddressSpace) -> int:
        self.mm = mm
        self.notifier = ListNotifier()
        self.notifier.invalidate_range_start = self.start
        if self.device.number or not self.ends:
            self.notifier.invalidate_range_end = self.end
        return self.kernel.mmu_notifier_register(self.notifier, mm)

    def close(self) -> None:
        self.kernel.mmu_notifier_unregister(self.notifier)

    def start(self, range_: Range) -> int:
        self.seen.append(("start", self.device.number))
        return 0 if self.device.number or range_.blockable else -errno.EAGAIN

    def end(self, range_: Range) -> None:
        self.seen.append(("end", self.device.number))


class TestRefusals:
    LINES = """
        attach d0 p0
        attach d1 p0
        invalidate p0 page=0 pages=1 event=unmap nonblock
    """

    def test_of_a_list_notifier_all_are_told_and_all_end(self) -> None:
        run = drive(Listener, self.LINES)
        assert run.outcomes[2] == AGAIN
        assert Listener.seen == [("start", 0), ("start", 1), ("end", 1)]

    def test_of_one_that_has_an_end_callback_are_not_allowed(self) -> None:
        class Both(Listener):
            ends = False

        assert broken(drive(Both, self.LINES)) == "B7"

    def test_of_a_range_that_may_block_are_not_allowed(self) -> None:
        class Never(Listener):
            def start(self, range_: Range) -> int:
                return -errno.EAGAIN

        assert broken(drive(Never, self.LINES.replace("nonblock", ""))) == "B3"

    def test_of_an_interval_stop_there_and_close_the_epoch(self) -> None:
        class Refusing(Listener):
            def open(self, mm: AddressSpace) -> int:
                super().open(mm)
                self.interval = self.subscribe(0, 4)
                return 0

            def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
                self.seen.append(("interval", self.device.number))
                return range_.blockable

            def close(self) -> None:
                self.seen.append(sequences(self.mm))
                self.kernel.mmu_interval_notifier_remove(self.interval)
                super().close()

        run = drive(Refusing, self.LINES)
        assert run.broken is None
        assert run.outcomes[2] == AGAIN
        assert Refusing.seen == [("interval", 0), (4, 0), (4, 0)]

    def test_by_an_interval_of_what_may_block_are_not_allowed(self) -> None:
        class Refusing(Probe):
            def open(self, mm: AddressSpace) -> int:
                self.mm = mm
                self.subscribe(0, 1)
                return 0

            def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
                return False

        lines = "attach d0 p0\ninvalidate p0 page=0 pages=1 event=clear"
        assert broken(drive(Refusing, lines)) == "B6"


def broken(run: Run) -> str:
    """The rule whose breach ended a run."""
    assert run.broken is not None
    return run.broken.rule


class Acting(Probe):
    """Does something, once or more, when it is asked for a fault."""

    act: ClassVar[Callable[[Acting], object]]

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.a, self.b = kernel.mutex("a"), kernel.mutex("b")
        self.spin = kernel.spinlock("s")

    def fault(self, address: int, write: bool) -> int:
        type(self).act(self)
        return -errno.EFAULT

    def in_both_orders(self) -> None:
        for first, second in ((self.a, self.b), (self.b, self.a)):
            first.lock()
            second.lock()
            second.unlock()
            first.unlock()

    def under_spin(self, act: Callable[[], object]) -> None:
        self.spin.lock()
        act()


Act = Callable[[Acting], object]


def often(act: Callable[[], object], times: int = 2) -> None:
    for _ in range(times):
        act()


ACTS: list[tuple[str, str, Act]] = [
    ("W1", "waits for ever", lambda it: it.kernel.wait_event(lambda: False)),
    ("W2", "spins", lambda it: often(it.kernel.cond_resched, 1 << 20)),
    ("W3", "locks in both orders", lambda it: it.in_both_orders()),
    ("W3", "locks twice", lambda it: often(it.a.lock)),
    ("W3", "unlocks what is not locked", lambda it: it.a.unlock()),
    ("W3", "keeps a lock", lambda it: it.a.trylock()),
    ("W4", "locks under a spin lock", lambda it: it.under_spin(it.a.lock)),
    ("W4", "waits under a spin lock",
     lambda it: it.under_spin(lambda: it.kernel.wait_event(lambda: True))),
    ("W4", "allocates under a spin lock",
     lambda it: it.under_spin(lambda: it.kernel.kmalloc("a table"))),
    ("W5", "keeps a subscription", lambda it: it.subscribe(0, 1)),
    ("W5", "keeps memory", lambda it: it.kernel.kmalloc("a table")),
    ("W5", "keeps an address space", lambda it: it.kernel.mmget_not_zero(it.mm)),
    ("W5", "keeps a frame of its own", lambda it: it.kernel.alloc_device_page()),
    ("W5", "keeps a pin", lambda it: it.kernel.pin_user_pages(it.mm, BASE, 1, write=True)),
    ("W5", "keeps a DMA address", lambda it: it.kernel.dma_map_page(0)),
    ("W5", "keeps a translation", lambda it: it.device.map(0, 0, 1, False)),
    ("W5", "keeps a frame", lambda it: it.kernel.get_page(0)),
    ("W6", "frees what it has not", lambda it: it.kernel.kfree(7)),
    ("W6", "puts what it has not", lambda it: it.kernel.put_page(0)),
    ("W6", "unmaps what is not mapped", lambda it: it.kernel.dma_unmap_page(7)),
    ("W6", "names a frame that is none", lambda it: it.kernel.get_page(1 << 50)),
    ("W6", "drops an address space twice", lambda it: often(lambda: it.kernel.mmput(it.mm))),
    ("P1", "unpins what is not pinned", lambda it: it.kernel.unpin_user_page(0)),
    ("R4", "raises", lambda it: it.kernel.kfree(0, 0)),  # type: ignore[call-arg]
]  # fmt: skip


@pytest.mark.parametrize(("rule", "act"), [(rule, act) for rule, _, act in ACTS],
                         ids=[name for _, name, _ in ACTS])  # fmt: skip
def test_a_driver_that(rule: str, act: Act) -> None:
    driver = type("Wrong", (Acting,), {"act": staticmethod(act)})
    run = drive(driver, "map p0 rw page=0 pages=1\nattach d0 p0\nfault d0 r page=0 pages=1")
    assert broken(run) == rule
    assert run.outcomes[:2] == [OK, OK]


class TestSleep:
    """Where a driver may not sleep, that it might is enough."""

    LINES = "attach d0 p0\ninvalidate p0 page=0 pages=1 event=clear"

    def subscriber(self, *, by_list: bool) -> type[Probe]:
        class Sleeping(Probe):
            def open(self, mm: AddressSpace) -> int:
                self.mm, self.lock = mm, self.kernel.mutex("lock")
                self.notifier = ListNotifier()
                self.notifier.invalidate_range_start = self.start
                if by_list:
                    self.kernel.mmu_notifier_register(self.notifier, mm)
                else:
                    self.interval = self.subscribe(0, 1)
                return 0

            def start(self, range_: Range) -> int:
                self.lock.lock()
                self.lock.unlock()
                return 0

            def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
                self.kernel.mmu_interval_set_seq(notifier, sequence)
                return self.start(range_) == 0

            def close(self) -> None:
                if by_list:
                    self.kernel.mmu_notifier_unregister(self.notifier)
                else:
                    self.kernel.mmu_interval_notifier_remove(self.interval)

        return Sleeping

    @pytest.mark.parametrize(("by_list", "rule"), [(True, "B2"), (False, "B6")])
    def test_in_a_callback(self, by_list: bool, rule: str) -> None:
        driver = self.subscriber(by_list=by_list)
        assert drive(driver, self.LINES).broken is None
        assert broken(drive(driver, self.LINES + " nonblock")) == rule

    def test_in_an_interrupt(self) -> None:
        class Sleeping(Probe):
            def complete(self, job: Job) -> None:
                self.kernel.might_sleep("complete")

        assert broken(drive(Sleeping, "attach d0 p0\ndread d0 page=0 offset=0 length=8")) == "W4"

    def test_an_allocation_in_a_callback_waits_for_itself(self) -> None:
        class Allocating(Probe):
            def open(self, mm: AddressSpace) -> int:
                self.mm = mm
                self.subscribe(0, 1)
                return 0

            def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
                self.kernel.kmalloc("a list of pages")
                return True

        assert broken(drive(Allocating, self.LINES)) == "S8"

    def test_a_subscription_is_not_removed_from_its_callback(self) -> None:
        class Removing(Probe):
            def open(self, mm: AddressSpace) -> int:
                self.mm = mm
                self.subscribe(0, 1)
                return 0

            def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
                self.kernel.mmu_interval_notifier_remove(notifier)
                return True

        assert broken(drive(Removing, self.LINES)) == "I14"


def test_two_tasks_that_wait_for_each_other_are_a_deadlock() -> None:
    class Crossed(Probe):
        """Its callback waits for a fault, which waits for the invalidation to end."""

        faulted = False

        def open(self, mm: AddressSpace) -> int:
            self.mm = mm
            self.notifier = self.subscribe(0, 1)
            return 0

        def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
            self.kernel.mmu_interval_set_seq(notifier, sequence)
            self.kernel.wait_event(lambda: self.faulted, "a fault")
            return True

        def fault(self, address: int, write: bool) -> int:
            self.kernel.mmu_interval_read_begin(self.notifier)
            self.faulted = True
            return 0

    run = drive(
        Crossed,
        """
        attach d0 p0
        invalidate p0 page=0 pages=1 event=clear
        fault d0 r page=0 pages=1
        """,
    )
    assert broken(run) == "W1"
    assert "a fault in operation 1" in str(run.broken)
    assert "mmu_interval_read_begin in operation 2" in str(run.broken)
