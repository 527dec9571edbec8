"""The values that a word may hold: almost always one, which is then simply an int.

Several values are a frozenset.  Past `MOST` of them nothing is known any more (`ANYTHING`):
the word is then not checked until it is next written, which is sound, only weaker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

__all__ = [
    "ANYTHING",
    "MASK",
    "MOST",
    "Change",
    "Values",
    "apply",
    "collect",
    "describe",
    "holds",
    "members",
    "mixes",
    "mixtures",
    "union",
]

Values = int | frozenset[int]
Change = Callable[[int], int]
"""What an access makes of the value of a word."""
MASK: Final = (1 << 64) - 1
MOST: Final = 64


ANYTHING: Final[frozenset[int]] = frozenset((-1,))
"""The set of all values, known by its identity: what it contains, which no word can hold, means
nothing."""


def members(values: Values) -> frozenset[int]:
    """The values as a set."""
    return frozenset((values,)) if isinstance(values, int) else values


def holds(values: Values, value: int) -> bool:
    """Whether a word with these values may be read as `value`."""
    if isinstance(values, int):
        return value == values
    return value in values or values is ANYTHING


def union(left: Values, right: Values) -> Values:
    """Either of the two; `left` itself if `right` adds nothing."""
    if left is ANYTHING or right is ANYTHING:
        return ANYTHING
    if isinstance(right, int):
        if isinstance(left, int):
            return left if left == right else frozenset((left, right))
        if right in left:
            return left
    both = members(left) | members(right)
    if both == left:
        return left
    return ANYTHING if len(both) > MOST else collect(both)


def mixes(values: Values, value: int) -> bool:
    """Whether each byte of `value` is that of some of the values."""
    several = members(values)
    return values is ANYTHING or all(
        any((value ^ each) >> at & 0xFF == 0 for each in several) for at in range(0, 64, 8)
    )


def mixtures(values: Values) -> Values:
    """All values of which `mixes` is true."""
    if isinstance(values, int) or values is ANYTHING:
        return values
    mixed = [0]
    for at in range(0, 64, 8):
        bytes_at = {value & 0xFF << at for value in values}
        if len(mixed) * len(bytes_at) > MOST:
            return ANYTHING
        mixed = [value | byte for value in mixed for byte in bytes_at]
    return collect(mixed)


def apply(function: Change, values: Values) -> Values:
    """What the word may hold after a change of its value."""
    if isinstance(values, int):
        return function(values)
    return values if values is ANYTHING else collect(map(function, values))


def collect(values: Iterable[int]) -> Values:
    """The smallest representation of a set of values."""
    several = frozenset(values)
    return next(iter(several)) if len(several) == 1 else several


def describe(values: Values) -> str:
    """Values for people: hexadecimal, several of them in braces."""
    if values is ANYTHING:
        return "anything"
    if isinstance(values, int):
        return f"{values:#x}"
    return "{" + ", ".join(f"{value:#x}" for value in sorted(values)) + "}"
