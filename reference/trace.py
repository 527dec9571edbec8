"""What came of running a program, and what the model says to it."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from .operations import WORD, Operation
from .outcomes import Outcome
from .program import Program
from .record import Entry
from .schedule import Offer, Schedule, Switch

__all__ = [
    "Breakdown",
    "Cause",
    "Effect",
    "Hosted",
    "Interruption",
    "Judgement",
    "Stop",
    "Trace",
    "Violation",
    "WrongWord",
]


class Cause(enum.StrEnum):
    """How a candidate broke down instead of answering."""

    CRASH = "crash"
    HANG = "hang"
    MEMORY = "memory"
    GARBAGE = "garbage"
    REFUSED = "refused"
    """It said itself that it cannot go on."""
    KERNEL = "kernel"
    """The kernel that it is in complained in its log, whatever was answered."""


@dataclass(frozen=True)
class Breakdown:
    """A candidate that gave no proper answer, with what it left behind (signal, last output)."""

    cause: Cause
    message: str


class Effect(msgspec.Struct, frozen=True, array_like=True):
    """An operation, or a part of one, at the moment when it took effect.

    In this order operations may be judged as if they had been done one after another.
    """

    index: int
    """Number of the operation in the program."""
    operation: Operation
    outcome: Outcome
    entry: int
    """Length of the event record at that moment."""


class Interruption(msgspec.Struct, frozen=True, array_like=True):
    """A switch that was made."""

    switch: Switch
    where: str
    """Name of the protocol point."""
    entry: int
    """Length of the event record at that moment."""


class Stop(msgspec.Struct, frozen=True, array_like=True):
    """A rule that was broken so that the run could not go on."""

    rule: str
    message: str
    operation: int
    """In which operation."""


class Hosted(msgspec.Struct, frozen=True, array_like=True):
    """What the host saw of the run of a driver."""

    history: tuple[Effect, ...] = ()
    """Effects in the order in which they came about."""
    record: tuple[Entry, ...] = ()
    taken: tuple[Interruption, ...] = ()
    """Where somebody else ran on than without a schedule."""
    broken: Stop | None = None
    points: int = 0
    """Protocol points that were passed."""
    asked: dict[str, int] = {}
    """How often each site was asked whether it fails."""
    offers: tuple[Offer, ...] = ()
    """What else could have been chosen, if the schedule's strategy is to explore."""

    def schedule(self, given: Schedule) -> Schedule:
        """The schedule that was taken, whatever chose it; `given` is the program's."""
        switches = tuple(each.switch for each in self.taken)
        return Schedule(switches, injections=given.injections)


@dataclass(frozen=True)
class Trace:
    """A program with its outcomes; fewer of them than operations if the candidate broke down."""

    program: Program
    outcomes: tuple[Outcome, ...]
    breakdown: Breakdown | None = None
    hosted: Hosted | None = None
    """For a driver on the host that did not break down."""
    excused: frozenset[int] = frozenset()
    """Operations that may fail because a failure was injected into what they do."""
    copies: Mapping[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    """By operation the processes and pages of which a private copy was made just before it."""
    atomicity: int = WORD
    """Bytes that a job reads or writes as one, as the candidate describes itself."""

    def cut(self, program: Program) -> Trace:
        """What came of a program that is this one without its last operations."""
        outcomes = self.outcomes[: len(program)]
        return replace(self, program=program, outcomes=outcomes, hosted=None)

    def as_taken(self) -> Program:
        """The program with the schedule that was taken, so that it runs the same way again."""
        if self.hosted is None:
            return self.program
        return replace(self.program, schedule=self.hosted.schedule(self.program.schedule))


@dataclass(frozen=True)
class WrongWord:
    """A word that was read as something it cannot hold."""

    process: int
    """Address space, as index of its process."""
    page: int
    word: int
    """Word in the page."""
    value: int
    """What was read."""


@dataclass(frozen=True)
class Violation:
    """The first outcome that the contract does not allow."""

    rule: str
    """Id of the rule that it breaks."""
    index: int
    """Operation that it is the outcome of."""
    message: str
    """One line: what was allowed and what came."""
    wrong: WrongWord | None = None
    """The word that it is about, if it is about one."""
    place: int | None = None
    """For a driver on the host: which of the effects that are judged was wrong, if one was."""


@dataclass(frozen=True)
class Judgement:
    """The model's word on a trace."""

    violation: Violation | None = None
    exercised: Counter[str] = field(default_factory=Counter)
    """How often each rule was really put to the test, by rule id, or `id/detail`."""
