"""Tasks of a run, and the processes that work on them, each with a candidate of its own."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

from adapters.candidate import CandidateError
from adapters.journal import journal_path, journals_of
from adapters.tls import TlsFiles
from adapters.worker import Limits, Runner
from reference.description import Description
from reference.program import Program
from reference.protocol import Profile
from reference.schedule import Offer
from reference.syncmodels import Sync
from reference.trace import Trace, Violation

from . import collector
from .ahead import Ahead, Ran
from .examine import SLOW, UNINTERRUPTED, Coverage, Examiner, Failure, as_found
from .exhaustive import Share
from .expect import Expectation
from .explore.bounds import Catalogue, Covered
from .runners import open_runner
from .shards import Shard, plan_for, run_shard

__all__ = ["PER_RULE", "Done", "Request", "Task", "Workers", "weight"]

PER_RULE = 3
"""Failing programs that are reduced and kept for each rule; more are only counted."""
_END = object()
_SLOW_WEIGHT = 4
"""Programs that fail at once which are as bad as one that takes long to fail."""


@dataclass(frozen=True)
class Request:
    """What to certify, and how much to do."""

    spec: str
    description: Description
    model: Sync
    out: Path
    seed: int = 0
    programs: int | None = None
    seconds: float | None = None
    jobs: int = 1
    limits: Limits = field(default_factory=Limits)
    expected: tuple[Expectation, ...] = ()
    in_process: bool = False
    """Load the candidate into the processes of the suite, without any protection from it."""
    tls: TlsFiles | None = None
    """Who we are and whom we trust, for an agent that wants to know."""
    profile: Profile = Profile.TOLERANT

    @property
    def budget(self) -> str:
        return f"{self.seconds:g} s" if self.seconds is not None else f"{self.programs} programs"


@dataclass(frozen=True)
class Task:
    """One shard, one part of the exhaustive search, or the programs that failed an earlier run."""

    deadline: float | None
    settled: frozenset[str]
    """Rules of which enough failing programs were reduced."""
    patience: int
    """How many more programs may fail, see `weight`."""
    shard: Shard | None = None
    share: Share | None = None
    known: tuple[Program, ...] = ()


@dataclass
class Done:
    """What came of one task, or of as much of it as could be done."""

    coverage: Coverage = field(default_factory=Coverage)
    failures: list[tuple[str, Failure]] = field(default_factory=list)
    """Reduced, each with the rule that the program broke before."""
    failing: Counter[str] = field(default_factory=Counter)
    """Failing programs by rule, reduced ones too."""
    problem: str = ""
    """Why it could not be done to its end."""
    interrupted: bool = False
    share: Share | None = None
    """The part of the exhaustive search that the task was, if it was one."""
    covered: Covered = field(default_factory=Covered)
    """How much of that part was run."""


def weight(rule: str) -> int:
    """What a program that breaks a rule costs of a run's patience."""
    return _SLOW_WEIGHT if rule in SLOW else 1


class Workers:
    """Processes that work on tasks; for one job, this process."""

    def __init__(self, request: Request, interruption: AbstractContextManager[object]) -> None:
        self.request = request
        self._interruption = interruption
        self._run = secrets.token_hex(4)
        self._keep_journals = False
        self._pending: set[Future[Done]] = set()
        self._processes: dict[int, BaseProcess] = {}
        self._pool: ProcessPoolExecutor | None = None
        if request.jobs > 1:
            # Spawned: whatever threads and locks this process has stay here.
            context = multiprocessing.get_context("spawn")
            self._stop = context.Event()
            self._pool = ProcessPoolExecutor(
                request.jobs,
                mp_context=context,
                initializer=_initialise,
                initargs=(request, self._run, self._stop),
            )

    def work(self, tasks: Iterator[Task | None]) -> Iterator[Done]:
        """Results in the order in which they come; tasks are taken only as they can be begun.

        None instead of a task says that there is none until another one is done.  The last result
        is `interrupted` if an interruption ends it.
        """
        if self._pool is None:
            _STATE.request, _STATE.run = self.request, self._run
            _STATE.interruption = self._interruption
            yield from (_perform(task) for task in tasks if task is not None)
            return
        exhausted = False
        while self._pending or not exhausted:
            while not exhausted and len(self._pending) < self.request.jobs:
                task = next(tasks, _END)
                exhausted = task is _END
                if not isinstance(task, Task):
                    break
                self._submit(self._pool, task)
            try:
                with self._interruption:
                    wait(self._pending, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:
                yield Done(interrupted=True)
                return
            yield from self._finished()

    def finish(self) -> Iterator[Done]:
        """Have the tasks at hand cut short, and give what came of them.

        Tasks that do not end for all that, because a program hangs, are given up.
        """
        if self._pool is None:
            return
        self._stop.set()
        wait(self._pending, _PARTING_SECONDS)
        yield from self._finished()
        if self._pending:
            self.kill()

    def _submit(self, pool: ProcessPoolExecutor, task: Task) -> None:
        try:
            # A new process must not see a Ctrl-C before it knows what to do about it.
            with _interrupts_blocked():
                future = pool.submit(_perform, task)
        except BrokenProcessPool:
            future = Future()
            future.set_result(Done(problem=self._death()))
        self._pending.add(future)
        for process in multiprocessing.active_children():
            self._processes[process.pid or 0] = process

    def _finished(self) -> Iterator[Done]:
        for future in [each for each in self._pending if each.done()]:
            try:
                done = future.result()
            except BrokenProcessPool:
                done = Done(problem=self._death())
            self._pending.discard(future)
            yield done

    def _death(self) -> str:
        """How a process of the pool came to its end."""
        self._keep_journals = True
        for pid, process in self._processes.items():
            code = _exit_code(process)
            # The others are terminated when one has died.
            if code not in {None, 0, -signal.SIGTERM}:
                how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
                journals = journals_of(self.request.out, self._run)
                named = [path for path in journals if path.stem.endswith(f"-{pid}")]
                where = f"; its last program is in {named[0]}" if named else ""
                return f"process {pid} of the run {how}{where}"
        return "a process of the run died"

    def kill(self) -> None:
        """End the processes at once, whatever they are doing."""
        for process in self._processes.values():
            process.kill()

    def close(self) -> None:
        """End the processes, and what they wrote down in case of their death."""
        if self._pool is None:
            _STATE.close()
        else:
            self._stop.set()
            self._pool.shutdown(wait=True, cancel_futures=True)
        for journal in () if self._keep_journals else journals_of(self.request.out, self._run):
            with suppress(OSError):
                journal.unlink()


def _exit_code(process: BaseProcess) -> int | None:
    """How a process ended; None if it has not.

    A thread of the pool may be just about to learn it, and until it has noted it down, the code is
    None for everybody.
    """
    end = time.monotonic() + _PARTING_SECONDS
    process.join(_PARTING_SECONDS)
    while process.exitcode is None and time.monotonic() < end:
        time.sleep(0.01)
    return process.exitcode


_PARTING_SECONDS = 3.0


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- in a process that works on tasks ---------------------------------------------------------


class _Process:
    """What a process that works on tasks holds on to."""

    request: Request
    run: str
    """A word that no other run has."""
    examiner: Examiner | None = None
    interruption = UNINTERRUPTED
    catalogue: Catalogue | None = None

    def small_programs(self) -> Catalogue:
        """Those of the exhaustive search."""
        if self.catalogue is None:
            self.catalogue = Catalogue(self.request.description, self.request.model)
        return self.catalogue

    def open(self) -> Examiner:
        if self.examiner is None:
            request = self.request
            with self.interruption:
                runner: Runner = open_runner(
                    request.spec,
                    request.limits,
                    in_process=request.in_process,
                    journal=journal_path(request.out, self.run),
                    tls=request.tls,
                )
            expected = frozenset(each.rule for each in request.expected)
            self.examiner = Examiner(runner, expected, self.interruption, request.profile)
        return self.examiner

    def close(self) -> None:
        if self.examiner is not None:
            self.examiner.runner.close()
        self.examiner = self.catalogue = None


_STATE = _Process()


def _initialise(request: Request, run: str, stop: Event) -> None:
    collector.rest()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _STATE.request, _STATE.run = request, run
    _STATE.interruption = _Stop(stop)


class _Stop(AbstractContextManager[None]):
    """Interrupts the work when the parent says so, before the next program."""

    def __init__(self, event: Event) -> None:
        self._event = event

    def __enter__(self) -> None:
        if self._event.is_set():
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        pass


def _end_with_parent() -> None:
    """A parent that is killed cannot send its processes home."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this process was spawned"
    wait_for([parent.sentinel])
    os._exit(1)


def _perform(task: Task) -> Done:
    work = _Work(task)
    try:
        work.perform()
    except (CandidateError, OSError) as error:
        work.done.problem = _problem(error)
    except KeyboardInterrupt:
        work.done.interrupted = True
    return work.done


def _problem(error: Exception) -> str:
    return f"the run could not go on: {error}" if isinstance(error, OSError) else str(error)


class _Cut(Exception):
    """The task ends here."""


class _Work:
    """One task at work.  Whatever cuts it short, what was done until then counts."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.done = Done(share=task.share)
        self.patience = task.patience
        self.reduced: Counter[str] = Counter()
        self.expected = frozenset(each.rule for each in _STATE.request.expected)
        self.going = True
        self.broken = ""
        """The rule that the last program broke."""

    def perform(self) -> None:
        examiner = _STATE.open()
        examiner.coverage = self.done.coverage
        for program in self.task.known:
            if not self.consume(program, len(program)):
                return
        request = _STATE.request
        if self.task.shard is not None:
            plan = plan_for(request.description, request.model, self.task.shard)
            ahead = Ahead(examiner)
            run_shard(plan, self.task.shard, partial(self.consume_ahead, ahead))
            self._catch_up(ahead)
        if self.task.share is not None:
            self._explore(self.task.share)

    def consume(self, program: Program, length: int) -> bool:
        """Run one program; whether to go on.

        Raises nothing: Hypothesis would run the program again to see the exception once more.
        """
        self.broken = ""
        with self._told():
            examiner = _STATE.open()
            violation = examiner.examine(program, length)
            if violation is not None:
                self._failed(examiner, violation)
        return self._goes_on()

    def consume_ahead(self, ahead: Ahead, program: Program, length: int) -> bool:
        """The same, with the judgement of a program left to when the next ones run."""
        with self._told():
            self._look_at(ahead.exchange(program, length), ahead)
        return self._goes_on()

    def _catch_up(self, ahead: Ahead) -> None:
        """Look at the last programs of a shard, unless enough has failed before them.

        Where others have had this process stopped, they wait a while for what runs already.
        """
        with self._told():
            patient = isinstance(_STATE.interruption, _Stop)
            while (ran := ahead.last(interruptible=not patient)) is not None:
                if self.patience > 0:
                    self._look_at(ran, ahead)

    def _look_at(self, ran: Ran | None, ahead: Ahead) -> None:
        examiner = _STATE.open()
        if ran is None or (violation := examiner.account(ran.trace, ran.length)) is None:
            return
        trace, harmed = ran.trace, False

        def settle() -> None:
            nonlocal harmed
            ahead.hold()
            harmed = examiner.distrust(trace)

        self._failed(examiner, violation, settle)
        if harmed:
            ahead.again()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What ends the work is told by what is done."""
        try:
            yield
        except (CandidateError, OSError) as error:
            self.done.problem = _problem(error)
        except KeyboardInterrupt:
            self.done.interrupted = True

    def _goes_on(self) -> bool:
        late = self.task.deadline is not None and time.monotonic() >= self.task.deadline
        self.going = not (self.done.problem or self.done.interrupted or late or self.patience <= 0)
        return self.going

    def _failed(
        self, examiner: Examiner, violation: Violation, settle: Callable[[], None] = lambda: None
    ) -> None:
        """Count a program that broke a rule, and reduce it if that is news.

        `settle` ends what else the candidate does.
        """
        self.broken = rule = violation.rule
        trace = examiner.trace
        self.done.failing[rule] += 1
        if rule not in self.expected:
            self.patience -= weight(rule)
        # What failed an earlier run is reduced already.
        most = PER_RULE if self.task.known else 1
        if rule not in self.task.settled and self.reduced[rule] < most:
            self.reduced[rule] += 1
            self._reduce(examiner, violation, trace, settle)
        elif trace.breakdown is None:
            settle()

    def _reduce(
        self,
        examiner: Examiner,
        violation: Violation,
        trace: Trace,
        settle: Callable[[], None],
    ) -> None:
        failure = as_found(trace, violation)
        if self.task.known and violation.rule in self.expected:
            # Neither news nor long: it was kept to be met again.
            self.done.failures.append((violation.rule, failure))
            return
        try:
            settle()
            failure = examiner.reduce(trace.program, violation)
        finally:
            # Even where it is cut short the program must not be lost.
            self.done.failures.append((violation.rule, failure))

    # A part of the exhaustive search

    def _explore(self, share: Share) -> None:
        def run(program: Program, length: int) -> Sequence[Offer] | None:
            if not self.going or self.done.coverage.programs == share.runs:
                raise _Cut
            self.consume(program, length)
            if self.done.problem or self.done.interrupted:
                raise _Cut
            hosted = _STATE.open().trace.hosted
            failed = self.broken and self.broken not in self.expected
            return None if hosted is None or failed else hosted.offers

        with suppress(_Cut):
            _STATE.small_programs().explore(share.part, run, self.done.covered)
        # Those that were cut short while they were reduced count too.
        self.done.covered.runs = self.done.coverage.programs
