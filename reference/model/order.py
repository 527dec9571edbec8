"""The run of a driver on the host as the model judges it: effects in the order of their coming."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from ..operations import Kind
from ..program import Program
from ..record import What
from ..trace import Hosted, Trace

__all__ = ["InOrder"]


class InOrder:
    """The effects of a run."""

    trace: Trace
    """The same as a trace of a program of its own."""

    def __init__(self, trace: Trace, hosted: Hosted) -> None:
        self.effects = hosted.history
        excused = _excused(trace.program, hosted)
        program = trace.program
        self.trace = Trace(
            Program(
                tuple([effect.operation for effect in self.effects]),
                program.geometry,
                program.model,
                program.seed,
                schedule=program.schedule,
            ),
            tuple([effect.outcome for effect in self.effects]),
            excused=frozenset(
                place for place, effect in enumerate(self.effects) if effect.index in excused
            )
            if excused
            else excused,
            copies=_copies(hosted),
            atomicity=trace.atomicity,
        )


def _copies(hosted: Hosted) -> dict[int, tuple[tuple[int, int], ...]]:
    """Private pages of files that were copied, by the number of the effect that came next.

    A copy is made before the access that needs it takes effect, and the file may change between.
    """
    copies: dict[int, tuple[tuple[int, int], ...]] = {}
    copied = int(What.COPIED)
    made = [number for number, entry in enumerate(hosted.record) if entry[2] == copied]
    if made:
        entries = [effect.entry for effect in hosted.history]
        for number in made:
            process, page = hosted.record[number].arguments
            place = bisect_right(entries, number)
            copies[place] = (*copies.get(place, ()), (int(process), int(page)))
    return copies


def _excused(program: Program, hosted: Hosted) -> frozenset[int]:
    """The operations that may fail because a failure was injected into what they do.

    What the engine does for a job is recorded under its submit and told by its wait.
    """
    if not program.schedule.injections:
        return frozenset()
    failed = {entry.operation for entry in hosted.record if entry.what == What.FAIL}
    return frozenset(failed | set(_waits(program, failed)))


def _waits(program: Program, failed: set[int]) -> Iterator[int]:
    submits: dict[tuple[int, int], int] = {}
    for index, operation in enumerate(program.operations):
        job = operation.device, operation.job
        if operation.kind == Kind.SUBMIT:
            submits[job] = index
        elif operation.kind == Kind.WAIT and submits.get(job) in failed:
            yield index
