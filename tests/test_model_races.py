"""Programs of correct mirrors that the model once called wrong: jobs that meet each other."""

from __future__ import annotations

import pytest
from mirror_programs import judged, script

from reference.mirrors import MIRRORS

RACES = {
    "a file changes behind what a job may copy": (
        "faulting",
        """
        map p0 rw shared page=0 pages=2 file=0
        map p0 rw page=2 pages=2 file=0
        attach d0 p0
        dcas d0 page=3 offset=0 length=8 expected=0x8 value=0x500000 job=1
        submit d0 job=1
        write p0 page=1 offset=0 length=8 value=0x700000
        wait d0 job=1
        read p0 page=3 offset=0 length=8
        """,
    ),
    "a job reads what another writes to memory that was mapped after both were submitted": (
        "caching",
        """
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x200000 job=1
        attach d1 p0
        dread d1 page=0 offset=0 length=8 job=1
        submit d1 job=1
        submit d0 job=1
        map p0 rw page=0 pages=1
        wait d0 job=1
        wait d1 job=1
        """,
    ),
    "a copy that a job made may or may not have been discarded": (
        "faulting",
        """
        map p0 rw page=0 pages=4 file=0
        attach d0 p0
        dwrite d0 page=3 offset=0 length=8 value=0x300000 job=1
        dwrite d0 page=2 offset=4080 length=32 value=0x400000 job=2
        submit d0 job=1
        submit d0 job=2
        discard p0 page=3 pages=2
        wait d0 job=1
        wait d0 job=2
        read p0 page=3 offset=0 length=16
        """,
    ),
}


@pytest.mark.parametrize(("name", "lines"), RACES.values(), ids=RACES)
def test_no_false_alarm(name: str, lines: str) -> None:
    mirror = MIRRORS[name]()
    assert judged(mirror, script(mirror, lines)).violation is None
