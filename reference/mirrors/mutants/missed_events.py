"""Class 7: an event that is not covered, or a channel that is lost."""

from __future__ import annotations

from reference.mirrors.caching import CachingDevice, Region
from reference.mirrors.events import MemoryEvents
from reference.mirrors.memory import PageTableEntry
from reference.operations import Kind, Operation
from reference.outcomes import Outcome

from .mutant import plant


@plant(
    "discard-missed",
    title="madvise with MADV_DONTNEED is not intercepted",
    seen_in="UCX 51a14c3eb8",
    base="caching",
    rule="I12",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x100000
        discard p0 page=0 pages=1
        dread d0 page=0 offset=0 length=8
    """,
)
class _DiscardMissed(CachingDevice):
    hooks = CachingDevice.hooks - {Kind.DISCARD}


@plant(
    "overlay-missed",
    title="mmap with MAP_FIXED over a live mapping is not intercepted",
    seen_in="UCX pull requests 2732, 2733",
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
class _OverlayMissed(CachingDevice):
    hooks = CachingDevice.hooks - {Kind.MAP}


@plant(
    "unmap-missed",
    title="munmap is not intercepted",
    seen_in="Open MPI #299",
    base="caching",
    rule="I12",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dread d0 page=0 offset=0 length=8
        unmap p0 page=0 pages=1
        dread d0 page=0 offset=0 length=8
    """,
)
class _UnmapMissed(CachingDevice):
    hooks = CachingDevice.hooks - {Kind.UNMAP}


@plant(
    "remap-argument-lost",
    title="the wrapper of mremap drops the new address, which is not invalidated",
    seen_in="UCX 5a9565dec4",
    base="caching",
    rule="I12",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=2
        attach d0 p0
        dwrite d0 page=1 offset=0 length=8 value=0x100000
        remap p0 page=0 pages=1 to=1
        dread d0 page=1 offset=0 length=8
    """,
)
class _RemapArgumentLost(CachingDevice):
    def hooked(self, slots: range) -> None:
        op = self.manager.operation
        if op.kind != Kind.REMAP or slots.start != op.target:
            super().hooked(slots)


@plant(
    "second-hook-wins",
    title="a second monitor overwrites the first",
    seen_in="libfabric pull request 6474",
    base="caching",
    rule="I12",
    minimal=6,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        attach d1 p0
        dread d0 page=0 offset=0 length=8
        unmap p0 page=0 pages=1
        dread d0 page=0 offset=0 length=8
    """,
)
class _SecondHookWins(CachingDevice):
    def attach(self, op: Operation) -> Outcome:
        outcome = super().attach(op)
        self.space.notifiers[:] = [self]
        return outcome


@plant(
    "unsubscribe-shared",
    title="dropping one region unsubscribes pages that another region still needs",
    seen_in="libfabric #5347",
    base="caching",
    rule="I12",
    minimal=8,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        attach d1 p0
        dread d0 page=0 offset=0 length=8
        dread d1 page=0 offset=0 length=8
        detach d0
        unmap p0 page=0 pages=1
        dread d1 page=0 offset=0 length=8
    """,
)
class _UnsubscribeShared(CachingDevice):
    def unsubscribe(self, region: Region) -> None:
        for slot in region.slots:
            self.watched[slot] = 0


@plant(
    "event-dropped-oom",
    title="an invalidation for which no entry can be allocated is lost",
    seen_in="UCX, Charm++ #2597",
    base="caching",
    rule="I12",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=3
        attach d0 p0
        dread d0 page=0 offset=0 length=8
        unmap p0 page=0 pages=3
        dread d0 page=0 offset=0 length=8
    """,
)
class _EventDropped(CachingDevice):
    def enqueue(self, slots: range) -> None:
        if self.has_room(slots):
            super().enqueue(slots)


@plant(
    "walker-blind",
    title="reclaim misreads a device-exclusive entry and frees the page under it",
    seen_in="the device-exclusive fix series of 2025",
    base="faulting",
    rule="X1",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        exclusive d0 page=0 pages=1
        reclaim p0 page=0 pages=1
        dread d0 page=0 offset=0 length=8
    """,
)
class _WalkerBlind(MemoryEvents):
    def reclaim_entry(self, entry: PageTableEntry, unit: range) -> bool:
        if entry.exclusive is None or entry.frame is None:
            return super().reclaim_entry(entry, unit)
        entry.frame.pool.free(entry.frame)
        return True
