"""The refcounting mirror: buffers in flight hold their frames, and invalidations wait for them."""

from __future__ import annotations

import errno

from reference.operations import Event, Flag, Operation
from reference.outcomes import Outcome

from .access import FAULT, is_write, perform, slots_of
from .calls import OK, failed
from .device import Device, Job
from .frames import Frame
from .manager import MemoryManager

__all__ = ["Buffer", "RefcountingDevice"]


class Buffer:
    """A range of slots; `frames` are those of its last validation, None since invalidated."""

    def __init__(self, op: Operation) -> None:
        self.slots = range(op.page, op.page + op.pages)
        self.writable = bool(op.flags & Flag.WRITE)
        self.frames: dict[int, Frame] | None = None

    def overlaps(self, first: int, end: int) -> bool:
        return first < self.slots.stop and self.slots.start < end

    def allows(self, op: Operation, page_size: int) -> bool:
        """Whether an access is inside the range, and no write through a read-only buffer."""
        if is_write(op) and not self.writable:
            return False
        slots = slots_of(op, page_size)
        return slots[0] in self.slots and slots[-1] in self.slots


class RefcountingDevice(Device):
    """A device that reaches memory through buffers, validated anew for each use.

    `held` has, for each job in flight, the frames of its buffers by key, each with a reference.
    """

    def __init__(self, manager: MemoryManager, number: int) -> None:
        super().__init__(manager, number)
        self.buffers: dict[int, Buffer] = {}
        self.held: dict[Job, dict[int, dict[int, Frame]]] = {}
        self.sequence = 0

    # Buffers

    def register(self, op: Operation) -> Outcome:
        if op.key in self.buffers:
            return failed(errno.EBUSY)
        self.buffers[op.key] = Buffer(op)
        if not self.validate([op.key]):
            del self.buffers[op.key]
            return failed(errno.EFAULT)
        return OK

    def unregister(self, op: Operation) -> Outcome:
        return failed(errno.EINVAL) if self.buffers.pop(op.key, None) is None else OK

    def validate(self, keys: list[int]) -> bool:
        """Collect the frames of buffers; again if one was invalidated by doing so (H2)."""
        while True:
            sequence = self.sequence
            complete = [self.collect(self.buffers[key]) for key in keys]
            if sequence == self.sequence:
                return all(complete)

    def collect(self, buffer: Buffer) -> bool:
        """Fault a buffer in as a whole, unless it is still valid; False if it cannot be."""
        if buffer.frames is not None:
            return True
        frames = {}
        for slot in buffer.slots:
            entry = self.space.fault(slot, buffer.writable)
            if entry is None or entry.frame is None:
                return False
            frames[slot] = entry.frame
        buffer.frames = frames
        return True

    # Accesses

    def access(self, op: Operation) -> Outcome:
        buffer = self.buffers.get(op.key)
        if buffer is None or not buffer.allows(op, self.page_size):
            return FAULT
        if not self.validate([op.key]) or buffer.frames is None:
            return FAULT
        return _through(buffer.frames, op, self.page_size)

    # Jobs

    def begin(self, job: Job) -> None:
        keys = sorted({op.key for op in job.accesses} & self.buffers.keys())
        self.validate(keys)
        self.held[job] = {
            key: dict(frames) for key in keys if (frames := self.buffers[key].frames) is not None
        }
        for frame in self._held_frames(job):
            frame.pool.get(frame)

    def _held_frames(self, job: Job) -> list[Frame]:
        return [frame for frames in self.held[job].values() for frame in frames.values()]

    def access_of(self, job: Job, op: Operation) -> Outcome:
        frames = self.held[job].get(op.key)
        if frames is None or not self.buffers[op.key].allows(op, self.page_size):
            return FAULT
        return _through(frames, op, self.page_size)

    def finish(self, job: Job) -> None:
        if job in self.held:
            for frame in self._held_frames(job):
                self.manager.put(frame)
            del self.held[job]

    # Notifier

    def invalidate(self, first: int, end: int, event: Event, blockable: bool) -> bool:
        busy = self.busy(first, end)
        if busy and not blockable:
            return False
        for job in busy:
            self.await_job(job)
        self.sequence += 1
        for buffer in self.buffers.values():
            if buffer.overlaps(first, end):
                buffer.frames = None
        return True

    def busy(self, first: int, end: int) -> list[Job]:
        """The jobs in flight that hold frames of slots `first` to `end` (exclusive)."""
        return [
            job
            for job, held in self.held.items()
            if any(self.buffers[key].overlaps(first, end) for key in held)
        ]

    def await_job(self, job: Job) -> None:
        """Let a job in flight come to its end: afterwards it holds nothing."""
        self.run(job, len(job.accesses))
        self.finish(job)

    def release(self) -> None:
        for job in list(self.held):
            self.await_job(job)

    def drop_everything(self) -> None:
        self.release()
        self.buffers.clear()


def _through(frames: dict[int, Frame], op: Operation, page_size: int) -> Outcome:
    return perform(op, lambda slot, write: frames[slot], page_size)
