"""A Hypothesis backend on `random.Random`: every example is fresh and owes nothing to another.

Hypothesis' own generation makes many examples by changing the one before a little, and prefers
small numbers.  For long programs, where an example is to explore and not to be read, independent
uniform choices find more.  Shrinking is Hypothesis' own with either backend.

Importing this module makes `settings(backend="lastwriter-random")` work; Hypothesis does so by
itself where this distribution is installed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, ClassVar, Literal

from hypothesis.internal.conjecture import providers
from hypothesis.internal.conjecture.providers import (
    AVAILABLE_PROVIDERS,
    HypothesisProvider,
    PrimitiveProvider,
)
from hypothesis.internal.floats import make_float_clamper
from hypothesis.internal.intervalsets import IntervalSet

__all__ = ["NAME", "RandomProvider", "steady_choices"]

NAME = "lastwriter-random"
_UNBOUNDED_BITS = 128
"""Bits of integers without bounds."""
_USUAL_ELEMENTS = 32
"""Most elements of a string or bytes beyond the smallest allowed size."""


class RandomProvider(PrimitiveProvider):
    """Draws every choice uniformly from the test function's own random state.

    That state follows `@seed` and `derandomize`, so the same settings give the same examples.
    """

    # One provider for each test case, since only those are given the random state.
    lifetime: ClassVar[Literal["test_case", "test_function"]] = "test_case"

    def __init__(self, conjecturedata: Any, /) -> None:
        super().__init__(conjecturedata)
        # There is none when fixed choices are replayed, and then nothing is drawn either.
        self._random: Random = getattr(conjecturedata, "_random", None) or Random(0)

    def draw_boolean(self, p: float = 0.5) -> bool:
        return self._random.random() < p

    def draw_integer(
        self,
        min_value: int | None = None,
        max_value: int | None = None,
        *,
        weights: dict[int, float] | None = None,
        shrink_towards: int = 0,
    ) -> int:
        if weights is not None:
            # The weights may leave some probability over, which is spread over all values.
            rest = self._random.random()
            for value, weight in weights.items():
                rest -= weight
                if rest < 0:
                    return value
        if min_value is not None and max_value is not None:
            return self._random.randint(min_value, max_value)
        return self._unbounded(min_value, max_value)

    def _unbounded(self, low: int | None, high: int | None) -> int:
        magnitude = self._random.getrandbits(self._random.randint(1, _UNBOUNDED_BITS))
        if low is not None:
            return low + magnitude
        if high is not None:
            return high - magnitude
        return magnitude if self._random.getrandbits(1) else -magnitude

    def draw_float(
        self,
        *,
        min_value: float = -math.inf,
        max_value: float = math.inf,
        allow_nan: bool = True,
        smallest_nonzero_magnitude: float,
    ) -> float:
        clamp = make_float_clamper(
            min_value,
            max_value,
            allow_nan=allow_nan,
            smallest_nonzero_magnitude=smallest_nonzero_magnitude,
        )
        bits = struct.pack("<Q", self._random.getrandbits(64))
        value: float = struct.unpack("<d", bits)[0]
        return value if allow_nan and math.isnan(value) else clamp(value)

    def draw_string(
        self, intervals: IntervalSet, *, min_size: int = 0, max_size: int = 10**10
    ) -> str:
        if not intervals:
            return ""
        size = self._size(min_size, max_size)
        count = len(intervals)
        return "".join(chr(intervals[self._random.randrange(count)]) for _ in range(size))

    def draw_bytes(self, min_size: int = 0, max_size: int = 10**10) -> bytes:
        return self._random.randbytes(self._size(min_size, max_size))

    def _size(self, smallest: int, largest: int) -> int:
        return self._random.randint(smallest, min(largest, smallest + _USUAL_ELEMENTS))


@contextmanager
def steady_choices() -> Iterator[None]:
    """Make what Hypothesis' own backend draws a function of the seed alone.

    It prefers constants that it finds in the source of modules that are not installed, so the
    same seed would give other programs in a checkout, or with another module imported.  Versions
    of Hypothesis that do not do so are left as they are.
    """
    name = "_local_constants"
    found = vars(HypothesisProvider).get(name)
    if found is None or not hasattr(providers, "Constants"):
        yield
        return
    setattr(HypothesisProvider, name, providers.Constants())
    providers.CONSTANTS_CACHE.cache.clear()
    try:
        yield
    finally:
        setattr(HypothesisProvider, name, found)
        providers.CONSTANTS_CACHE.cache.clear()


# By its name, since older versions of Hypothesis take nothing else.
AVAILABLE_PROVIDERS[NAME] = f"{__name__}.{RandomProvider.__name__}"
