"""What came of running a program, and what the model says to it."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field

from .outcomes import Outcome
from .program import Program

__all__ = ["Breakdown", "Cause", "Judgement", "Trace", "Violation", "WrongWord"]


class Cause(enum.StrEnum):
    """How a candidate broke down instead of answering."""

    CRASH = "crash"
    HANG = "hang"
    MEMORY = "memory"
    GARBAGE = "garbage"
    REFUSED = "refused"
    """It said itself that it cannot go on."""


@dataclass(frozen=True)
class Breakdown:
    """A candidate that gave no proper answer, with what it left behind (signal, last output)."""

    cause: Cause
    message: str


@dataclass(frozen=True)
class Trace:
    """A program with its outcomes; fewer of them than operations if the candidate broke down."""

    program: Program
    outcomes: tuple[Outcome, ...]
    breakdown: Breakdown | None = None


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


@dataclass(frozen=True)
class Judgement:
    """The model's word on a trace."""

    violation: Violation | None = None
    exercised: Counter[str] = field(default_factory=Counter)
    """How often each rule was really put to the test, by rule id, or `id/detail`."""
