"""Locks, wait queues and sections without sleep, with the checks that a debug kernel makes.

Taking a lock twice, giving back one that is not held, sleeping where that is not allowed and
taking locks in both orders are found when they are done, whether or not they would have
deadlocked in this run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .broken import Broken
from .record import Record, What
from .tasks import Task, Tasks

__all__ = ["Lock", "Locks", "Mutex", "ReadWriteSemaphore", "SpinLock"]


class Lock:
    """What all locks have in common: a number, a name, and who holds it."""

    def __init__(self, locks: Locks, name: str) -> None:
        self._locks = locks
        self.name = name
        self.number = locks.enrol(self)
        self.owner: Task | None = None
        self.readers: list[Task] = []
        self.of_driver = False
        """A driver's, so that the event record tells of it.  Rules are about no others."""

    def __str__(self) -> str:
        return self.name

    @property
    def free(self) -> bool:
        return self.owner is None and not self.readers

    def held_by(self, task: Task) -> bool:
        return self.owner is task or task in self.readers

    def held(self) -> bool:
        """Whether the task that runs holds it."""
        return self.held_by(self._locks.tasks.task)


class Mutex(Lock):
    """A lock that sleeps."""

    def lock(self) -> None:
        locks = self._locks
        locks.might_sleep("mutex_lock", self)
        locks.check_order(self)
        locks.tasks.point(f"mutex_lock({self.name})")
        if not self.free:
            locks.block(self, lambda: self.free)
        locks.acquired(self)

    def trylock(self) -> bool:
        """Take it if it is free; an injected failure says that it is not."""
        locks = self._locks
        locks.tasks.point(f"mutex_trylock({self.name})")
        if not self.free or locks.fails("trylock"):
            return False
        locks.acquired(self)
        return True

    def unlock(self) -> None:
        self._locks.release(self)
        self._locks.tasks.point(f"mutex_unlock({self.name})")


class SpinLock(Lock):
    """A lock under which nobody may sleep."""

    def lock(self) -> None:
        locks = self._locks
        locks.check_order(self)
        section = f"spin_lock({self.name})"
        locks.tasks.point(section)
        locks.tasks.wait_until(lambda: self.free, section)
        locks.acquired(self)
        locks.tasks.task.atomic.append(section)

    def unlock(self) -> None:
        atomic = self._locks.tasks.task.atomic
        self._locks.release(self)
        section = f"spin_lock({self.name})"
        if section in atomic:
            atomic.remove(section)
        self._locks.tasks.point(f"spin_unlock({self.name})")


class ReadWriteSemaphore(Lock):
    """Many readers or one writer; sleeps."""

    def down_read(self) -> None:
        locks = self._locks
        locks.might_sleep("down_read", self)
        locks.check_order(self)
        if self.owner is not None:
            locks.block(self, lambda: self.owner is None)
        locks.acquired(self, shared=True)

    def down_write(self) -> None:
        locks = self._locks
        locks.might_sleep("down_write", self)
        locks.check_order(self)
        if not self.free:
            locks.block(self, lambda: self.free)
        locks.acquired(self)

    def up_read(self) -> None:
        self._locks.release(self, shared=True)

    def up_write(self) -> None:
        self._locks.release(self)

    def reading(self) -> Held:
        return Held(self.down_read, self.up_read)

    def writing(self) -> Held:
        return Held(self.down_write, self.up_write)


class Held:
    """A lock, held inside of a `with` block."""

    __slots__ = "_give_back", "_take"

    def __init__(self, take: Callable[[], None], give_back: Callable[[], None]) -> None:
        self._take = take
        self._give_back = give_back

    def __enter__(self) -> None:
        self._take()

    def __exit__(self, *_: object) -> None:
        self._give_back()


class Locks:
    """All locks of a run, the order in which they were taken, and where one may sleep."""

    def __init__(self, tasks: Tasks, record: Record, fails: Callable[[str], bool]) -> None:
        self.tasks = tasks
        self.fails = fails
        self._record = record
        self._all: list[Lock] = []
        self._after: dict[str, set[str]] = {}
        """Names of locks, each with those that were taken while it was held."""

    def enrol(self, lock: Lock) -> int:
        """Number a new lock, 1 and up."""
        self._all.append(lock)
        return len(self._all)

    def tell(self, lock: Lock, device: int) -> None:
        """A device's driver has made a lock."""
        lock.of_driver = True
        self._record(What.LOCK, device, lock.number, lock.name)

    def held_at_end(self) -> Iterator[Lock]:
        """The locks that somebody still holds."""
        return (lock for lock in self._all if not lock.free)

    # Sleeping

    def might_sleep(self, what: str, lock: Lock | None = None) -> None:
        """Called by everything that may sleep, whether it does or not."""
        task = self.tasks.task
        if lock is None or lock.of_driver or task.callbacks:
            self._record(What.SLEEP, 0 if lock is None else lock.number)
        if task.atomic:
            why, called = task.atomic[-1], what if lock is None else f"{what}({lock})"
            raise Broken(_SLEEP_RULE.get(why, "W4"), f"{called} may sleep in {why}")

    def block(self, lock: Lock | None, ready: Callable[[], bool], what: str = "") -> None:
        """Sleep until something holds."""
        self._record(What.BLOCK, lock.number if lock else 0)
        self.tasks.wait_until(ready, what or f"{lock}")

    def without_sleep(self, why: str) -> Atomic:
        """A section in which the task may not sleep; one like `non_block_start`."""
        return Atomic(self.tasks.task, why)

    # Taking and giving back

    def check_order(self, lock: Lock) -> None:
        """Complain about a lock that is held already, or was taken the other way round once."""
        task = self.tasks.task
        if not task.held:
            return
        if lock.owner is task or (task in lock.readers and isinstance(lock, Mutex | SpinLock)):
            raise Broken("W3", f"{lock} is taken by the task that holds it")
        for held in task.held:
            if isinstance(held, Lock) and held.name != lock.name:
                if self._reaches(lock.name, held.name):
                    raise Broken("W3", f"{lock} is taken under {held}, and {held} under {lock}")
                self._after.setdefault(held.name, set()).add(lock.name)

    def _reaches(self, name: str, other: str) -> bool:
        """Whether one lock was taken under another, directly or through a chain of locks."""
        seen, todo = {name}, [name]
        while todo:
            for after in self._after.get(todo.pop(), ()):
                if after == other:
                    return True
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
        return False

    def acquired(self, lock: Lock, *, shared: bool = False) -> None:
        task = self.tasks.task
        if shared:
            lock.readers.append(task)
        else:
            lock.owner = task
        task.held.append(lock)
        if lock.of_driver:
            self._record(What.ACQUIRE, lock.number, int(shared))

    def release(self, lock: Lock, *, shared: bool = False) -> None:
        task = self.tasks.task
        if self.tasks.over:
            return
        if not (task in lock.readers if shared else lock.owner is task):
            raise Broken("W3", f"{lock} is given back by a task that does not hold it")
        if shared:
            lock.readers.remove(task)
        else:
            lock.owner = None
        task.held.remove(lock)
        if lock.of_driver:
            self._record(What.UNLOCK, lock.number, int(shared))


class Atomic:
    """A section in which a task may not sleep."""

    __slots__ = "_task", "_why"

    def __init__(self, task: Task, why: str) -> None:
        self._task = task
        self._why = why

    def __enter__(self) -> None:
        self._task.atomic.append(self._why)

    def __exit__(self, *_: object) -> None:
        if self._why in self._task.atomic:
            self._task.atomic.remove(self._why)


NON_BLOCK = "a list callback that may not block"
INTERVAL_NON_BLOCK = "an interval callback that may not block"
FREE_NOTIFIER = "free_notifier"
AGEING = "a callback that asks for young pages under a page table lock"
SECONDARY_TLBS = "a callback that invalidates TLBs under a page table lock"
_SLEEP_RULE = {NON_BLOCK: "B2", INTERVAL_NON_BLOCK: "B6", SECONDARY_TLBS: "T1", FREE_NOTIFIER: "L6"}
"""The rule that sleeping in a section breaks, where the contract has one of its own."""
