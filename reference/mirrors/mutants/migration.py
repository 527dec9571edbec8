"""Class 11: migration keeps the value; class 12: other devices' pages."""

from __future__ import annotations

from reference.mirrors.faulting import DeviceMemory, FaultingDevice, Translation
from reference.mirrors.frames import Contents, Frame
from reference.operations import WORD

from .mutant import plant


@plant(
    "dirty-lost",
    title="migration forgets that a page is dirty, then fails, and reclaim drops the data",
    seen_in="migrate_vma, fd35ca3d12cc",
    base="faulting",
    rule="G9",
    minimal=6,
    sequence="""
        map p0 rw page=0 pages=4
        write p0 page=3 offset=0 length=8 value=0x100000
        attach d0 p0
        to_device d0 page=0 pages=4
        reclaim p0 page=3 pages=1
        read p0 page=3 offset=0 length=8
    """,
)
class _DirtyLost(FaultingDevice):
    def send(self, slot: int) -> bool:
        moved = super().send(slot)
        entry = self.space.table.get(slot)
        full = len(self.memory.live) == self.memory.capacity
        if full and not moved and entry is not None and entry.frame is not None:
            entry.frame.dirty = False
        return moved


class _UncheckedMemory(DeviceMemory):
    def copy(self, source: Frame, target: Frame) -> None:
        self.engine(source, target)


@plant(
    "failed-copy-accepted",
    title="a failed copy goes unseen and the uninitialised page is handed to the processor",
    seen_in="nouveau 835745a377a4",
    base="faulting",
    rule="G9",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=3
        attach d0 p0
        to_device d0 page=0 pages=3
        read p0 page=2 offset=0 length=8
    """,
)
class _FailedCopyAccepted(FaultingDevice):
    memory_class = _UncheckedMemory


@plant(
    "hole-not-zeroed",
    title="a page that was never touched migrates to a recycled frame that is not zeroed",
    seen_in="amdkfd c969c5fd21fd",
    base="faulting",
    rule="G4",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        to_device d0 page=0 pages=1
        dread d0 page=0 offset=0 length=8
    """,
)
class _HoleNotZeroed(FaultingDevice):
    def clear(self, frame: Frame) -> None:
        """Leaves the frame as it is."""


class _HalfCopyingMemory(DeviceMemory):
    def copy(self, source: Frame, target: Frame) -> None:
        garbage = target.fill
        super().copy(source, target)
        half = self.page_size // WORD // 2
        target.write(half, half, garbage)


@plant(
    "half-copied",
    title="only the first half of a page is copied",
    seen_in="our own",
    base="faulting",
    rule="G9",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        to_device d0 page=0 pages=1
        read p0 page=0 offset=2048 length=8
    """,
)
class _HalfCopied(FaultingDevice):
    memory_class = _HalfCopyingMemory


class _ForgettingMemory(DeviceMemory):
    def __init__(self, device: FaultingDevice) -> None:
        super().__init__(device)
        self.kept: dict[int, Contents] = {}

    def allocate(self) -> Frame | None:
        frame = super().allocate()
        if frame is not None:
            self.kept[frame.number] = Contents(0, {})
        return frame

    def copy(self, source: Frame, target: Frame) -> None:
        super().copy(source, target)
        if target.pool is self:
            self.kept[target.number] = source.contents()
        else:
            target.load(self.kept[source.number])


@plant(
    "device-dirty-lost",
    title="migration back skips what the device wrote",
    seen_in="our own",
    base="faulting",
    rule="G9",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        to_device d0 page=0 pages=1
        dwrite d0 page=0 offset=0 length=8 value=0x100000
        read p0 page=0 offset=0 length=8
    """,
)
class _DeviceDirtyLost(FaultingDevice):
    memory_class = _ForgettingMemory


@plant(
    "non-owner-refused",
    title="a fault on a page in another device's memory gives an error",
    seen_in="mm/hmm 8a295dbbaf72",
    base="faulting",
    rule="H7",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        attach d1 p0
        to_device d0 page=0 pages=1
        dread d1 page=0 offset=0 length=8
    """,
)
class _NonOwnerRefused(FaultingDevice):
    def fault_in(self, slot: int, write: bool) -> Translation | None:
        entry = self.space.table.get(slot)
        owner = None if entry is None or entry.frame is None else entry.frame.device
        return super().fault_in(slot, write) if owner in {None, self} else None
