"""Whole programs: from Hypothesis, or from a seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import count
from random import Random

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from reference.operations import Operation
from reference.program import Program

from .choose import choose
from .closing import closing
from .plan import Plan
from .sketch import Sketch

__all__ = [
    "program_from_seed",
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
_OPERATION = st.binary(min_size=1 + _PACKED, max_size=1 + _PACKED)


def programs(plan: Plan, *, sweep: bool = False) -> SearchStrategy[Program]:
    """Programs for a candidate, with a closing sweep if asked for.

    One choice is the length; then each operation takes one, its first byte the kind.
    """
    longest = plan.max_operations
    lengths = st.integers(1, longest + longest // 4).map(lambda length: min(length, longest))
    return _programs(plan, lengths, sweep)


@st.composite
def _programs(draw: DrawFn, plan: Plan, lengths: SearchStrategy[int], sweep: bool) -> Program:
    sketch = Sketch(plan)
    operations: list[Operation] = []
    for _ in range(draw(lengths)):
        choice = draw(_OPERATION)
        # Kind zero leaves the operation out: the shrinker drops one by changing one choice.
        if choice[0]:
            operation = choose(sketch, choice[0], int.from_bytes(choice[1:], "little"))
            sketch.add(operation)
            operations.append(operation)
    if sweep:
        operations += closing(sketch)
    return Program(tuple(operations), plan.geometry, plan.model)


def random_programs(plan: Plan, seed: int, *, sweep: bool = False) -> Iterator[Program]:
    """Endless programs, each a function of the seed and its index."""
    for index in count():
        yield random_program(plan, seed, index, sweep=sweep)


def random_program(plan: Plan, seed: int, index: int, *, sweep: bool = False) -> Program:
    """Program number `index` of a seed, which `program_from_seed` gives again from its own."""
    return program_from_seed(plan, program_seed(seed, index), sweep=sweep)


def program_seed(seed: int, index: int) -> int:
    """The seed (64 bits) of one program; unrelated for neighbouring seeds and indices."""
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def program_from_seed(plan: Plan, seed: int, *, sweep: bool = False) -> Program:
    """The program that a 64-bit seed stands for, which is its `seed`."""
    random = Random(seed)
    sketch = Sketch(plan)
    operations: list[Operation] = []
    for _ in range(_random_length(random, plan.max_operations)):
        bits = random.getrandbits(8 + 8 * _PACKED)
        operation = choose(sketch, bits, bits >> 8)
        sketch.add(operation)
        operations.append(operation)
    if sweep:
        operations += closing(sketch)
    return Program(tuple(operations), plan.geometry, plan.model, seed)


def _random_length(random: Random, longest: int) -> int:
    if random.random() < _SHORT:
        return random.randint(1, max(1, longest // 10))
    return random.randint(max(1, longest // 5), longest)
