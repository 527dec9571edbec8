"""Fresh programs, each a function of a seed alone, and what every program is grown by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import count
from random import Random
from typing import Final, NamedTuple

from reference.operations import Operation
from reference.program import Program

from .choose import choose
from .closing import closing
from .plan import Plan
from .scenes import CHOICES as SCENE_CHOICES
from .scenes import Step, scene, take
from .sketch import Sketch

__all__ = [
    "PACKED",
    "Grown",
    "grown_from_seed",
    "operation_of",
    "program_seed",
    "random_program",
    "random_programs",
    "steps_of",
]

PACKED: Final = 8
"""Bytes of an operation's packed choice, as many as `build` reads."""
_SHORT: Final = 0.1
"""Share of short programs: most bugs need a history, but some hide behind one."""


class Grown(NamedTuple):
    """A program, and where it has come to."""

    program: Program
    sketch: Sketch

    def swept(self) -> Program:
        """The program with a closing sweep."""
        operations = (*self.program.operations, *closing(self.sketch))
        return self.program.with_operations(operations)


def steps_of(plan: Plan, choice: bytes) -> tuple[Step, ...]:
    """The steps of the scene that a program begins with, if it begins with one."""
    return scene(plan, choice[1:]) if choice[0] >= 256 - plan.scenes else ()


def operation_of(sketch: Sketch, step: tuple[Step, ...], choice: bytes) -> Operation | None:
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
    steps = steps_of(plan, random.randbytes(1 + SCENE_CHOICES)) if plan.scenes else ()
    for number in range(max(length, len(steps))):
        choice = random.getrandbits(8 + 8 * PACKED).to_bytes(1 + PACKED, "little")
        operation = operation_of(sketch, steps[number : number + 1], choice)
        if operation is not None:
            sketch.add(operation)
            operations.append(operation)
    return Grown(Program(tuple(operations), plan.geometry, plan.model, seed), sketch)


def _random_length(random: Random, longest: int) -> int:
    if random.random() < _SHORT:
        return random.randint(1, max(1, longest // 10))
    return random.randint(max(1, longest // 5), longest)
