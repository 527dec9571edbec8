"""What the checkers say."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Breach", "Profile", "Violation"]


class Profile(enum.StrEnum):
    """How the rules are read where the kernel's own drivers differ."""

    STRICT = "strict"
    """A callback sets the sequence whatever the event and its owner (I6), and the pins of a zero
    page are dropped like any others (W5)."""
    TOLERANT = "tolerant"
    """It may return at once when the event is its own device's doing, and as pins of a zero page
    are not counted, it does not matter whether they are dropped."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that was broken, and by what."""

    rule: str
    entry: int
    """Index in the event record."""
    operation: int
    """Number in the program of the operation that it happened in."""
    message: str
    """What was wrong, in one line for the driver's author."""


class Breach(Exception):
    """Raised by a checker at the entry that breaks a rule."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule
