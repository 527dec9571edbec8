"""Class 14: work that never ends."""

from __future__ import annotations

from reference.drivers.faulting import FaultingDriver
from reference.host.migrate import MIGRATE_VMA_SELECT_DEVICE_PRIVATE, MIGRATE_VMA_SELECT_SYSTEM
from reference.host.notifiers import IntervalNotifier
from reference.host.space import AddressSpace

from .mutant import plant


@plant(
    "eagain-forever",
    title="a fault on what was invalidated tries again with what it has collected",
    seen_in="Xe e775e2a060d9",
    base="faulting",
    rule="I8",
    harm="W2",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        fault d0 rw page=0 pages=1
        discard p0 page=0 pages=1
    """,
    switches=[("d0", 2, 6, "p0")],
)
class _EagainForever(FaultingDriver):
    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        answer, range_ = self.collect(mm, notifier, start, flags, self.device.owner)
        if answer:
            return answer
        while True:
            self.lock.lock()
            if not self.kernel.mmu_interval_read_retry(notifier, range_.notifier_seq):
                answer = self.install(start, range_.hmm_pfns[0])
                self.lock.unlock()
                return answer
            self.lock.unlock()


@plant(
    "trylock-spin",
    title="whoever evicts spins on a page that a migration has locked, and keeps it from going on",
    seen_in="CVE-2026-43404",
    base="faulting",
    rule="W2",
    harm="W2",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        to_device d0 page=0 pages=1
        read p0 page=0 offset=0 length=8
        detach d0
    """,
    switches=[("p0", 3, 12, "d0")],
)
class _TrylockSpin(FaultingDriver):
    def evict(self) -> None:
        for pfn in self.kernel.device_pages():
            while (place := self.kernel.address_of_device_page(pfn)) is not None:
                mm, address = place
                self.kernel.mmap_read_lock(mm)
                self.migrate_page(mm, address, MIGRATE_VMA_SELECT_DEVICE_PRIVATE)
                self.kernel.mmap_read_unlock(mm)


@plant(
    "full-device-spin",
    title="a migration to a device that is full waits for room that nobody makes",
    seen_in="UVM #1223",
    base="faulting",
    rule="W2",
    harm="W2",
    minimal=3,
    sequence="""
        map p0 rw page=0 pages=5
        attach d0 p0
        to_device d0 page=0 pages=5
    """,
)
class _FullDeviceSpin(FaultingDriver):
    def copy(self, source: int, select: int) -> int:
        while not (target := super().copy(source, select)) and select == MIGRATE_VMA_SELECT_SYSTEM:
            self.kernel.cond_resched()
        return target
