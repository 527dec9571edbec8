"""Jobs whose pages move while they are in flight: no access is atomic across pages."""

from __future__ import annotations

import pytest

from reference.model import judge
from reference.outcomes import Outcome, Status, encode_wait
from reference.text import parse
from reference.trace import Trace, Violation

JOB = """lastwriter 1
map p0 rw page=0 pages=1
attach d0 p0
dread d0 page=0 offset=4088 length=16 job=1
submit d0 job=1
"""


def judged(changes: str) -> Violation | None:
    """The verdict on a job that read a word of page 0 and one of page 1 during the changes."""
    program = parse(f"{JOB}{changes}\nwait d0 job=1\n")
    read = Outcome(Status.OK, done=16, data=bytes(16))
    outcomes = [Outcome(Status.OK)] * (len(program) - 1)
    last = Outcome(Status.OK, data=encode_wait([read]))
    return judge(Trace(program, (*outcomes, last))).violation


@pytest.mark.parametrize(
    "changes",
    [
        "remap p0 page=0 pages=1 to=1",
        "unmap p0 page=0 pages=1\nmap p0 rw page=1 pages=1",
    ],
)
def test_each_page_was_there_at_some_time(changes: str) -> None:
    assert judged(changes) is None


def test_one_page_was_never_there() -> None:
    violation = judged("remap p0 page=0 pages=1 to=2")
    assert violation is not None
    assert violation.rule == "H3"
