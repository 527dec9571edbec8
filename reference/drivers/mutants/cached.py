"""Class 15: cached registrations."""

from __future__ import annotations

from reference.drivers.caching import CachingDriver, Region
from reference.host.ranges import Range
from reference.operations import Event

from .mutant import plant


@plant(
    "dead-never-purged",
    title="regions that an invalidation took out of the cache are never freed",
    seen_in="libfabric 51693907e; UCX 311e350611",
    base="caching",
    rule="W5",
    harm="W5",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
        discard p0 page=0 pages=1
    """,
)
class _DeadNeverPurged(CachingDriver):
    def affected(self, start: int, end: int) -> list[Region]:
        regions = super().affected(start, end)
        for region in regions:
            if region.users:
                region.users += 1  # for the list of the dead
        return regions


@plant(
    "put-vs-invalidate",
    title="whether a region is still cached is looked up outside the lock under which it is put",
    seen_in="UCX 7c7b531431",
    base="caching",
    rule="W5",
    harm="W5",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
        unregister d0 key=1
        discard p0 page=0 pages=1
    """,
    switches=[("d0", 3, 2, "p0")],
)
class _PutVersusInvalidate(CachingDriver):
    kept: Region | None = None

    def unregister(self, key: int) -> int:
        region, _ = self.keys.get(key, (None, None))
        self.kept = region if region is not None and region.cached else None
        answer = super().unregister(key)
        self.kept = None
        return answer

    def free(self, region: Region) -> None:
        if region is not self.kept:
            super().free(region)


@plant(
    "partial-unmap-in-use",
    title="part of a region is unmapped, and all of it is taken from the job that uses it",
    seen_in="open-mpi #4660",
    base="caching",
    rule="A2",
    harm="A2",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=2
        attach d0 p0
        register d0 key=1 rw page=0 pages=2
        dread d0 page=0 offset=0 length=8 key=1 job=1
        submit d0 job=1
        unmap p0 page=1 pages=1
        wait d0 job=1
    """,
    switches=[("d0", 2, 3, "p0")],
)
class _PartialUnmapInUse(CachingDriver):
    def invalidate_range_start(self, range_: Range) -> int:
        for key, (region, slots) in self.keys.items():
            if region.overlaps(range_.start, range_.end):
                for slot in slots:
                    self.device.unmap(key, slot)
                self.device.flush(slots.start, slots.stop)
        return super().invalidate_range_start(range_)


@plant(
    "over-invalidation",
    title="an event after which every page is where it was takes regions from their users",
    seen_in="libfabric d6d32055f; UCX 987ea9ebe5",
    base="caching",
    rule="A2",
    harm="A2",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
        invalidate p0 page=0 pages=1 event=soft_dirty
        dread d0 page=0 offset=0 length=8 key=1
    """,
)
class _OverInvalidation(CachingDriver):
    def invalidate_range_start(self, range_: Range) -> int:
        if range_.event not in {Event.UNMAP, Event.CLEAR}:
            for key, (region, slots) in self.keys.items():
                if region.overlaps(range_.start, range_.end):
                    for slot in slots:
                        self.device.unmap(key, slot)
                    self.device.flush(slots.start, slots.stop)
        return super().invalidate_range_start(range_)
