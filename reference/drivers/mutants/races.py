"""Class 1: installing a translation races with an invalidation."""

from __future__ import annotations

import errno

from reference.drivers.counting import CountingDriver
from reference.drivers.faulting import FaultingDriver
from reference.drivers.refcounting import Buffer, RefcountingDriver
from reference.host.hardware import Device
from reference.host.hmm import HMM_PFN_REQ_FAULT, HMM_PFN_REQ_WRITE, HMM_PFN_WRITE, HmmRange
from reference.host.kernel import Kernel
from reference.host.notifiers import IntervalNotifier
from reference.host.ranges import Range
from reference.host.space import AddressSpace

from .mutant import plant


@plant(
    "hmm-aba",
    title="whether an invalidation is under way is asked, and one that is over goes unseen",
    seen_in="mm/hmm 04ec32fbc2b2",
    base="faulting",
    rule="H2",
    harm="C1",
    minimal=3,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dread d0 page=0 offset=0 length=8
        write p0 page=0 offset=0 length=8 value=0x100000
    """,
    switches=[("d0", 2, 7, "p0")],
)
class _HmmAba(FaultingDriver):
    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        while True:
            answer, range_ = self.collect(mm, notifier, start, flags, self.device.owner)
            if answer:
                return answer
            self.lock.lock()
            if not mm.subscriptions.invalidating:
                answer = self.install(start, range_.hmm_pfns[0])
                self.lock.unlock()
                return answer
            self.lock.unlock()


@plant(
    "start-only",
    title="the start drops translations, and nothing keeps a fault from making them anew",
    seen_in="several notifier users, merge ea25c4317946",
    base="faulting",
    rule="I6",
    harm="C1",
    minimal=2,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dread d0 page=0 offset=0 length=8
        write p0 page=0 offset=0 length=8 value=0x100000
    """,
    switches=[("d0", 2, 7, "p0")],
)
class _StartOnly(FaultingDriver):
    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
        if self.is_for_us(range_):
            return True
        if range_.blockable:
            self.lock.lock()
        elif not self.lock.trylock():
            return False
        self.zap(range_.start, range_.end)
        self.lock.unlock()
        return True


@plant(
    "seq-after-lookup",
    title="the right to write is looked up before the sequence is read",
    seen_in="KVM arm64 6.3 fixes 8607daa2145f",
    base="faulting",
    rule="H5",
    harm="H3",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x100000
        protect p0 r page=0 pages=1
    """,
    switches=[("d0", 2, 8, "p0")],
)
class _SequenceAfterLookup(FaultingDriver):
    def collect(
        self,
        mm: AddressSpace,
        notifier: IntervalNotifier,
        start: int,
        flags: int,
        owner: object | None,
    ) -> tuple[int, HmmRange]:
        answer, rights = super().collect(mm, notifier, start, flags, owner)
        if answer:
            return answer, rights
        answer, range_ = super().collect(mm, notifier, start, flags & ~HMM_PFN_REQ_WRITE, owner)
        if answer == 0:
            range_.hmm_pfns[0] |= rights.hmm_pfns[0] & HMM_PFN_WRITE
        return answer, range_


@plant(
    "check-outside-lock",
    title="the sequence is checked before the lock is taken that installing needs",
    seen_in="KFD userptr 69cede2a5a5f",
    base="faulting",
    rule="I8",
    harm="C1",
    minimal=3,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dread d0 page=0 offset=0 length=8
        write p0 page=0 offset=0 length=8 value=0x100000
    """,
    switches=[("d0", 2, 9, "p0")],
)
class _CheckOutsideLock(FaultingDriver):
    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        while True:
            answer, range_ = self.collect(mm, notifier, start, flags, self.device.owner)
            if answer:
                return answer
            if self.kernel.mmu_interval_read_retry(notifier, range_.notifier_seq):
                continue
            self.lock.lock()
            answer = self.install(start, range_.hmm_pfns[0])
            self.lock.unlock()
            return answer


@plant(
    "stale-input-on-retry",
    title="what a failed try has collected is taken for the request of the next",
    seen_in="nouveau 0cafc62e4daf",
    base="faulting",
    rule="A2",
    harm="A2",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        write p0 page=0 offset=0 length=8 value=0x100000
        attach d0 p0
        dread d0 page=0 offset=0 length=8
        protect p0 r page=0 pages=1
    """,
    switches=[("d0", 3, 8, "p0")],
)
class _StaleInputOnRetry(FaultingDriver):
    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.pfns: list[int] = []

    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        self.pfns = []
        return super().populate(mm, notifier, start, flags)

    def collect(
        self,
        mm: AddressSpace,
        notifier: IntervalNotifier,
        start: int,
        flags: int,
        owner: object | None,
    ) -> tuple[int, HmmRange]:
        while True:
            range_ = HmmRange(
                notifier,
                self.kernel.mmu_interval_read_begin(notifier),
                start,
                start + self.kernel.page_size,
                default_flags=flags,
                pfn_flags_mask=HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE,
                dev_private_owner=owner,
                hmm_pfns=self.pfns,
            )
            self.kernel.mmap_read_lock(mm)
            answer = self.kernel.hmm_range_fault(range_)
            self.kernel.mmap_read_unlock(mm)
            self.pfns = range_.hmm_pfns
            if answer != -errno.EBUSY:
                return answer, range_


@plant(
    "reg-mid-invalidate",
    title="a buffer registered between start and end takes the sequence without waiting",
    seen_in="KVM 723f68f41596, ODP 882214e2b128",
    base="refcounting",
    rule="I2",
    harm="I12",
    minimal=2,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=2 r page=0 pages=1
        discard p0 page=0 pages=1
        register d0 key=1 r page=0 pages=1
        write p0 page=0 offset=0 length=8 value=0x100000
        dread d0 page=0 offset=0 length=8 key=1
    """,
    switches=[("p0", 3, 3, "d0")],
)
class _RegisteredMidInvalidation(RefcountingDriver):
    def collect(self, mm: AddressSpace, buffer: Buffer) -> tuple[int, HmmRange]:
        while True:
            range_ = HmmRange(
                buffer.notifier,
                buffer.notifier.invalidate_seq,
                buffer.start,
                buffer.end,
                default_flags=HMM_PFN_REQ_FAULT | (HMM_PFN_REQ_WRITE if buffer.write else 0),
            )
            self.kernel.mmap_read_lock(mm)
            answer = self.kernel.hmm_range_fault(range_)
            self.kernel.mmap_read_unlock(mm)
            if answer != -errno.EBUSY:
                return answer, range_


@plant(
    "nested-end-reopens",
    title="the first end of two invalidations that overlap lets faults in again",
    seen_in="our own",
    base="counting",
    rule="I12",
    harm="I12",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        read p0 page=0 offset=0 length=8
        discard p0 page=0 pages=1
        dwrite d0 page=0 offset=0 length=8 value=0x100000
        dread d0 page=0 offset=0 length=8
    """,
    switches=[("p0", 3, 5, "d0")],
)
class _NestedEndReopens(CountingDriver):
    def invalidate_range_end(self, range_: Range) -> None:
        self.lock.lock()
        self.invalidations.finish()
        self.invalidations.count = 0
        self.lock.unlock()
