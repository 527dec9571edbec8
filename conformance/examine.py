"""Run programs on a candidate, judge them, and reduce what fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

from adapters.candidate import CandidateError
from adapters.registry import Reach, reach_of
from adapters.worker import Runner, Worker
from reference.description import Description
from reference.geometry import Geometry
from reference.model import judge
from reference.program import Program
from reference.protocol import Profile
from reference.record import What
from reference.trace import Judgement, Trace, Violation

from .pct import PctRuns
from .reduce import reduce
from .reduce.scheduled import Attempt, reduce_scheduled
from .reduce.search import never

__all__ = ["SLOW", "UNINTERRUPTED", "Coverage", "Examiner", "Failure", "as_found", "profile_of"]

HANG = "R2"
SLOW = frozenset({HANG, "R3"})
"""Rules whose violation takes long to show."""
UNINTERRUPTED: AbstractContextManager[object] = nullcontext()
_FEW, _SOME, _MANY = 60, 400, 2000
"""Runs that a reduction may take: that take long, in a machine that starts anew, and others."""
_IMPATIENCE = 1.0
"""Seconds after which a program hangs, while one that did hang is reduced."""


@dataclass(frozen=True)
class Failure:
    """A program that breaks a rule, as short as it could be made."""

    program: Program
    violation: Violation
    trace: Trace
    """What the candidate answered to the reduced program, the last time that it failed."""
    found: Program
    """The program as it was generated."""
    runs: int
    """Runs of the candidate that the reduction took."""
    unstable: bool
    """It does not fail every time it is run."""

    @property
    def needs(self) -> Program:
        """The program that has all that it takes: one that is unstable may be too short for it."""
        return self.found if self.unstable else self.program


def as_found(trace: Trace, violation: Violation) -> Failure:
    """A failing program that nothing was done about yet."""
    return Failure(trace.as_taken(), violation, trace, trace.program, runs=0, unstable=False)


def profile_of(name: str | None, description: Description, option: str) -> Profile:
    """The profile of a name, by default the tolerant one.

    `CandidateError` if one is asked for with an option and the candidate has no protocol.
    """
    if name is None:
        return Profile.TOLERANT
    if not description.schedules:
        raise CandidateError(
            f"{option}: {description.name} is no driver on the host, and shows no protocol"
        )
    return Profile(name)


class Coverage:
    """What was run, and how often each rule was put to the test."""

    def __init__(self) -> None:
        self.programs = 0
        self.operations = 0
        self.checks = 0
        """Reads of the closing sweeps, which are not counted as operations."""
        self.lengths: Counter[int] = Counter()
        """Programs by length in operations."""
        self.exercised: Counter[str] = Counter()
        self.pct = PctRuns()

    def add(self, length: int, total: int, judgement: Judgement) -> None:
        """Count a program of `length` operations, `total` with its closing sweep."""
        self.programs += 1
        self.operations += length
        self.checks += total - length
        self.lengths[length] += 1
        self.exercised.update(judgement.exercised)

    def update(self, other: Coverage) -> None:
        """Add what another run has covered."""
        self.programs += other.programs
        self.operations += other.operations
        self.checks += other.checks
        self.lengths.update(other.lengths)
        self.exercised.update(other.exercised)
        self.pct.update(other.pct)


class Examiner:
    """A candidate at work: every program that it is given is run and judged.

    `expected` are the rules that it is known to break.  `interruption` is entered for every run
    of the candidate; what it raises then, to end the work, is passed on.
    """

    def __init__(
        self,
        runner: Runner,
        expected: frozenset[str] = frozenset(),
        interruption: AbstractContextManager[object] = UNINTERRUPTED,
        profile: Profile = Profile.TOLERANT,
    ) -> None:
        self.runner = runner
        self.expected = expected
        self.interruption = interruption
        self.profile = profile
        self.coverage = Coverage()
        self.trace = Trace(Program((), Geometry()), ())
        """What came of the last program that was examined."""

    def _run(self, program: Program) -> Trace:
        with self.interruption:
            return self.runner.run(program)

    def judge(self, trace: Trace) -> Judgement:
        """The word on a trace under this profile; the runner is told if it failed."""
        judgement = judge(trace, self.profile)
        if judgement.violation is not None:
            self.distrust(trace)
        return judgement

    def examine(self, program: Program, length: int | None = None) -> Violation | None:
        """Run and judge a program whose first `length` operations are not a closing sweep."""
        violation = self.account(self._run(program), length)
        if violation is not None:
            self.distrust(self.trace)
        return violation

    def account(self, trace: Trace, length: int | None = None) -> Violation | None:
        """Judge and count what came of a program."""
        self.trace, program = trace, trace.program
        judgement = judge(trace, self.profile)
        self.coverage.add(len(program) if length is None else length, len(program), judgement)
        self.coverage.pct.add(trace)
        return judgement.violation

    def distrust(self, trace: Trace) -> bool:
        """A program has failed: whether what ran after it may be harmed by that.

        After a breakdown that was another candidate.
        """
        runner = self.runner
        return trace.breakdown is None and isinstance(runner, Worker) and runner.distrust()

    def begin(self, program: Program) -> None:
        """Have a program run, without waiting for it."""
        with self.interruption:
            self.runner.begin(program)

    def reduce(
        self, program: Program, violation: Violation, expired: Callable[[], bool] = never
    ) -> Failure:
        """Make a failing program short.  The runs that this takes are not counted as coverage.

        When `expired` says so, the shortest so far is what counts.
        """
        if self.runner.description.schedules:
            return self._reduce_scheduled(program, violation, expired)
        # What fails only once is shown as it was seen then.
        traces = {program: self.trace} if self.trace.program == program else {}

        def reproduce(candidate: Program) -> Violation | None:
            trace = self._run(candidate)
            violation = self.judge(trace).violation
            if violation is not None:
                traces[candidate] = trace
            return violation

        with self._impatient() if violation.rule == HANG else nullcontext():
            reduced = reduce(
                program,
                violation,
                reproduce,
                excluded=self.expected,
                limit=self._limit(violation),
                expired=expired,
            )
        short = reduced.program
        if violation.rule == HANG and self.judge(self._run(short)).violation is None:
            # On a busy machine what is slow passed for what hangs.
            return replace(as_found(Trace(program, ()), violation), unstable=True)
        trace = traces.get(short) or _failing_prefix(traces, short) or Trace(short, ())
        return Failure(short, reduced.violation, trace, program, reduced.runs, reduced.unstable)

    def _reduce_scheduled(
        self, program: Program, violation: Violation, expired: Callable[[], bool]
    ) -> Failure:
        """The same for a program that failed under a schedule, which is made short as well."""
        taken = self.trace.as_taken() if self.trace.program == program else program

        def attempt(candidate: Program) -> Attempt:
            trace = self._run(candidate)
            offers = trace.hosted.offers if trace.hosted else ()
            order = tuple(_in_order(trace))
            return Attempt(self.judge(trace).violation, _begun(trace), offers, order)

        with self._impatient() if violation.rule == HANG else nullcontext():
            reduced = reduce_scheduled(
                taken,
                violation,
                attempt,
                excluded=self.expected,
                limit=self._limit(violation),
                expired=expired,
            )
        trace = self._run(reduced.program)
        last = self.judge(trace).violation
        return Failure(
            reduced.program if last is None else trace.as_taken(),
            last or reduced.violation,
            trace,
            program,
            reduced.runs,
            reduced.unstable or last is None,
        )

    def _limit(self, violation: Violation) -> int:
        """Runs that it may take to reduce a program that breaks a rule."""
        if violation.rule in SLOW:
            return _FEW
        runner = self.runner
        in_machine = isinstance(runner, Worker) and reach_of(runner.spec) is Reach.MACHINE
        return _SOME if in_machine else _MANY

    @contextmanager
    def _impatient(self) -> Iterator[None]:
        """Many runs that all hang: a program that is a second over its start is taken to hang."""
        runner = self.runner
        if not isinstance(runner, Worker) or runner.limits.seconds <= _IMPATIENCE:
            yield
            return
        patient = runner.limits
        runner.limits = replace(patient, seconds=_IMPATIENCE)
        try:
            yield
        finally:
            runner.limits = patient


def _begun(trace: Trace) -> int:
    """The highest number of an operation that had begun when the run ended."""
    last = len(trace.program) - 1
    if trace.hosted is None:
        return last
    begun = [each.operation for each in trace.hosted.record if each.what == What.BEGIN]
    return min(max(begun, default=last), last)


def _in_order(trace: Trace) -> Iterator[int]:
    """The numbers of the operations that began, in the order in which they did."""
    last = len(trace.program) - 1
    record = trace.hosted.record if trace.hosted else ()
    # What closes the devices at the end has a number of its own.
    return (each.operation for each in record if each.what == What.BEGIN and each.operation <= last)


def _failing_prefix(traces: dict[Program, Trace], short: Program) -> Trace | None:
    """The trace of a program that was then cut behind its failure."""
    operations = short.operations
    for program, trace in traces.items():
        if program.operations[: len(operations)] == operations:
            return trace.cut(short)
    return None
