"""Certify a candidate: share out the programs, collect what comes back, decide.

`certify` gives typed events as it goes; who prints them is no business of it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from adapters.worker import Limits, Worker
from reference.description import Description
from reference.program import Program
from reference.syncmodels import Sync

from .certificate import (
    Certificate,
    FailureRecord,
    identify,
    lengths_of,
    own_version,
    versions,
)
from .examine import Coverage, Examiner, Failure
from .expect import Expectation, surprises
from .shards import Shard, plan_for, run_shard, shards
from .store import Store, file_name, runnable
from .verdicts import overall, results

__all__ = ["Event", "Finished", "Found", "Progress", "Request", "certify"]

PER_RULE = 3
"""Failing programs that are reduced and kept for each rule; more are only counted."""
FAILING_ENOUGH = 20
"""Failing programs after which a run ends, if their rules were not expected to fail."""


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

    @property
    def budget(self) -> str:
        return f"{self.seconds:g} s" if self.seconds is not None else f"{self.programs} programs"


@dataclass(frozen=True)
class Progress:
    """How far the run is."""

    programs: int
    operations: int
    failing: int
    seconds: float


@dataclass(frozen=True)
class Found:
    """A failing program, reduced and saved."""

    failure: Failure
    path: Path


@dataclass(frozen=True)
class Finished:
    """The end."""

    certificate: Certificate


Event = Progress | Found | Finished


@dataclass
class _Done:
    """What came of one shard."""

    coverage: Coverage
    failures: list[Failure]
    failing: Counter[str]


@dataclass(frozen=True)
class _Task:
    """One shard, or the programs that failed an earlier run."""

    shard: Shard | None
    known: tuple[Program, ...]
    deadline: float | None
    settled: frozenset[str]
    """Rules of which enough failing programs were reduced."""


def certify(request: Request) -> Iterator[Event]:
    """Run the programs; `CandidateError` if the candidate cannot be reached at all.

    A `KeyboardInterrupt` ends the run early: what was found until then is kept and certified.
    """
    return _Run(request).events()


class _Run:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.start = time.monotonic()
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.coverage = Coverage()
        self.failing: Counter[str] = Counter()
        self.kept: dict[str, Failure] = {}
        self.store = Store(request.out / "failures", request.spec, request.model)
        self.expected = frozenset(each.rule for each in request.expected)
        self.interrupted = False

    def events(self) -> Iterator[Event]:
        try:
            for done in self._results():
                yield from self._take(done)
        except KeyboardInterrupt:
            self.interrupted = True
        yield Finished(self._certificate())

    def _results(self) -> Iterator[_Done]:
        known = tuple(
            program
            for program in self.store.load()
            if runnable(program, self.request.description, self.request.model)
        )
        workers = _Workers(self.request)
        try:
            yield from workers.work(self._tasks(known))
        finally:
            workers.close()

    def _tasks(self, known: tuple[Program, ...]) -> Iterator[_Task]:
        """What is to be done, until the budget or the patience runs out."""
        request = self.request
        deadline = None if request.seconds is None else self.start + request.seconds
        if known:
            yield _Task(None, known, deadline, frozenset())
        left = request.programs
        for shard in shards(request.description, request.seed):
            if left is not None and left <= 0:
                return
            mine = shard if left is None else shard.limited(left)
            left = None if left is None else left - mine.programs
            unexpected = sum(n for rule, n in self.failing.items() if rule not in self.expected)
            past = deadline is not None and time.monotonic() >= deadline
            if past or unexpected >= FAILING_ENOUGH:
                return
            yield _Task(mine, (), deadline, self._settled())

    def _settled(self) -> frozenset[str]:
        kept = Counter(failure.violation.rule for failure in self.kept.values())
        return frozenset(rule for rule, count in kept.items() if count >= PER_RULE)

    def _take(self, done: _Done) -> Iterator[Event]:
        self.coverage.update(done.coverage)
        self.failing.update(done.failing)
        for failure in done.failures:
            name = file_name(failure)
            rule = failure.violation.rule
            if name not in self.kept and rule not in self._settled():
                self.kept[name] = failure
                yield Found(failure, self.store.add(failure))
        yield Progress(
            self.coverage.programs,
            self.coverage.operations,
            self.failing.total(),
            time.monotonic() - self.start,
        )

    def _certificate(self) -> Certificate:
        request = self.request
        rules = results(
            request.description,
            request.model,
            self.coverage.exercised,
            self.failing,
            self.expected,
        )
        return Certificate(
            lastwriter=own_version(),
            candidate=identify(request.spec, request.description),
            model=request.model,
            verdict=overall(rules),
            surprises=surprises(request.expected, rules),
            interrupted=self.interrupted,
            rules=rules,
            failures=[_record(failure) for failure in self.kept.values()],
            failing_programs=self.failing.total(),
            expected=list(request.expected),
            programs=self.coverage.programs,
            operations=self.coverage.operations,
            sweep_reads=self.coverage.checks,
            lengths=lengths_of(self.coverage.lengths),
            seed=request.seed,
            budget=request.budget,
            jobs=request.jobs,
            started=self.started,
            seconds=round(time.monotonic() - self.start, 3),
            versions=versions(),
            capabilities=request.description,
        )


def _record(failure: Failure) -> FailureRecord:
    return FailureRecord(
        rule=failure.violation.rule,
        message=failure.violation.message,
        file=f"failures/{file_name(failure)}",
        operations=len(failure.program),
        found_with=len(failure.found),
        unstable=failure.unstable,
    )


class _Workers:
    """Processes that work on tasks, each with a candidate of its own; for one job, this process."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.pool: ProcessPoolExecutor | None = None
        if request.jobs > 1:
            self.pool = ProcessPoolExecutor(
                request.jobs,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_initialise,
                initargs=(request,),
            )

    def work(self, tasks: Iterator[_Task]) -> Iterator[_Done]:
        """Results in the order in which they come; tasks are taken only as they can be begun."""
        if self.pool is None:
            _STATE.open(self.request)
            yield from map(_perform, tasks)
            return
        pending: set[Future[_Done]] = set()
        exhausted = False
        while pending or not exhausted:
            while not exhausted and len(pending) < self.request.jobs:
                task = next(tasks, None)
                exhausted = task is None
                if task is not None:
                    pending.add(self.pool.submit(_perform, task))
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()

    def close(self) -> None:
        if self.pool is None:
            _STATE.close()
        else:
            self.pool.shutdown(wait=True, cancel_futures=True)
        for journal in self.request.out.glob("running-*.lwb"):
            with suppress(OSError):
                journal.unlink()


# -- in a worker process ----------------------------------------------------------------------


class _Process:
    """What a process that works on tasks holds on to."""

    examiner: Examiner | None = None
    request: Request

    def open(self, request: Request) -> None:
        journal = request.out / f"running-{os.getpid()}.lwb"
        runner = Worker(request.spec, limits=request.limits, journal=journal)
        self.request = request
        self.examiner = Examiner(runner, frozenset(each.rule for each in request.expected))

    def close(self) -> None:
        if self.examiner is not None:
            self.examiner.runner.close()
        self.examiner = None


_STATE = _Process()


def _initialise(request: Request) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _STATE.open(request)


def _perform(task: _Task) -> _Done:
    examiner = _STATE.examiner
    assert examiner is not None, "opened before the first task"
    examiner.coverage = Coverage()
    failures: list[Failure] = []
    failing: Counter[str] = Counter()

    def consume(program: Program, length: int) -> bool:
        violation = examiner.examine(program, length)
        if violation is not None:
            failing[violation.rule] += 1
            if failing[violation.rule] == 1 and violation.rule not in task.settled:
                failures.append(examiner.reduce(program, violation))
        return task.deadline is None or time.monotonic() < task.deadline

    for program in task.known:
        consume(program, len(program))
    if task.shard is not None:
        plan = plan_for(_STATE.request.description, _STATE.request.model, task.shard)
        run_shard(plan, task.shard, consume)
    return _Done(examiner.coverage, failures, failing)
