"""The last-writer model: step by step, is this outcome one that the contract allows?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..geometry import Geometry
from ..operations import CPU_ACCESSES, DEVICE_ACCESSES, WORD, Kind, Operation
from ..outcomes import Outcome
from ..syncmodels import Sync
from ..trace import Trace
from . import jobs
from .accesses import access
from .areas import CALLS, call
from .devices import DEVICE_CALLS, device_call
from .plain import OK, UNSUPPORTED
from .reach import maybe_copied
from .sights import Sights
from .state import Broken, Problem, State

__all__ = ["LastWriter"]

Step = Callable[[State, Operation, Outcome], None]


class LastWriter:
    """The contract of one sync model, run alongside a candidate.

    `step` takes each operation with the candidate's outcome.  It raises `Broken` at the first
    outcome that is not allowed; after that the model's state means nothing.  Only if it `looks`
    does it judge what snapshots show.
    """

    def __init__(
        self, geometry: Geometry, sync: Sync, *, looks: bool = False, atomicity: int = WORD
    ) -> None:
        self.state = State(geometry, sync, tears=atomicity < WORD)
        self.sights = Sights(geometry) if looks else None

    @classmethod
    def of(cls, trace: Trace, *, looks: bool = False) -> LastWriter:
        """The model that a trace is to be judged by, at its beginning."""
        program = trace.program
        return cls(program.geometry, program.model, looks=looks, atomicity=trace.atomicity)

    def step(self, operation: Operation, outcome: Outcome, excused: bool = False) -> None:
        """An `excused` operation may fail for no reason; all else about it stays as it is."""
        state = self.state
        state.excused = excused
        if state.in_flight:
            jobs.before(state, operation, outcome)
        if operation.kind == _SNAPSHOT:
            self._snapshot(operation, outcome)
        else:
            _STEPS[operation.kind](state, operation, outcome)
        if state.in_flight:
            jobs.observe(state, operation)
        if self.sights is not None:
            self.sights.note(state, operation, outcome)

    def _snapshot(self, operation: Operation, outcome: Outcome) -> None:
        if outcome.status == UNSUPPORTED or operation.device not in self.state.attached:
            return
        expected = operation.pages if outcome.status == OK else 0
        if outcome.done or len(outcome.data) != expected:
            message = f"{len(outcome.data)} bytes where {expected} belong"
            raise Broken(Problem.ANSWER, message, page=operation.page)
        if self.sights is not None:
            self.sights.check(self.state, operation, outcome)

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


_SNAPSHOT: Final = int(Kind.SNAPSHOT)
_STEPS: Final[dict[int, Step]] = {
    **dict.fromkeys(map(int, CPU_ACCESSES), _cpu_access),
    **dict.fromkeys(map(int, DEVICE_ACCESSES), _device_access),
    **dict.fromkeys(CALLS, call),
    **dict.fromkeys(DEVICE_CALLS, device_call),
    int(Kind.SUBMIT): jobs.submit,
    int(Kind.WAIT): jobs.wait,
}
