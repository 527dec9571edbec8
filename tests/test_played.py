"""What came of a scheduled program, over the wire: there and back, and never trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from driving import programs, schedule
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.candidate import GarbageError
from adapters.driver import DriverCandidate
from adapters.played import (
    MAX_PLAYED,
    decode_play,
    decode_played,
    encode_play,
    encode_played,
)
from adapters.wire import FrameType, WireError, encode_frame
from reference.drivers import DRIVERS, Driver
from reference.operations import Kind
from reference.outcomes import Outcome, Status
from reference.program import Program
from reference.record import Entry, What
from reference.schedule import KERNEL, Offer, Schedule, Switch
from reference.text import parse
from reference.trace import Effect, Hosted, Interruption, Stop, Trace

DOCS = Path(__file__).parents[1] / "docs" / "wire.md"
fixed = settings(derandomize=True, database=None, deadline=None)
TEXT = """lastwriter 1
geometry page_size=4096 pages=1 processes=1 devices=0 files=0 keys=0 jobs=0
switch p0 operation=0 point=1 to=k
map p0 rw page=0 pages=1
reclaim p0 page=0 pages=1
"""
PROGRAM = parse(TEXT)


def example() -> Trace:
    """A run, shortened."""
    map_, reclaim = PROGRAM.operations
    ok, skipped = Outcome(0), Outcome(Status.SKIPPED, 16)
    return Trace(
        PROGRAM,
        (ok, skipped),
        hosted=Hosted(
            history=(Effect(0, map_, ok, 2), Effect(1, reclaim, skipped, 4)),
            record=(
                Entry(0, 0, What.BEGIN, (Kind.MAP,)),
                Entry(0, 0, What.CHANGE, (0, 0, 1, 1, "w")),
                Entry(0, 0, What.END, (Kind.MAP,)),
                Entry(KERNEL, 1, What.BEGIN, (Kind.RECLAIM,)),
                Entry(KERNEL, 1, What.END, (Kind.RECLAIM,)),
            ),
            taken=(Interruption(Switch(0, 0, 1, KERNEL), "begin", 0),),
            points=5,
            asked={"copy": 1},
        ),
    )


def with_host(trace: Trace, **changes: Any) -> Trace:
    assert trace.hosted is not None
    return replace(trace, hosted=msgspec.structs.replace(trace.hosted, **changes))


@pytest.mark.parametrize("driver", DRIVERS.values(), ids=lambda driver: driver.name)
def test_every_run_is_the_same_over_the_wire(driver: type[Driver]) -> None:
    candidate = DriverCandidate(driver)
    for number, program in enumerate(programs(driver, 40, 3, pages=4, most=12)):
        strategy = ("follow", "random", "pct")[number % 3]
        scheduled = replace(program, schedule=schedule(strategy, number))
        assert decode_play(encode_play(scheduled)) == scheduled
        trace = candidate.run_scheduled(scheduled)
        assert decode_played(encode_played(trace), scheduled) == trace


def test_offers_and_broken_rules_are_sent() -> None:
    trace = with_host(
        example(), offers=(Offer(0, 0, 2, (KERNEL,), 1 << 40),), broken=Stop("R4", "x", 1)
    )
    assert decode_played(encode_played(trace), PROGRAM) == trace


map_, ok = PROGRAM.operations[0], Outcome(0)
BAD: list[tuple[Callable[[Trace], Trace], str]] = [
    (lambda trace: replace(trace, outcomes=trace.outcomes[:1]), "1 outcomes for 2 operations"),
    (lambda trace: replace(trace, outcomes=(ok, ok, ok)), "3 outcomes for 2 operations"),
    (lambda trace: replace(trace, outcomes=(ok, Outcome(9))), "outcome of operation 1 (reclaim)"),
    (lambda trace: with_host(trace, history=(Effect(2, map_, ok, 0),)), "an effect of operation 2"),
    (lambda trace: with_host(trace, history=(Effect(-1, map_, ok, 0),)), "an effect of operation"),
    (
        lambda trace: with_host(trace, history=(Effect(1, map_, ok, 0),)),
        "an effect that is no part of operation 1",
    ),
    (
        lambda trace: with_host(trace, history=(Effect(0, map_._replace(pages=2), ok, 0),)),
        "an effect that is no part of operation 0",
    ),
    (
        lambda trace: with_host(trace, history=(Effect(0, map_, Outcome(0, -1), 0),)),
        "outcome of operation 0 (map): error -1",
    ),
    (
        lambda trace: with_host(trace, history=(Effect(0, map_, ok, 6),)),
        "something happened outside the event record",
    ),
    (
        lambda trace: with_host(trace, taken=(Interruption(Switch(7, 0, 1, 0), "x", 0),)),
        "no protocol point (7, 0, 1)",
    ),
    (
        lambda trace: with_host(trace, taken=(Interruption(Switch(0, 0, -1, 0), "x", 0),)),
        "no protocol point (0, 0, -1)",
    ),
    (
        lambda trace: with_host(trace, taken=(Interruption(Switch(0, 0, 1, 0), "\x1b[2J", 0),)),
        "unprintable characters",
    ),
    (lambda trace: with_host(trace, offers=(Offer(0, 0, 1, (99,), 0),)), "no protocol point"),
    (lambda trace: with_host(trace, broken=Stop("Q1", "x", 0)), "rule 'Q1' broken in operation 0"),
    (lambda trace: with_host(trace, broken=Stop("R4", "x", 2)), "rule 'R4' broken in operation 2"),
    (lambda trace: with_host(trace, broken=Stop("R4", "a\nb", 1)), "unprintable characters"),
]


@pytest.mark.parametrize(("spoil", "problem"), BAD)
def test_what_names_nothing_is_refused(spoil: Callable[[Trace], Trace], problem: str) -> None:
    payload = encode_played(spoil(example()))
    with pytest.raises(WireError) as caught:
        decode_played(payload, PROGRAM)
    assert str(caught.value).startswith("bad run: ")
    assert problem in str(caught.value)


ACCESS = parse(
    "lastwriter 1\nmap p0 rw page=0 pages=4\nwrite p0 page=0 offset=4088 length=16 value=0x10\n"
    "remap p0 page=0 pages=1 to=2\n"
)


@pytest.mark.parametrize(
    ("index", "changes", "part"),
    [
        (1, {"length": 8}, True),
        (1, {"page": 1, "offset": 0, "length": 8, "value": 0x11}, True),
        (1, {"page": 1, "offset": 0}, False),
        (1, {"offset": 4080, "length": 8}, False),
        (1, {"offset": 4092, "length": 8}, False),
        (1, {"length": 0}, False),
        (1, {"length": 4}, False),
        (1, {"length": 8, "value": -1}, False),
        (1, {"process": 1}, False),
        (0, {"page": 3, "pages": 1}, True),
        (0, {"page": 3, "pages": 2}, False),
        (0, {"pages": 0}, False),
        (2, {"kind": int(Kind.UNMAP), "page": 2, "target": 0}, True),
        (2, {"kind": int(Kind.UNMAP)}, False),
    ],
)
def test_parts_of_operations(index: int, changes: dict[str, int], part: bool) -> None:
    operation = ACCESS.operations[index]._replace(**changes)
    trace = Trace(
        ACCESS, (Outcome(0),) * 3, hosted=Hosted(history=(Effect(index, operation, Outcome(0), 0),))
    )
    if part:
        assert decode_played(encode_played(trace), ACCESS) == trace
        return
    with pytest.raises(WireError, match=f"an effect that is no part of operation {index}$"):
        decode_played(encode_played(trace), ACCESS)


def refused_or_sound(payload: bytes, program: Program) -> None:
    try:
        trace = decode_played(payload, program)
    except WireError as error:
        text = str(error)
    else:
        assert trace.hosted is not None
        assert decode_played(encode_played(trace), program) == trace
        return
    assert len(text) > 10
    assert text.isprintable()


@given(st.binary(max_size=300))
@fixed
def test_arbitrary_bytes(payload: bytes) -> None:
    refused_or_sound(payload, PROGRAM)
    with pytest.raises(WireError):
        decode_play(payload)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
@settings(fixed, max_examples=500)
def test_bytes_with_edits(edits: list[tuple[float, int]]) -> None:
    data = bytearray(encode_played(example()))
    for place, value in edits:
        data[int(place * (len(data) - 1))] = value
    refused_or_sound(bytes(data), PROGRAM)


def test_too_much_is_refused_on_both_sides() -> None:
    much = with_host(example(), record=(Entry(0, 0, 1, ("x" * MAX_PLAYED,)),))
    with pytest.raises(GarbageError, match=r"^a run of [0-9]+ bytes, more than 16777216$"):
        encode_played(much)
    with pytest.raises(WireError, match=r"^a run of [0-9]+ bytes, more than 16777216$"):
        decode_played(bytes(MAX_PLAYED + 1), PROGRAM)


def test_a_program_that_makes_no_sense_is_refused() -> None:
    nonsense = PROGRAM.with_operations((map_._replace(process=1),))
    with pytest.raises(WireError, match=r"^bad program: operation 0: process 1 is not below 1$"):
        decode_play(encode_play(nonsense))
    with pytest.raises(WireError, match=r"^bad program: not a packed program$"):
        decode_play(bytes(100))


def test_the_example_is_what_is_sent() -> None:
    text = DOCS.read_text()
    assert f"```lastwriter\n{TEXT}```\n" in text
    lines = []
    for who, kind, payload in (
        ("client", FrameType.PLAY, encode_play(PROGRAM)),
        ("agent", FrameType.PLAYED, encode_played(example())),
    ):
        frame = encode_frame(kind, payload)
        lines.append(f"{who} {kind.name}")
        lines += [
            f"    {at:04x}  {frame[at : at + 16].hex(' ')}" for at in range(0, len(frame), 16)
        ]
    dump = "\n".join(lines)
    assert f"```text\n{dump}\n```\n" in text


def test_a_trace_as_taken_has_the_switches_that_were_made() -> None:
    program = replace(PROGRAM, schedule=Schedule(strategy="random", seed=3, depth=2))
    trace = replace(example(), program=program)
    assert trace.as_taken().schedule == Schedule((Switch(0, 0, 1, KERNEL),))
    assert replace(trace, hosted=None).as_taken() is program
