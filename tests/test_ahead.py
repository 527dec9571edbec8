"""Programs that run, or wait to be run, while the ones before them are judged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from adapters.candidate import CandidateError
from adapters.journal import left_behind
from adapters.wire import FrameType, Stream
from adapters.worker import InProcess, Limits, Worker
from conformance.ahead import Ahead, Ran
from conformance.examine import Examiner
from reference.description import Description
from reference.geometry import Geometry
from reference.operations import Flag, Kind, Operation
from reference.program import Program
from reference.trace import Cause, Trace

ARENA = Geometry(pages=4, processes=1, devices=1, files=1, keys=1, jobs=1)
BAD = 0xBAD
"""What the misbehaving candidates cannot stand."""
MISBEHAVING = (
    "Raises",
    "GivesTooFew",
    "GivesTooMuch",
    "Exits",
    "Segfaults",
    "Scribbles",
    "HangsUp",
    "DiesBehindAChild",
    "Loops",
)


def program(pages: int, value: int = 0) -> Program:
    """Maps so many pages, which tells programs apart, and writes a value."""
    mapped = Operation(Kind.MAP, 0, 0, int(Flag.READ | Flag.WRITE), 0, pages)
    written = Operation(Kind.WRITE, 0, 0, 0, 0, 1, 0, 8, value=value)
    return Program((mapped, written), ARENA)


def pages_of(ran: Ran | None) -> tuple[int, int] | None:
    return None if ran is None else (ran.trace.program.operations[0].pages, ran.length)


class Noted:
    """A runner that notes what it is asked for."""

    def __init__(self, depth: int = 1) -> None:
        self.depth = depth
        self.notes: list[str] = []
        self.begun: deque[Program] = deque()

    @property
    def pending(self) -> int:
        return len(self.begun)

    @property
    def description(self) -> Description:
        return Description(name="noted", operations=frozenset({"map", "write"}))

    def begin(self, program: Program) -> None:
        assert len(self.begun) < self.depth
        self.begun.append(program)
        self.notes.append("begin")

    def finish(self) -> Trace:
        self.notes.append("finish")
        return Trace(self.begun.popleft(), ())

    def run(self, program: Program) -> Trace:
        raise AssertionError(program)

    def close(self) -> None:
        pass


def begin(ahead: Ahead, count: int) -> None:
    """So many, told apart by their pages."""
    for pages in range(1, count + 1):
        ahead.exchange(program(pages), pages)


def rest(ahead: Ahead) -> list[Ran]:
    """All that come at the end."""
    return list(iter(ahead.last, None))


def test_each_comes_back_when_the_next_is_given() -> None:
    runner = Noted()
    ahead = Ahead(Examiner(runner))
    given = [pages_of(ahead.exchange(program(pages), 10 * pages)) for pages in (1, 2, 3)]
    assert given == [None, (1, 10), (2, 20)]
    assert runner.notes == ["begin", "finish", "begin", "finish", "begin"]
    assert list(map(pages_of, rest(ahead))) == [(3, 30)]


def test_as_many_run_as_the_runner_takes() -> None:
    runner = Noted(depth=2)
    ahead = Ahead(Examiner(runner))
    given = [pages_of(ahead.exchange(program(pages), 10 * pages)) for pages in (1, 2, 3)]
    assert given == [None, None, (1, 10)]
    assert runner.notes == ["begin", "begin", "finish", "begin"]
    assert list(map(pages_of, rest(ahead))) == [(2, 20), (3, 30)]
    assert runner.notes[4:] == ["finish", "finish"]


@pytest.mark.parametrize("depth", [1, 2])
def test_what_is_held_is_not_lost(depth: int) -> None:
    runner = Noted(depth)
    ahead = Ahead(Examiner(runner))
    begin(ahead, depth)
    ahead.hold()
    assert not runner.begun
    ahead.hold()
    assert pages_of(ahead.exchange(program(4), 4)) == (1, 1)
    assert list(map(pages_of, rest(ahead))) == [*[(2, 2)][: depth - 1], (4, 4)]


@pytest.mark.parametrize("depth", [1, 2])
def test_what_was_not_to_be_trusted_is_run_again(depth: int) -> None:
    runner = Noted(depth)
    ahead = Ahead(Examiner(runner))
    begin(ahead, depth)
    ahead.hold()
    ahead.again()
    assert list(map(pages_of, rest(ahead))) == [(1, 1), (2, 2)][:depth]
    assert runner.notes == 2 * (["begin"] * depth + ["finish"] * depth)
    ahead.again()
    assert len(runner.notes) == 4 * depth, "there was none"


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


def test_where_waiting_fails_nothing_is_waited_for_any_more() -> None:
    class Lost(Noted):
        def finish(self) -> Trace:
            self.begun.clear()
            raise CandidateError("gone")

    ahead = Ahead(Examiner(Lost(depth=2)))
    begin(ahead, 2)
    with pytest.raises(CandidateError):
        ahead.exchange(program(3), 3)
    assert rest(ahead) == []


@pytest.mark.parametrize("again", [False, True])
def test_where_beginning_fails_nothing_is_waited_for_any_more(again: bool) -> None:
    class Lost(Noted):
        def begin(self, program: Program) -> None:
            if program.operations[1].value == BAD:
                self.begun.clear()
                raise CandidateError("gone")
            super().begin(program)

    ahead = Ahead(Examiner(Lost(depth=2)))
    ahead.exchange(program(1), 1)
    if again:
        ahead.exchange(program(2), 2)
        ahead.hold()
        ahead._held[1] = Ran(Trace(program(2, BAD), ()), 2)
    with pytest.raises(CandidateError):
        ahead.again() if again else ahead.exchange(program(2, BAD), 2)
    assert rest(ahead) == []


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
    given = [ahead.exchange(program(size), size) for size in sizes]
    came = [*(ran for ran in given if ran is not None), *rest(ahead)]
    assert list(map(pages_of, came)) == [(size, size) for size in sizes]
    assert all(examiner.account(ran.trace) is None for ran in came)


@pytest.mark.parametrize("candidate", MISBEHAVING)
def test_each_is_told_what_it_is_told_alone(candidate: str) -> None:
    """Whatever it does to a candidate that has others to go on with."""
    given = (program(1), program(1, BAD), program(2, BAD), program(2), program(3), program(3, BAD))
    spec = f"{Path(__file__).with_name('misbehaving.py')}:{candidate}"
    with Worker(spec, limits=Limits(seconds=0.5 if candidate == "Loops" else 60)) as worker:
        assert worker.depth == 2
        ahead = Ahead(Examiner(worker))
        came = [ahead.exchange(each, 1) for each in given]
        traces = [ran.trace for ran in (*came, *rest(ahead)) if ran is not None]
        worker.limits = Limits()
        alone = worker.run(program(1, BAD)).breakdown if candidate != "Loops" else None
    causes = [None if trace.breakdown is None else trace.breakdown.cause for trace in traces]
    bad = Cause.HANG if alone is None else alone.cause
    assert causes == [None, bad, bad, None, None, bad]
    assert [trace.program for trace in traces] == list(given)
    assert [len(trace.outcomes) for trace in traces] == [2, 0, 0, 2, 2, 0]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[FrameType]:
    """The frames that are sent from now on."""
    frames: list[FrameType] = []
    monkeypatch.setattr(Stream, "send", noting(frames, Stream.send))
    return frames


def test_another_is_sent_before_the_first_is_answered(sent: list[FrameType]) -> None:
    with Worker("reference:faulting") as worker:
        for pages in (1, 2):
            worker.begin(program(pages))
        assert sent.count(FrameType.RESET) == 2
        assert [len(worker.finish().outcomes) for _ in range(2)] == [2, 2]


@pytest.mark.parametrize("name", ["adapters.client._BATCH_OPERATIONS", "adapters.worker._AHEAD"])
def test_what_would_keep_others_from_being_read_is_sent_alone(
    name: str, sent: list[FrameType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in several parts, or a long one."""
    monkeypatch.setattr(name, 1)
    with Worker("reference:faulting") as worker:
        for pages in (1, 2):
            worker.begin(program(pages))
        assert sent.count(FrameType.RESET) == 1
        assert [len(worker.finish().outcomes) for _ in range(2)] == [2, 2]
        assert sent.count(FrameType.RESET) == 2


def test_after_a_breakdown_others_are_sent_ahead_again(sent: list[FrameType]) -> None:
    with Worker(f"{Path(__file__).with_name('misbehaving.py')}:Exits") as worker:
        for given in (program(1, BAD), program(2)):
            worker.begin(given)
        assert worker.finish().breakdown is not None
        sent.clear()
        worker.begin(program(3))
        assert sent.count(FrameType.RESET) == 2
        assert [len(worker.finish().outcomes) for _ in range(2)] == [2, 2]


def noting(sent: list[FrameType], send: Callable[..., None]) -> Callable[..., None]:
    def note(stream: Stream, kind: FrameType, *more: object, **named: object) -> None:
        sent.append(kind)
        send(stream, kind, *more, **named)

    return note


def test_all_that_was_begun_is_written_down(tmp_path: Path) -> None:
    path = tmp_path / "running-x-1.lwb"
    with Worker("reference:faulting", journal=path) as worker:
        for pages in (1, 2):
            worker.begin(program(pages))
        worker.finish()
        worker.begin(program(3))
    assert list(left_behind(tmp_path)) == [(path, [program(2), program(3)])]


def test_the_last_may_be_left_running() -> None:
    with Worker("reference:faulting") as worker:
        assert Ahead(Examiner(worker)).exchange(program(1), 1) is None
