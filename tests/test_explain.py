"""Reports of failures, word by word."""

from __future__ import annotations

import textwrap
from dataclasses import replace

import pytest
from mirror_programs import run, script

from conformance.examine import Failure, as_found
from conformance.explain import explain, outcome_text, plain, render
from reference.mirrors import MUTANTS
from reference.mirrors.mutants import Mutant
from reference.model import judge
from reference.operations import Kind, Operation
from reference.outcomes import Outcome, Seen, Status, encode_wait
from reference.trace import Breakdown, Cause, Trace

REPLAY = "lastwriter replay failures/C1-0.lw mine.py:Mine"


def failure_of(id: str, lines: str | None = None) -> Failure:  # noqa: A002
    """What a mutant does to its witness, or to another program."""
    mutant: Mutant = MUTANTS[id]
    mirror = mutant.make()
    program = script(mirror, lines or mutant.sequence, mutant.page_size)
    trace = Trace(program, run(mirror, program))
    violation = judge(trace).violation
    assert violation is not None
    return as_found(trace, violation)


def report(failure: Failure, width: int = 110) -> str:
    return plain(render(explain(failure), REPLAY), width)


def text(indented: str) -> str:
    return textwrap.dedent(indented).lstrip("\n")


def test_a_stale_value() -> None:
    assert report(failure_of("overlay-missed")) == text(
        """
        FAIL I12  When an invalidation returns, the device uses no old entry of its range any more: it is complete,
        not merely queued.
             wrong value: page 0 word 0: 0x100000, allowed: 0x0
             operation                                          outcome   model: p0 page 0 word 0
          0  map p0 rw page=0 pages=1                           ok        0x0
          1  attach d0 p0                                       ok        0x0
          2  dwrite d0 page=0 offset=0 length=8 value=0x100000  ok        0x100000
          3  map p0 rw page=0 pages=1                           ok        0x0
        > 4  dread d0 page=0 offset=0 length=8                  0x100000  0x0
             0x100000 was written by operation 2: dwrite d0 page=0 offset=0 length=8 value=0x100000
             the address held 0x100000 until operation 3: map p0 rw page=0 pages=1
             again: lastwriter replay failures/C1-0.lw mine.py:Mine
        """  # noqa: E501
    )


def test_an_access_that_must_fault() -> None:
    assert report(failure_of("unmap-missed")) == text(
        """
        FAIL I12  When an invalidation returns, the device uses no old entry of its range any more: it is complete,
        not merely queued.
             access that must fault: page 0 does not allow the access
             operation                          outcome
          0  map p0 rw page=0 pages=1           ok
          1  attach d0 p0                       ok
          2  dread d0 page=0 offset=0 length=8  0x0
          3  unmap p0 page=0 pages=1            ok
        > 4  dread d0 page=0 offset=0 length=8  0x0
             again: lastwriter replay failures/C1-0.lw mine.py:Mine
        """  # noqa: E501
    )


def test_one_word_of_a_whole_page() -> None:
    lines = """
        map p0 rw page=0 pages=1
        attach d0 p0
        to_device d0 page=0 pages=1
        read p0 page=0 offset=0 length=4096
        """
    assert report(failure_of("half-copied", lines), 120) == text(
        """
        FAIL G9  Any CPU access to a page in device-private memory brings it back, it cannot be pinned there, and its dirty,
        young and soft-dirty bits survive.
             wrong value: page 0 word 256: 0xdeadf4ee00000001, allowed: 0x0
             operation                            outcome                           model: p0 page 0 word 256
          0  map p0 rw page=0 pages=1             ok                                0x0
          1  attach d0 p0                         ok                                0x0
          2  to_device d0 page=0 pages=1          ok                                0x0
        > 3  read p0 page=0 offset=0 length=4096  … 0xdeadf4ee00000001 … 512 words  0x0
             0xdeadf4ee00000001 was never written by this program
             again: lastwriter replay failures/C1-0.lw mine.py:Mine
        """  # noqa: E501
    )


def test_a_job() -> None:
    lines = """
        map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
        dread d0 page=0 offset=0 length=8 key=1 job=1
        dwrite d0 page=0 offset=8 length=8 value=0x100000 key=1 job=1
        submit d0 job=1
        unmap p0 page=0 pages=1
        wait d0 job=1
        """
    printed = report(failure_of("wait-not-awaited", lines))
    assert "FAIL C3" in printed
    assert "> 7  wait d0 job=1" in printed
    assert "  0xdeadf4ee00000001; ok  not mapped" in printed


def broken(message: str) -> Failure:
    good = failure_of("unmap-missed")
    trace = Trace(good.program, (), Breakdown(Cause.CRASH, message))
    violation = judge(trace).violation
    assert violation is not None
    return replace(as_found(trace, violation), unstable=True)


def test_a_crash() -> None:
    message = "was killed by SIGABRT\nlast output:\nframes.c:12: frame != NULL\n  [in] mirror_run"
    assert report(broken(message)) == text(
        """
        FAIL R1  The candidate does not crash.
             crash: was killed by SIGABRT
             UNSTABLE: it does not fail every time
             operation                          outcome
          0  map p0 rw page=0 pages=1           no answer
          1  attach d0 p0                       no answer
          2  dread d0 page=0 offset=0 length=8  no answer
          3  unmap p0 page=0 pages=1            no answer
        > 4  dread d0 page=0 offset=0 length=8  no answer
             last output:
             frames.c:12: frame != NULL
               [in] mirror_run
             again: lastwriter replay failures/C1-0.lw mine.py:Mine
        """
    )


def test_a_long_last_output_is_cut_to_its_end() -> None:
    lines = [*map(str, range(100)), "y" * 5000]
    printed = report(broken("\n".join(["was killed by SIGABRT", "last output:", *lines])), 300)
    assert "     last output:\n     (89 lines)\n     89\n" in printed
    assert printed.count("y" * 200 + "…\n") == 1
    assert "y" * 201 not in printed


def test_a_wrong_answer_and_a_breakdown() -> None:
    failure = failure_of("overlay-missed")
    complaint = Breakdown(Cause.KERNEL, "BUG: sleeping function\nthe kernel's log:\nCPU: 0")
    failure = replace(failure, trace=replace(failure.trace, breakdown=complaint))
    shown = report(failure).splitlines()
    place = shown.index("     besides, kernel: BUG: sleeping function")
    assert shown[place + 1 : place + 3] == ["     the kernel's log:", "     CPU: 0"]
    assert shown[place - 1].startswith("> 4  dread")


def test_how_far_it_was_reduced() -> None:
    failure = failure_of("unmap-missed")
    longer = replace(failure, found=failure.program.with_operations(failure.program.operations * 3))
    assert "     15 operations reduced to 5 in 31 runs\n" in report(replace(longer, runs=31))
    assert "reduced" not in report(replace(failure, runs=31))


def test_what_is_printed_is_taken_literally() -> None:
    """Neither markup nor emoji codes mean anything, and the last line stays one."""
    failure = broken("exited with status 3\nlast output:\n[red]bad[/red] :smile:")
    replay = "lastwriter replay " + "long/" * 60 + "[b]x[/b].lw :smile:"
    printed = plain(render(explain(failure), replay))
    assert "     [red]bad[/red] :smile:\n" in printed
    assert printed.endswith(f"     again: {replay}\n")


@pytest.mark.parametrize("width", [1, 20, 40])
def test_narrow_reports(width: int) -> None:
    printed = report(failure_of("overlay-missed"), width)
    assert printed.endswith(f"     again: {REPLAY}\n")


READ = Operation(Kind.READ, 0, 0, 0, page=0, pages=0, length=64)
WAIT = Operation(Kind.WAIT, 0, 0, 0, page=0, pages=0, job=1)


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (None, "no answer"),
        (Outcome(Status.OK), "ok"),
        (Outcome(Status.OK, 0, 16, b"\1".ljust(16, b"\0")), "0x1 0x0"),
        (Outcome(Status.OK, 0, 48, bytes(48)), "0x0 0x0 0x0 0x0 … 6 words"),
        (Outcome(Status.OK, 0, 3, b"abc"), "3 bytes"),
        (Outcome(Status.FAULT, 14), "fault"),
        (Outcome(Status.FAULT, 14, 8), "fault after 8 bytes"),
        (Outcome(Status.FAULT, 14, 8, b"\7" + bytes(7)), "fault after 8 bytes: 0x7"),
        (Outcome(Status.ERROR, 22), "error EINVAL"),
        (Outcome(Status.ERROR, 9999), "error 9999"),
        (Outcome(Status.ERROR), "error"),
        (Outcome(Status.SKIPPED, 11), "skipped EAGAIN"),
        (Outcome(Status.UNSUPPORTED), "unsupported"),
    ],
)
def test_outcomes(outcome: Outcome | None, shown: str) -> None:
    assert outcome_text(READ, outcome) == shown


def test_outcomes_of_jobs() -> None:
    fault, word = Outcome(Status.FAULT, 14), Outcome(Status.OK, 0, 8, b"\5" + bytes(7))
    done = Outcome(Status.OK, data=encode_wait([fault, word]))
    assert outcome_text(WAIT, done, [READ, READ]) == "fault; 0x5"
    assert outcome_text(WAIT, done, [READ] * 9) == "ok"
    assert outcome_text(WAIT, Outcome(Status.ERROR, 19), [READ]) == "error ENODEV"


def test_a_snapshot_is_told_by_runs_of_pages() -> None:
    look = Operation(Kind.SNAPSHOT, 0, 0, 0, 3, 5)
    here, zero = Seen.READ | Seen.WRITE | Seen.HERE, Seen.READ | Seen.SYSTEM | Seen.ZERO
    outcome = Outcome(Status.OK, data=bytes([here, here, 0, zero, 0x80]))
    assert outcome_text(look, outcome) == "3..4: rw here, 5: -, 6: r system zero, 7: 0x80"
    assert outcome_text(look, Outcome(Status.OK)) == "ok"


def test_what_a_device_should_not_see() -> None:
    assert report(failure_of("zeros-shown-writable")) == text(
        """
        FAIL H14  A page that is shown as the zero page reads as zeros, and is not shown as writable.
             what the device sees: page 0 is shown as rw system zero, but all processes have that page
             operation                         outcome
          0  map p0 rw page=0 pages=1          ok
          1  attach d0 p0                      ok
          2  read p0 page=0 offset=0 length=8  0x0
        > 3  snapshot d0 page=0 pages=1        0: rw system zero
             again: lastwriter replay failures/C1-0.lw mine.py:Mine
        """  # noqa: E501
    )
