"""The model's word on a trace: the first outcome that is not allowed, and the rule it breaks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from operator import itemgetter
from typing import Final

from ..operations import ACCESSES, DEVICE_KINDS, Kind, Operation
from ..protocol import Profile, check
from ..rules import RULES
from ..trace import Cause, Hosted, Judgement, Trace, Violation, WrongWord
from .history import ON_DEVICE, Mark
from .lastwriter import LastWriter
from .order import InOrder
from .state import Broken, Problem
from .timeline import timeline

__all__ = ["judge"]

BREAKDOWN_RULES: Final = {
    Cause.CRASH: "R1",
    Cause.HANG: "R2",
    Cause.MEMORY: "R3",
    Cause.GARBAGE: "R4",
    Cause.REFUSED: "R4",
    Cause.KERNEL: "R5",
}
_ROBUST: Final = ("R1", "R2", "R3", "R4", "R5")
"""Rules that every program puts to the test."""
_WATCHED: Final = ("W1", "W2", "W3", "W4", "W5", "W6")
"""Those that the host watches over in every run."""


_SNAPSHOT: Final = int(Kind.SNAPSHOT)
_WAIT: Final = int(Kind.WAIT)


def judge(trace: Trace, profile: Profile = Profile.TOLERANT) -> Judgement:
    """Run the model along the trace.

    A breakdown of the candidate counts as its answer to the last operation.  The profile matters
    to the rules of the protocol, and so for drivers on the host only.
    """
    if trace.hosted is not None:
        return _judge_hosted(trace, trace.hosted, profile)
    program = trace.program
    violation, exercised = _follow(trace)
    if violation is not None:
        return Judgement(violation, Counter(exercised))
    if trace.breakdown is not None:
        rule = BREAKDOWN_RULES[trace.breakdown.cause]
        # Operations go in batches, so any of those left unanswered may have done it.
        message = f"{trace.breakdown.cause}: {trace.breakdown.message}"
        return Judgement(Violation(rule, len(program) - 1, message), Counter(exercised))
    if len(trace.outcomes) < len(program):
        message = f"{len(trace.outcomes)} outcomes for {len(program)} operations"
        return Judgement(Violation("R4", len(trace.outcomes), message), Counter(exercised))
    counts = Counter(exercised)
    counts.update(_ROBUST)
    return Judgement(None, counts)


def _follow(trace: Trace) -> tuple[Violation | None, dict[str, int]]:
    """The first outcome that is not allowed, and how often rules were put to the test."""
    program = trace.program
    looks = any(operation.kind == _SNAPSHOT for operation in program.operations)
    model = LastWriter.of(trace, looks=looks)
    exercised = model.state.history.exercised
    for index, (operation, outcome) in enumerate(
        zip(program.operations, trace.outcomes, strict=False)
    ):
        for process, page in trace.copies.get(index, ()):
            model.copied(process, page)
        try:
            model.step(operation, outcome, index in trace.excused)
        except Broken as broken:
            return _violation(model, trace, index, broken), exercised
    return None, exercised


def _judge_hosted(trace: Trace, hosted: Hosted, profile: Profile) -> Judgement:
    """Contents in the order of effects, the protocol, and what ended the run: the first counts."""
    try:
        order = InOrder(trace, hosted)
        wrong, exercised = _follow(order.trace)
        breach, protocol = check(hosted.record, trace.program.model, profile)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # A driver in C may have overwritten what the host knew.
        message = f"{Problem.ANSWER.value}: a run that makes no sense ({type(error).__name__})"
        return Judgement(Violation("R4", len(trace.program) - 1, message))
    violations: list[tuple[int, Violation]] = []
    if breach is not None:
        # What happens when the devices are closed at the end is counted to the last operation.
        index = min(breach.operation, len(trace.program) - 1)
        violations.append((breach.entry, Violation(breach.rule, index, breach.message)))
    if wrong is not None:
        effect = order.effects[wrong.index]
        violations.append((effect.entry, replace(wrong, index=effect.index, place=wrong.index)))
    if hosted.broken is not None:
        rule, message, index = hosted.broken.rule, hosted.broken.message, hosted.broken.operation
        violations.append((len(hosted.record), Violation(rule, index, message)))
    counts = Counter(exercised)
    counts.update(protocol)
    if not violations:
        counts.update((*_ROBUST, *_WATCHED))
        return Judgement(None, counts)
    return Judgement(min(violations, key=itemgetter(0))[1], counts)


def _violation(model: LastWriter, trace: Trace, index: int, broken: Broken) -> Violation:
    operation = trace.program.operations[index]
    rule = rule_of(model, operation, broken)
    if trace.program.model not in RULES[rule].models:
        rule = _GENERAL[broken.problem]
    message = f"{broken.problem.value}: {broken}"
    if broken.problem is not Problem.VALUE:
        return Violation(rule, index, message)
    process = operation.process
    if operation.kind in DEVICE_KINDS:
        process = model.state.attached[operation.device]
    wrong = WrongWord(process, broken.page, broken.word, broken.value)
    if rule not in _OWN_CONTEXT:
        rule = _by_past(trace, index, wrong, rule)
    return Violation(rule, index, message, wrong)


def _by_past(trace: Trace, index: int, wrong: WrongWord, rule: str) -> str:
    """The rule in the light of what the address held before: nothing like it, or until when."""
    moments = timeline(trace, index, wrong)
    held = [position for position, moment in enumerate(moments) if moment.held(wrong.value)]
    if not held:
        pinned = rule == "C2" and trace.program.model in RULES["P2"].models
        # A stale translation shows whatever its frame is used for now.
        return "P2" if pinned else "I12" if rule == "I12" else "A4"
    operations = trace.program.operations
    if rule == "C1" and operations[index].kind in DEVICE_KINDS and held[-1] + 1 < len(moments):
        # A device that still sees what a change of the mapping took away missed that change.
        ended = operations[moments[held[-1] + 1].index].kind
        return rule if ended in ACCESSES else "I12"
    return rule


_GENERAL: Final = {
    Problem.VALUE: "C1",
    Problem.NO_FAULT: "A1",
    Problem.FAULT: "A2",
    Problem.CALL: "A6",
    Problem.REFUSED: "A6",
    Problem.ANSWER: "R4",
    Problem.SEEN: "H12",
}
"""The rule for every sync model, where the more telling one does not hold for this one."""
_OWN_CONTEXT: Final = frozenset({"C3", "G2", "G4", "G7", "G9", "H7", "X1"})
"""Rules whose own context explains any wrong value, whoever wrote it."""


def rule_of(model: LastWriter, operation: Operation, broken: Broken) -> str:
    """The rule that an outcome breaks, in the light of what its page has been through."""
    match broken.problem:
        case Problem.ANSWER:
            return "R4"
        case Problem.CALL:
            return "A6"
        case Problem.REFUSED:
            return "B3"
        case Problem.SEEN:
            return broken.rule
        case Problem.NO_FAULT:
            return _missing_fault(model, operation, broken)
        case Problem.FAULT:
            return _false_fault(model, operation, broken)
    if operation.kind == _WAIT:
        return _job_value(model, operation, broken)
    if operation.kind in DEVICE_KINDS:
        return _device_value(model, operation, broken)
    return _cpu_value(model, operation, broken)


def _pending(model: LastWriter, operation: Operation, broken: Broken) -> list[Kind]:
    return model.state.history.pending(operation.device, broken.page)


def _missing_fault(model: LastWriter, operation: Operation, broken: Broken) -> str:
    if operation.kind not in DEVICE_KINDS:
        return "A1"
    process = model.state.attached[operation.device]
    if model.state.spaces[process] is None:
        return "L2"
    if _pending(model, operation, broken) and not model.state.sync.pins:
        return "I12"
    return "H3" if not operation.key else "A1"


def _false_fault(model: LastWriter, operation: Operation, broken: Broken) -> str:
    if operation.kind in DEVICE_KINDS:
        process = model.state.attached[operation.device]
        mark = model.state.history.marks[process][broken.page]
        if mark & ON_DEVICE and not mark & (Mark.ON_DEVICE_0 << operation.device):
            return "H7"
    return "A2"


def _job_value(model: LastWriter, operation: Operation, broken: Broken) -> str:
    process = model.state.attached[operation.device]
    mark = model.state.history.marks[process][broken.page]
    if mark & Mark.RACED or Kind.UNMAP in _pending(model, operation, broken):
        return "C3"
    return _device_value(model, operation, broken)


def _device_value(model: LastWriter, operation: Operation, broken: Broken) -> str:
    process = model.state.attached[operation.device]
    mark = model.state.history.marks[process][broken.page]
    if mark & Mark.STALE:
        return "C2"
    if mark & Mark.EXCLUSIVE:
        return "X1"
    if mark & ON_DEVICE:
        if not mark & (Mark.ON_DEVICE_0 << operation.device):
            return "H7"
        return "G4" if mark & Mark.HOLE else "G7"
    if mark & Mark.REFUSED:
        return "G2"
    match _pending(model, operation, broken):
        case []:
            return "C1"
        case [Kind.FORK]:
            return "L7"
        case [Kind.INVALIDATE]:
            return "B11"
    return "I12"


def _cpu_value(model: LastWriter, operation: Operation, broken: Broken) -> str:
    mark = model.state.history.marks[operation.process][broken.page]
    if mark & (Mark.STALE | Mark.RACED):
        return "C2"
    if mark & ON_DEVICE:
        return "G9"
    if mark & Mark.RETURNED:
        return "G7"
    if mark & Mark.REFUSED:
        return "G2"
    return "X1" if mark & Mark.EXCLUSIVE else "C1"
