"""What a candidate is, to Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

from reference.description import Description
from reference.geometry import Geometry
from reference.operations import Kind, Operation
from reference.outcomes import Outcome, Status
from reference.program import Program
from reference.trace import Trace

__all__ = ["Candidate", "CandidateError", "GarbageError", "Scheduled", "Stepwise"]


class CandidateError(Exception):
    """A candidate that cannot be reached or used: one line that names what and where."""

    verbatim: ClassVar[bool] = False
    """Its lines mean something as they stand, like those of a compiler."""


class GarbageError(ValueError):
    """An answer of a candidate that is none: says which operation's, and what is wrong."""


class Candidate(Protocol):
    """A mirror under test.

    `reset` gives a fresh arena: nothing mapped, process 0 alive, no device attached, every file
    `geometry.pages` long and zero.  `run` does a batch of operations in order and gives one
    outcome for each; a program comes as one batch or as several, down to single steps.
    """

    def describe(self) -> Description: ...

    def reset(self, geometry: Geometry) -> None: ...

    def run(self, operations: Sequence[Operation]) -> Sequence[Outcome]: ...


class Scheduled(Protocol):
    """A mirror that runs whole programs under their schedules, and shows what happened inside.

    The trace of `run_scheduled` has `hosted`.
    """

    def describe(self) -> Description: ...

    def run_scheduled(self, program: Program) -> Trace: ...


class Stepwise:
    """A base class that does one operation at a time: a method for each, named as in a program.

    `def write(self, op): ...` gives an `Outcome`, or None for success with nothing to say.
    """

    def run(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Do the operations in order; one that has no method is UNSUPPORTED."""
        return [self._step(operation) for operation in operations]

    def _step(self, operation: Operation) -> Outcome:
        name = Kind(operation.kind).name.lower()
        method: Callable[[Operation], Outcome | None] | None = getattr(self, name, None)
        if method is None:
            return Outcome(Status.UNSUPPORTED)
        return method(operation) or Outcome(Status.OK)
