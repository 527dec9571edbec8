"""Tasks with stacks of their own, of which exactly one runs at a time.

A task gives way at protocol points only, so a run is a function of the program and of the
choices made there.  Left to itself the schedule is the plain one: operations run one after
another in program order, and a task is left only when it waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple, Protocol

from greenlet import GreenletExit, getcurrent, greenlet

from reference.schedule import WAITING, Switch
from reference.trace import Interruption

from .broken import Broken
from .record import Record

__all__ = ["DYING", "Chooser", "Job", "Point", "Task", "Tasks"]

DYING = -1
"""In `Task.denied`: the address space is being torn down, so either answer is right."""
STEPS = 1_000
"""Protocol points after which a run counts as one that makes no progress, to begin with."""
STEPS_EACH = 200
"""Those that each operation adds; it takes some 5, or 50 where it has to try again and again."""


_new = tuple.__new__
"""What makes a `Point`, without the function in Python that is around it."""


class Point(NamedTuple):
    """Where a task may be interrupted: the `number`-th point of an operation of its actor."""

    actor: int
    operation: int
    number: int


class Chooser(Protocol):
    """What decides who runs on at a protocol point."""

    def __call__(
        self, point: Point, where: str, default: int, runnable: Callable[[], list[int]]
    ) -> int:
        """An actor of those that are runnable; any other answer counts as `default`."""


class Job(NamedTuple):
    """A piece of work of an actor: an operation of the program, or the accesses of a job."""

    operation: int
    """Its number in the program."""
    body: Callable[[], None]
    ready: Callable[[], bool] | None = None
    """Whether it may begin: what it depends on is done.  None if it depends on nothing."""


class Task:
    """An actor's thread: it does the actor's jobs in their order."""

    def __init__(self, actor: int) -> None:
        self.actor = actor
        self.jobs: list[Job] = []
        self.current: Job | None = None
        self.points = 0
        """Protocol points passed in the current job."""
        self.ready: Callable[[], bool] | None = None
        """What it waits for, if it waits."""
        self.waits_for = ""
        self.atomic: list[str] = []
        """Why it must not sleep, innermost last."""
        self.held: list[object] = []
        """Locks that it holds, in the order in which it took them."""
        self.callbacks = 0
        """Notifier callbacks that it is inside of."""
        self.denied: int | None = None
        """Where in the history its access was last denied, or `DYING`."""
        self.granted: int | None = None
        """Where in the history it last found that an access is allowed, or pinned pages."""
        self.stack: greenlet | None = None

    def forget(self) -> None:
        """A new access begins: nothing has been found out about it."""
        self.denied = self.granted = None

    def shift(self, place: int) -> None:
        """Something was put into the history at this place."""
        for name in ("denied", "granted"):
            found = getattr(self, name)
            if found is not None and found > place:
                setattr(self, name, found + 1)

    @property
    def idle(self) -> bool:
        return self.current is None and not self.jobs

    def runnable(self) -> bool:
        if self.current is not None:
            ready = self.ready
        elif self.jobs:
            ready = self.jobs[0].ready
        else:
            return False
        return ready is None or ready()


class _Stacks(threading.local):
    """Stacks that nobody uses: to make one takes as long as to switch to it twenty times."""

    def __init__(self) -> None:
        self.idle: list[greenlet] = []


_STACKS = _Stacks()


def _new_stack(root: greenlet) -> greenlet:
    """A stack that gets its work with the first switch to it, and gives way to `root` behind it."""
    stack = _STACKS.idle.pop() if _STACKS.idle else greenlet(_serve)
    stack.parent = root
    return stack


def _serve(work: Callable[[Task], None], task: Task) -> None:
    """What a stack is for: to do the work of one task after another."""
    me = getcurrent()
    while True:
        with suppress(GreenletExit):
            work(task)
        del work, task
        _STACKS.idle.append(me)
        root = me.parent
        assert root is not None, "whoever runs tasks"
        work, task = root.switch()


class Tasks:
    """All tasks of a run, and who runs."""

    choose: Chooser
    """Set before the run."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._tasks: dict[int, Task] = {}
        self._interrupted: list[int] = []
        """Actors in the middle of a job, the one that was interrupted last at the end."""
        self._root = getcurrent()
        self.steps = 0
        self.most_steps = STEPS
        self.taken: list[Interruption] = []
        """Where somebody ran on who would not have without a choice."""
        self.over = False
        """The run has ended: whoever still runs is on its way out."""
        self.broken: Broken | None = None
        self.task = Task(-1)
        """The one that runs."""

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks.values())

    def add(self, actor: int, job: Job, *, first: bool = False) -> None:
        """Give an actor one more job, behind those that it has or before them."""
        task = self._tasks.get(actor)
        if task is None:
            task = self._tasks[actor] = Task(actor)
        task.jobs.insert(0 if first else len(task.jobs), job)
        self.most_steps += STEPS_EACH

    # The run

    def run(self) -> None:
        """Run until every job is done; `Broken` if a rule is broken on the way."""
        self._root = getcurrent()
        try:
            while (actor := self._next()) is not None:
                self._enter(actor)
                if self.broken is not None:
                    raise self.broken
            if not all(task.idle for task in self):
                raise self._deadlock()
        finally:
            self.over = True
            self._drop_stacks()

    def _drop_stacks(self) -> None:
        """Unwind what is left of the tasks, which must happen while `over` is set."""
        for task in self:
            if task.stack is not None:
                task.stack.throw(GreenletExit)

    def _enter(self, actor: int) -> None:
        task = self._tasks[actor]
        self._become(task)
        if task.stack is None:
            task.stack = _new_stack(self._root)
            task.stack.switch(self._work, task)
        else:
            task.stack.switch()

    def _become(self, task: Task) -> None:
        self.task = task
        self._record.actor = task.actor
        if task.current is not None:
            self._record.operation = task.current.operation

    def _work(self, task: Task) -> None:
        """What a task does on its stack: its jobs, for as long as they are the next to be run."""
        try:
            self._do(task, task.jobs.pop(0))
            while self._boundary(task) == task.actor:
                self._do(task, task.jobs.pop(0))
        except Broken as broken:
            self.broken = broken
        finally:
            task.stack = None

    def _do(self, task: Task, job: Job) -> None:
        task.current, task.points = job, 0
        self._become(task)
        self.point("begin")
        job.body()
        task.current = None

    def _boundary(self, task: Task) -> int:
        """Who is next, now that a job is done."""
        default = self._next()
        if default is None:
            return -1
        point = _new(Point, (task.actor, self._record.operation, task.points + 1))
        chosen = self.choose(point, "end", default, self.runnable)
        if chosen != default:
            if self._can_run(chosen):
                self._switched(point, "end", chosen)
            else:
                chosen = default
        if chosen != task.actor:
            self._wanted = chosen
        return chosen

    _wanted: int | None = None

    def _next(self) -> int | None:
        """Who runs if nobody chooses: the wanted one, the one interrupted last, the next job."""
        wanted, self._wanted = self._wanted, None
        if wanted is not None and self._can_run(wanted):
            return wanted
        for actor in reversed(self._interrupted):
            task = self._tasks[actor]
            if task.current is not None and task.runnable():
                return actor
        first: tuple[int, int] | None = None
        running: int | None = None
        for task in self._tasks.values():
            if task.current is not None:
                if running is None and task.runnable():
                    running = task.actor
            elif task.jobs:
                place = task.jobs[0].operation, task.actor
                if (first is None or place < first) and task.runnable():
                    first = place
        return running if first is None else first[1]

    def _can_run(self, actor: int) -> bool:
        task = self._tasks.get(actor)
        return task is not None and task.runnable()

    def runnable(self) -> list[int]:
        """The actors that could run now."""
        return [task.actor for task in self._tasks.values() if task.runnable()]

    def _deadlock(self) -> Broken:
        waiting = [
            f"{task.waits_for} in operation {task.current.operation}"
            for task in self
            if task.current is not None
        ]
        return Broken("W1", f"deadlock: {'; '.join(waiting) or 'nothing can begin'}")

    # For the task that runs

    def point(self, where: str) -> None:
        """A protocol point: the scheduler may let others run before this returns."""
        if self.over:
            return
        task = self.task
        actor, current = task.actor, task.current
        task.points += 1
        self.steps += 1
        if self.steps > self.most_steps:
            raise Broken(
                "W2", f"no end after {self.most_steps} protocol points, the last of them {where}"
            )
        if current is None:
            return
        at = _new(Point, (actor, current.operation, task.points))
        chosen = self.choose(at, where, actor, self.runnable)
        if chosen != actor and self._can_run(chosen):
            self._switched(at, where, chosen)
            self._leave(task, chosen)

    def _switched(self, point: Point, where: str, to: int) -> None:
        self.taken.append(Interruption(Switch(*point, to), where, len(self._record)))

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """Let others run until something holds, which another task has to bring about."""
        task = self.task
        while not ready():
            if self.over:
                raise GreenletExit
            self.steps += 1
            if self.steps > self.most_steps:
                raise Broken(
                    "W2", f"no end after {self.most_steps} protocol points, waiting for {what}"
                )
            task.ready, task.waits_for = ready, what
            self._leave(task, self._instead(self._next(), WAITING + what, self.runnable))
            task.ready, task.waits_for = None, ""

    def _instead(
        self, default: int | None, where: str, runnable: Callable[[], list[int]]
    ) -> int | None:
        """Who runs while the task that runs cannot: another than the default, if it is chosen.

        It is a protocol point too, though no point to be interrupted at.
        """
        task = self.task
        if default is None or task.current is None:
            return default
        task.points += 1
        point = Point(task.actor, task.current.operation, task.points)
        chosen = self.choose(point, where, default, runnable)
        if chosen in {default, task.actor} or not self._can_run(chosen):
            return default
        self._switched(point, where, chosen)
        return chosen

    def _leave(self, task: Task, wanted: int | None) -> None:
        self._wanted = wanted
        if task.actor in self._interrupted:
            self._interrupted.remove(task.actor)
        self._interrupted.append(task.actor)
        self._root.switch()
        if self.over:
            raise GreenletExit
        if task.actor in self._interrupted:
            self._interrupted.remove(task.actor)

    def give_way(self, where: str) -> None:
        """Let somebody else run if anybody can, as a busy wait does."""
        task, switches = self.task, len(self.taken)
        self.point(where)
        others = [actor for actor in self.runnable() if actor != task.actor]
        if self.over or len(self.taken) > switches or not others:
            return
        self.steps += 1
        # Not the state in which it stood at the point above: it will go on behind it.
        task.waits_for = where
        self._leave(task, self._instead(others[0], where, lambda: others))
        task.waits_for = ""
