"""A registration cache: memory is pinned at the first access to it and stays pinned.

What a page-faulting device does in hardware such a cache does in user space: hooks on the system
calls that change mappings tell it which registrations to drop.  Pages that are pinned do not
move, so that nothing else has to be heard of.
"""

from __future__ import annotations

import errno
import sys
from collections import Counter

from reference.operations import Event, Flag, Kind, Operation
from reference.outcomes import Outcome

from .access import FAULT, is_write, perform, slots_of
from .calls import OK, failed
from .device import Device, Job
from .frames import Frame
from .manager import MemoryManager

__all__ = ["CachingDevice", "Region"]

CAPACITY = 12
"""Registrations in a cache."""
QUEUE = 2
"""Pages whose invalidations a cache can keep for its next look-up: an entry for more cannot be
allocated, and then all that is cached is dropped there."""
EVERYTHING = range(sys.maxsize)
"""All slots."""


class Region:
    """A cached registration: slots, right, pinned frames, and how many jobs use it."""

    def __init__(self, slots: range, writable: bool) -> None:
        self.slots = slots
        self.writable = writable
        self.frames: dict[int, Frame] = {}
        self.users = 0

    def covers(self, slots: range) -> bool:
        return self.slots.start <= slots.start and slots.stop <= self.slots.stop

    def overlaps(self, slots: range) -> bool:
        return slots.start < self.slots.stop and self.slots.start < slots.stop

    def frame(self, slot: int, write: bool) -> Frame | None:
        return self.frames[slot] if self.writable or not write else None


class CachingDevice(Device):
    """A device behind a registration cache; `regions` are oldest first."""

    hooks = frozenset(
        {
            *(Kind.MAP, Kind.UNMAP, Kind.REMAP, Kind.PROTECT, Kind.DISCARD, Kind.PUNCH),
            *(Kind.TRUNCATE, Kind.EXIT, Kind.INVALIDATE),
        }
    )
    """System calls of which the cache hears."""

    def __init__(self, manager: MemoryManager, number: int) -> None:
        super().__init__(manager, number)
        self.regions: list[Region] = []
        self.queue: list[range] = []
        self.overflowed = False
        self.uses: dict[Job, list[Region]] = {}

    # Accesses

    def access(self, op: Operation) -> Outcome:
        region = self.lookup(slots_of(op, self.page_size), is_write(op))
        return FAULT if region is None else perform(op, region.frame, self.page_size)

    def fault(self, op: Operation) -> Outcome:
        slots = range(op.page, op.page + op.pages)
        region = self.lookup(slots, bool(op.flags & Flag.WRITE))
        return failed(errno.EFAULT) if region is None else OK

    def lookup(self, slots: range, write: bool) -> Region | None:
        """A region that covers the slots, registered now if there is none; None if refused."""
        self.work_off()
        for region in self.regions:
            if self.matches(region, slots, write):
                return region
        return self.pin(slots, write)

    def matches(self, region: Region, slots: range, write: bool) -> bool:
        return region.covers(slots) and (region.writable or not write)

    def pin(self, slots: range, write: bool) -> Region | None:
        region = Region(slots, write)
        for slot in slots:
            frame = self.space.pin(slot, write)
            if frame is None:
                self.unpin(region)
                return None
            region.frames[slot] = frame
        if len(self.regions) == CAPACITY:
            self.forget(self.regions[0])
        self.regions.append(region)
        self.subscribe(region)
        return region

    def unpin(self, region: Region) -> None:
        for frame in region.frames.values():
            self.space.unpin(frame)

    def forget(self, region: Region) -> None:
        """Drop a region from the cache, and its pins unless a job still uses it."""
        self.regions.remove(region)
        self.unsubscribe(region)
        if not region.users:
            self.unpin(region)

    # The monitor: which slots any cache of this process has registered

    @property
    def watched(self) -> Counter[int]:
        return self.space.watched

    def subscribe(self, region: Region) -> None:
        self.watched.update(region.slots)

    def unsubscribe(self, region: Region) -> None:
        self.watched.subtract(region.slots)

    # Hooks

    def invalidate(self, first: int, end: int, event: Event, blockable: bool) -> bool:
        if self.manager.operation.kind in self.hooks:
            self.hooked(range(first, end))
        return True

    def hooked(self, slots: range) -> None:
        """A system call is about to change these slots."""
        if any(self.watched[slot] > 0 for slot in slots):
            self.enqueue(slots)

    def enqueue(self, slots: range) -> None:
        """Keep an invalidation for the next look-up, or at least that there was one."""
        if self.has_room(slots):
            self.queue.append(slots)
        else:
            self.overflowed = True

    def has_room(self, slots: range) -> bool:
        """Whether an entry can be allocated to keep an invalidation."""
        return sum(map(len, self.queue)) + len(slots) <= QUEUE

    def work_off(self) -> None:
        for slots in [EVERYTHING] if self.overflowed else self.queue:
            self.drop(slots)
        self.queue.clear()
        self.overflowed = False

    def drop(self, slots: range) -> None:
        """Drop the regions that an invalidation of these slots makes invalid."""
        for region in [region for region in self.regions if self.affected(region, slots)]:
            self.forget(region)

    def affected(self, region: Region, slots: range) -> bool:
        return region.overlaps(slots)

    def release(self) -> None:
        self.queue.clear()
        for region in list(self.regions):
            self.forget(region)

    # Jobs register what they access when they are submitted

    def begin(self, job: Job) -> None:
        regions = [self.lookup(slots_of(op, self.page_size), is_write(op)) for op in job.accesses]
        self.uses[job] = [region for region in regions if region is not None]
        for region in self.uses[job]:
            region.users += 1

    def finish(self, job: Job) -> None:
        for region in self.uses.pop(job):
            region.users -= 1
            if not region.users and region not in self.regions:
                self.unpin(region)
