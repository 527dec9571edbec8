"""Class 6: range arithmetic."""

from __future__ import annotations

from reference.mirrors.caching import CachingDevice, Region
from reference.mirrors.device import Job
from reference.mirrors.faulting import FaultingDevice
from reference.mirrors.registration import Registration, RegistrationDevice
from reference.operations import Event, Kind, Operation
from reference.outcomes import Outcome

from .mutant import plant


@plant(
    "contains-not-overlaps",
    title="an invalidation drops only regions that it contains, not those that it overlaps",
    seen_in="libfabric 6837b9c1c",
    base="caching",
    rule="I12",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=2
        attach d0 p0
        dread d0 page=0 offset=4088 length=16
        unmap p0 page=1 pages=1
        dread d0 page=1 offset=0 length=8
    """,
)
class _ContainsNotOverlaps(CachingDevice):
    def affected(self, region: Region, slots: range) -> bool:
        return slots.start <= region.slots.start and region.slots.stop <= slots.stop


@plant(
    "first-segment-only",
    title="freeing a big buffer drops only the region at its start",
    seen_in="libfabric df1c9f977",
    base="caching",
    rule="I12",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=2
        attach d0 p0
        dread d0 page=1 offset=0 length=8
        unmap p0 page=0 pages=2
        dread d0 page=1 offset=0 length=8
    """,
)
class _FirstSegmentOnly(CachingDevice):
    def affected(self, region: Region, slots: range) -> bool:
        return slots.start in region.slots


@plant(
    "end-convention",
    title="an exclusive end is taken for an inclusive one and the last page is left out",
    seen_in="arm-smmu-v3 95d4782c34a6",
    base="faulting",
    rule="I12",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=2
        attach d0 p0
        dread d0 page=1 offset=0 length=8
        unmap p0 page=0 pages=2
        dread d0 page=1 offset=0 length=8
    """,
)
class _EndConvention(FaultingDevice):
    def drop(self, first: int, end: int) -> None:
        super().drop(first, max(end - 1, first + 1))


@plant(
    "huge-single-page",
    title="a callback for one page is applied to a huge page and drops only its first",
    seen_in="mmu_notifier, ea25c4317946",
    base="faulting",
    rule="I12",
    minimal=6,
    sequence="""
        map p0 rw page=0 pages=2
        collapse p0 page=0 pages=2
        attach d0 p0
        dread d0 page=1 offset=0 length=8
        reclaim p0 page=0 pages=2
        dread d0 page=1 offset=0 length=8
    """,
)
class _HugeSinglePage(FaultingDevice):
    def invalidate(self, first: int, end: int, event: Event, blockable: bool) -> bool:
        if self.manager.operation.kind == Kind.RECLAIM:
            end = first + 1
        return super().invalidate(first, end, event, blockable)


@plant(
    "huge-beyond-range",
    title="the size of a huge page is applied beyond the registered range",
    seen_in="drm_gpusvm, CVE-2025-40336",
    base="registration",
    rule="A1",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=2
        collapse p0 page=0 pages=2
        attach d0 p0
        register d0 key=1 rw page=1 pages=1
        dread d0 page=0 offset=0 length=8 key=1
    """,
)
class _HugeBeyondRange(RegistrationDevice):
    def pin(self, registration: Registration) -> bool:
        entries = [self.space.table.get(slot) for slot in registration.slots]
        for huge in [entry.huge for entry in entries if entry is not None]:
            if huge is not None and huge.whole:
                first = min(huge.first, registration.slots.start)
                registration.slots = range(first, max(huge.end, registration.slots.stop))
        return super().pin(registration)


@plant(
    "heap-direction",
    title="memory is invalidated when it grows instead of when it shrinks",
    seen_in="libfabric e44e4245c",
    base="caching",
    rule="I12",
    minimal=5,
    sequence="""
        map p0 r shared page=0 pages=1 file=0
        attach d0 p0
        dread d0 page=0 offset=0 length=8
        truncate p0 file=0 pages=0
        dread d0 page=0 offset=0 length=8
    """,
)
class _HeapDirection(CachingDevice):
    def hooked(self, slots: range) -> None:
        op = self.manager.operation
        if op.kind != Kind.TRUNCATE or op.pages > self.manager.files[op.file].size:
            super().hooked(slots)


@plant(
    "subpage-length",
    title="a whole page is sent although the segment ends inside it",
    seen_in="hfi1, CVE-2023-52474",
    base="faulting",
    rule="A4",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x100000 job=2
        submit d0 job=2
        read p0 page=0 offset=8 length=8
    """,
)
class _SubpageLength(FaultingDevice):
    def access_of(self, job: Job, op: Operation) -> Outcome:
        if op.kind != Kind.DWRITE:
            return super().access_of(job, op)
        rest = -(op.offset + op.length) % self.page_size
        outcome = super().access_of(job, op._replace(length=op.length + rest))
        return outcome._replace(done=min(outcome.done, op.length))
