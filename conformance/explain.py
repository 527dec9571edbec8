"""A failure, told to the author of the driver: operations, outcomes, the word that was wrong."""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from reference.model import Moment, timeline, writer_of
from reference.model.values import describe
from reference.operations import ACCESSES, DEVICE_ACCESSES, WORD, Kind, Operation
from reference.outcomes import Outcome, Status, decode_wait, seen_text
from reference.rules import RULES
from reference.text import format_operation
from reference.trace import WrongWord

from .examine import Failure
from .steps import Note, Steps, steps_of

__all__ = ["Explanation", "explain", "outcome_text", "render"]

_SHOWN = 4
"""Words of data that a table shows."""


@dataclass(frozen=True)
class Explanation:
    """What is worth knowing about a failure, recomputed from its program and outcomes."""

    failure: Failure
    steps: Steps
    moments: list[Moment]
    """What the wrong word's address held, if the failure is about a word."""
    story: list[str]
    """Who wrote the wrong value, and until when the address held it."""


def explain(failure: Failure) -> Explanation:
    """Recompute what led to the failure."""
    wrong, steps = failure.violation.wrong, steps_of(failure)
    place = None if steps.wrong is None else steps.wrong.place
    if wrong is None or place is None or place >= len(steps.judged.outcomes):
        return Explanation(failure, steps, [], [])
    moments = timeline(steps.judged, place, wrong)
    return Explanation(failure, steps, moments, _story(steps, wrong.value, moments))


def _story(steps: Steps, value: int, moments: list[Moment]) -> list[str]:
    program = steps.judged.program
    writer = writer_of(program, value, len(program))
    held = [index for index, moment in enumerate(moments) if moment.held(value)]
    story = []
    if writer is not None:
        story.append(f"{value:#x} was written by operation {_numbered(steps, writer)}")
    elif value:
        return [f"{value:#x} was never written by this program"]
    if not held:
        story.append(f"this address never held {value:#x}")
    elif held[-1] + 1 < len(moments):
        ended = moments[held[-1] + 1].index
        story.append(f"the address held {value:#x} until operation {_numbered(steps, ended)}")
    return story


def _numbered(steps: Steps, place: int) -> str:
    return f"{steps.numbers[place]}: {format_operation(steps.judged.program.operations[place])}"


def outcome_text(
    operation: Operation, outcome: Outcome | None, job: Sequence[Operation] = ()
) -> str:
    """One outcome, as short as it can be said; `job` are the accesses that a wait waits for."""
    if outcome is None:
        return "no answer"
    status = Status(outcome.status)
    code = errno.errorcode.get(outcome.error, str(outcome.error))
    if status is Status.OK:
        if operation.kind == Kind.WAIT:
            return _job_text(outcome, job)
        if operation.kind == Kind.SNAPSHOT:
            return _seen(operation, outcome) or "ok"
        return _words(outcome) or "ok"
    if status is Status.FAULT:
        if not outcome.done:
            return "fault"
        words = _words(outcome)
        return f"fault after {outcome.done} bytes" + (f": {words}" if words else "")
    return f"{status.name.lower()} {code}" if outcome.error else status.name.lower()


def _job_text(outcome: Outcome, job: Sequence[Operation]) -> str:
    """What a wait says of the accesses of its job."""
    try:
        inner = decode_wait(outcome.data, len(job))
    except ValueError:
        return "ok"  # the message says what is wrong with it
    return "; ".join(map(outcome_text, job, inner)) or "ok"


def _seen(operation: Operation, outcome: Outcome) -> str:
    """What a snapshot gave, page by page, equal neighbours together."""
    runs: list[tuple[int, int, int]] = []
    for page, byte in enumerate(outcome.data, operation.page):
        if runs and runs[-1][2] == byte:
            runs[-1] = runs[-1][0], page, byte
        else:
            runs.append((page, page, byte))
    return ", ".join(
        f"{first}{f'..{last}' if last > first else ''}: {seen_text(byte)}"
        for first, last, byte in runs
    )


def _words(outcome: Outcome) -> str:
    if len(outcome.data) % WORD:
        return f"{len(outcome.data)} bytes"
    words = struct.unpack(f"<{len(outcome.data) // WORD}Q", outcome.data)
    shown = " ".join(f"{word:#x}" for word in words[:_SHOWN])
    return shown + (f" … {len(words)} words" if len(words) > _SHOWN else "")


def _wrong_word(operation: Operation, outcome: Outcome, wrong: WrongWord) -> str | None:
    """The word of a long access that is wrong; None if it is in sight anyway, or elsewhere."""
    count = operation.length // WORD
    if operation.kind not in ACCESSES or count <= _SHOWN or len(outcome.data) % WORD:
        return None
    return f"… {wrong.value:#x} … {count} words"


def render(explanation: Explanation, replay: str) -> RenderableType:
    """The report of a failure; `replay` is the command that runs it again."""
    failure = explanation.failure
    violation = failure.violation
    rule = RULES[violation.rule]
    message, *details = violation.message.splitlines()
    head = Text.assemble(
        ("FAIL ", "bold red"), (rule.id, "bold"), "  ", rule.text, f"\n{_INDENT}", message
    )
    parts: list[RenderableType] = [head]
    if failure.unstable:
        parts.append(Text(f"{_INDENT}UNSTABLE: it does not fail every time", "yellow"))
    parts.append(_table(explanation))
    details = [*_shortened(details), *_besides(failure)]
    parts += [Text(f"{_INDENT}{line}") for line in (*details, *explanation.story)]
    if len(failure.found) > len(failure.program):
        parts.append(
            Text(
                f"{_INDENT}{len(failure.found)} operations reduced to {len(failure.program)}"
                f" in {failure.runs} runs"
            )
        )
    # In one line, however long, so that it can be copied.
    again = Text.assemble(f"{_INDENT}again: ", (replay, "bold"), no_wrap=True, overflow="ignore")
    parts.append(again)
    return Group(*parts)


_INDENT = " " * 5
_DETAILS, _WIDTH = 12, 200
"""Lines of a candidate's last output that a report shows, and characters of each."""


def _shortened(lines: list[str]) -> list[str]:
    """The heading, and the last of the lines below it."""
    lines = [line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…" for line in lines]
    if len(lines) <= _DETAILS + 1:
        return lines
    return [lines[0], f"({len(lines) - 1 - _DETAILS} lines)", *lines[-_DETAILS:]]


def _besides(failure: Failure) -> list[str]:
    """A breakdown that came with a wrong answer, which is what the failure is about."""
    breakdown = failure.trace.breakdown
    if breakdown is None or breakdown.message in failure.violation.message:
        return []
    title, *details = breakdown.message.splitlines()
    return [f"besides, {breakdown.cause}: {title}", *_shortened(details)]


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
    answers = list(_answers(explanation))
    current: Moment | None = None
    for each in explanation.steps.rows:
        if isinstance(each, Note):
            table.add_row("", each.text, style="cyan")
            continue
        if each.place is None:
            operation, text = _unanswered(failure, each.number)
        else:
            current = states.get(each.place, current)
            operation, text = answers[each.place]
        last = each is explanation.steps.wrong
        row = [f"{'>' if last else ''} {each.number}", format_operation(operation), text]
        if wrong is not None:
            row.append(_state(current))
        table.add_row(*row, style="bold red" if last else "")
    return table


def _unanswered(failure: Failure, number: int) -> tuple[Operation, str]:
    """An operation that had no effect, with what was answered for all that."""
    operation, outcomes = failure.program.operations[number], failure.trace.outcomes
    return operation, outcome_text(operation, outcomes[number] if number < len(outcomes) else None)


def _answers(explanation: Explanation) -> Iterator[tuple[Operation, str]]:
    """What was judged: operations, with what the candidate answered."""
    judged, violation = explanation.steps.judged, explanation.failure.violation
    wrong = explanation.steps.wrong
    jobs: dict[tuple[int, int], list[Operation]] = {}
    for index, operation in enumerate(judged.program.operations):
        outcome = judged.outcomes[index] if index < len(judged.outcomes) else None
        job = (operation.device, operation.job)
        text = None
        if operation.kind in DEVICE_ACCESSES and operation.job:
            jobs.setdefault(job, []).append(operation)
        elif outcome and violation.wrong and wrong and index == wrong.place:
            text = _wrong_word(operation, outcome, violation.wrong)
        waited = jobs.pop(job, []) if operation.kind == Kind.WAIT else []
        yield operation, text or outcome_text(operation, outcome, waited)


def _state(moment: Moment | None) -> str:
    if moment is None or moment.values is None:
        return "not mapped"
    return describe(moment.values)


def plain(renderable: RenderableType, width: int = 110) -> str:
    """A report as text without colours, for files."""
    console = Console(
        width=width, no_color=True, force_terminal=False, markup=False, emoji=False, highlight=False
    )
    with console.capture() as capture:
        console.print(renderable, crop=False)
    return re.sub(r"[ ]+$", "", capture.get(), flags=re.MULTILINE)
