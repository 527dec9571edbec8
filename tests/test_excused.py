"""A failure that was injected excuses the operation that met it, and nothing else."""

from __future__ import annotations

import errno
from dataclasses import replace

from driving import script

from reference.drivers import Driver
from reference.drivers.faulting import FaultingDriver
from reference.drivers.registration import Region, RegistrationDriver
from reference.host import run_program
from reference.model import judge
from reference.outcomes import Status
from reference.schedule import Injection, Schedule
from reference.trace import Trace, Violation

REGISTERED = """
    map p0 rw page=0 pages=2
    attach d0 p0
    register d0 key=1 rw page=0 pages=2
    dread d0 page=0 offset=0 length=8 key=1
    register d0 key=1 rw page=0 pages=2
    dread d0 page=0 offset=0 length=8 key=1
"""


def ran(driver: type[Driver], lines: str, *failures: tuple[str, int]) -> Trace:
    injections = tuple(Injection(*failure) for failure in failures)
    program = replace(script(driver, lines), schedule=Schedule(injections=injections))
    run = run_program(program, driver)
    return Trace(program, tuple(run.outcomes), hosted=run.plain())


def violation(driver: type[Driver], lines: str, *failures: tuple[str, int]) -> Violation | None:
    return judge(ran(driver, lines, *failures)).violation


def test_an_operation_that_met_a_failure_may_fail() -> None:
    trace = ran(RegistrationDriver, REGISTERED, ("allocation", 2))
    assert trace.outcomes[2][:2] == (Status.ERROR, errno.ENOMEM)
    assert trace.outcomes[3].status == Status.FAULT
    assert trace.outcomes[5].status == Status.OK
    assert judge(trace).violation is None


class Spiteful(RegistrationDriver):
    """After one failure nothing works any more."""

    failed = False

    def map(self, region: Region) -> int:
        answer = -errno.ENOMEM if self.failed else super().map(region)
        self.failed = self.failed or answer != 0
        return answer


def test_the_next_operation_may_not() -> None:
    assert violation(Spiteful, REGISTERED) is None
    found = violation(Spiteful, REGISTERED, ("allocation", 2))
    assert found is not None
    assert found.index == 4


COPIED = """
    map p0 rw page=0 pages=1
    attach d0 p0
    write p0 page=0 offset=0 length=8 value=0x100
    to_device d0 page=0 pages=1
    read p0 page=0 offset=0 length=8
    read p0 page=0 offset=0 length=8
"""


def test_a_read_that_met_a_failure_may_fault_but_not_lie() -> None:
    trace = ran(FaultingDriver, COPIED, ("copy", 2))
    assert trace.outcomes[4].status == Status.FAULT
    assert trace.outcomes[5].status == Status.OK
    assert judge(trace).violation is None


def test_a_private_copy_counts_from_when_it_is_made() -> None:
    lines = """
        map p0 rw page=0 pages=1 file=0
        map p0 rw shared page=1 pages=1 file=0
        attach d0 p0
        fault d0 rw page=0 pages=1
        write p0 page=1 offset=0 length=8 value=0x100
        dread d0 page=0 offset=0 length=8
    """
    trace = ran(FaultingDriver, lines)
    assert trace.outcomes[5].data == bytes(8)
    assert judge(trace).violation is None
