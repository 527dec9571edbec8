"""Class 4: how start and end pair, and starts that are refused."""

from __future__ import annotations

from reference.drivers.counting import CountingDriver
from reference.drivers.refcounting import Buffer, RefcountingDriver
from reference.host.ranges import Range

from .mutant import plant


@plant(
    "end-skipped",
    title="the end of an invalidation that may not block is not counted, and faults never get in",
    seen_in="mmu_notifier c2655835fd8c",
    base="counting",
    rule="W1",
    harm="W1",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        invalidate p0 page=0 pages=1 event=clear nonblock
        dread d0 page=0 offset=0 length=8
    """,
)
class _EndSkipped(CountingDriver):
    def invalidate_range_end(self, range_: Range) -> None:
        if range_.blockable:
            super().invalidate_range_end(range_)


@plant(
    "lock-kept-on-refusal",
    title="an invalidation is refused because the buffer is busy, and the lock is kept",
    seen_in="RDMA/odp 7608bf40cf24",
    base="refcounting",
    rule="B6",
    harm="W1",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=1 r page=0 pages=1
        dread d0 page=0 offset=0 length=8 key=1
        invalidate p0 page=0 pages=1 event=clear nonblock
    """,
    switches=[("d0", 3, 3, "k")],
)
class _LockKeptOnRefusal(RefcountingDriver):
    def lock_idle(self, buffer: Buffer, blockable: bool) -> bool:
        if blockable:
            return super().lock_idle(buffer, blockable)
        return self.lock.trylock() and not buffer.in_flight
