"""Class 8: permissions."""

from __future__ import annotations

from reference.drivers.faulting import FaultingDriver
from reference.host.hmm import HMM_PFN_REQ_WRITE, HMM_PFN_WRITE
from reference.host.notifiers import IntervalNotifier
from reference.host.space import AddressSpace

from .mutant import plant


@plant(
    "cow-break-forgotten",
    title="a write is tried again as a read, although the copy made for it is gone",
    seen_in="CVE-2016-5195, CVE-2022-2590",
    base="faulting",
    rule="H5",
    harm="A4",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=2
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x100000
        discard p0 page=0 pages=1
        read p0 page=1 offset=0 length=8
    """,
    switches=[("d0", 2, 7, "p0")],
)
class _CowBreakForgotten(FaultingDriver):
    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        right = HMM_PFN_WRITE if flags & HMM_PFN_REQ_WRITE else 0
        while True:
            answer, range_ = self.collect(mm, notifier, start, flags, self.device.owner)
            if answer:
                return answer
            self.lock.lock()
            if not self.kernel.mmu_interval_read_retry(notifier, range_.notifier_seq):
                answer = self.install(start, range_.hmm_pfns[0] | right)
                self.lock.unlock()
                return answer
            self.lock.unlock()
            flags &= ~HMM_PFN_REQ_WRITE
