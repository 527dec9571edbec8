"""Class 5: where callbacks run, and what they take while they do."""

from __future__ import annotations

from reference.drivers.faulting import FaultingDriver
from reference.drivers.refcounting import Buffer, RefcountingDriver
from reference.host.hardware import Device
from reference.host.kernel import Kernel
from reference.host.notifiers import IntervalNotifier
from reference.host.ranges import Range
from reference.host.space import AddressSpace

from .mutant import plant


@plant(
    "sleep-in-atomic",
    title="the callback takes a mutex although the invalidation may not block",
    seen_in="ea25c4317946, hfi1 b85ced91511f",
    base="faulting",
    rule="B6",
    harm="B6",
    minimal=2,
    sequence="""
        attach d0 p0
        invalidate p0 page=0 pages=1 event=clear nonblock
    """,
)
class _SleepInAtomic(FaultingDriver):
    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
        if self.is_for_us(range_):
            return True
        self.lock.lock()
        self.kernel.mmu_interval_set_seq(notifier, sequence)
        self.zap(range_.start, range_.end)
        self.lock.unlock()
        return True


@plant(
    "register-under-own-lock",
    title="registering breaks copy-on-write under the lock that the callback then needs",
    seen_in="libfabric #5687",
    base="refcounting",
    rule="W3",
    harm="W3",
    minimal=3,
    sequence="""
        map p0 rw page=0 pages=1
        read p0 page=0 offset=0 length=8
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
    """,
)
class _RegisterUnderOwnLock(RefcountingDriver):
    def populate(self, mm: AddressSpace, buffer: Buffer) -> int:
        self.lock.lock()
        answer, range_ = self.collect(mm, buffer)
        if answer == 0:
            answer = self.install(buffer, range_.hmm_pfns)
        self.lock.unlock()
        return answer


@plant(
    "peer-lock-inversion",
    title="invalidation and release take two locks in opposite orders",
    seen_in="nv_peer_memory PR 92",
    base="refcounting",
    rule="W3",
    harm="W3",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
        discard p0 page=0 pages=1
    """,
)
class _PeerLockInversion(RefcountingDriver):
    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.peers = kernel.mutex("peer lock")

    def invalidate(
        self, buffer: Buffer, notifier: IntervalNotifier, range_: Range, sequence: int
    ) -> bool:
        if range_.blockable:
            self.peers.lock()
        elif not self.peers.trylock():
            return False
        answer = super().invalidate(buffer, notifier, range_, sequence)
        self.peers.unlock()
        return answer

    def destroy(self, buffer: Buffer) -> None:
        self.kernel.mmu_interval_notifier_remove(buffer.notifier)
        self.lock.lock()
        self.peers.lock()
        self.zap(buffer)
        self.peers.unlock()
        self.lock.unlock()


@plant(
    "dirty-needs-lock",
    title="the callback takes a page's lock, which reclaim and migration hold as they call it",
    seen_in="i915 userptr, bugzilla 203317",
    base="faulting",
    rule="W1",
    harm="W1",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x100000
        migrate p0 page=0 pages=1
    """,
)
class _DirtyNeedsLock(FaultingDriver):
    def zap(self, start: int, end: int) -> None:
        for address, dma in self.entries.items():
            if start <= address < end and dma:
                self.kernel.set_page_dirty_lock(self.device.dma[dma].number)
        super().zap(start, end)
