"""What the host does to pages: migration, exclusive access, pins, and failures on the way."""

from __future__ import annotations

import errno

import pytest
from driving import drive

from reference.drivers.faulting import FaultingDriver
from reference.drivers.registration import RegistrationDriver
from reference.host.record import What
from reference.host.run import Run
from reference.operations import Event
from reference.outcomes import Outcome, Status
from reference.schedule import Injection, Schedule

OK = Outcome(Status.OK)
DENIED = Outcome(Status.FAULT, errno.EFAULT)


def arguments(run: Run, what: What, operation: int) -> list[tuple[int | str, ...]]:
    return [e.arguments for e in run.record if (e.what, e.operation) == (what, operation)]


def word(value: int) -> bytes:
    return value.to_bytes(8, "little")


def failing(site: str, number: int) -> Schedule:
    return Schedule(injections=(Injection(site, number),))


class TestMigration:
    def test_a_hole_migrates_as_zeros_without_a_copy(self) -> None:
        run = drive(
            FaultingDriver,
            """
            map p0 rw page=0 pages=2
            attach d0 p0
            to_device d0 page=0 pages=2
            dread d0 page=1 offset=0 length=8
            """,
        )
        assert run.outcomes[2:] == [OK, Outcome(Status.OK, 0, 8, bytes(8))]
        assert arguments(run, What.COPY, 2) == []
        assert len(arguments(run, What.PAGES, 2)) == 2

    def test_the_processor_brings_a_page_home(self) -> None:
        run = drive(
            FaultingDriver,
            """
            map p0 rw page=0 pages=1
            write p0 page=0 offset=0 length=8 value=0x700
            attach d0 p0
            to_device d0 page=0 pages=1
            dadd d0 page=0 offset=0 length=8 value=1
            read p0 page=0 offset=0 length=8
            """,
        )
        assert run.outcomes[5].data == word(0x701)
        assert arguments(run, What.DMA_MAP, 4) == []
        assert len(arguments(run, What.TO_RAM, 5)) == 1

    @pytest.mark.parametrize(("site", "number"), [("copy", 2), ("allocation", 2)])
    def test_a_page_that_cannot_come_home_is_a_fault_and_not_lost(
        self, site: str, number: int
    ) -> None:
        lines = """
            map p0 rw page=0 pages=1
            write p0 page=0 offset=0 length=8 value=0x700
            attach d0 p0
            to_device d0 page=0 pages=1
            read p0 page=0 offset=0 length=8
            read p0 page=0 offset=0 length=8
        """
        run = drive(FaultingDriver, lines, failing(site, number))
        assert run.outcomes[4] == DENIED
        assert run.outcomes[5].data == word(0x700)

    @pytest.mark.parametrize("site", ["copy", "allocation"])
    def test_a_page_that_cannot_be_copied_stays(self, site: str) -> None:
        run = drive(
            FaultingDriver,
            """
            map p0 rw page=0 pages=1
            write p0 page=0 offset=0 length=8 value=0x700
            attach d0 p0
            to_device d0 page=0 pages=1
            read p0 page=0 offset=0 length=8
            """,
            failing(site, 1),
        )
        assert run.outcomes[3] == Outcome(Status.SKIPPED, errno.EBUSY)
        assert run.outcomes[4].data == word(0x700)
        assert arguments(run, What.TO_RAM, 4) == []

    def test_a_full_device_takes_what_it_can(self) -> None:
        pages = 6
        run = drive(
            FaultingDriver,
            f"""
            map p0 rw page=0 pages={pages}
            attach d0 p0
            to_device d0 page=0 pages={pages}
            dwrite d0 page=5 offset=0 length=8 value=0x700
            read p0 page=5 offset=0 length=8
            """,
            pages=8,
        )
        assert run.outcomes[2] == OK
        assert run.outcomes[4].data == word(0x700)
        assert arguments(run, What.TO_RAM, 4) == []

    def test_a_page_of_another_device_comes_home_first(self) -> None:
        run = drive(
            FaultingDriver,
            """
            map p0 rw page=0 pages=1
            attach d0 p0
            attach d1 p0
            to_device d0 page=0 pages=1
            dwrite d0 page=0 offset=0 length=8 value=0x700
            dread d1 page=0 offset=0 length=8
            """,
        )
        assert run.outcomes[5].data == word(0x700)
        assert len(arguments(run, What.TO_RAM, 5)) == 1


class TestExclusive:
    LINES = """
        map p0 rw page=0 pages=1
        attach d0 p0
        exclusive d0 page=0 pages=1
        dadd d0 page=0 offset=0 length=8 value=1
        read p0 page=0 offset=0 length=8
    """

    def test_the_processor_takes_the_page_back(self) -> None:
        run = drive(FaultingDriver, self.LINES)
        assert run.outcomes[2] == OK
        assert run.outcomes[4].data == word(1)
        (taken,), (revoked,) = (arguments(run, What.START, index) for index in (2, 4))
        assert taken[1:7] == (0, 0, 1, Event.EXCLUSIVE, 0, 1)
        assert revoked[1:7] == (0, 0, 1, Event.EXCLUSIVE, -1, 1)
        assert arguments(run, What.DEVICE_UNMAP, 4) == [(0, 0, 0)]

    def test_reclaim_revokes_it_first(self) -> None:
        lines = self.LINES.replace("read p0 page=0 offset=0 length=8", "reclaim p0 page=0 pages=1")
        run = drive(FaultingDriver, lines)
        assert run.outcomes[4] == OK
        events = [start[4] for start in arguments(run, What.START, 4)]
        assert events.count(Event.EXCLUSIVE) == 1

    def test_only_private_memory_can_be_had(self) -> None:
        lines = self.LINES.replace("map p0 rw", "map p0 rw shared")
        assert drive(FaultingDriver, lines).outcomes[2].status == Status.SKIPPED


class TestPins:
    def test_all_or_none(self) -> None:
        run = drive(
            RegistrationDriver,
            """
            map p0 rw page=0 pages=1
            attach d0 p0
            register d0 key=1 rw page=0 pages=2
            reclaim p0 page=0 pages=1
            """,
        )
        assert run.outcomes[2].error == errno.EFAULT
        assert arguments(run, What.PIN, 2) == []

    def test_a_pin_for_reading_breaks_copy_on_write_too(self) -> None:
        run = drive(
            RegistrationDriver,
            """
            map p0 rw page=0 pages=1
            write p0 page=0 offset=0 length=8 value=0x700
            fork p0 child=p1
            attach d0 p0
            register d0 key=1 r page=0 pages=1
            write p0 page=0 offset=0 length=8 value=0x800
            dread d0 page=0 offset=0 length=8 key=1
            read p1 page=0 offset=0 length=8
            """,
        )
        assert run.outcomes[6].data == word(0x800)
        assert run.outcomes[7].data == word(0x700)


class TestFailures:
    LINES = """
        map p0 rw page=0 pages=1
        attach d0 p0
        dread d0 page=0 offset=0 length=8
        dread d0 page=0 offset=0 length=8
    """

    def test_the_nth_fails_and_no_other(self) -> None:
        run = drive(FaultingDriver, self.LINES, failing("allocation", 1))
        assert [outcome.status for outcome in run.outcomes[2:]] == [Status.FAULT, Status.OK]
        assert arguments(run, What.FAIL, 2) == [("allocation", 1)]
        assert run.asked == {"allocation": 2, "insert": 1}

    def test_one_that_is_never_asked_for_does_nothing(self) -> None:
        run = drive(FaultingDriver, self.LINES, failing("allocation", 2))
        assert run == drive(FaultingDriver, self.LINES)

    def test_a_lock_that_is_taken_makes_a_callback_back_out(self) -> None:
        lines = self.LINES + "invalidate p0 page=0 pages=1 event=clear nonblock"
        run = drive(FaultingDriver, lines, failing("trylock", 1))
        assert run.outcomes[4] == Outcome(Status.ERROR, errno.EAGAIN)
        assert arguments(run, What.DEVICE_UNMAP, 4) == []
