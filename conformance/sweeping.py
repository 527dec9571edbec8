"""A program on a driver with every single failure that its run can meet, one at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from adapters.candidate import CandidateError
from reference.program import Program
from reference.trace import Violation

from .examine import Examiner, Failure, as_found
from .explore.sweep import sweep
from .tasks import PER_RULE

__all__ = ["Swept", "sweep_failures", "table_of"]


@dataclass(frozen=True)
class Swept:
    """What came of one run."""

    site: str
    """Where a failure was injected; empty for the run without one."""
    number: int
    """The so-many-th time that the host asked there."""
    violation: Violation | None
    failure: Failure | None
    """Reduced, if few programs that broke the same rule have been."""

    @property
    def rule(self) -> str:
        """The rule that was broken; empty if none was."""
        return "" if self.violation is None else self.violation.rule


@dataclass(frozen=True)
class _Answer:
    violation: Violation | None
    broke_down: bool
    asked: Mapping[str, int]
    """How often each site was asked whether it fails."""


def sweep_failures(program: Program, examiner: Examiner) -> Iterator[Swept]:
    """Run a program without a failure, then with each that it can meet.

    If it breaks the candidate down as it is, that is all: nobody knows then what it would meet.
    """
    reduced: Counter[str] = Counter()
    plain: Mapping[str, int] = {}

    def run(each: Program) -> _Answer:
        violation = examiner.examine(each)
        hosted = examiner.trace.hosted
        # Up to its failure a run is like the one without: it has met it if that one would have.
        return _Answer(violation, hosted is None, plain if hosted is None else hosted.asked)

    for each, answer in sweep(program, run):
        injections = each.schedule.injections
        if not injections:
            plain = answer.asked
        failure = None
        if answer.violation is not None:
            reduced[answer.violation.rule] += 1
            if reduced[answer.violation.rule] <= PER_RULE:
                failure = _reduced(examiner, answer.violation)
        site, number = injections[0] if injections else ("", 0)
        yield Swept(site, number, answer.violation, failure)
        if answer.broke_down and not injections:
            return


def _reduced(examiner: Examiner, violation: Violation) -> Failure:
    """The last program that was examined, made short."""
    trace = examiner.trace
    try:
        return examiner.reduce(trace.program, violation)
    except CandidateError:
        # It could not be started or reached again, which must not cost us the program.
        return as_found(trace, violation)


def table_of(swept: Iterable[Swept]) -> Iterator[tuple[str, str, str]]:
    """Site, numbers and outcome, with a row for runs of numbers with the same outcome."""
    for (site, rule), group in groupby(swept, key=lambda each: (each.site, each.rule)):
        numbers = [each.number for each in group]
        first, last = numbers[0], numbers[-1]
        text = str(first) if first == last else f"{first}-{last}"
        yield (site, text, rule) if site else ("none", "", rule)
