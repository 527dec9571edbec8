"""What one word held in the course of a program: recomputed when something failed, never before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..operations import Kind, Operation
from ..outcomes import Outcome
from ..program import Program
from .accesses import CPU_KIND, pieces
from .lastwriter import LastWriter
from .state import Broken, State
from .values import ANYTHING, MASK, Values, holds, union

__all__ = ["Moment", "held_before", "timeline", "writer_of"]


@dataclass(frozen=True)
class Moment:
    """After operation `index` the word's address held these values; None: nothing is mapped."""

    index: int
    values: Values | None


def timeline(
    program: Program, outcomes: Sequence[Outcome], upto: int, place: tuple[int, int, int]
) -> list[Moment]:
    """The changes of one word up to and without operation `upto`.

    `place` is (process, page slot, word in the page).
    """
    model = LastWriter(program.geometry, program.model)
    moments = [Moment(-1, None)]
    for index in range(upto):
        model.step(program.operations[index], outcomes[index])
        values = _values_at(model.state, place)
        if values != moments[-1].values:
            moments.append(Moment(index, values))
    return moments


def _values_at(state: State, place: tuple[int, int, int]) -> Values | None:
    process, page, word = place
    space = state.spaces[process]
    values: Values | None = None
    for mapping in () if space is None else space.slots[page]:
        contents = None if mapping is None else mapping.page()
        if contents is not None:
            held = contents.values(word)
            values = held if values is None else union(values, held)
    return values


def held_before(program: Program, outcomes: Sequence[Outcome], index: int, broken: Broken) -> bool:
    """Whether the address of a wrong value ever held it before operation `index`."""
    place = place_of(program, index, broken)
    return any(
        moment.values is not None
        and moment.values is not ANYTHING
        and holds(moment.values, broken.value)
        for moment in timeline(program, outcomes, index, place)
    )


def place_of(program: Program, index: int, broken: Broken) -> tuple[int, int, int]:
    """(process, page slot, word) that an outcome was wrong about."""
    operation = program.operations[index]
    process = operation.process
    if operation.kind >= Kind.ATTACH:
        process = attached_to(program.operations[:index], operation.device)
    return process, broken.page, broken.word


def attached_to(operations: Sequence[Operation], device: int) -> int:
    """The process that the device was last attached to."""
    for operation in reversed(operations):
        if operation.kind == Kind.ATTACH and operation.device == device:
            return operation.process
    return 0


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
