"""The end of a program: look at everything."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from reference.operations import Kind, Operation
from reference.program import Program

from .plan import Plan
from .sketch import Sketch

__all__ = ["closing", "with_sweep"]


def with_sweep(program: Program, plan: Plan) -> Program:
    """The program with a closing sweep behind it; comments stay.  It must be valid."""
    sketch = Sketch(plan)
    for operation in program.operations:
        sketch.add(operation)
    return Program(
        (*program.operations, *closing(sketch)),
        program.geometry,
        program.model,
        program.seed,
        program.comments,
    )


def closing(sketch: Sketch) -> Iterator[Operation]:
    """Waits for the jobs in flight, looks, then reads the whole arena from every side.

    The snapshots come first, one for each attached device: what is read has come home.
    One read for each page: by every live process and through every attached device, if keyed
    through each live key, and then also of the pages beside its range, which it must not reach.
    Only what the candidate can do.
    """
    kinds = sketch.plan.kinds
    if Kind.WAIT in kinds:
        for device, job in sorted(sketch.live.in_flight):
            yield Operation(Kind.WAIT, 0, device, 0, 0, 0, job=job)
    size, arena = sketch.plan.geometry.page_size, sketch.plan.geometry.pages
    if Kind.SNAPSHOT in kinds:
        for device in sorted(sketch.live.attached):
            yield Operation(Kind.SNAPSHOT, 0, device, 0, 0, arena)
    if Kind.READ in kinds:
        for process in sketch.processes:
            yield from _reads(Kind.READ, process, 0, 0, arena, size)
    if Kind.DREAD in kinds:
        yield from _device_reads(sketch, arena, size)


def _device_reads(sketch: Sketch, arena: int, size: int) -> Iterator[Operation]:
    if sketch.plan.description.keyed:
        for (device, key), registration in sorted(sketch.keys.items()):
            first = max(registration.page - 1, 0)
            end = min(registration.page + registration.pages + 1, arena)
            yield from _reads(Kind.DREAD, 0, device, key, arena, size)[first:end]
    else:
        for device in sorted(sketch.live.attached):
            yield from _reads(Kind.DREAD, 0, device, 0, arena, size)


@lru_cache(maxsize=256)
def _reads(
    kind: Kind, process: int, device: int, key: int, arena: int, size: int
) -> tuple[Operation, ...]:
    """One for each page of the arena; of what is run almost half are such reads."""
    return tuple(
        Operation(kind, process, device, 0, page, 0, length=size, key=key) for page in range(arena)
    )
