"""Class 8: permissions."""

from __future__ import annotations

from reference.mirrors.caching import CachingDevice, Region
from reference.mirrors.faulting import FaultingDevice, Translation
from reference.mirrors.frames import Frame
from reference.mirrors.manager import MemoryManager
from reference.mirrors.memory import PageTableEntry
from reference.operations import Event, Operation
from reference.outcomes import Outcome

from .mutant import plant


@plant(
    "ro-mapped-rw",
    title="the device may write through its translation of a read-only mapping",
    seen_in="KVM bd2fae8da794",
    base="faulting",
    rule="H3",
    minimal=4,
    sequence="""
        map p0 r page=0 pages=1
        attach d0 p0
        dread d0 page=0 offset=0 length=8
        dwrite d0 page=0 offset=0 length=8 value=0x100000
    """,
)
class _ReadOnlyMappedWritable(FaultingDevice):
    def establish(self, entry: PageTableEntry) -> None:
        if entry.frame is not None:
            self.translations[entry.slot] = Translation(entry.frame, True)


@plant(
    "mask-carried-over",
    title="the right to write of the first page of a range is used for the next ones",
    seen_in="mlx5 1abe186ed8a6",
    base="faulting",
    rule="H3",
    minimal=6,
    sequence="""
        map p0 rw page=0 pages=1
        map p0 r page=1 pages=1
        attach d0 p0
        write p0 page=0 offset=0 length=8 value=0x100000
        fault d0 r page=0 pages=2
        dwrite d0 page=1 offset=0 length=8 value=0x200000
    """,
)
class _MaskCarriedOver(FaultingDevice):
    def fault(self, op: Operation) -> Outcome:
        outcome = super().fault(op)
        slots = [slot for slot in range(op.page, op.page + op.pages) if slot in self.translations]
        for slot in slots:
            writable = self.translations[slots[0]].writable
            self.translations[slot] = self.translations[slot]._replace(writable=writable)
        return outcome


@plant(
    "upgrade-not-seen",
    title="a cached read-only entry outlives the upgrade and the device faults for ever",
    seen_in="SMMU 6bbd42e2df8f",
    base="faulting",
    rule="A2",
    minimal=5,
    sequence="""
        map p0 r page=0 pages=1
        attach d0 p0
        dread d0 page=0 offset=0 length=8
        protect p0 rw page=0 pages=1
        dwrite d0 page=0 offset=0 length=8 value=0x100000
    """,
)
class _UpgradeNotSeen(FaultingDevice):
    def __init__(self, manager: MemoryManager, number: int) -> None:
        super().__init__(manager, number)
        self.denied: set[int] = set()

    def establish(self, entry: PageTableEntry) -> None:
        super().establish(entry)
        if not self.space.areas[entry.slot].writable:
            self.denied.add(entry.slot)

    def translate(self, slot: int, write: bool) -> Frame | None:
        return None if write and slot in self.denied else super().translate(slot, write)

    def invalidate(self, first: int, end: int, event: Event, blockable: bool) -> bool:
        if event != Event.PROTECTION_VMA:
            self.denied.difference_update(range(first, end))
        return super().invalidate(first, end, event, blockable)


@plant(
    "downgrade-not-seen",
    title="the device keeps its right to write when mprotect takes it away",
    seen_in="our own",
    base="faulting",
    rule="I12",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x100000
        protect p0 r page=0 pages=1
        dwrite d0 page=0 offset=0 length=8 value=0x200000
    """,
)
class _DowngradeNotSeen(FaultingDevice):
    def invalidate(self, first: int, end: int, event: Event, blockable: bool) -> bool:
        if event == Event.PROTECTION_VMA:
            return True
        return super().invalidate(first, end, event, blockable)


@plant(
    "cached-weaker-flags",
    title="a cache hit gives an entry without the rights that were asked for",
    seen_in="UCX 6c849cf028, libfabric 5136f433b",
    base="caching",
    rule="A2",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dread d0 page=0 offset=0 length=8
        dwrite d0 page=0 offset=0 length=8 value=0x100000
    """,
)
class _CachedWeakerFlags(CachingDevice):
    def matches(self, region: Region, slots: range, write: bool) -> bool:
        return region.covers(slots)
