"""The model on programs small enough to judge by eye."""

import errno
import struct

import pytest
from model_cases import FAULTING, MAP, write
from model_keyed_cases import REFCOUNTING, REGISTRATION

from reference.model import judge
from reference.operations import ACCESSES, ATOMICS, WORD, Kind, Operation
from reference.outcomes import Outcome, Status, encode_wait
from reference.program import Program
from reference.syncmodels import Sync
from reference.text import parse
from reference.trace import Breakdown, Cause, Judgement, Trace

HEADER = (
    "lastwriter 1\nmodel {}\n"
    "geometry page_size={} pages=8 processes=3 devices=2 files=2 keys=4 jobs=2\n"
)


def outcome_of(operation: Operation, text: str) -> Outcome:
    access = operation.kind in ACCESSES and not operation.job
    if not text:
        reads = operation.kind in {Kind.READ, Kind.DREAD} | ATOMICS and not operation.job
        assert not reads, "a read needs its words"
        return Outcome(Status.OK, done=operation.length if access else 0)
    if text == "skipped":
        return Outcome(Status.SKIPPED)
    if text.startswith("fault"):
        words = [int(word, 0) for word in text.split()[1:]]
        reads = operation.kind not in {Kind.WRITE, Kind.DWRITE}
        data = struct.pack(f"<{len(words)}Q", *words) if reads else b""
        return Outcome(Status.FAULT, errno.EFAULT, 8 * len(words), data)
    if text.startswith("E"):
        return Outcome(Status.ERROR, getattr(errno, text))
    if operation.kind == Kind.WAIT:
        return Outcome(Status.OK, data=encode_wait([job_outcome(part) for part in text.split(";")]))
    words = [int(word, 0) for word in text.split()]
    return Outcome(Status.OK, done=8 * len(words), data=struct.pack(f"<{len(words)}Q", *words))


def job_outcome(text: str) -> Outcome:
    """The outcome of one 8-byte access in a job: `done`, `fault` or the word read."""
    match text.strip():
        case "done":
            return Outcome(Status.OK, done=8)
        case "fault":
            return Outcome(Status.FAULT, errno.EFAULT)
        case word:
            return Outcome(Status.OK, done=8, data=struct.pack("<Q", int(word, 0)))


def judged(
    text: str, model: Sync = Sync.FAULTING, page_size: int = 4096, atomicity: int = WORD
) -> Judgement:
    lines = [line.split("=>") for line in text.strip().splitlines()]
    header = HEADER.format(model, page_size)
    program: Program = parse(header + "\n".join(line[0] for line in lines) + "\n")
    outcomes = tuple(
        outcome_of(operation, line[1].strip() if len(line) > 1 else "")
        for operation, line in zip(program.operations, lines, strict=True)
    )
    return judge(Trace(program, outcomes, atomicity=atomicity))


CASES = [
    pytest.param(model, lines, rule, id=f"{model}: {name}")
    for model, cases in (
        (Sync.FAULTING, FAULTING),
        (Sync.REGISTRATION, REGISTRATION),
        (Sync.REFCOUNTING, REFCOUNTING),
    )
    for name, (lines, rule) in cases.items()
]


@pytest.mark.parametrize(("model", "lines", "rule"), CASES)
def test_judgement(model: Sync, lines: list[str], rule: str | None) -> None:
    violation = judged("\n".join(lines), model).violation
    if rule is None:
        assert violation is None
    else:
        assert violation is not None, "the last outcome should not be allowed"
        assert (violation.rule, violation.index) == (rule, len(lines) - 1), violation


@pytest.mark.parametrize("cause", Cause)
def test_a_breakdown_is_the_answer_to_the_last_operation(cause: Cause) -> None:
    program = parse(HEADER.format("faulting", 4096) + MAP + "\n" + write() + "\n")
    trace = Trace(program, (Outcome(Status.OK),), Breakdown(cause, "it broke"))
    violation = judge(trace).violation
    assert violation is not None
    assert violation.index == 1
    assert violation.rule in {"R1", "R2", "R3", "R4", "R5"}


def test_missing_outcomes_are_no_pass() -> None:
    program = parse(HEADER.format("faulting", 4096) + MAP + "\n")
    violation = judge(Trace(program, ())).violation
    assert violation is not None
    assert violation.rule == "R4"
