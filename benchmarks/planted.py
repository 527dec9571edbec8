"""Long programs that mutants fail: what a reduction starts from."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from random import Random

from conformance.generate import Plan, with_sweep
from conformance.generate.choose import choose
from conformance.generate.fresh import program_seed
from conformance.generate.sketch import Sketch
from reference.geometry import Geometry
from reference.mirrors import MUTANTS
from reference.mirrors.mirror import Mirror
from reference.model import judge
from reference.operations import Operation
from reference.program import Program
from reference.trace import Trace, Violation

__all__ = ["Planted", "fails", "find", "long_program", "plan_of"]

LENGTH = 100
"""Operations of a program, without its closing sweep."""


@dataclass(frozen=True)
class Planted:
    """A program that a mutant fails.  Its base does not, so it can only be for the planted bug."""

    mirror: Mirror
    program: Program
    violation: Violation

    def reproduce(self, program: Program) -> Violation | None:
        return fails(self.mirror, program)


def fails(mirror: Mirror, program: Program) -> Violation | None:
    """Run and judge a program."""
    mirror.reset(program.geometry)
    return judge(Trace(program, tuple(mirror.run(program.operations)))).violation


def plan_of(mutant: str) -> Plan:
    """What programs for a mutant look like."""
    description = MUTANTS[mutant].make().describe()
    return Plan.for_candidate(description, Geometry(page_size=MUTANTS[mutant].page_size))


def long_program(plan: Plan, seed: int) -> Program:
    """A program of exactly `LENGTH` operations and a closing sweep."""
    random = Random(seed)
    sketch = Sketch(plan)
    operations: list[Operation] = []
    for _ in range(LENGTH):
        bits = random.getrandbits(72)
        operation = choose(sketch, bits, bits >> 8)
        sketch.add(operation)
        operations.append(operation)
    return with_sweep(Program(tuple(operations), plan.geometry, plan.model, seed), plan)


def find(mutant: str, seed: int) -> Planted:
    """The first program of a seed that the mutant fails."""
    plan, mirror = plan_of(mutant), MUTANTS[mutant].make()
    for index in count():
        program = long_program(plan, program_seed(seed, index))
        violation = fails(mirror, program)
        if violation is not None:
            return Planted(mirror, program, violation)
    raise AssertionError("count() ends")
