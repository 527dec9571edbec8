"""What one word held in the course of a program: recomputed when something failed, never before."""

from __future__ import annotations

from dataclasses import dataclass

from ..operations import Kind, Operation
from ..program import Program
from ..trace import Trace, WrongWord
from .accesses import pieces
from .lastwriter import LastWriter
from .plain import CPU_KIND
from .state import State
from .values import ANYTHING, MASK, Values, holds, union

__all__ = ["Moment", "timeline", "writer_of"]


@dataclass(frozen=True)
class Moment:
    """After operation `index` the word's address held these values; None: nothing is mapped."""

    index: int
    values: Values | None

    def held(self, value: int) -> bool:
        """Whether the address is known to have held this value at the time, or may have."""
        values = self.values
        return values is not None and values is not ANYTHING and holds(values, value)


def timeline(trace: Trace, upto: int, wrong: WrongWord) -> list[Moment]:
    """What the address of a word held, change by change, before operation `upto`."""
    program = trace.program
    model = LastWriter.of(trace)
    moments = [Moment(-1, None)]
    for index in range(upto):
        operation, outcome = program.operations[index], trace.outcomes[index]
        for process, page in trace.copies.get(index, ()):
            model.copied(process, page)
        model.step(operation, outcome, index in trace.excused)
        values = _values_at(model.state, wrong)
        if values != moments[-1].values:
            moments.append(Moment(index, values))
    return moments


def _values_at(state: State, wrong: WrongWord) -> Values | None:
    space = state.spaces[wrong.process]
    values: Values | None = None
    for mapping in () if space is None else space.slots[wrong.page]:
        contents = None if mapping is None else mapping.page()
        if contents is not None:
            held = contents.values(wrong.word)
            values = held if values is None else union(values, held)
    return values


def writer_of(program: Program, value: int, upto: int) -> int | None:
    """Index of the last operation before `upto` that stored this value, as far as stamps tell.

    A sum is traced to the addition that gave it its high part.
    """
    for index in range(upto - 1, -1, -1):
        if value in _stored(program, program.operations[index]):
            return index
    for index in range(upto - 1, -1, -1):
        operation = program.operations[index]
        if CPU_KIND.get(operation.kind) == Kind.ADD and operation.value and value:
            if value >> 44 == operation.value >> 44:
                return index
    return None


def _stored(program: Program, operation: Operation) -> range:
    """Values that a write or compare-exchange stores."""
    if CPU_KIND.get(operation.kind) not in {Kind.WRITE, Kind.CAS}:
        return range(0)
    words = sum(count for _, _, count, _ in pieces(operation, program.geometry.page_size))
    return range(operation.value, min(operation.value + words, MASK + 1))
