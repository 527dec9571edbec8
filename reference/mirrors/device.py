"""What all devices have in common: an address space, and jobs."""

from __future__ import annotations

import errno

from reference.operations import Event, Operation
from reference.outcomes import Outcome, Status, encode_wait

from .calls import OK, failed
from .manager import MemoryManager
from .memory import AddressSpace

__all__ = ["Device", "Job"]


class Job:
    """Queued accesses and, from `submit` on, the outcomes of those already done."""

    def __init__(self) -> None:
        self.accesses: list[Operation] = []
        self.outcomes: list[Outcome] = []

    @property
    def pending(self) -> list[Operation]:
        return self.accesses[len(self.outcomes) :]


class Device:
    """A device that can mirror one address space at a time; a `Notifier` of it."""

    def __init__(self, manager: MemoryManager, number: int) -> None:
        self.manager = manager
        self.number = number
        self.page_size = manager.geometry.page_size
        self.space = manager.spaces[0]
        self.jobs: dict[int, Job] = {}
        self.in_flight: dict[int, Job] = {}

    # What a kind of device does in its own way

    def access(self, op: Operation) -> Outcome:
        """Do one access now."""
        raise NotImplementedError

    def invalidate(self, first: int, end: int, event: Event, blockable: bool) -> bool:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError

    def drop_everything(self) -> None:
        """Let go of all that is held of the address space; before it is left."""
        self.release()

    # Attachment

    def attach(self, op: Operation) -> Outcome:
        self.space = self.manager.spaces[op.process]
        self.space.notifiers.append(self)
        return OK

    def detach(self, op: Operation) -> Outcome:
        self.drop_everything()
        self._unsubscribe(self.space)
        return OK

    def _unsubscribe(self, space: AddressSpace) -> None:
        if self in space.notifiers:
            space.notifiers.remove(self)

    # Jobs

    def access_or_queue(self, op: Operation) -> Outcome:
        if not op.job:
            return self.access(op)
        self.jobs.setdefault(op.job, Job()).accesses.append(op)
        return OK

    def submit(self, op: Operation) -> Outcome:
        job = self.in_flight[op.job] = self.jobs.pop(op.job)
        self.begin(job)
        count = len(job.accesses)
        self.run(job, (0, (count + 1) // 2, count)[_eagerness(op.job)])
        return OK

    def wait(self, op: Operation) -> Outcome:
        job = self.in_flight.pop(op.job)
        self.run(job, len(job.accesses))
        self.finish(job)
        return Outcome(Status.OK, data=encode_wait(job.outcomes))

    def begin(self, job: Job) -> None:
        """Called before the first access of a job is done."""

    def run(self, job: Job, count: int) -> None:
        """Do accesses until `count` of the job's are done."""
        for op in job.accesses[len(job.outcomes) : count]:
            job.outcomes.append(self.access_of(job, op))

    def access_of(self, job: Job, op: Operation) -> Outcome:
        """Do one access of a job."""
        return self.access(op)

    def finish(self, job: Job) -> None:
        """Called after the last access of a job is done."""

    # Operations that only some devices have

    def register(self, op: Operation) -> Outcome:
        return failed(errno.EOPNOTSUPP)

    unregister = register


def _eagerness(number: int) -> int:
    """When a job is done: 0 at the wait, 1 half of it at the submit, 2 all of it then.

    It depends on the job so that one program sees all of them, the same way every time.
    """
    return (0, 0, 2, 1)[number % 4]
