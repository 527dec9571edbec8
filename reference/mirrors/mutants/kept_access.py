"""Class 2: access that is kept after an invalidation returned."""

from __future__ import annotations

from reference.mirrors.caching import CachingDevice, Region
from reference.mirrors.device import Job
from reference.mirrors.faulting import FaultingDevice
from reference.mirrors.frames import Frame
from reference.mirrors.manager import MemoryManager
from reference.mirrors.refcounting import Buffer, RefcountingDevice
from reference.operations import Event, Kind

from .mutant import plant


@plant(
    "inflight-entry-kept",
    title="an entry in use at an invalidation stays cached and serves later requests",
    seen_in="hfi1 SDMA cache, linux-rdma 2023-05-19",
    base="caching",
    rule="H3",
    minimal=6,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dread d0 page=0 offset=0 length=8 job=1
        submit d0 job=1
        unmap p0 page=0 pages=1
        dread d0 page=0 offset=0 length=8
    """,
)
class _InflightEntryKept(CachingDevice):
    def affected(self, region: Region, slots: range) -> bool:
        return super().affected(region, slots) and not region.users


@plant(
    "remap-old-va",
    title="a page that was moved can still be reached at its old address",
    seen_in="CVE-2018-18281, CVE-2022-41222",
    base="faulting",
    rule="I12",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dread d0 page=0 offset=0 length=8
        remap p0 page=0 pages=1 to=1
        dread d0 page=0 offset=0 length=8
    """,
)
class _RemapOldAddress(FaultingDevice):
    def invalidate(self, first: int, end: int, event: Event, blockable: bool) -> bool:
        op = self.manager.operation
        if op.kind == Kind.REMAP and first == op.page:
            return True
        return super().invalidate(first, end, event, blockable)


@plant(
    "stale-key-live",
    title="an unmapped buffer is only marked stale and its key still reaches the old frames",
    seen_in="libfabric-cray #1000",
    base="refcounting",
    rule="I12",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
        unmap p0 page=0 pages=1
        dread d0 page=0 offset=0 length=8 key=1
    """,
)
class _StaleKeyLive(RefcountingDevice):
    def invalidate(self, first: int, end: int, event: Event, blockable: bool) -> bool:
        frames = {key: buffer.frames for key, buffer in self.buffers.items()}
        answer = super().invalidate(first, end, event, blockable)
        if event == Event.UNMAP:
            for key, buffer in self.buffers.items():
                buffer.frames = frames[key]
        return answer


@plant(
    "wait-not-awaited",
    title="an invalidation returns before the last reference of a job in flight is dropped",
    seen_in="our own",
    base="refcounting",
    rule="C3",
    minimal=7,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
        dread d0 page=0 offset=0 length=8 key=1 job=1
        submit d0 job=1
        unmap p0 page=0 pages=1
        wait d0 job=1
    """,
)
class _WaitNotAwaited(RefcountingDevice):
    def __init__(self, manager: MemoryManager, number: int) -> None:
        super().__init__(manager, number)
        self.loose: set[Job] = set()

    def busy(self, first: int, end: int) -> list[Job]:
        return [job for job in super().busy(first, end) if job not in self.loose]

    def await_job(self, job: Job) -> None:
        self.loose.add(job)
        for frame in self._held_frames(job):
            self.manager.put(frame)

    def finish(self, job: Job) -> None:
        if job in self.loose:
            del self.held[job]
        else:
            super().finish(job)


@plant(
    "revalidate-skipped",
    title="a submit does not revalidate a buffer whose pages were invalidated",
    seen_in="our own",
    base="refcounting",
    rule="I12",
    minimal=7,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
        unmap p0 page=0 pages=1
        dread d0 page=0 offset=0 length=8 key=1 job=1
        submit d0 job=1
        wait d0 job=1
    """,
)
class _RevalidateSkipped(RefcountingDevice):
    def __init__(self, manager: MemoryManager, number: int) -> None:
        super().__init__(manager, number)
        self.known: dict[Buffer, dict[int, Frame] | None] = {}

    def collect(self, buffer: Buffer) -> bool:
        complete = super().collect(buffer)
        if complete:
            self.known[buffer] = buffer.frames
        return complete

    def begin(self, job: Job) -> None:
        for key in {op.key for op in job.accesses} & self.buffers.keys():
            self.buffers[key].frames = self.known[self.buffers[key]]
        super().begin(job)
