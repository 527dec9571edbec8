"""The search for a shorter failing program: what was found, what was tried, what it took."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from reference.model.judge import BREAKDOWN_RULES
from reference.operations import Operation
from reference.program import Program
from reference.trace import Violation
from reference.validity import repair

__all__ = ["Operations", "Reduced", "Reproduce", "Search", "alike", "never"]

Reproduce = Callable[[Program], Violation | None]
"""Run a program once and judge it."""

Operations = tuple[Operation, ...]


@dataclass(frozen=True)
class Reduced:
    """The shortest failing program found, and what it took."""

    program: Program
    violation: Violation
    runs: int
    unstable: bool
    """It does not fail every time it is run."""


@dataclass(frozen=True)
class _Repeats:
    """How often a program is run, and how often it must fail to count as failing."""

    least: int
    most: int


_STABLE = _Repeats(1, 1)
_UNSTABLE = _Repeats(2, 10)
_TRIALS = 3
"""Runs of the program as it was found, to tell whether it always fails."""
_BREAKDOWNS = frozenset(BREAKDOWN_RULES.values())


def never() -> bool:
    """There is no limit in time."""
    return False


def alike(one: str, other: str, excluded: frozenset[str]) -> bool:
    """Whether programs that break these rules may show the same bug."""
    rules = {one, other}
    return len(rules) == 1 or not rules & (_BREAKDOWNS | excluded)


@dataclass
class Search:
    """The shortest failing program so far.  Steps propose others, with `attempt`."""

    reproduce: Reproduce
    program: Program
    violation: Violation
    limit: int
    excluded: frozenset[str]
    expired: Callable[[], bool] = never
    """Whether no time is left."""
    runs: int = 0
    _repeats: _Repeats = _STABLE
    _tried: set[Operations] = field(default_factory=set)

    @property
    def operations(self) -> Operations:
        return self.program.operations

    @property
    def exhausted(self) -> bool:
        """No runs or no time are left."""
        return self.runs >= self.limit or self.expired()

    @property
    def repeats(self) -> int:
        """Runs that one attempt may take."""
        return self._repeats.most

    def confirm(self) -> bool:
        """Run the program as it was found a few times; whether it ever fails again."""
        trials = min(_TRIALS, self.limit)
        failures = sum(self._fails_once(self.program) is not None for _ in range(trials))
        if failures < trials:
            self._repeats = _UNSTABLE
        return failures > 0

    def doubt(self, found: Program, violation: Violation) -> bool:
        """Whether what passed for a program that always fails never does, so that nothing is known.

        What an attempt leaves behind in a candidate may harm a later one.  Then the program as it
        was found is where to begin again.
        """
        if self._repeats is _UNSTABLE or self.exhausted or self._fails_once(self.program):
            return False
        self._repeats = _UNSTABLE
        for _ in range(self.repeats):
            if self.exhausted or self._fails_once(self.program):
                return False
        self._tried.clear()
        self.program, self.violation = found, violation
        return True

    def fall_back(self, found: Program, violation: Violation) -> None:
        """To the program as it was found, unless the one that it came to fails as well."""
        if self._fails(self.program) is None:
            self.program, self.violation = found, violation

    def attempt(self, operations: Iterable[Operation]) -> bool:
        """Take over other operations, repaired and cut behind their failure, if they fail too."""
        candidate = tuple(repair(operations, self.program.geometry))
        if candidate in self._tried or candidate == self.operations or not candidate:
            return False
        self._tried.add(candidate)
        program = self.program.with_operations(candidate)
        violation = self._fails(program)
        if violation is not None:
            self.keep(program, violation)
        return violation is not None

    def keep(self, program: Program, violation: Violation) -> None:
        """Go on from here, without what follows the failure."""
        self.program = program.with_operations(program.operations[: violation.index + 1])
        self.violation = violation

    def result(self) -> Reduced:
        unstable = self._repeats is _UNSTABLE
        return Reduced(self.program, self.violation, self.runs, unstable)

    def _fails(self, program: Program) -> Violation | None:
        """The violation, if the program fails often enough."""
        least, most = self._repeats.least, self._repeats.most
        failures = 0
        for run in range(most):
            if self.exhausted or failures + most - run < least:
                break
            violation = self._fails_once(program)
            failures += violation is not None
            if violation is not None and failures >= least:
                return violation
        return None

    def _fails_once(self, program: Program) -> Violation | None:
        self.runs += 1
        violation = self.reproduce(program)
        if violation is None or not alike(violation.rule, self.violation.rule, self.excluded):
            return None
        return violation
