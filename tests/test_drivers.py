"""The correct drivers: no schedule makes them break the law, and every run can be had again."""

from __future__ import annotations

import errno
from dataclasses import replace
from random import Random

import pytest
from driving import complaint, drive, excused, programs, schedule, script, taken

from adapters.examples.drivers.template import Template
from reference.drivers import DRIVERS, Driver
from reference.drivers.caching import CachingDriver
from reference.drivers.counting import CountingDriver
from reference.drivers.faulting import FaultingDriver
from reference.drivers.refcounting import Buffer, RefcountingDriver
from reference.drivers.registration import Region, RegistrationDriver
from reference.host.notifiers import IntervalNotifier
from reference.host.ranges import Range
from reference.host.record import What
from reference.host.run import Run, run_program
from reference.mirrors import MIRRORS
from reference.model import judge
from reference.outcomes import Outcome, Status, decode_wait
from reference.schedule import ENGINE, KERNEL, Injection, Schedule, Switch
from reference.trace import Trace

OK = Outcome(Status.OK)
DENIED = Outcome(Status.FAULT, errno.EFAULT)
EVERY = pytest.mark.parametrize("driver", DRIVERS.values(), ids=DRIVERS)


def failed(error: int) -> Outcome:
    return Outcome(Status.ERROR, error)


def entries(run: Run, *kinds: What) -> list[tuple[int, tuple[int | str, ...]]]:
    """Operation and arguments of the record's entries of some kinds."""
    return [(entry.operation, entry.arguments) for entry in run.record if entry.what in kinds]


@EVERY
class TestEveryDriver:
    def test_it_is_named_after_its_sync_model(self, driver: type[Driver]) -> None:
        assert DRIVERS[driver.model] is driver
        assert driver.name == driver.model

    @pytest.mark.parametrize("strategy", ["follow", "random", "pct"])
    @pytest.mark.parametrize(
        ("pages", "most", "count", "page_size"),
        [(2, 12, 250, 4096), (4, 40, 100, 4096), (16, 100, 20, 4096), (4, 30, 30, 65536)],
    )
    def test_it_is_right_under_every_schedule(
        self,
        driver: type[Driver],
        strategy: str,
        pages: int,
        most: int,
        count: int,
        page_size: int,
    ) -> None:
        drawn = programs(driver, count, 5, pages=pages, most=most, page_size=page_size)
        switches = 0
        for seed, program in enumerate(drawn):
            scheduled = replace(program, schedule=schedule(strategy, seed))
            run = run_program(scheduled, driver)
            assert complaint(scheduled, run) is None, taken(scheduled, run)
            assert len(run.outcomes) == len(program)
            switches += len(run.switches)
        assert (switches > 0) == (strategy != "follow")

    def test_every_run_can_be_had_again(self, driver: type[Driver]) -> None:
        for seed, program in enumerate(programs(driver, 30, 6, pages=4, most=40)):
            strategy = ("random", "pct")[seed % 2]
            first = run_program(replace(program, schedule=schedule(strategy, seed)), driver)
            again = run_program(taken(program, first), driver)
            assert again.outcomes == first.outcomes
            assert again.history == first.history
            assert again.record == first.record
            assert again.switches == first.switches

    def test_a_failure_fails_no_other_operation(self, driver: type[Driver]) -> None:
        injected = 0
        for seed, program in enumerate(programs(driver, 200, 7, pages=4, most=20)):
            plain = replace(program, schedule=schedule("random", seed))
            asked = run_program(plain, driver).asked
            moments = [(site, n) for site, times in asked.items() for n in range(1, times + 1)]
            for moment in Random(seed).sample(moments, min(4, len(moments))):
                injections = (Injection(*moment),)
                failing = replace(plain, schedule=replace(plain.schedule, injections=injections))
                run = run_program(failing, driver)
                wrong = complaint(failing, run)
                assert wrong is None or wrong[0] in excused(failing, run), wrong
                injected += any(entry.what == What.FAIL for entry in run.record)
        assert injected > 50


# The programs above have to find what is wrong, or their silence would say nothing.


class Hurried(RefcountingDriver):
    """Does not wait for the device."""

    def lock_idle(self, buffer: Buffer, blockable: bool) -> bool:
        self.lock.lock()
        return True


class Silent(FaultingDriver):
    """Does not let a fault that is under way know of an invalidation."""

    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
        self.lock.lock()
        self.zap(range_.start, range_.end)
        self.lock.unlock()
        return True


class Generous(RegistrationDriver):
    """Lets the device write through every key."""

    def map(self, region: Region) -> int:
        region.write = True
        return super().map(region)


@pytest.mark.parametrize("driver", [Hurried, Silent, Generous])
def test_wrong_drivers_are_found(driver: type[Driver]) -> None:
    drawn = enumerate(programs(driver, 300, 5, pages=4, most=40))
    scheduled = (replace(each, schedule=schedule("random", seed)) for seed, each in drawn)
    assert any(complaint(each, run_program(each, driver)) for each in scheduled)


class TestKeys:
    """What both keyed drivers have in common."""

    @pytest.mark.parametrize("driver", [RefcountingDriver, RegistrationDriver])
    def test_they_answer_as_the_closed_mirrors(self, driver: type[Driver]) -> None:
        lines = """
            map p0 rw page=0 pages=2
            map p0 r page=2 pages=1
            attach d0 p0
            register d0 key=1 rw page=0 pages=2
            register d0 key=1 r page=0 pages=1
            register d0 key=2 rw page=2 pages=1
            register d0 key=2 r page=2 pages=2
            register d0 key=2 r page=1 pages=2
            unregister d0 key=3
            dwrite d0 page=0 offset=4088 length=16 value=0x700 key=1
            dread d0 page=1 offset=0 length=8 key=2
            dwrite d0 page=1 offset=0 length=8 value=0x800 key=2
            dread d0 page=1 offset=4088 length=16 key=1
            dread d0 page=0 offset=0 length=8 key=2
            dread d0 page=0 offset=0 length=8 key=3
            unregister d0 key=1
            dread d0 page=0 offset=0 length=8 key=1
            unregister d0 key=1
            detach d0
            attach d0 p0
            dread d0 page=1 offset=0 length=8 key=2
        """
        program, mirror = script(driver, lines), MIRRORS[driver.name]()
        mirror.reset(program.geometry)
        assert drive(driver, lines).outcomes == list(mirror.run(program.operations))

    @pytest.mark.parametrize("driver", [RefcountingDriver, RegistrationDriver])
    def test_an_access_across_the_end_of_a_range_does_nothing(self, driver: type[Driver]) -> None:
        run = drive(
            driver,
            """
            map p0 rw page=0 pages=2
            attach d0 p0
            register d0 key=1 rw page=0 pages=1
            register d0 key=2 rw page=1 pages=1
            dwrite d0 page=0 offset=4088 length=16 value=0x700 key=1
            dwrite d0 page=0 offset=4088 length=16 value=0x800 key=1 job=1
            submit d0 job=1
            wait d0 job=1
            read p0 page=0 offset=4088 length=16
            """,
        )
        assert run.outcomes[4] == DENIED
        assert decode_wait(run.outcomes[7].data, 1) == [DENIED]
        assert run.outcomes[8].data == bytes(16)

    @pytest.mark.parametrize("driver", [RefcountingDriver, RegistrationDriver])
    def test_a_failure_half_way_leaves_nothing_behind(self, driver: type[Driver]) -> None:
        lines = """
            map p0 rw page=0 pages=3
            attach d0 p0
            register d0 key=1 rw page=0 pages=3
            register d0 key=1 rw page=0 pages=3
        """
        schedule = Schedule(injections=(Injection("allocation", 2),))
        run = drive(driver, lines, schedule)
        assert run.broken is None
        assert run.outcomes[2:] == [failed(errno.ENOMEM), OK]
        mapped = [arguments for _, arguments in entries(run, What.DMA_MAP)]
        assert len(mapped) == 1 + 3


class TestRefcounting:
    JOB = """
        map p0 rw page=0 pages=2
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
        dwrite d0 page=0 offset=0 length=8 value=0x700 key=1 job=1
        submit d0 job=1
    """

    def in_flight(self, lines: str) -> Run:
        """A run in which the kernel's first operation comes before the job's first access."""
        early = Schedule((Switch(ENGINE, 4, 1, KERNEL),))
        return drive(RefcountingDriver, self.JOB + lines, early)

    def test_an_invalidation_that_may_block_waits_for_the_device(self) -> None:
        run = self.in_flight("invalidate p0 page=0 pages=1 event=clear\nwait d0 job=1")
        assert run.outcomes[5] == OK
        whats = [entry.what for entry in run.record if entry.operation >= 4]
        order = [what for what in whats if what in {What.COMPLETE, What.RETURNED}]
        assert order == [What.COMPLETE, What.RETURNED]

    def test_one_that_may_not_backs_out_without_a_trace(self) -> None:
        run = self.in_flight("invalidate p0 page=0 pages=1 event=clear nonblock\nwait d0 job=1")
        assert run.outcomes[5] == failed(errno.EAGAIN)
        during = [entry.what for entry in run.record if entry.operation == 5]
        assert not {What.SET_SEQUENCE, What.DEVICE_UNMAP, What.FLUSH} & set(during)
        assert run.outcomes[6].status == Status.OK

    def test_one_of_another_page_does_not_wait(self) -> None:
        run = self.in_flight("invalidate p0 page=1 pages=1 event=clear nonblock\nwait d0 job=1")
        assert run.outcomes[5] == OK

    def test_an_idle_buffer_is_given_up_at_once(self) -> None:
        lines = "wait d0 job=1\ninvalidate p0 page=0 pages=1 event=clear nonblock"
        run = drive(RefcountingDriver, self.JOB + lines)
        assert run.outcomes[6] == OK
        assert (6, (0, 1, 0)) in entries(run, What.DEVICE_UNMAP)

    def test_the_next_submit_finds_the_new_pages(self) -> None:
        run = drive(
            RefcountingDriver,
            """
            map p0 rw page=0 pages=1
            attach d0 p0
            register d0 key=1 rw page=0 pages=1
            dwrite d0 page=0 offset=0 length=8 value=0x700 key=1
            map p0 rw page=0 pages=1
            dread d0 page=0 offset=0 length=8 key=1
            unmap p0 page=0 pages=1
            dread d0 page=0 offset=0 length=8 key=1
            """,
        )
        assert run.outcomes[5].data == bytes(8)
        assert run.outcomes[7] == DENIED

    def test_a_job_with_a_bad_buffer_is_not_started(self) -> None:
        run = drive(
            RefcountingDriver,
            """
            map p0 rw page=0 pages=1
            attach d0 p0
            register d0 key=1 rw page=0 pages=1
            dwrite d0 page=0 offset=0 length=8 value=0x700 key=1 job=1
            dwrite d0 page=0 offset=8 length=8 value=0x800 key=2 job=1
            submit d0 job=1
            wait d0 job=1
            read p0 page=0 offset=0 length=16
            """,
        )
        assert run.outcomes[5] == failed(errno.EINVAL)
        assert decode_wait(run.outcomes[6].data, 2) == [DENIED, DENIED]
        assert run.outcomes[7].data == bytes(16)


class TestRegistration:
    def test_pins_survive_reclaim_and_migration(self) -> None:
        run = drive(
            RegistrationDriver,
            """
            map p0 rw page=0 pages=1
            attach d0 p0
            register d0 key=1 rw page=0 pages=1
            dwrite d0 page=0 offset=0 length=8 value=0x700 key=1
            reclaim p0 page=0 pages=1
            migrate p0 page=0 pages=1
            unregister d0 key=1
            reclaim p0 page=0 pages=1
            read p0 page=0 offset=0 length=8
            """,
        )
        skipped = Outcome(Status.SKIPPED, errno.EBUSY)
        assert run.outcomes[4:8] == [skipped, skipped, OK, OK]
        assert run.outcomes[8].data == (0x700).to_bytes(8, "little")

    def test_an_unmapped_page_stays_until_it_is_unregistered(self) -> None:
        run = drive(
            RegistrationDriver,
            """
            map p0 rw page=0 pages=1
            attach d0 p0
            register d0 key=1 rw page=0 pages=1
            unmap p0 page=0 pages=1
            dwrite d0 page=0 offset=0 length=8 value=0x700 key=1
            dread d0 page=0 offset=0 length=8 key=1
            """,
        )
        assert run.outcomes[5].data == (0x700).to_bytes(8, "little")

    def test_a_parent_keeps_its_pinned_pages_after_a_fork(self) -> None:
        run = drive(
            RegistrationDriver,
            """
            map p0 rw page=0 pages=1
            attach d0 p0
            register d0 key=1 rw page=0 pages=1
            fork p0 child=p1
            dwrite d0 page=0 offset=0 length=8 value=0x700 key=1
            read p0 page=0 offset=0 length=8
            read p1 page=0 offset=0 length=8
            """,
        )
        assert run.outcomes[5].data == (0x700).to_bytes(8, "little")
        assert run.outcomes[6].data == bytes(8)

    def test_the_end_of_the_process_takes_its_pages_from_the_device(self) -> None:
        run = drive(
            RegistrationDriver,
            """
            map p0 rw page=0 pages=1
            fork p0 child=p1
            attach d0 p1
            register d0 key=1 rw page=0 pages=1
            exit p1
            dread d0 page=0 offset=0 length=8 key=1
            unregister d0 key=1
            """,
        )
        assert run.outcomes[5] == DENIED
        exiting = [entry.what for entry in run.record if entry.operation == 4]
        order = [What.RELEASE, What.DEVICE_UNMAP, What.FLUSH, What.DMA_UNMAP, What.UNPIN]
        assert [what for what in exiting if what in order] == order


def test_nothing_is_called_of_a_driver_that_could_not_be_opened() -> None:
    lines = """
        map p0 rw page=0 pages=1
        attach d0 p0
        dread d0 page=0 offset=0 length=8
        detach d0
        attach d0 p0
        dread d0 page=0 offset=0 length=8
    """
    schedule = Schedule(injections=(Injection("insert", 1),))
    program = replace(script(Template, lines), schedule=schedule)
    run = run_program(program, Template)
    assert complaint(program, run) is None
    assert [each.status for each in run.outcomes] == [
        *(Status.OK, Status.ERROR, Status.FAULT),
        *(Status.OK, Status.OK, Status.OK),
    ]


@pytest.mark.parametrize(
    "driver", [*DRIVERS.values(), CountingDriver, CachingDriver], ids=lambda driver: driver.name
)
def test_correct_drivers_bear_that_nothing_can_be_inserted(driver: type[Driver]) -> None:
    """Not at the first or second time; what cannot be attached or registered fails."""
    refused = 0
    for seed, program in enumerate(programs(driver, 90, 8, pages=3, most=12)):
        plain = schedule(("follow", "random")[seed % 2], seed)
        failing = replace(plain, injections=(Injection("insert", 1 + (seed % 3 == 2)),))
        scheduled = replace(program, schedule=failing)
        run = run_program(scheduled, driver)
        assert judge(Trace(scheduled, tuple(run.outcomes), hosted=run.plain())).violation is None
        refused += any(entry.what == What.FAIL for entry in run.record)
    assert refused > 3
