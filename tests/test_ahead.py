"""Programs that run while the ones before them are judged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from adapters.worker import InProcess, Worker
from conformance.ahead import Ahead, Ran
from conformance.examine import Examiner
from reference.description import Description
from reference.geometry import Geometry
from reference.operations import Flag, Kind, Operation
from reference.program import Program
from reference.trace import Breakdown, Cause, Trace

ARENA = Geometry(pages=4, processes=1, devices=1, files=1, keys=1, jobs=1)
BAD = 0xBAD
"""What the misbehaving candidates cannot stand."""


def program(pages: int, value: int = 0) -> Program:
    """Maps so many pages, which tells programs apart, and writes a value."""
    mapped = Operation(Kind.MAP, 0, 0, int(Flag.READ | Flag.WRITE), 0, pages)
    written = Operation(Kind.WRITE, 0, 0, 0, 0, 1, 0, 8, value=value)
    return Program((mapped, written), ARENA)


def pages_of(ran: Ran | None) -> tuple[int, int] | None:
    return None if ran is None else (ran.trace.program.operations[0].pages, ran.length)


class Noted:
    """A runner that notes what it is asked for."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.begun: Program | None = None

    @property
    def description(self) -> Description:
        return Description(name="noted", operations=frozenset({"map", "write"}))

    def begin(self, program: Program) -> None:
        assert self.begun is None
        self.begun = program
        self.notes.append("begin")

    def finish(self) -> Trace:
        assert self.begun is not None
        trace, self.begun = Trace(self.begun, ()), None
        self.notes.append("finish")
        return trace

    def run(self, program: Program) -> Trace:
        raise AssertionError(program)

    def close(self) -> None:
        pass


def test_each_comes_back_when_the_next_is_given() -> None:
    runner = Noted()
    ahead = Ahead(Examiner(runner))
    given = [pages_of(ahead.exchange(program(pages), 10 * pages)) for pages in (1, 2, 3)]
    assert given == [None, (1, 10), (2, 20)]
    assert runner.notes == ["begin", "finish", "begin", "finish", "begin"]
    assert pages_of(ahead.last()) == (3, 30)
    assert ahead.last() is None


def test_what_is_held_is_not_lost() -> None:
    ahead = Ahead(Examiner(Noted()))
    ahead.exchange(program(1), 1)
    ahead.hold()
    ahead.hold()
    assert pages_of(ahead.exchange(program(2), 2)) == (1, 1)


def test_what_was_not_to_be_trusted_is_run_again() -> None:
    runner = Noted()
    ahead = Ahead(Examiner(runner))
    ahead.exchange(program(1), 1)
    ahead.hold()
    ahead.again()
    assert pages_of(ahead.last()) == (1, 1)
    assert runner.notes == ["begin", "finish", "begin", "finish"]
    ahead.again()
    assert len(runner.notes) == 4, "there was none"


def test_what_ran_before_an_interruption_is_not_lost() -> None:
    class Stopped(Noted):
        def begin(self, program: Program) -> None:
            if self.notes:
                raise KeyboardInterrupt
            super().begin(program)

    ahead = Ahead(Examiner(Stopped()))
    ahead.exchange(program(1), 1)
    with pytest.raises(KeyboardInterrupt):
        ahead.exchange(program(2), 2)
    assert pages_of(ahead.last()) == (1, 1)


class Asked(AbstractContextManager[None]):
    """An interruption that was asked for while something else was done."""

    asked = False

    def __enter__(self) -> None:
        if self.asked:
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        pass


def test_what_runs_already_can_be_waited_for_after_an_interruption() -> None:
    runner, interruption = Noted(), Asked()
    ahead = Ahead(Examiner(runner, interruption=interruption))
    ahead.exchange(program(1), 1)
    interruption.asked = True
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ahead.exchange(program(2), 2)
    assert pages_of(ahead.last(interruptible=False)) == (1, 1)
    assert runner.notes == ["begin", "finish"]


@pytest.fixture(params=["here", "worker"])
def examiner(request: pytest.FixtureRequest) -> Iterator[Examiner]:
    spec = "reference:faulting"
    with InProcess(spec) if request.param == "here" else Worker(spec) as runner:
        yield Examiner(runner)


def test_many_in_a_row(examiner: Examiner) -> None:
    ahead = Ahead(examiner)
    sizes = [1 + number % 3 for number in range(20)]
    came = [*[ahead.exchange(program(size), size) for size in sizes], ahead.last()]
    assert list(map(pages_of, came)) == [None, *((size, size) for size in sizes)]
    assert all(examiner.account(ran.trace) is None for ran in came if ran is not None)


@pytest.mark.parametrize("name", ["Exits", "HangsUp"])
def test_a_candidate_that_breaks_down_is_replaced(name: str) -> None:
    def cause(breakdown: Breakdown | None) -> Cause | None:
        return None if breakdown is None else breakdown.cause

    with Worker(f"{Path(__file__).with_name('misbehaving.py')}:{name}") as worker:
        ahead = Ahead(Examiner(worker))
        given = (program(1), program(1, BAD), program(2, BAD), program(2))
        came = [*[ahead.exchange(each, 1) for each in given], ahead.last()]
    causes = [cause(ran.trace.breakdown) for ran in came if ran is not None]
    assert causes == [None, Cause.CRASH, Cause.CRASH, None]


def test_the_last_may_be_left_running() -> None:
    with Worker("reference:faulting") as worker:
        assert Ahead(Examiner(worker)).exchange(program(1), 1) is None
