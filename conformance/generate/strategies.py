"""Whole programs: from Hypothesis, or from a seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import count
from operator import attrgetter
from random import Random
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from reference.operations import Operation
from reference.program import Program

from .choose import choose
from .closing import closing
from .plan import Plan
from .scenes import CHOICES as SCENE_CHOICES
from .scenes import Step, scene, take
from .sketch import Sketch

__all__ = [
    "Grown",
    "grown",
    "grown_from_seed",
    "program_seed",
    "programs",
    "random_program",
    "random_programs",
]

_PACKED = 8
"""Bytes of an operation's packed choice, as many as `build` reads."""
_SHORT = 0.1
"""Share of short programs: most bugs need a history, but some hide behind one."""

# Bytes are drawn evenly by every backend and shrink one by one; Hypothesis' integers are mostly
# small, which would leave the upper fields of a packed one at zero.
_SCENE = st.binary(min_size=1 + SCENE_CHOICES, max_size=1 + SCENE_CHOICES)


class Grown(NamedTuple):
    """A program, and where it has come to."""

    program: Program
    sketch: Sketch

    def swept(self) -> Program:
        """The program with a closing sweep."""
        operations = (*self.program.operations, *closing(self.sketch))
        return self.program.with_operations(operations)


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
    size = together * (1 + _PACKED)
    return _programs(plan, lengths, st.binary(min_size=size, max_size=size))


@st.composite
def _programs(
    draw: DrawFn, plan: Plan, lengths: SearchStrategy[int], choices: SearchStrategy[bytes]
) -> Grown:
    sketch = Sketch(plan)
    operations: list[Operation] = []
    steps = _steps(plan, draw(_SCENE)) if plan.scenes else ()
    rest = b""
    for number in range(max(draw(lengths), len(steps))):
        rest = rest or draw(choices)
        choice, rest = rest[: 1 + _PACKED], rest[1 + _PACKED :]
        # Kind zero leaves the operation out: the shrinker drops one by changing one choice.
        operation = _operation(sketch, steps[number : number + 1], choice) if choice[0] else None
        if operation is not None:
            sketch.add(operation)
            operations.append(operation)
    return Grown(Program(tuple(operations), plan.geometry, plan.model), sketch)


def _steps(plan: Plan, choice: bytes) -> tuple[Step, ...]:
    """The steps of the scene that a program begins with, if it begins with one."""
    return scene(plan, choice[1:]) if choice[0] >= 256 - plan.scenes else ()


def _operation(sketch: Sketch, step: tuple[Step, ...], choice: bytes) -> Operation | None:
    """The operation for a step, or whichever is called for if there is none."""
    if step:
        return take(sketch, step[0], choice)
    return choose(sketch, choice[0], int.from_bytes(choice[1:], "little"))


def random_programs(plan: Plan, seed: int, *, sweep: bool = False) -> Iterator[Program]:
    """Endless programs, each a function of the seed and its index."""
    for index in count():
        yield random_program(plan, seed, index, sweep=sweep)


def random_program(plan: Plan, seed: int, index: int, *, sweep: bool = False) -> Program:
    """Program number `index` of a seed, which `grown_from_seed` gives again from its own."""
    found = grown_from_seed(plan, program_seed(seed, index))
    return found.swept() if sweep else found.program


def program_seed(seed: int, index: int) -> int:
    """The seed (64 bits) of one program; unrelated for neighbouring seeds and indices."""
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def grown_from_seed(plan: Plan, seed: int) -> Grown:
    """The program that a 64-bit seed stands for, which is its `seed`."""
    random = Random(seed)
    sketch = Sketch(plan)
    operations: list[Operation] = []
    length = _random_length(random, plan.max_operations)
    steps = _steps(plan, random.randbytes(1 + SCENE_CHOICES)) if plan.scenes else ()
    for number in range(max(length, len(steps))):
        choice = random.getrandbits(8 + 8 * _PACKED).to_bytes(1 + _PACKED, "little")
        operation = _operation(sketch, steps[number : number + 1], choice)
        if operation is not None:
            sketch.add(operation)
            operations.append(operation)
    return Grown(Program(tuple(operations), plan.geometry, plan.model, seed), sketch)


def _random_length(random: Random, longest: int) -> int:
    if random.random() < _SHORT:
        return random.randint(1, max(1, longest // 10))
    return random.randint(max(1, longest // 5), longest)
