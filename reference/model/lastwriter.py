"""The last-writer model: step by step, is this outcome one that the contract allows?"""

from __future__ import annotations

from ..geometry import Geometry
from ..operations import CPU_ACCESSES, DEVICE_ACCESSES, Kind, Operation
from ..outcomes import Outcome
from ..syncmodels import Sync
from . import jobs
from .accesses import access
from .areas import CALLS, call
from .devices import device_call
from .state import State

__all__ = ["LastWriter"]

_CPU = frozenset(map(int, CPU_ACCESSES))
_DEVICE = frozenset(map(int, DEVICE_ACCESSES))


class LastWriter:
    """The contract of one sync model, run alongside a candidate.

    `step` takes each operation with the candidate's outcome.  It raises `Broken` at the first
    outcome that is not allowed; after that the model's state means nothing.
    """

    def __init__(self, geometry: Geometry, sync: Sync) -> None:
        self.state = State(geometry, sync)

    def step(self, operation: Operation, outcome: Outcome) -> None:
        state, kind = self.state, operation.kind
        if state.in_flight:
            jobs.before(state, operation, outcome)
        if kind in _CPU:
            access(state, operation, outcome, operation.process)
        elif kind in _DEVICE:
            self._device_access(operation, outcome)
        elif kind in CALLS:
            call(state, operation, outcome)
        elif kind == Kind.SUBMIT:
            jobs.submit(state, operation, outcome)
        elif kind == Kind.WAIT:
            jobs.wait(state, operation, outcome)
        else:
            device_call(state, operation, outcome)
        if state.in_flight:
            jobs.observe(state, operation)

    def _device_access(self, operation: Operation, outcome: Outcome) -> None:
        process = self.state.attached.get(operation.device)
        if process is None:
            return  # attaching failed, and was judged then
        if operation.job:
            jobs.enqueue(self.state, operation, outcome)
        else:
            access(self.state, operation, outcome, process)
