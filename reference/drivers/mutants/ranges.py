"""Class 6: arithmetic with ranges."""

from __future__ import annotations

from reference.drivers.caching import CachingDriver, Region
from reference.drivers.faulting import FaultingDriver
from reference.host.ranges import Range

from .mutant import plant


@plant(
    "zero-size-lookup",
    title="a look-up of size zero misses the entry that starts right there",
    seen_in="vfio type1 7c03f4284643",
    base="faulting",
    rule="I12",
    harm="I12",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x100000
        discard p0 page=0 pages=1
        dread d0 page=0 offset=0 length=8
    """,
)
class _ZeroSizeLookup(FaultingDriver):
    def zap(self, start: int, end: int) -> None:
        # The first entry is looked for between `start` and itself.
        super().zap(start + self.kernel.page_size if start in self.entries else start, end)


@plant(
    "end-inclusive",
    title="the end of a range counts as part of it when DMA mappings are dropped",
    seen_in="UCX c6b13e7380; libfabric 16740f50c",
    base="faulting",
    rule="S5",
    harm="W5",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=2
        attach d0 p0
        dread d0 page=1 offset=0 length=8
        unmap p0 page=0 pages=1
    """,
)
class _EndInclusive(FaultingDriver):
    def zap(self, start: int, end: int) -> None:
        super().zap(start, end)
        # As with interval_tree_iter_first() or xa_for_each_range(), which take the last address.
        beside = self.entries.pop(end, 0)
        if beside:
            self.kernel.dma_unmap_page(beside)


@plant(
    "vma-split",
    title="each piece of a mapping that is unmapped takes the whole region with it",
    seen_in="gntdev 5c13a4a0291b",
    base="caching",
    rule="W6",
    harm="W6",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=2
        attach d0 p0
        register d0 key=1 rw page=0 pages=2
        unregister d0 key=1
        unmap p0 page=0 pages=1
    """,
)
class _VmaSplit(CachingDriver):
    def invalidate_range_start(self, range_: Range) -> int:
        partly = [
            region
            for region in self.affected(range_.start, range_.end)
            if not range_.start <= region.start <= region.end <= range_.end
        ]
        answer = super().invalidate_range_start(range_)
        self.regions += partly
        return answer

    def free(self, region: Region) -> None:
        for dma in region.mapped:
            self.kernel.dma_unmap_page(dma)
        for pfn in region.pinned:
            self.kernel.unpin_user_page(pfn)


@plant(
    "first-chunk-only",
    title="the address does not advance, and only the first page is moved",
    seen_in="nouveau/svm 66cee9097e2b",
    base="faulting",
    rule="R4",
    harm="R4",
    minimal=3,
    sequence="""
        map p0 rw page=0 pages=2
        attach d0 p0
        to_device d0 page=0 pages=2
    """,
)
class _FirstChunkOnly(FaultingDriver):
    def migrate(self, start: int, end: int, select: int) -> int:
        page = self.kernel.page_size
        return super().migrate(start, start + page, select) * ((end - start) // page)
