"""What a report says of a schedule: who was left where, and what ran instead."""

from __future__ import annotations

import pytest

from conformance.examine import as_found
from conformance.steps import Note, steps_of
from reference.drivers.faulting import FaultingDriver
from reference.host import run_program
from reference.text import parse
from reference.trace import Trace, Violation

PROGRAM = """\
map p0 rw page=0 pages=2
attach d0 p0
dread d0 page=0 offset=0 length=8
dwrite d0 page=1 offset=0 length=8 value=0x100 job=1
submit d0 job=1
unmap p0 page=0 pages=1
wait d0 job=1
"""
HEAD = """\
lastwriter 1
geometry page_size=4096 pages=2 processes=1 devices=1 files=0 keys=0 jobs=1
"""


def told(*lines: str) -> list[int | str]:
    """The numbers of operations in the order of their effects, and what stands between them."""
    program = parse("\n".join([HEAD.strip(), *lines, PROGRAM]))
    run = run_program(program, FaultingDriver)
    assert run.broken is None
    trace = Trace(program, tuple(run.outcomes), hosted=run.plain())
    rows = steps_of(as_found(trace, Violation("C1", 6, "something"))).rows
    return [row.text if isinstance(row, Note) else row.number for row in rows]


def test_without_switches_there_is_nothing_to_say() -> None:
    assert told() == [0, 1, 2, 3, 4, 5, 6]


def test_two_switches_are_told_where_they_come() -> None:
    assert told("switch d0 operation=2 point=5 to=p0", "switch p0 operation=5 point=3 to=d0") == [
        *(0, 1),
        "d0 is interrupted at mmap_read_lock (operation 2, point 5): p0 begins operation 5",
        "p0 is interrupted at callback: invalidate (operation 5, point 3): "
        "d0 goes on with operation 2",
        *(5, 2, 3, 4, 6),
    ]


@pytest.mark.parametrize(
    ("line", "note"),
    [
        (
            "switch p0 operation=0 point=1 to=d0",
            "p0 is held back before operation 0 (point 1): d0 begins operation 1",
        ),
        (
            "switch d0 operation=1 point=4 to=p0",
            "d0 has ended operation 1 (point 4): p0 begins operation 5",
        ),
        (
            "switch e0 operation=4 point=6 to=d0",
            "e0 is interrupted at hmm_range_fault (the job of operation 4, point 6): "
            "d0 begins operation 6",
        ),
        ("fail allocation 1", "a failure is injected, allocation 1: d0 in operation 2"),
    ],
)
def test_places_have_names(line: str, note: str) -> None:
    assert note in told(line)


def test_the_closing_of_a_device_is_no_operation() -> None:
    found = told(
        "switch d0 operation=1 point=3 to=p0",
        "switch p0 operation=5 point=4 to=d0",
        "switch e0 operation=4 point=4 to=d0",
        "switch e0 operation=4 point=15 to=d0",
        "switch d0 operation=6 point=3 to=d0",
    )
    assert "d0 has ended operation 6 (point 3): d0 begins the closing of its device" in found


def test_a_wait_is_no_interruption() -> None:
    found = told(
        "switch e0 operation=4 point=11 to=d0",
        "switch d0 operation=6 point=1 to=p0",
        "switch p0 operation=5 point=1 to=d0",
        "switch d0 operation=6 point=2 to=e0",
    )
    note = "d0 is waiting for job 1 (operation 6, point 2): e0 goes on with the job of operation 4"
    assert note in found
