"""Class 13: an operation that failed leaves something behind."""

from __future__ import annotations

import errno

from reference.drivers.caching import CachingDriver, Region
from reference.drivers.refcounting import Buffer, RefcountingDriver
from reference.host.hardware import Device
from reference.host.hmm import HMM_PFN_ORDER_SHIFT, HMM_PFN_WRITE, hmm_pfn_to_number
from reference.host.kernel import Kernel
from reference.host.space import AddressSpace

from .mutant import plant


@plant(
    "partial-fault-unwind",
    title="pages that were mapped before one failed stay mapped",
    seen_in="gpusvm 556dba954739",
    base="refcounting",
    rule="W5",
    harm="W5",
    minimal=3,
    sequence="""
        map p0 rw page=0 pages=2
        attach d0 p0
        register d0 key=1 rw page=0 pages=2
    """,
    injections=[("allocation", 2)],
)
class _PartialFaultUnwind(RefcountingDriver):
    def install(self, buffer: Buffer, pfns: list[int]) -> int:
        entries: dict[int, int] = {}
        for page, pfn in enumerate(pfns):
            address = buffer.start + page * self.kernel.page_size
            dma = self.kernel.dma_map_page(hmm_pfn_to_number(pfn))
            if not dma:
                return -errno.ENOMEM
            entries[address] = dma
            writable = buffer.write and bool(pfn & HMM_PFN_WRITE)
            self.device.map(buffer.key, self.device.host.slot(address), dma, writable)
        buffer.entries = entries
        return 0


@plant(
    "merge-with-dead-neighbour",
    title="a region is merged with a neighbour that is no longer mapped, and nothing else is tried",
    seen_in="UCX 778d47b0a1",
    base="caching",
    rule="A2",
    harm="A2",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=2
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
        unmap p0 page=0 pages=1
        register d0 key=2 rw page=1 pages=1
    """,
)
class _MergeWithDeadNeighbour(CachingDriver):
    def create(self, mm: AddressSpace, start: int, end: int, write: bool) -> Region | int:
        before = [region for region, _ in self.keys.values() if region.end == start]
        return super().create(mm, before[0].start if before else start, end, write)


@plant(
    "unmap-length-mismatch",
    title="the pages of a huge page are mapped for DMA one by one and unmapped as if once",
    seen_in="RDMA/odp 2019-06-13",
    base="refcounting",
    rule="W5",
    harm="W5",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=2
        collapse p0 page=0 pages=2
        attach d0 p0
        register d0 key=1 rw page=0 pages=2
    """,
)
class _UnmapLengthMismatch(RefcountingDriver):
    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.huge: set[int] = set()

    def install(self, buffer: Buffer, pfns: list[int]) -> int:
        self.huge = {buffer.key for pfn in pfns if pfn >> HMM_PFN_ORDER_SHIFT & 31}
        return super().install(buffer, pfns)

    def zap(self, buffer: Buffer) -> None:
        if buffer.key in self.huge:
            for address in list(buffer.entries)[1:]:
                self.device.unmap(buffer.key, self.device.host.slot(address))
                del buffer.entries[address]
        super().zap(buffer)
