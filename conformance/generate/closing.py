"""The end of a program: look at everything."""

from __future__ import annotations

from collections.abc import Iterator

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
    kinds = sketch.plan.description.kinds(sketch.plan.geometry.page_size)
    if Kind.WAIT in kinds:
        for device, job in sorted(sketch.live.in_flight):
            yield Operation(Kind.WAIT, 0, device, 0, 0, 0, job=job)
    size, arena = sketch.plan.geometry.page_size, sketch.plan.geometry.pages
    if Kind.SNAPSHOT in kinds:
        for device in sorted(sketch.live.attached):
            yield Operation(Kind.SNAPSHOT, 0, device, 0, 0, arena)
    if Kind.READ in kinds:
        for process in sketch.processes:
            for page in range(arena):
                yield Operation(Kind.READ, process, 0, 0, page, 0, length=size)
    if Kind.DREAD in kinds:
        for device, key, page in _device_pages(sketch):
            yield Operation(Kind.DREAD, 0, device, 0, page, 0, length=size, key=key)


def _device_pages(sketch: Sketch) -> Iterator[tuple[int, int, int]]:
    """Device, key and page of each device read."""
    arena = sketch.plan.geometry.pages
    if sketch.plan.description.keyed:
        for (device, key), registration in sorted(sketch.keys.items()):
            beside = registration.page - 1, registration.page + registration.pages
            for page in range(max(beside[0], 0), min(beside[1] + 1, arena)):
                yield device, key, page
    else:
        for device in sorted(sketch.live.attached):
            for page in range(arena):
                yield device, 0, page
