"""Certify a candidate: share out the programs, collect what comes back, decide.

`certify` gives typed events as it goes; who prints them is no business of it.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from adapters.candidate import CandidateError
from adapters.registry import Reach, reach_of
from reference.program import Program

from .certificate import (
    Certificate,
    FailureRecord,
    Searched,
    identify,
    lengths_of,
    versions,
)
from .examine import Coverage, Failure
from .exhaustive import Exhaustive, Share, share_of
from .expect import surprises
from .shards import Shard, shards
from .store import Store, file_name, runnable
from .tasks import PER_RULE, Done, Request, Task, Workers, weight
from .verdicts import overall, results
from .version import own_version

__all__ = [
    "PER_RULE",
    "PROGRAMS",
    "SCHEDULED_PROGRAMS",
    "Event",
    "Finished",
    "Found",
    "Progress",
    "Request",
    "certify",
]

PROGRAMS = 2000
"""Programs of a run that is given neither a number of them nor a time."""
SCHEDULED_PROGRAMS = 24_000
"""The same for a driver on the host, each program under one schedule."""
PATIENCE = 20
"""Failing programs after which a run ends, if their rules were not expected to fail; one that
hangs or eats memory counts for several."""
UNWEIGHED = {"R3": "nothing weighs a candidate that runs in the suite's own process"}
"""Rules that cannot be put to the test in the suite's own process, and why."""
UNREAD = {"R5": "shows only in the log of a kernel that runs in a machine of the suite's"}
"""Rules that cannot be put to the test outside of such a machine, and why."""


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
    problem: str = ""
    """Why it could not be saved there."""


@dataclass(frozen=True)
class Finished:
    """The end."""

    certificate: Certificate


Event = Progress | Found | Finished


def certify(request: Request) -> Iterator[Event]:
    """Run the programs; `CandidateError` if not one could be run.

    Ctrl-C, and a problem that a later program meets, end the run early: what was found until then
    is kept and certified.
    """
    return _Run(request).events()


class _Interruption(AbstractContextManager[None]):
    """Ctrl-C, and the moments in which it is safe to end the work: inside of this context.

    At other moments it is put off to the next of these.  A second one is not put off.
    """

    def __init__(self) -> None:
        self.asked = False
        self._safe = False

    def __enter__(self) -> None:
        self._safe = True
        if self.asked:
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        self._safe = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch Ctrl-C, unless somebody else does already."""
        theirs = signal.getsignal(signal.SIGINT)
        if (
            theirs is not signal.default_int_handler
            or threading.current_thread() is not threading.main_thread()
        ):
            yield
            return
        signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, theirs)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if self._safe or again:
            raise KeyboardInterrupt


class _Run:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.start = time.monotonic()
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.coverage = Coverage()
        self.failing: Counter[str] = Counter()
        self.shown_as: dict[str, str] = {}
        """The rule that a program broke, and the one that it broke when it was reduced."""
        self.kept: dict[str, Failure] = {}
        self.store = Store(
            request.out / "failures", request.spec, request.model, profile=request.profile
        )
        self.expected = frozenset(each.rule for each in request.expected)
        self.deadline = None if request.seconds is None else self.start + request.seconds
        most = share_of(request.programs) if request.description.schedules else 0
        self.exhaustive: Exhaustive[Done] = Exhaustive(request.description, request.model, most)
        self.sampled = 0
        """Programs that were given out in shards."""
        self.interrupted = False
        self.problem = ""

    def events(self) -> Iterator[Event]:
        self.store.take_in(self.request.out)
        interruption = _Interruption()
        with interruption.caught():
            workers = Workers(self.request, interruption)
            try:
                yield from self._work(workers, interruption)
            except KeyboardInterrupt:
                workers.kill()
                raise
            finally:
                workers.close()
        if self.problem and not self.coverage.programs:
            raise CandidateError(self.problem)
        yield Finished(self._certificate())

    def _work(self, workers: Workers, interruption: _Interruption) -> Iterator[Event]:
        for done in workers.work(self._tasks()):
            yield from self._take(done)
            self.interrupted = done.interrupted or interruption.asked
            if self.problem or self.interrupted:
                break
        for done in workers.finish():
            yield from self._take(done)
        for done in self.exhaustive.rest():
            yield from self._count(done)

    def _known(self) -> tuple[Program, ...]:
        return tuple(
            program
            for program in self.store.load()
            if runnable(program, self.request.description, self.request.model)
        )

    def _tasks(self) -> Iterator[Task | None]:
        """What is to be done, until the budget or the patience runs out."""
        known = self._known()
        if known:
            yield self._task(PATIENCE, known=known)
        random = shards(self.request.description, self.request.seed)
        while True:
            patience = PATIENCE - sum(weight(rule) * n for rule, n in self._unexpected())
            past = self.deadline is not None and time.monotonic() >= self.deadline
            if past or patience <= 0:
                return
            left = self._left()
            due = self.exhaustive.is_due(self.sampled)
            share = self.exhaustive.next() if due or left == 0 else None
            if share is not None:
                yield self._task(patience, share=share)
            elif left != 0:
                shard = next(random)
                shard = shard if left is None else shard.limited(left)
                self.sampled += shard.programs
                yield self._task(patience, shard=shard)
            elif self.exhaustive.waiting:
                yield None
            else:
                return

    def _task(
        self,
        patience: int,
        *,
        shard: Shard | None = None,
        share: Share | None = None,
        known: tuple[Program, ...] = (),
    ) -> Task:
        return Task(self.deadline, self._settled(), patience, shard, share, known)

    def _left(self) -> int | None:
        """Random programs that the budget has left; None if only time limits them."""
        if self.request.programs is None:
            return None
        return max(0, self.request.programs - self.exhaustive.reserved - self.sampled)

    def _unexpected(self) -> Iterator[tuple[str, int]]:
        return ((rule, n) for rule, n in self.failing.items() if rule not in self.expected)

    def _settled(self) -> frozenset[str]:
        kept = Counter(failure.violation.rule for failure in self.kept.values())
        return frozenset(rule for rule, count in kept.items() if count >= PER_RULE)

    def _take(self, done: Done) -> Iterator[Event]:
        self.problem = self.problem or done.problem
        if done.share is None:
            yield from self._count(done)
        else:
            for each in self.exhaustive.take(done.share, done.covered, done):
                yield from self._count(each)

    def _count(self, done: Done) -> Iterator[Event]:
        self.coverage.update(done.coverage)
        self.failing.update(done.failing)
        for found_as, failure in done.failures:
            rule = failure.violation.rule
            self.shown_as.setdefault(found_as, rule)
            name = file_name(failure)
            if name not in self.kept and rule not in self._settled():
                self.kept[name] = failure
                yield self._save(failure, name)
        yield Progress(
            self.coverage.programs,
            self.coverage.operations,
            self.failing.total(),
            time.monotonic() - self.start,
        )

    def _save(self, failure: Failure, name: str) -> Found:
        path = self.store.folder / name
        try:
            return Found(failure, self.store.add(failure))
        except OSError as error:
            problem = f"{path}: {error.strerror}"
            self.problem = self.problem or problem
            return Found(failure, path, problem)

    def _failing(self) -> Counter[str]:
        """Failing programs by the rule that they break when reduced.

        Not all were; those that were not are taken to be like those that were.
        """
        shown = {failure.violation.rule for failure in self.kept.values()}
        failing: Counter[str] = Counter()
        for rule, count in self.failing.items():
            failing[rule if rule in shown else self.shown_as.get(rule, rule)] += count
        return failing

    def _not_covered(self) -> set[str]:
        """Rules that some program breaks, when it is reduced, of which nobody expected that."""
        return {
            failure.violation.rule
            for failure in self.kept.values()
            if not any(
                each.covers(failure.violation.rule, failure.needs) for each in self.request.expected
            )
        }

    def _certificate(self) -> Certificate:
        request = self.request
        rules = results(
            request.description,
            request.model,
            self.coverage.exercised,
            self._failing(),
            self.expected - self._not_covered(),
            _untested(request),
        )
        return Certificate(
            lastwriter=own_version(),
            candidate=identify(request.spec, request.description),
            model=request.model,
            profile=request.profile if request.description.schedules else None,
            verdict=overall(rules),
            surprises=surprises(request.expected, rules),
            interrupted=self.interrupted,
            problem=self.problem,
            rules=rules,
            failures=[_record(failure) for failure in self.kept.values()],
            failing_programs=self.failing.total(),
            expected=list(request.expected),
            programs=self.coverage.programs,
            operations=self.coverage.operations,
            sweep_reads=self.coverage.checks,
            lengths=lengths_of(self.coverage.lengths),
            exhaustive=[Searched.of(tally) for tally in self.exhaustive.tallies],
            pct=list(self.coverage.pct.promises()),
            seed=request.seed,
            budget=request.budget,
            jobs=request.jobs,
            in_process=request.in_process,
            started=self.started,
            seconds=round(time.monotonic() - self.start, 3),
            versions=versions(),
            capabilities=request.description,
        )


def _untested(request: Request) -> dict[str, str]:
    weighed = not request.in_process
    read = reach_of(request.spec) is Reach.MACHINE
    return ({} if weighed else UNWEIGHED) | ({} if read else UNREAD)


def _record(failure: Failure) -> FailureRecord:
    return FailureRecord(
        rule=failure.violation.rule,
        message=failure.violation.message,
        file=f"failures/{file_name(failure)}",
        operations=len(failure.program),
        found_with=len(failure.found),
        unstable=failure.unstable,
    )
