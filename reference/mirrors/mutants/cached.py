"""Class 15: cached registrations."""

from __future__ import annotations

from reference.mirrors.caching import CachingDevice, Region
from reference.mirrors.manager import MemoryManager

from .mutant import plant


@plant(
    "hit-after-remap",
    title="the same address is mapped anew and the registration of the old memory reused",
    seen_in="libfabric-cray #1350",
    base="caching",
    rule="I12",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x100000
        map p0 rw page=0 pages=1
        dread d0 page=0 offset=0 length=8
    """,
)
class _HitAfterRemap(CachingDevice):
    def __init__(self, manager: MemoryManager, number: int) -> None:
        super().__init__(manager, number)
        self.retired: dict[range, Region] = {}

    def forget(self, region: Region) -> None:
        self.regions.remove(region)
        self.unsubscribe(region)
        self.retired[region.slots] = region

    def pin(self, slots: range, write: bool) -> Region | None:
        region = self.retired.get(slots)
        mapped = all(slot in self.space.areas for slot in slots)
        if region is None or not mapped or (write and not region.writable):
            return super().pin(slots, write)
        self.regions.append(self.retired.pop(slots))
        self.subscribe(region)
        return region

    def release(self) -> None:
        super().release()
        for region in self.retired.values():
            self.unpin(region)
        self.retired.clear()
