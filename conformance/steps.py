"""A failure step by step: operations as they were given, or effects in the order of their coming.

Between the effects of a driver's run stand the switches that were made, and behind them the
operations that had none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter

from reference.model import InOrder
from reference.record import Entry, What
from reference.schedule import ENGINE, WAITING, actor_name
from reference.trace import Hosted, Interruption, Trace

from .examine import Failure

__all__ = ["Note", "Step", "Steps", "steps_of"]


@dataclass(frozen=True)
class Step:
    """One operation, or a part of one that took effect."""

    number: int
    """Number of the operation in the program."""
    place: int | None
    """Its place in the trace that was judged; None if it had no effect."""


@dataclass(frozen=True)
class Note:
    """Something that was no operation."""

    text: str


@dataclass(frozen=True)
class Steps:
    """What happened, in order."""

    judged: Trace
    """The trace whose operations and outcomes were judged one after another."""
    numbers: list[int]
    """Number in the program of each of its operations."""
    rows: list[Step | Note]
    wrong: Step | None
    """The row that breaks the rule."""


def steps_of(failure: Failure) -> Steps:
    """The steps that led to a failure."""
    trace, violation = failure.trace, failure.violation
    if trace.hosted is not None:
        # A run that makes no sense has no order; that it makes none is what is reported then.
        with suppress(AttributeError, LookupError, TypeError, ValueError):
            return _hosted_steps(failure, trace.hosted)
    numbers = list(range(len(failure.program)))
    rows = [Step(number, number) for number in numbers]
    return Steps(trace, numbers, [*rows], rows[violation.index] if rows else None)


def _hosted_steps(failure: Failure, hosted: Hosted) -> Steps:
    trace, violation = failure.trace, failure.violation
    order = InOrder(trace, hosted)
    numbers = [effect.index for effect in order.effects]
    effects = [(each.entry, 0, Step(each.index, at)) for at, each in enumerate(order.effects)]
    last = len(trace.program) - 1
    notes = [(each.entry, 1, Note(_switch_text(each, hosted, last))) for each in hosted.taken]
    failures = [
        (place, 1, Note(_failure_text(entry)))
        for place, entry in enumerate(hosted.record)
        if entry.what == What.FAIL
    ]
    # What is at the same entry came first: a switch lets others write the next one.
    placed: list[tuple[int, int, Step | Note]] = sorted(
        [*effects, *notes, *failures], key=itemgetter(0, 1)
    )
    rows = [row for _, _, row in placed]
    rows += [Step(number, None) for number in _without_effect(trace, numbers)]
    return Steps(order.trace, numbers, rows, _wrong(rows, violation.index, violation.place))


def _switch_text(taken: Interruption, hosted: Hosted, last: int) -> str:
    """Who was left where, and what runs instead; operations go up to `last`."""
    actor, operation, point, to = taken.switch
    work = _work(actor, operation, last)
    place = f"({work}, point {point})"
    if taken.where == "begin":
        left = f"{actor_name(actor)} is held back before {work} (point {point})"
    elif taken.where == "end":
        left = f"{actor_name(actor)} has ended {work} (point {point})"
    elif taken.where.startswith(WAITING):
        left = f"{actor_name(actor)} is {taken.where} {place}"
    else:
        left = f"{actor_name(actor)} is interrupted at {taken.where} {place}"
    return f"{left}: {actor_name(to)} {_continuation(to, taken.entry, hosted, last)}"


def _work(actor: int, operation: int, last: int) -> str:
    if operation > last:
        return "the closing of its device"
    return f"the job of operation {operation}" if actor >= ENGINE else f"operation {operation}"


def _continuation(actor: int, place: int, hosted: Hosted, last: int) -> str:
    """What an actor does from a place in the event record on."""
    after = next((each for each in hosted.record[place:] if each.actor == actor), None)
    if after is None:
        return "runs"
    begun = after.what != What.BEGIN
    if actor >= ENGINE or after.operation > last:  # jobs and closings have no entry of that kind
        known = (actor, after.operation)
        begun = any((each.actor, each.operation) == known for each in hosted.record[:place])
    return f"{'goes on with' if begun else 'begins'} {_work(actor, after.operation, last)}"


def _failure_text(entry: Entry) -> str:
    site, number = entry.arguments
    where = f"{actor_name(entry.actor)} in operation {entry.operation}"
    return f"a failure is injected, {site} {number}: {where}"


def _without_effect(trace: Trace, numbers: list[int]) -> Iterator[int]:
    """Operations that never came to an effect, or were broken off behind one."""
    seen = set(numbers)
    for number in range(len(trace.program)):
        if number not in seen or number >= len(trace.outcomes):
            yield number


def _wrong(rows: list[Step | Note], number: int, place: int | None) -> Step | None:
    """The row of an effect, or the last one of an operation."""
    steps = [row for row in rows if isinstance(row, Step) and row.number == number]
    return next((step for step in steps if step.place == place), steps[-1] if steps else None)
