"""Pins that a registration cache keeps, and drops when it is told of a change (P1)."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from driving import judged, programs, schedule, script, unaccused

from reference.drivers import Driver
from reference.drivers.caching import CachingDriver, Region
from reference.drivers.registration import RegistrationDriver
from reference.host.record import What
from reference.host.run import run_program
from reference.operations import Kind, Operation
from reference.program import Program
from reference.schedule import PLAIN, Injection, Schedule

IDLE = """
    map p0 rw page=0 pages=3
    attach d0 p0
    register d0 key=1 rw page=0 pages=2
    unregister d0 key=1
    discard p0 page=1 pages=1
"""
PARTLY = IDLE.replace(
    "unregister d0 key=1", "register d0 key=2 r page=0 pages=1\nunregister d0 key=1"
)
REGISTERED = IDLE.replace("unregister d0 key=1", "")
REFUSED = IDLE.replace("register d0 key=1 rw page=0 pages=2", "register d0 key=1 rw page=2 pages=2")
BUSY = """
    map p0 rw page=0 pages=2
    attach d0 p0
    register d0 key=1 rw page=0 pages=1
    register d0 key=2 rw page=1 pages=1
    unregister d0 key=1
    dread d0 page=1 offset=0 length=8 key=2 job=1
    submit d0 job=1
    discard p0 page=0 pages=1
    wait d0 job=1
"""
WAITED = BUSY + "discard p0 page=0 pages=1"


class NeverLooks(CachingDriver):
    """Has a notifier that only counts, as if user space told of every change."""

    def affected(self, start: int, end: int) -> list[Region]:
        return []


class FreesLater(CachingDriver):
    """Takes what changes out of the cache, and frees it with the next registration."""

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.later: list[Region] = []

    def evict(self, regions: list[Region]) -> None:
        for region in list(regions):
            region.users += 1
            self.later.append(region)
        super().evict(regions)

    def close(self) -> None:
        super().close()
        self.free_later()

    def free_later(self) -> None:
        for region in self.later:
            region.users -= 1
            if not region.users:
                self.free(region)
        self.later.clear()

    def register(self, key: int, start: int, end: int, write: bool) -> int:
        self.lock.lock()
        self.free_later()
        self.lock.unlock()
        return super().register(key, start, end, write)


class OnlyTheFirst(CachingDriver):
    """Looks up the region of the first page of a range, and leaves others of the range."""

    def affected(self, start: int, end: int) -> list[Region]:
        return [region for region in self.regions if region.start <= start < region.end]


@pytest.mark.parametrize(
    ("driver", "lines", "rule", "times"),
    [
        (CachingDriver, IDLE, "", 1),
        (CachingDriver, PARTLY, "", 0),
        (CachingDriver, REGISTERED, "", 0),
        (CachingDriver, REFUSED, "", 0),
        (CachingDriver, BUSY, "", 0),
        (CachingDriver, WAITED.replace("discard p0 page=0 pages=1\n", "", 1), "", 1),
        (RegistrationDriver, IDLE, "", 0),
        (NeverLooks, IDLE, "P1", 0),
        (NeverLooks, PARTLY, "", 0),
        (NeverLooks, REGISTERED, "", 0),
        (NeverLooks, BUSY, "", 0),
        (NeverLooks, WAITED, "P1", 0),
        (FreesLater, IDLE, "P1", 0),
        (OnlyTheFirst, IDLE, "", 1),
        (
            OnlyTheFirst,
            IDLE.replace("discard p0 page=1 pages=1", "discard p0 page=0 pages=3"),
            "",
            1,
        ),
        (
            OnlyTheFirst,
            IDLE.replace("rw page=0 pages=2", "rw page=1 pages=2").replace(
                "discard p0 page=1 pages=1", "discard p0 page=0 pages=3"
            ),
            "P1",
            0,
        ),
    ],
)
def test_what_nobody_has_registered_is_let_go_of(
    driver: type[Driver], lines: str, rule: str, times: int
) -> None:
    found = judged(driver, script(driver, lines))
    assert (found.violation.rule if found.violation is not None else "") == rule, found.violation
    assert found.exercised["P1"] == times


def test_the_one_that_is_accused_is_the_change() -> None:
    violation = judged(NeverLooks, script(NeverLooks, IDLE)).violation
    assert violation is not None
    assert violation.index == 4
    assert violation.message == (
        "device 0 still has page 1 pinned, which nobody has registered, "
        "when its callback for range 2 (CLEAR, pages 1..1) returned"
    )


def test_the_record_says_who_pins_and_what_is_registered() -> None:
    run = run_program(script(CachingDriver, IDLE), CachingDriver)
    wanted = {What.REGISTER, What.UNREGISTER}
    assert [entry.arguments for entry in run.record if entry.what in wanted] == [
        (0, 1, 0, 0, 2),
        (0, 1),
    ]
    pins = [entry for entry in run.record if entry.what in {What.PIN, What.UNPIN}]
    assert [entry.arguments[-1] for entry in pins] == [0, 0, 0, 0]


@pytest.mark.parametrize("driver", [CachingDriver, RegistrationDriver])
def test_correct_drivers_are_accused_of_nothing(driver: type[Driver]) -> None:
    """In programs that take back what they have registered more often than random ones do."""
    given = []
    for seed, program in enumerate(programs(driver, 600, 9, pages=3, most=20)):
        strategy = ("follow", "random", "pct")[seed % 3]
        injections = (Injection("allocation", 1 + seed // 4),) if seed % 4 == 0 else ()
        plan = replace(schedule(strategy, seed), injections=injections)
        given.append(replace(taking_back(program, seed), schedule=plan))
    assert (unaccused(driver, given)["P1"] > 5) == (driver is CachingDriver)


def taking_back(program: Program, seed: int) -> Program:
    """The program with some keys taken back at once, which are then not used any more."""
    operations: list[Operation] = []
    draw, gone = Random(seed), set[tuple[int, int]]()
    for operation in program.operations:
        place = operation.device, operation.key
        if operation.kind == Kind.REGISTER:
            gone.discard(place)
        elif place in gone and operation.kind == Kind.UNREGISTER:
            continue
        operations.append(operation)
        if operation.kind == Kind.REGISTER and draw.random() < 0.7:
            gone.add(place)
            operations.append(
                Operation(Kind.UNREGISTER, 0, operation.device, 0, 0, 0, key=operation.key)
            )
    return replace(program, operations=tuple(operations))


def test_random_programs_find_it() -> None:
    plans = [PLAIN, Schedule(strategy="random", seed=3, depth=5)]
    found = set()
    for program in programs(FreesLater, 120, 9, pages=3, most=20):
        for plan in plans:
            violation = judged(FreesLater, replace(program, schedule=plan)).violation
            found.add(violation.rule if violation is not None else "")
    assert "P1" in found
