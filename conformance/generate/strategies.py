"""Programs that Hypothesis draws."""

from __future__ import annotations

from operator import attrgetter

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from reference.operations import Operation
from reference.program import Program

from .fresh import PACKED, Grown, operation_of, steps_of
from .plan import Plan
from .scenes import CHOICES as SCENE_CHOICES
from .sketch import Sketch

__all__ = ["grown", "programs"]

# Bytes are drawn evenly by every backend and shrink one by one; Hypothesis' integers are mostly
# small, which would leave the upper fields of a packed one at zero.
_SCENE = st.binary(min_size=1 + SCENE_CHOICES, max_size=1 + SCENE_CHOICES)


def programs(plan: Plan, *, sweep: bool = False) -> SearchStrategy[Program]:
    """Programs for a candidate, with a closing sweep if asked for."""
    return grown(plan).map(Grown.swept if sweep else attrgetter("program"))


def grown(plan: Plan, together: int = 1) -> SearchStrategy[Grown]:
    """The same, with what is known of their end.

    One choice is the length, and one the scene if there may be one; then each operation takes
    one, its first byte the kind.  With `together`, so many take one: that shrinks less well, but
    what a choice costs Hypothesis is most of what an operation does.
    """
    longest = plan.max_operations
    lengths = st.integers(1, longest + longest // 4).map(lambda length: min(length, longest))
    size = together * (1 + PACKED)
    return _programs(plan, lengths, st.binary(min_size=size, max_size=size))


@st.composite
def _programs(
    draw: DrawFn, plan: Plan, lengths: SearchStrategy[int], choices: SearchStrategy[bytes]
) -> Grown:
    sketch = Sketch(plan)
    operations: list[Operation] = []
    steps = steps_of(plan, draw(_SCENE)) if plan.scenes else ()
    rest = b""
    for number in range(max(draw(lengths), len(steps))):
        rest = rest or draw(choices)
        choice, rest = rest[: 1 + PACKED], rest[1 + PACKED :]
        # Kind zero leaves the operation out: the shrinker drops one by changing one choice.
        operation = operation_of(sketch, steps[number : number + 1], choice) if choice[0] else None
        if operation is not None:
            sketch.add(operation)
            operations.append(operation)
    return Grown(Program(tuple(operations), plan.geometry, plan.model), sketch)
