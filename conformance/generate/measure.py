"""What generated programs are like as a whole, for reports."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from reference.program import Program

__all__ = ["length_distribution", "near_copies"]

_LOOK_BACK = 6
"""Programs before it that a program may be a near-copy of; Hypothesis makes up to five in a row."""
_NEAR = 0.8
_Shape = tuple[object, ...]
"""An operation without its values."""


def length_distribution(programs: Iterable[Program], bucket: int = 10) -> dict[range, int]:
    """How many programs there are in each bucket of lengths, ascending, gaps included."""
    counts = Counter(len(program) // bucket for program in programs)
    buckets = range(max(counts, default=-1) + 1)
    return {range(b * bucket, (b + 1) * bucket): counts[b] for b in buckets}


def near_copies(programs: Sequence[Program]) -> float:
    """Share of the programs that have most operations in common with one shortly before.

    Values count for nothing, since they follow from an operation's place.
    """
    before: deque[Counter[_Shape]] = deque(maxlen=_LOOK_BACK)
    copies = 0
    for program in programs:
        shape: Counter[_Shape] = Counter(operation[:12] for operation in program.operations)
        copies += any(_alike(shape, other) for other in before)
        before.append(shape)
    return copies / max(len(programs), 1)


def _alike(one: Counter[_Shape], other: Counter[_Shape]) -> bool:
    longest = max(one.total(), other.total(), 1)
    return (one & other).total() >= _NEAR * longest
