"""Drivers with one thing left out: the checker names the rule that this breaks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from driving import programs, schedule, script

from reference.drivers import DRIVERS, Driver
from reference.drivers.caching import CachingDriver
from reference.drivers.counting import CountingDriver
from reference.drivers.faulting import FaultingDriver
from reference.drivers.refcounting import Buffer, RefcountingDriver
from reference.drivers.registration import Region, RegistrationDriver
from reference.host.hmm import HMM_PFN_WRITE, HmmRange
from reference.host.migrate import (
    MIGRATE_PFN_MIGRATE,
    MIGRATE_PFN_SHIFT,
    MIGRATE_PFN_VALID,
    MIGRATE_VMA_SELECT_SYSTEM,
    MigrateVma,
    migrate_pfn,
)
from reference.host.notifiers import IntervalNotifier
from reference.host.ranges import Range
from reference.host.run import run_program
from reference.host.space import AddressSpace
from reference.operations import Event
from reference.outcomes import Status
from reference.protocol import Profile, Violation, check
from reference.protocol.coverage import count
from reference.schedule import Injection, Schedule
from reference.syncmodels import Sync

READ_TWICE = """
    map p0 rw page=0 pages=2
    write p0 page=0 offset=0 length=8 value=1
    attach d0 p0
    dread d0 page=0 offset=0 length=8
    discard p0 page=0 pages=1
    dread d0 page=0 offset=0 length=8
"""
MIGRATED = """
    map p0 rw page=0 pages=1
    write p0 page=0 offset=0 length=8 value=1
    attach d0 p0
    dwrite d0 page=0 offset=0 length=8 value=2
    to_device d0 page=0 pages=1
    dread d0 page=0 offset=0 length=8
"""


def found(
    driver: type[Driver], lines: str, seeds: int = 1, profile: Profile = Profile.TOLERANT
) -> Violation | None:
    """What is wrong with the first run, of one under each of several schedules, that is wrong."""
    for seed in range(seeds):
        schedule = Schedule(strategy="random", seed=seed, depth=10) if seed else Schedule()
        program = replace(script(driver, lines), schedule=schedule)
        violation, _ = check(run_program(program, driver).record, driver.model, profile)
        if violation is not None:
            return violation
    return None


class NoFlush(FaultingDriver):
    def zap(self, start: int, end: int) -> None:
        for address in [address for address in self.entries if start <= address < end]:
            self.device.unmap(0, self.device.host.slot(address))
            self.kernel.dma_unmap_page(self.entries.pop(address))


class DmaKept(FaultingDriver):
    def zap(self, start: int, end: int) -> None:
        for address in [address for address in self.entries if start <= address < end]:
            slot = self.device.host.slot(address)
            self.device.unmap(0, slot)
            self.device.flush(slot, slot + 1)
            del self.entries[address]


class DmaFirst(FaultingDriver):
    def zap(self, start: int, end: int) -> None:
        for address, dma in self.entries.items():
            if dma and start <= address < end:
                self.kernel.dma_unmap_page(dma)
                self.entries[address] = 0
        super().zap(start, end)


class OnlyUnmap(FaultingDriver):
    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
        if range_.event == Event.UNMAP:
            return super().invalidate(notifier, range_, sequence)
        self.lock.lock()
        self.kernel.mmu_interval_set_seq(notifier, sequence)
        self.lock.unlock()
        return True


class NoSequence(FaultingDriver):
    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
        self.lock.lock()
        self.zap(range_.start, range_.end)
        self.lock.unlock()
        return True


class SequenceWithoutLock(FaultingDriver):
    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
        self.kernel.mmu_interval_set_seq(notifier, sequence)
        self.lock.lock()
        self.zap(range_.start, range_.end)
        self.lock.unlock()
        return True


class OtherLock(FaultingDriver):
    """The check is made under a lock of its own."""

    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        other = self.kernel.mutex("fault lock")
        while True:
            answer, range_ = self.collect(mm, notifier, start, flags, self.device.owner)
            if answer:
                return answer
            other.lock()
            if not self.kernel.mmu_interval_read_retry(notifier, range_.notifier_seq):
                answer = self.install(start, range_.hmm_pfns[0])
                other.unlock()
                return answer
            other.unlock()


class Installing(FaultingDriver):
    """Takes the steps of `populate` in an order of its own."""

    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        answer, range_ = self.collect(mm, notifier, start, flags, self.device.owner)
        return answer or self.commit(notifier, range_)

    def commit(self, notifier: IntervalNotifier, range_: HmmRange) -> int:
        raise NotImplementedError


class NoCheck(Installing):
    def commit(self, notifier: IntervalNotifier, range_: HmmRange) -> int:
        self.lock.lock()
        answer = self.install(range_.start, range_.hmm_pfns[0])
        self.lock.unlock()
        return answer


class CheckOutsideLock(Installing):
    def commit(self, notifier: IntervalNotifier, range_: HmmRange) -> int:
        self.lock.lock()
        stale = self.kernel.mmu_interval_read_retry(notifier, range_.notifier_seq)
        self.lock.unlock()
        if stale:
            return 0
        self.lock.lock()
        answer = self.install(range_.start, range_.hmm_pfns[0])
        self.lock.unlock()
        return answer


class CheckIgnored(Installing):
    def commit(self, notifier: IntervalNotifier, range_: HmmRange) -> int:
        self.lock.lock()
        self.kernel.mmu_interval_read_retry(notifier, range_.notifier_seq)
        answer = self.install(range_.start, range_.hmm_pfns[0])
        self.lock.unlock()
        return answer


class CheckWithoutLock(Installing):
    def commit(self, notifier: IntervalNotifier, range_: HmmRange) -> int:
        if self.kernel.mmu_interval_read_retry(notifier, range_.notifier_seq):
            return 0
        self.lock.lock()
        answer = self.install(range_.start, range_.hmm_pfns[0])
        self.lock.unlock()
        return answer


class CheckedTwice(FaultingDriver):
    def install(self, address: int, pfn: int) -> int:
        assert self.notifier is not None
        self.kernel.mmu_interval_read_retry(self.notifier, self.notifier.invalidate_seq)
        return super().install(address, pfn)


class OnlyAHint(Installing):
    """Asks without the lock, and takes that for the answer."""

    def commit(self, notifier: IntervalNotifier, range_: HmmRange) -> int:
        if self.kernel.mmu_interval_check_retry(notifier, range_.notifier_seq):
            return 0
        self.lock.lock()
        answer = self.install(range_.start, range_.hmm_pfns[0])
        self.lock.unlock()
        return answer


class HintFirst(FaultingDriver):
    """Does not take the lock for what is out of date already."""

    def collect(
        self,
        mm: AddressSpace,
        notifier: IntervalNotifier,
        start: int,
        flags: int,
        owner: object | None,
    ) -> tuple[int, HmmRange]:
        while True:
            answer, range_ = super().collect(mm, notifier, start, flags, owner)
            if not self.kernel.mmu_interval_check_retry(notifier, range_.notifier_seq):
                return answer, range_


class WritesUnasked(FaultingDriver):
    """Forgets to ask for a fault where it asks to write."""

    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        return super().populate(mm, notifier, start, flags & HMM_PFN_WRITE or flags)


class MapsSnapshots(FaultingDriver):
    """Asks for nothing, and takes what it finds for a page."""

    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        return super().populate(mm, notifier, start, 0)


class AttachesAnyway(FaultingDriver):
    def open(self, mm: AddressSpace) -> int:
        super().open(mm)
        return 0


class KnowsEveryEvent(FaultingDriver):
    """Takes an event that it does not know for none of its business."""

    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
        if range_.event <= Event.EXCLUSIVE:
            return super().invalidate(notifier, range_, sequence)
        self.lock.lock()
        self.kernel.mmu_interval_set_seq(notifier, sequence)
        self.lock.unlock()
        return True


class LooksBack(CountingDriver):
    """Takes references in the end callback on pages that the range had at its start."""

    gone: tuple[int, ...] = ()

    def invalidate_range_start(self, range_: Range) -> int:
        self.gone = tuple(
            self.device.dma[dma].number
            for address, dma in self.entries.items()
            if range_.start <= address < range_.end
        )
        return super().invalidate_range_start(range_)

    def invalidate_range_end(self, range_: Range) -> None:
        super().invalidate_range_end(range_)
        for frame in self.gone:
            self.kernel.get_page(frame)
            self.kernel.put_page(frame)


class AlwaysWritable(FaultingDriver):
    def install(self, address: int, pfn: int) -> int:
        return super().install(address, pfn | HMM_PFN_WRITE)


class Neighbour(FaultingDriver):
    """Maps the next page to the same frame, as if the page were a large one."""

    def install(self, address: int, pfn: int) -> int:
        return super().install(address, pfn) or super().install(
            address + self.kernel.page_size, pfn
        )


class WriteRightKept(FaultingDriver):
    """Takes the page, but no right, away where only rights change."""

    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
        if range_.event in (Event.PROTECTION_VMA, Event.PROTECTION_PAGE):
            self.lock.lock()
            self.kernel.mmu_interval_set_seq(notifier, sequence)
            self.lock.unlock()
            return True
        return super().invalidate(notifier, range_, sequence)


class OwnMigrationSkipped(FaultingDriver):
    def is_for_us(self, range_: Range) -> bool:
        return range_.owner is self.device.owner


class OwnMigrationZapped(OwnMigrationSkipped):
    """As it may be: what is skipped is zapped before the copy (E2)."""

    def copy(self, source: int, select: int) -> int:
        self.lock.lock()
        self.zap(0, 1 << 47)
        self.lock.unlock()
        return super().copy(source, select)


class MappedAfterPages(FaultingDriver):
    """Maps the copy itself, before or after it may."""

    early = False

    def migrate_page(self, mm: AddressSpace, address: int, select: int) -> int:
        if select != MIGRATE_VMA_SELECT_SYSTEM:
            return super().migrate_page(mm, address, select)
        args = MigrateVma(mm, address, address + self.kernel.page_size, select, self.device.owner)
        if self.kernel.migrate_vma_setup(args) or not args.cpages:
            return 0
        args.dst[0] = self.copy(args.src[0], select)
        if not self.early:
            self.kernel.migrate_vma_pages(args)
        moved = bool(args.dst[0] and args.src[0] & MIGRATE_PFN_MIGRATE)
        if moved:
            self.lock.lock()
            self.install(address, args.dst[0] >> MIGRATE_PFN_SHIFT | HMM_PFN_WRITE)
            self.lock.unlock()
        if self.early:
            self.kernel.migrate_vma_pages(args)
        self.kernel.migrate_vma_finalize(args)
        return int(moved)


class MappedBeforePages(MappedAfterPages):
    early = True


class NotCopied(FaultingDriver):
    def copy(self, source: int, select: int) -> int:
        if select != MIGRATE_VMA_SELECT_SYSTEM or not source & MIGRATE_PFN_VALID:
            return super().copy(source, select)
        target = self.kernel.alloc_device_page()
        return migrate_pfn(target) if target else 0


class AllocatesUnderLock(FaultingDriver):
    def install(self, address: int, pfn: int) -> int:
        self.kernel.kfree(self.kernel.kmalloc("an entry"))
        return super().install(address, pfn)


class WaitsForNobody(RefcountingDriver):
    def lock_idle(self, buffer: Buffer, blockable: bool) -> bool:
        self.lock.lock()
        return True


class TracesLeft(RefcountingDriver):
    """A busy buffer refuses, after its translations are gone."""

    def invalidate(
        self, buffer: Buffer, notifier: IntervalNotifier, range_: Range, sequence: int
    ) -> bool:
        if not range_.blockable:
            self.lock.lock()
            self.kernel.mmu_interval_set_seq(notifier, sequence)
            self.lock.unlock()
            return False
        return super().invalidate(buffer, notifier, range_, sequence)


class UnpinnedEarly(RegistrationDriver):
    def map(self, region: Region) -> int:
        answer = super().map(region)
        for pfn in region.pinned:
            self.kernel.unpin_user_page(pfn)
        region.pinned.clear()
        return answer


PROTECTED = """
    map p0 rw page=0 pages=1
    attach d0 p0
    dwrite d0 page=0 offset=0 length=8 value=1
    protect p0 r page=0 pages=1
"""
FORKED = PROTECTED.replace("protect p0 r page=0 pages=1", "fork p0 child=p1")
READ_ONLY = PROTECTED.replace("map p0 rw", "map p0 r").replace("dwrite", "dread")
READ_ONLY = READ_ONLY.replace(" value=1", "")
BUSY = """
    map p0 rw page=0 pages=1
    attach d0 p0
    register d0 key=1 rw page=0 pages=1
    dread d0 page=0 offset=0 length=8 key=1 job=1
    submit d0 job=1
    discard p0 page=0 pages=1
    wait d0 job=1
"""
REFUSED = BUSY.replace("discard p0 page=0", "invalidate p0 event=clear nonblock page=0")

CORRECT = [*DRIVERS.values(), CountingDriver, CachingDriver]
UNTOUCHED = """
    map p0 rw page=0 pages=1
    attach d0 p0
    dread d0 page=0 offset=0 length=8
"""
SHARED = READ_TWICE.replace("map p0 rw page=0 pages=2", "map p0 rw shared page=0 pages=2 file=0")
TOLD = READ_TWICE.replace("discard p0 page=0", "invalidate p0 event=unknown page=0")

CASES: list[tuple[type[Driver], str, str, int]] = [
    (NoFlush, READ_TWICE, "S5", 1),
    (DmaKept, READ_TWICE, "I12", 1),
    (DmaFirst, READ_TWICE, "S5", 1),
    (OnlyUnmap, READ_TWICE, "I12", 1),
    (NoSequence, READ_TWICE, "I6", 1),
    (SequenceWithoutLock, READ_TWICE, "I6", 1),
    (OtherLock, READ_TWICE, "I6", 1),
    (NoCheck, READ_TWICE, "H2", 1),
    (CheckOutsideLock, READ_TWICE, "H2", 1),
    (CheckWithoutLock, READ_TWICE, "I8", 1),
    (CheckIgnored, READ_TWICE, "I9", 400),
    (CheckedTwice, READ_TWICE, "I8", 1),
    (AlwaysWritable, READ_ONLY, "H5", 1),
    (Neighbour, READ_TWICE, "H2", 1),
    (WriteRightKept, PROTECTED, "E.PROTECTION_VMA", 1),
    (WriteRightKept, FORKED, "E.PROTECTION_PAGE", 1),
    (OwnMigrationSkipped, MIGRATED, "E2", 1),
    (MappedBeforePages, MIGRATED, "G6", 1),
    (NotCopied, MIGRATED, "G7", 1),
    (AllocatesUnderLock, READ_TWICE, "S8", 1),
    (WaitsForNobody, BUSY, "D2", 400),
    (TracesLeft, REFUSED, "B6", 400),
    (UnpinnedEarly, BUSY, "P2", 1),
    (OnlyAHint, READ_TWICE, "I11", 1),
    (WritesUnasked, PROTECTED, "H4", 1),
    (MapsSnapshots, UNTOUCHED, "H6", 1),
    (KnowsEveryEvent, TOLD, "E1", 1),
    (LooksBack, SHARED, "S3", 1),
]


@pytest.mark.parametrize(
    ("driver", "lines", "rule", "seeds"), CASES, ids=lambda case: getattr(case, "__name__", None)
)
def test_the_rule_is_named(driver: type[Driver], lines: str, rule: str, seeds: int) -> None:
    violation = found(driver, lines, seeds)
    assert violation is not None
    assert violation.rule == rule, violation


def test_an_insertion_that_fails_is_passed_on() -> None:
    failing = Schedule(injections=(Injection("insert", 1),))
    for driver, rule in ((AttachesAnyway, "I1"), (FaultingDriver, None)):
        program = replace(script(driver, READ_TWICE), schedule=failing)
        run = run_program(program, driver)
        violation, exercised = check(run.record, driver.model)
        assert (violation and violation.rule) == rule
        assert exercised["I1"] == (rule is None)
        assert run.outcomes[2].status == (Status.ERROR if rule is None else Status.OK)


@pytest.mark.parametrize("driver", [OwnMigrationZapped, MappedAfterPages, HintFirst])
def test_what_is_allowed_is_not_held_against_a_driver(driver: type[Driver]) -> None:
    assert found(driver, MIGRATED, 100) is None


def test_the_strict_profile_asks_for_the_sequence_in_every_callback() -> None:
    lines = MIGRATED.replace("to_device d0", "exclusive d0")
    assert found(FaultingDriver, lines) is None
    violation = found(FaultingDriver, lines, profile=Profile.STRICT)
    assert violation is not None
    assert violation.rule == "I6"


@pytest.mark.parametrize("driver", CORRECT, ids=lambda driver: driver.name)
def test_correct_drivers_break_no_rule(driver: type[Driver]) -> None:
    exercised: Counter[str] = Counter()
    for seed, program in enumerate(programs(driver, 450, 5, pages=3, most=12)):
        strategy = ("follow", "random", "pct")[seed % 3]
        run = run_program(replace(program, schedule=schedule(strategy, seed)), driver)
        violation, counts = check(run.record, driver.model)
        assert violation is None, (seed, violation)
        exercised += counts
    assert exercised["S5"] > 0, "translations were made and torn down"
    if driver.model != Sync.REGISTRATION:
        assert count(exercised, "I12/*/blockable/*") > 0
