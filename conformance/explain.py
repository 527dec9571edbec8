"""A failure, told to the author of the driver: operations, outcomes, the word that was wrong."""

from __future__ import annotations

import errno
import re
import struct
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from reference.model import Moment, timeline, writer_of
from reference.model.values import describe
from reference.operations import Kind, Operation
from reference.outcomes import Outcome, Status
from reference.program import Program
from reference.rules import RULES
from reference.text import format_operation

from .examine import Failure

__all__ = ["Explanation", "explain", "outcome_text", "render"]

_SHOWN = 4
"""Words of data that a table shows."""


@dataclass(frozen=True)
class Explanation:
    """What is worth knowing about a failure, recomputed from its program and outcomes."""

    failure: Failure
    moments: list[Moment]
    """What the wrong word's address held, if the failure is about a word."""
    story: list[str]
    """Who wrote the wrong value, and until when the address held it."""


def explain(failure: Failure) -> Explanation:
    """Recompute what led to the failure."""
    wrong = failure.violation.wrong
    if wrong is None:
        return Explanation(failure, [], [])
    moments = timeline(failure.trace, failure.violation.index, wrong)
    return Explanation(failure, moments, _story(failure.program, wrong.value, moments))


def _story(program: Program, value: int, moments: list[Moment]) -> list[str]:
    writer = writer_of(program, value, len(program))
    held = [index for index, moment in enumerate(moments) if moment.held(value)]
    story = []
    if writer is not None:
        story.append(f"{value:#x} was written by operation {_numbered(program, writer)}")
    elif value:
        story.append(f"{value:#x} was never written by this program")
    if not held:
        story.append(f"this address never held {value:#x}")
    elif held[-1] + 1 < len(moments):
        ended = moments[held[-1] + 1].index
        story.append(f"the address held {value:#x} until operation {_numbered(program, ended)}")
    return story


def _numbered(program: Program, index: int) -> str:
    return f"{index}: {format_operation(program.operations[index])}"


def outcome_text(operation: Operation, outcome: Outcome | None) -> str:
    """One outcome, as short as it can be said."""
    if outcome is None:
        return "no answer"
    status = Status(outcome.status)
    code = errno.errorcode.get(outcome.error, str(outcome.error))
    if status is Status.OK:
        return _words(operation, outcome) or "ok"
    if status is Status.FAULT:
        return f"fault after {outcome.done} bytes" if outcome.done else "fault"
    return f"{status.name.lower()} {code}" if outcome.error else status.name.lower()


def _words(operation: Operation, outcome: Outcome) -> str:
    if operation.kind == Kind.WAIT or len(outcome.data) % 8:
        return "ok"
    words = struct.unpack(f"<{len(outcome.data) // 8}Q", outcome.data)
    shown = " ".join(f"{word:#x}" for word in words[:_SHOWN])
    return shown + (f" … {len(words)} words" if len(words) > _SHOWN else "")


def render(explanation: Explanation, replay: str) -> RenderableType:
    """The report of a failure; `replay` is the command that runs it again."""
    failure = explanation.failure
    violation = failure.violation
    rule = RULES[violation.rule]
    head = Text.assemble(
        ("FAIL ", "bold red"), (rule.id, "bold"), "  ", rule.text, "\n     ", violation.message
    )
    parts: list[RenderableType] = [head]
    if failure.unstable:
        parts.append(Text("     UNSTABLE: it does not fail every time", "yellow"))
    parts.append(_table(explanation))
    parts += [Text(f"     {line}") for line in explanation.story]
    if failure.runs:
        parts.append(
            Text(
                f"     {len(failure.found)} operations reduced to {len(failure.program)}"
                f" in {failure.runs} runs"
            )
        )
    # In one line, however long, so that it can be copied.
    parts.append(Text.assemble("     again: ", (replay, "bold"), no_wrap=True, overflow="ignore"))
    return Group(*parts)


def _table(explanation: Explanation) -> Table:
    failure = explanation.failure
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", justify="right")
    table.add_column("operation", overflow="fold")
    table.add_column("outcome", overflow="fold")
    wrong = failure.violation.wrong
    if wrong is not None:
        title = f"model: p{wrong.process} page {wrong.page} word {wrong.word}"
        table.add_column(title, overflow="fold")
    states = {moment.index: moment for moment in explanation.moments}
    current: Moment | None = None
    for index, operation in enumerate(failure.program.operations):
        outcomes = failure.trace.outcomes
        outcome = outcomes[index] if index < len(outcomes) else None
        current = states.get(index, current)
        last = index == failure.violation.index
        row = [
            f"{'>' if last else ''} {index}",
            format_operation(operation),
            outcome_text(operation, outcome),
        ]
        if wrong is not None:
            row.append(_state(current))
        table.add_row(*row, style="bold red" if last else "")
    return table


def _state(moment: Moment | None) -> str:
    if moment is None or moment.values is None:
        return "not mapped"
    return describe(moment.values)


def plain(renderable: RenderableType, width: int = 110) -> str:
    """A report as text without colours, for files."""
    console = Console(width=width, no_color=True, force_terminal=False, record=False)
    with console.capture() as capture:
        console.print(renderable, crop=False)
    return re.sub(r"[ ]+$", "", capture.get(), flags=re.MULTILINE)
