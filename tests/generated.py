"""Programs to look at, and what a test needs to look at them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.control import current_build_context

from conformance.generate import Plan, programs, random_programs
from conformance.generate.sketch import Sketch
from reference.description import Description
from reference.operations import DEVICE_KINDS, Kind, Operation
from reference.program import Program

EVERY_KIND = frozenset(kind.name.lower() for kind in Kind)


def describe(*, keyed: bool = False, **changes: object) -> Description:
    fields: dict[str, object] = {
        "name": "all", "operations": EVERY_KIND, "processes": 3, "devices": 2, "files": 4,
        "keys": 4, "jobs": 2, "keyed": keyed,
    }  # fmt: skip
    return Description(**(fields | changes))  # type: ignore[arg-type]


_TAKEN: dict[tuple[str, int], tuple[list[Program], Iterator[Program]]] = {}


def take(plan: Plan, count: int, number: int = 7) -> list[Program]:
    """The first programs of a plan, which are made only once in a process."""
    made, more = _TAKEN.setdefault((repr(plan), number), ([], random_programs(plan, number)))
    made += islice(more, max(count - len(made), 0))
    return made[:count]


def steps(plan: Plan, program: Program) -> Iterator[tuple[Sketch, Operation]]:
    """Each operation with the sketch as it was before it."""
    sketch = Sketch(plan)
    for operation in program.operations:
        yield sketch, operation
        sketch.add(operation)


def process_of(sketch: Sketch, operation: Operation) -> int:
    if operation.kind in DEVICE_KINDS - {Kind.INVALIDATE}:
        return sketch.live.attached[operation.device]
    return operation.process


def last_page(operation: Operation, size: int) -> int:
    return operation.page + (operation.offset + operation.length - 1) // size


def quick(examples: int, backend: str = "hypothesis") -> settings:
    return settings(
        database=None,
        phases=[Phase.generate],
        max_examples=examples,
        deadline=None,
        backend=backend,
        suppress_health_check=list(HealthCheck),
    )


def collect(plan: Plan, examples: int, backend: str) -> tuple[list[Program], int]:
    """Programs from the strategy and how many choices they took."""
    found: list[Program] = []
    choices = 0

    @seed(3)
    @settings(quick(examples, backend))
    @given(programs(plan))
    def run(program: Program) -> None:
        nonlocal choices
        found.append(program)
        choices += len(current_build_context().data.nodes)

    run()
    return found, choices
