"""The run of a driver on the host as the model judges it: effects in the order of their coming."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..operations import Kind
from ..outcomes import Status
from ..program import Program
from ..record import What
from ..trace import Effect, Hosted, Trace

__all__ = ["InOrder"]

_CLEAN = frozenset({Status.FAULT, Status.ERROR, Status.SKIPPED})
_LASTING = frozenset({Kind.ATTACH, Kind.SUBMIT, Kind.WAIT})
"""Without these the model does not know what later operations are about."""


class InOrder:
    """The effects of a run, without clean failures that were injected: those did nothing."""

    trace: Trace
    """The same as a trace of a program of its own."""

    def __init__(self, trace: Trace, hosted: Hosted) -> None:
        excused = _excused(trace.program, hosted)
        self.effects = [
            effect for effect in hosted.history if not (excused and _failed(effect, excused))
        ]
        self.trace = Trace(
            replace(
                trace.program,
                operations=tuple([effect.operation for effect in self.effects]),
                comments=(),
            ),
            tuple([effect.outcome for effect in self.effects]),
        )
        self._excused = excused

    def excuses(self, place: int) -> bool:
        """Whether the contract lets this effect fail, so that nothing can be said of the rest."""
        effect = self.effects[place]
        return effect.index in self._excused and effect.operation.kind in _LASTING


def _failed(effect: Effect, excused: frozenset[int]) -> bool:
    return (
        effect.index in excused
        and effect.outcome.status in _CLEAN
        and effect.operation.kind not in _LASTING
    )


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
