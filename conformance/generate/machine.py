"""A Hypothesis state machine with one rule for each kind of operation."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from hypothesis.strategies import DrawFn, SearchStrategy

from reference.operations import Kind, Operation
from reference.program import Program

from .build import build
from .choose import CHOICES, context, possible, table
from .plan import Plan
from .sketch import Sketch

__all__ = ["ProgramMachine", "machine_for"]

_PACKED = st.binary(min_size=8, max_size=8)
_KINDS = st.integers(0, CHOICES - 1)


class ProgramMachine(RuleBasedStateMachine):
    """Collects operations in its rules and runs them as one program in its teardown."""

    plan: ClassVar[Plan]
    execute: ClassVar[Callable[[Program], object]]

    def __init__(self) -> None:
        super().__init__()
        self.sketch = Sketch(self.plan)
        self.operations: list[Operation] = []
        self._choose_by_table()

    def _choose_by_table(self) -> None:
        """Choose rules by the plan's weights, in one choice and without rejected attempts.

        Hypothesis' own way takes a choice for each attempt and another to disable rules at
        random.  Should a version of it keep its strategy elsewhere, its own way is what happens.
        """
        attribute = "_rules_strategy"
        usual = getattr(self, attribute, None)
        if isinstance(usual, SearchStrategy) and hasattr(usual, "rules"):
            rules = {each.function.__name__: each for each in usual.rules}
            setattr(self, attribute, _weighted(self, rules))

    def perform(self, kind: Kind, packed: bytes) -> None:
        """Add the operation of this kind that the eight bytes stand for."""
        operation = build(self.sketch, kind, int.from_bytes(packed, "little"))
        self.sketch.add(operation)
        self.operations.append(operation)

    def teardown(self) -> None:
        plan = self.plan
        program = Program(tuple(self.operations), plan.geometry, plan.model)
        type(self).execute(program)


@st.composite
def _weighted(
    draw: DrawFn, machine: ProgramMachine, rules: dict[str, Any]
) -> tuple[Any, dict[str, bytes]]:
    """A rule by the table of the context, with its one argument."""
    kinds = table(machine.plan, context(machine.sketch))
    return rules[_name(kinds[draw(_KINDS)])], {"packed": draw(_PACKED)}


def machine_for(plan: Plan, execute: Callable[[Program], object]) -> type[ProgramMachine]:
    """A state machine class that generates programs for a plan.

    `execute` is called once for each example, with the whole program, and raises on a violation.
    The class comes with settings for `max_operations` steps.
    """
    kinds = [kind for kind in Kind if kind in plan.profile.weights]
    namespace: dict[str, Any] = {_name(kind): _rule(kind) for kind in kinds}
    namespace |= {"plan": plan, "execute": staticmethod(execute), "__module__": __name__}
    machine: type[ProgramMachine] = types.new_class(
        "MirrorMachine", (ProgramMachine,), exec_body=lambda body: body.update(namespace)
    )
    machine.TestCase.settings = settings(
        deadline=None,
        stateful_step_count=plan.max_operations,
        suppress_health_check=list(HealthCheck),
    )
    return machine


def _name(kind: Kind) -> str:
    return kind.name.lower()


def _rule(kind: Kind) -> Callable[..., None]:
    def add(self: ProgramMachine, packed: bytes) -> None:
        self.perform(kind, packed)

    def makes_sense(self: ProgramMachine) -> bool:
        return possible(kind, context(self.sketch))

    add.__name__ = add.__qualname__ = _name(kind)
    wrapped: Callable[..., None] = precondition(makes_sense)(rule(packed=_PACKED)(add))
    return wrapped
