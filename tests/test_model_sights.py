"""What snapshots may show, as the model judges it: programs small enough to judge by eye.

Behind `=>` stands what the last snapshot of `PAGES` pages shows, a word for each page: `-` for no
entry, else letters as in `LETTERS`.
"""

from __future__ import annotations

import pytest

from reference.model import judge
from reference.operations import Kind
from reference.outcomes import Outcome, Seen, Status
from reference.text import parse
from reference.trace import Trace, Violation

PAGES = 2
LETTERS = {
    "r": Seen.READ,
    "w": Seen.WRITE,
    "s": Seen.SYSTEM,
    "d": Seen.HERE,
    "e": Seen.ELSEWHERE,
    "z": Seen.ZERO,
    "h": Seen.HUGE,
}
HEADER = "lastwriter 1\ngeometry pages=4 page_size={} processes=3 devices=2 files=1 keys=0 jobs=1\n"
MAP = "map p0 rw page=0 pages=2"
READ_ONLY = "map p0 r page=0 pages=2"
FILE = "map p0 rw page=0 pages=2 file=0"
ATTACH = "attach d0 p0"
OTHER = "attach d1 p0"
WRITE = "write p0 page=0 offset=0 length=8 value=0x7"
WHOLE = "write p0 page=0 offset=0 length=65536 value=0x7"
READ = "read p0 page=0 offset=0 length=8"
DWRITE = "dwrite d0 page=0 offset=0 length=8 value=0x9"
FORK = "fork p0 child=p1"
CHILD = "attach d1 p1"
AWAY = "to_device d0 page=0 pages=1"
SNAPSHOT = "snapshot d0 page=0 pages=2"
BY_OTHER = "snapshot d1 page=0 pages=2"
JOB = (
    "dwrite d0 page=0 offset=0 length=4096 value=0x9 job=1",
    "submit d0 job=1",
)
FORKED = (MAP, ATTACH, WRITE, FORK)

# (lines, what the last of them shows, the rule that this breaks, or "")
RIGHTS = [
    ((ATTACH, SNAPSHOT), "- -", ""),
    ((ATTACH, SNAPSHOT), "rs -", "H12"),
    ((MAP, ATTACH, "unmap p0 page=0 pages=1", SNAPSHOT), "rs -", "H12"),
    ((MAP, ATTACH, SNAPSHOT), "rws -", ""),
    ((MAP, ATTACH, "protect p0 none page=0 pages=1", SNAPSHOT), "rs -", "H12"),
    ((MAP, ATTACH, "protect p0 r page=0 pages=1", SNAPSHOT), "rs rws", ""),
    ((MAP, ATTACH, "protect p0 r page=0 pages=1", SNAPSHOT), "rws -", "H12"),
    ((READ_ONLY, ATTACH, SNAPSHOT), "- rs", ""),
    ((READ_ONLY, ATTACH, SNAPSHOT), "- rws", "H12"),
    ((FILE, ATTACH, SNAPSHOT), "rs -", ""),
    ((FILE, ATTACH, SNAPSHOT), "rws -", "H12"),
    ((FILE, ATTACH, WRITE, SNAPSHOT), "rws rs", ""),
    ((FILE, ATTACH, DWRITE, SNAPSHOT), "rws rs", ""),
    ((FILE, ATTACH, *JOB, SNAPSHOT), "rws -", ""),
    ((FILE, ATTACH, "exclusive d0 page=0 pages=1", SNAPSHOT), "rws -", ""),
    ((FILE, ATTACH, "truncate p0 file=0 pages=1", SNAPSHOT), "rs rs", "H12"),
    (("map p0 rw shared page=0 pages=2 file=0", ATTACH, SNAPSHOT), "rws -", ""),
    ((*FORKED, SNAPSHOT), "rs -", ""),
    ((*FORKED, SNAPSHOT), "rws -", "H12"),
    ((*FORKED, CHILD, BY_OTHER), "rws -", "H12"),
    ((*FORKED, AWAY, SNAPSHOT), "rwd -", "H12"),
    ((*FORKED, WRITE, SNAPSHOT), "rws -", ""),
    ((*FORKED, WRITE, CHILD, BY_OTHER), "rws -", ""),
    ((*FORKED, DWRITE, SNAPSHOT), "rws -", ""),
    ((*FORKED, *JOB, SNAPSHOT), "rws -", ""),
    ((MAP, ATTACH, WRITE, *JOB, FORK, SNAPSHOT), "rws -", ""),
    ((*FORKED, "exit p1", SNAPSHOT), "rws -", ""),
    ((*FORKED, "fork p0 child=p2", "exit p1", SNAPSHOT), "rws -", "H12"),
    ((*FORKED, "unmap p1 page=0 pages=1", SNAPSHOT), "rws -", ""),
    ((*FORKED, "remap p1 page=0 pages=1 to=3", SNAPSHOT), "rws -", ""),
    ((*FORKED, "merge p1 page=0 pages=1", SNAPSHOT), "rws -", ""),
    ((*FORKED, "free p0 page=0 pages=1", SNAPSHOT), "rws -", ""),
    # A hole that is migrated is filled with a page of the process's own.
    ((MAP, ATTACH, FORK, AWAY, SNAPSHOT), "rwd -", ""),
    ((MAP, ATTACH, READ, FORK, SNAPSHOT), "rws -", ""),
]
PLACES = [
    ((MAP, ATTACH, AWAY, SNAPSHOT), "rwd -", ""),
    ((MAP, ATTACH, AWAY, SNAPSHOT), "rws -", ""),
    ((MAP, ATTACH, AWAY, SNAPSHOT), "- rwd", "H13"),
    ((MAP, ATTACH, AWAY, SNAPSHOT), "rwe -", "H13"),
    ((MAP, ATTACH, OTHER, AWAY, BY_OTHER), "rwe -", ""),
    ((MAP, ATTACH, OTHER, AWAY, BY_OTHER), "rwd -", "H13"),
    ((MAP, ATTACH, AWAY, READ, SNAPSHOT), "rwd -", "H13"),
    ((MAP, ATTACH, AWAY, READ, AWAY, SNAPSHOT), "rwd -", ""),
    ((MAP, ATTACH, AWAY, "to_system d0 page=0 pages=1", SNAPSHOT), "rwd -", "H13"),
    # Of several pages it is not known which have come back.
    ((MAP, ATTACH, AWAY, "to_system d0 page=0 pages=2", SNAPSHOT), "rwd -", ""),
    ((MAP, ATTACH, AWAY, "discard p0 page=0 pages=1", SNAPSHOT), "rwd -", "H13"),
    ((MAP, ATTACH, AWAY, MAP, SNAPSHOT), "rwd -", "H13"),
    ((MAP, ATTACH, AWAY, "remap p0 page=0 pages=1 to=1", SNAPSHOT), "- rwd", ""),
    ((*FORKED, CHILD, "to_device d1 page=0 pages=1", SNAPSHOT), "re -", ""),
    ((MAP, ATTACH, WRITE, AWAY, FORK, CHILD, BY_OTHER), "re -", ""),
    ((MAP, ATTACH, WRITE, AWAY, FORK, READ, SNAPSHOT), "rd -", "H13"),
    ((MAP, ATTACH, WRITE, AWAY, FORK, READ, CHILD, BY_OTHER), "re -", ""),
]
ZEROS = [
    ((MAP, ATTACH, READ, SNAPSHOT), "rsz -", ""),
    ((MAP, ATTACH, READ, SNAPSHOT), "rwsz -", "H14"),
    ((MAP, ATTACH, WRITE, SNAPSHOT), "rsz -", "H14"),
    ((MAP, ATTACH, WRITE, "discard p0 page=0 pages=1", SNAPSHOT), "rsz -", ""),
    ((MAP, ATTACH, WRITE, "free p0 page=0 pages=1", SNAPSHOT), "rsz -", ""),
    ((MAP, ATTACH, *JOB, SNAPSHOT), "rsz -", ""),
]
FORMS = [
    ((MAP, ATTACH, SNAPSHOT), "rs", "R4"),
    ((MAP, ATTACH, SNAPSHOT), "rs - -", "R4"),
    ((MAP, ATTACH, SNAPSHOT), "r -", "R4"),
    ((MAP, ATTACH, SNAPSHOT), "s -", "R4"),
    ((MAP, ATTACH, SNAPSHOT), "rhs -", ""),
    ((MAP, ATTACH, AWAY, SNAPSHOT), "rdz -", "R4"),
    ((MAP, ATTACH, AWAY, SNAPSHOT), "rwsd -", ""),
]


def byte_of(word: str) -> int:
    return 0 if word == "-" else sum(LETTERS[letter] for letter in word)


def judged(
    lines: tuple[str, ...], shown: str, page_size: int = 4096, status: Status = Status.OK
) -> Violation | None:
    """The verdict on a program whose last snapshot shows this, while all else is right."""
    program = parse(HEADER.format(page_size) + "\n".join(lines) + "\n")
    outcomes = []
    for operation in program.operations[:-1]:
        kind, length = operation.kind, operation.length
        data = bytes(length) if kind == Kind.READ else b""
        outcomes.append(Outcome(Status.OK, 0, 0 if operation.job else length, data))
        if kind == Kind.READ and any(
            each.kind == Kind.WRITE for each in program.operations[: len(outcomes)]
        ):
            outcomes[-1] = outcomes[-1]._replace(data=(7).to_bytes(8, "little"))
    data = bytes(map(byte_of, shown.split()))
    return judge(Trace(program, (*outcomes, Outcome(status, data=data)))).violation


@pytest.mark.parametrize(("lines", "shown", "rule"), [*RIGHTS, *PLACES, *ZEROS, *FORMS])
def test_what_a_snapshot_may_show(lines: tuple[str, ...], shown: str, rule: str) -> None:
    violation = judged(lines, shown)
    assert (violation.rule if violation else "") == rule, violation
    if violation is not None:
        assert violation.index == len(lines) - 1


@pytest.mark.parametrize(
    ("lines", "shown", "rule"),
    [
        # Part of it may be elsewhere, or a hole.
        ((MAP, ATTACH, AWAY, READ, SNAPSHOT), "rwsd -", ""),
        ((MAP, ATTACH, AWAY, WHOLE, SNAPSHOT), "rwsd -", "H13"),
        ((MAP, ATTACH, AWAY, "to_system d0 page=0 pages=1", SNAPSHOT), "rwd -", ""),
        ((*FORKED, AWAY, SNAPSHOT), "rws -", ""),
        ((MAP, ATTACH, WRITE, SNAPSHOT), "rsz -", "H14"),
        ((READ_ONLY, ATTACH, SNAPSHOT), "rws -", "H12"),
    ],
)
def test_a_slot_of_several_pages(lines: tuple[str, ...], shown: str, rule: str) -> None:
    violation = judged(lines, shown, 65536)
    assert (violation.rule if violation else "") == rule, violation


@pytest.mark.parametrize(
    ("lines", "status", "rule"),
    [
        ((MAP, ATTACH, SNAPSHOT), Status.ERROR, "A6"),
        ((MAP, ATTACH, SNAPSHOT), Status.SKIPPED, ""),
        ((MAP, ATTACH, SNAPSHOT), Status.UNSUPPORTED, ""),
        (("fork p0 child=p1", CHILD, "exit p1", BY_OTHER), Status.ERROR, ""),
    ],
)
def test_when_a_snapshot_may_fail(lines: tuple[str, ...], status: Status, rule: str) -> None:
    violation = judged(lines, "", status=status)
    assert (violation.rule if violation else "") == rule, violation


def test_nothing_is_shown_of_a_process_that_has_exited() -> None:
    violation = judged(("fork p0 child=p1", CHILD, "exit p1", BY_OTHER), "- -")
    assert violation is not None
    assert violation.rule == "A6"


def test_exclusive_access_to_a_page_of_a_file_may_copy_it() -> None:
    """Linux faults it in for writing, and it shows no later change of its file."""
    lines = (
        FILE,
        "map p0 rw shared page=2 pages=1 file=0",
        ATTACH,
        "exclusive d0 page=0 pages=1",
        "write p0 page=2 offset=0 length=8 value=0x7",
        READ,
    )
    program = parse(HEADER.format(4096) + "\n".join(lines) + "\n")
    before = [Outcome(Status.OK)] * 4 + [Outcome(Status.OK, 0, 8)]
    for value, broken in ((0, False), (7, False), (9, True)):
        data = value.to_bytes(8, "little")
        trace = Trace(program, (*before, Outcome(Status.OK, 0, 8, data)))
        assert (judge(trace).violation is not None) == broken
