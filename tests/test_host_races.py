"""Races inside the host that a driver must not be blamed for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conformance.explore.schedules import Explored, explore
from reference.drivers.driver import Driver
from reference.drivers.mutants import BASES
from reference.host import Run, run_program
from reference.model import judge
from reference.program import Program
from reference.schedule import DEVICE, KERNEL, Schedule, Switch
from reference.text import parse
from reference.trace import Trace, Violation

ATTACHED_ANEW = """\
lastwriter 1
geometry page_size=4096 pages=2 processes=1 devices=1 files=0 keys=0 jobs=1
map p0 rw page=0 pages=1
attach d0 p0
discard p0 page=0 pages=1
detach d0
attach d0 p0
dread d0 page=0 offset=0 length=8
"""
"""Whoever unregisters a notifier waits for the walk of the list that may yet call it (L4)."""
REGISTERED_ANEW = """\
lastwriter 1
model registration
geometry page_size=4096 pages=2 processes=1 devices=1 files=0 keys=2 jobs=1
map p0 rw page=0 pages=1
attach d0 p0
register d0 key=1 rw page=0 pages=1
discard p0 page=0 pages=1
unregister d0 key=1
register d0 key=2 r page=0 pages=1
write p0 page=0 offset=0 length=8 value=0x100000
dread d0 page=0 offset=0 length=8 key=2
"""
"""A region is pinned, dropped and looked up while its page goes away."""
PINNED_WHILE_COPIED = """\
lastwriter 1
model registration
geometry page_size=4096 pages=2 processes=2 devices=1 files=0 keys=2 jobs=1
map p0 rw page=0 pages=1
write p0 page=0 offset=16 length=8 value=0x300000
fork p0 child=p1
attach d0 p0
write p0 page=0 offset=0 length=8 value=0x100000
migrate p0 page=0 pages=1
unmap p1 page=0 pages=1
register d0 key=1 r page=0 pages=1
write p0 page=0 offset=8 length=8 value=0x200000
dread d0 page=0 offset=8 length=8 key=1
"""
"""A write is about to copy a shared page.  Its frame is freed, used again for the same page and
pinned: copying it now would leave the pin behind."""


def violation(program: Program, run: Run) -> Violation | None:
    return judge(Trace(program, tuple(run.outcomes), hosted=run.plain())).violation


@pytest.mark.parametrize(
    ("name", "text"), [("counting", ATTACHED_ANEW), ("caching", REGISTERED_ANEW)]
)
def test_no_schedule_with_two_switches_breaks_a_rule(name: str, text: str) -> None:
    driver: type[Driver] = BASES[name]
    covered = Explored()
    for program, run in explore(parse(text), lambda each: run_program(each, driver), 2, covered):
        assert violation(program, run) is None, program.schedule
    assert covered.complete
    assert covered.runs > 100


def test_a_frame_that_was_pinned_meanwhile_is_not_copied() -> None:
    switches = (Switch(0, 4, 3, DEVICE), Switch(DEVICE, 7, 1, KERNEL))
    program = replace(parse(PINNED_WHILE_COPIED), schedule=Schedule(switches))
    run = run_program(program, BASES["registration"])
    assert violation(program, run) is None
    assert tuple(run.switches) == switches
