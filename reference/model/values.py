"""The values that a word may hold: almost always one, which is then simply an int.

Several values are a frozenset.  Past `MOST` of them nothing is known any more (`ANYTHING`):
the word is then not checked until it is next written, which is sound, only weaker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["ANYTHING", "MASK", "Values", "apply", "describe", "holds", "union"]

Values = int | frozenset[int]
MASK = (1 << 64) - 1
MOST = 64


class _Anything(frozenset[int]):
    """The set of all values."""

    def __contains__(self, value: object) -> bool:
        return True

    def __or__(self, other: object) -> _Anything:
        return self

    def __repr__(self) -> str:
        return "ANYTHING"


ANYTHING: frozenset[int] = _Anything()


def members(values: Values) -> frozenset[int]:
    """The values as a set."""
    return frozenset((values,)) if isinstance(values, int) else values


def holds(values: Values, value: int) -> bool:
    """Whether a word with these values may be read as `value`."""
    return value == values if isinstance(values, int) else value in values


def union(left: Values, right: Values) -> Values:
    """Either of the two."""
    if left == right or left is ANYTHING or right is ANYTHING:
        return right if right is ANYTHING else left
    if left == frozenset() or right == frozenset():
        return right if left == frozenset() else left
    both = members(left) | members(right)
    return ANYTHING if len(both) > MOST else both


def apply(function: Callable[[int], int], values: Values) -> Values:
    """What the word may hold after a change of its value."""
    if isinstance(values, int):
        return function(values)
    return values if values is ANYTHING else collect(map(function, values))


def collect(values: Iterable[int]) -> Values:
    """The smallest representation of a set of values, at least one."""
    several = frozenset(values)
    return several if len(several) > 1 else next(iter(several))


def describe(values: Values) -> str:
    """Values for people: hexadecimal, several of them in braces."""
    if values is ANYTHING:
        return "anything"
    if isinstance(values, int):
        return f"{values:#x}"
    return "{" + ", ".join(f"{value:#x}" for value in sorted(values)) + "}"
