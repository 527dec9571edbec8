"""The last-writer model: step by step, is this outcome one that the contract allows?"""

from __future__ import annotations

from collections.abc import Callable

from ..geometry import Geometry
from ..operations import CPU_ACCESSES, DEVICE_ACCESSES, Kind, Operation
from ..outcomes import Outcome
from ..syncmodels import Sync
from . import jobs
from .accesses import access
from .areas import CALLS, call
from .devices import DEVICE_CALLS, device_call
from .reach import maybe_copied
from .state import State

__all__ = ["LastWriter"]

Step = Callable[[State, Operation, Outcome], None]


class LastWriter:
    """The contract of one sync model, run alongside a candidate.

    `step` takes each operation with the candidate's outcome.  It raises `Broken` at the first
    outcome that is not allowed; after that the model's state means nothing.
    """

    def __init__(self, geometry: Geometry, sync: Sync) -> None:
        self.state = State(geometry, sync)

    def step(self, operation: Operation, outcome: Outcome, excused: bool = False) -> None:
        """An `excused` operation may fail for no reason; all else about it stays as it is."""
        state = self.state
        state.excused = excused
        if state.in_flight:
            jobs.before(state, operation, outcome)
        _STEPS[operation.kind](state, operation, outcome)
        if state.in_flight:
            jobs.observe(state, operation)

    def copied(self, process: int, page: int) -> None:
        """The process has a copy of its own from now on of what it mapped there privately."""
        space = self.state.spaces[process]
        if space is not None:
            maybe_copied(space, page)


def _cpu_access(state: State, operation: Operation, outcome: Outcome) -> None:
    access(state, operation, outcome, operation.process)


def _device_access(state: State, operation: Operation, outcome: Outcome) -> None:
    process = state.attached.get(operation.device)
    if process is None:
        return  # attaching failed, and was judged then
    if operation.job:
        jobs.enqueue(state, operation, outcome)
    else:
        access(state, operation, outcome, process)


_STEPS: dict[int, Step] = {
    **dict.fromkeys(map(int, CPU_ACCESSES), _cpu_access),
    **dict.fromkeys(map(int, DEVICE_ACCESSES), _device_access),
    **dict.fromkeys(CALLS, call),
    **dict.fromkeys(DEVICE_CALLS, device_call),
    int(Kind.SUBMIT): jobs.submit,
    int(Kind.WAIT): jobs.wait,
}
