"""`hmm_range_fault_unlocked_timeout`: it takes mmap_lock itself, and may give up (H11)."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from c_drivers import COMPILER, EXAMPLES, compile_driver
from driving import programs, scheduled, script, unaccused

from adapters.driver_c import load_c_driver
from reference.drivers import Driver
from reference.drivers.faulting import FaultingDriver
from reference.host.hmm import HMM_PFN_REQ_FAULT, HMM_PFN_VALID, HmmRange
from reference.host.notifiers import IntervalNotifier
from reference.host.record import What
from reference.host.run import Run, run_program
from reference.host.space import AddressSpace
from reference.model import judge
from reference.outcomes import Status
from reference.schedule import DEVICE, PLAIN, Injection, Schedule, Switch
from reference.trace import Trace

TIMEOUT = 1000


class Unlocked(FaultingDriver):
    """Leaves read sections and mmap_lock to the kernel."""

    name = "unlocked"
    timeout = TIMEOUT

    def collect(
        self,
        mm: AddressSpace,
        notifier: IntervalNotifier,
        start: int,
        flags: int,
        owner: object | None,
    ) -> tuple[int, HmmRange]:
        end = start + self.kernel.page_size
        range_ = HmmRange(notifier, 0, start, end, flags, dev_private_owner=owner)
        return self.kernel.hmm_range_fault_unlocked_timeout(range_, self.timeout), range_


class Unbounded(Unlocked):
    name = "unbounded"
    timeout = 0


class TakesTheLock(Unlocked):
    """As for the other variant."""

    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        self.kernel.mmap_read_lock(mm)
        answer = super().populate(mm, notifier, start, flags)
        self.kernel.mmap_read_unlock(mm)
        return answer


class UnderTheLock(Unlocked):
    """Looks up under the lock that its callback takes."""

    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        self.lock.lock()
        answer, _ = self.collect(mm, notifier, start, flags, self.device.owner)
        self.lock.unlock()
        return answer or super().populate(mm, notifier, start, flags)


class TooLate(Unlocked):
    """Maps the page that it had before where it ran out of time."""

    pfn = 0

    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        answer, range_ = self.collect(mm, notifier, start, flags, self.device.owner)
        if answer not in {0, -errno.EBUSY}:
            return answer
        self.pfn = self.pfn if answer else range_.hmm_pfns[0]
        self.lock.lock()
        again = self.kernel.mmu_interval_read_retry(notifier, range_.notifier_seq)
        answer = 0 if again else self.install(start, self.pfn)
        self.lock.unlock()
        return answer


class OwnSequence(Unlocked):
    """Checks the read section that it began itself, before the one in which the page was found."""

    def populate(self, mm: AddressSpace, notifier: IntervalNotifier, start: int, flags: int) -> int:
        sequence = self.kernel.mmu_interval_read_begin(notifier)
        answer, range_ = self.collect(mm, notifier, start, flags, self.device.owner)
        if answer:
            return answer
        self.lock.lock()
        if not self.kernel.mmu_interval_read_retry(notifier, sequence):
            answer = self.install(start, range_.hmm_pfns[0])
        self.lock.unlock()
        return answer


LINES = """
    map p0 rw page=0 pages=1
    attach d0 p0
    dread d0 page=0 offset=0 length=8
    discard p0 page=0 pages=1
    dread d0 page=0 offset=0 length=8
"""


def ran(driver: type[Driver], lines: str, plan: Schedule = PLAIN) -> tuple[Run, str]:
    """A run, and the rule that it breaks, if any."""
    program = replace(script(driver, lines), schedule=plan)
    run = run_program(program, driver)
    violation = judge(Trace(program, tuple(run.outcomes), hosted=run.plain())).violation
    return run, "" if violation is None else violation.rule


def answers(run: Run) -> list[object]:
    return [entry.arguments[1] for entry in run.record if entry.what == What.UNLOCKED]


def wait(number: int) -> Injection:
    """The failure of the wait of this number: its time is over."""
    return Injection("wait", number)


def waits(number: int) -> Schedule:
    return Schedule(injections=(wait(number),))


@pytest.mark.parametrize("driver", [Unlocked, Unbounded])
def test_a_fault_that_drops_the_lock_starts_over(driver: type[Driver]) -> None:
    run, rule = ran(driver, LINES)
    assert rule == ""
    assert answers(run) == [0, 0]
    kinds = {What.READ_BEGIN, What.COLLECTED}
    steps = [
        (What(entry.what).name, entry.arguments[-1])
        for entry in run.record
        if entry.operation == 2 and entry.what in kinds
    ]
    assert steps == [
        *(("READ_BEGIN", 1), ("COLLECTED", -errno.EBUSY)),
        *(("READ_BEGIN", 1), ("COLLECTED", 0)),
    ]


def test_requests_of_pages_outlive_a_restart() -> None:
    class AsksForEach(Unlocked):
        def collect(self, *given: object) -> tuple[int, HmmRange]:
            _, notifier, start, flags, owner = given
            assert isinstance(notifier, IntervalNotifier)
            assert isinstance(start, int)
            assert isinstance(flags, int)
            end = start + self.kernel.page_size
            mask = HMM_PFN_REQ_FAULT
            range_ = HmmRange(notifier, 0, start, end, 0, mask, owner, [HMM_PFN_REQ_FAULT])
            answer = self.kernel.hmm_range_fault_unlocked_timeout(range_, 0)
            assert range_.hmm_pfns[0] & HMM_PFN_VALID
            return answer, range_

    assert ran(AsksForEach, LINES)[1] == ""


@pytest.mark.parametrize(
    ("driver", "number", "error"),
    [(Unlocked, 1, errno.EINTR), (Unlocked, 2, errno.EBUSY), (Unbounded, 2, errno.EINTR)],
)
def test_it_gives_up_when_the_time_is_over(driver: type[Driver], number: int, error: int) -> None:
    """Or when it is interrupted; with no timeout, only then."""
    run, rule = ran(driver, LINES, waits(number))
    assert rule == ""
    assert answers(run) == [-error, 0]
    assert run.outcomes[2].status == Status.FAULT


def test_the_lock_is_free_between_two_walks() -> None:
    """Somebody may unmap the page there, and is not waited for."""
    found = set()
    for point in range(1, 30):
        plan = Schedule((Switch(DEVICE, 2, point, 0),))
        run, rule = ran(Unlocked, LINES.replace("discard", "unmap"), plan)
        assert rule == "", run.broken
        found.update(answers(run))
    assert found == {0, -errno.EFAULT}


@pytest.mark.parametrize(
    ("driver", "number", "broken"),
    [
        (TakesTheLock, 0, "H11"),
        (TooLate, 2, "H11"),
        (TooLate, 0, ""),
        (UnderTheLock, 0, "W3"),
        (OwnSequence, 0, ""),
    ],
)
def test_a_rule_is_named(driver: type[Driver], number: int, broken: str) -> None:
    plan = waits(number) if number else PLAIN
    assert ran(driver, LINES, plan)[1] == broken


@pytest.mark.parametrize("driver", [Unlocked, Unbounded])
@pytest.mark.parametrize("strategy", ["follow", "random", "pct"])
def test_a_correct_driver_is_accused_of_nothing(driver: type[Driver], strategy: str) -> None:
    given = [
        replace(program, schedule=replace(program.schedule, injections=(wait(1 + seed // 3),)))
        if seed % 3 == 0
        else program
        for seed, program in enumerate(
            scheduled(programs(driver, 100, 7, pages=3, most=14), strategy)
        )
    ]
    assert unaccused(driver, given)["H11"] > 20
    runs = [run_program(program, driver) for program in given[::3]]
    assert sum(any(entry.what == What.FAIL for entry in run.record) for run in runs) > 2


@pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")
@pytest.mark.parametrize(("held", "broken"), [(False, ""), (True, "H11")])
def test_the_same_in_c(held: bool, broken: str, tmp_path: Path) -> None:
    source = (EXAMPLES / "faulting.c").read_text()
    first = source.index("    do {\n        range->notifier_seq")
    last = source.index("    } while (answer == -EBUSY);\n")
    call = "answer = hmm_range_fault_unlocked_timeout(range, 1000);"
    if held:
        call = f"mmap_read_lock(mirror->mm); {call} mmap_read_unlock(mirror->mm);"
    path = tmp_path / "unlocked.c"
    path.write_text(
        f"{source[:first]}    (void)mirror; {call}\n{source[last:].split(chr(10), 1)[1]}"
    )
    driver = load_c_driver(compile_driver(tmp_path, path))
    run, rule = ran(driver, LINES)
    assert rule == broken
    assert answers(run) == ([] if held else [0, 0])
    if not held:
        unaccused(driver, scheduled(programs(driver, 40, 7, pages=3, most=14), "random"))
