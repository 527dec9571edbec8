"""Outcomes as bytes: what is packed comes back, and what is not packed so is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.outcomes import (
    OUTCOME,
    Outcome,
    Record,
    Status,
    decode_outcomes,
    decode_wait,
    encode_outcomes,
    encode_wait,
)

OUTCOMES = st.lists(
    st.builds(
        Outcome,
        st.sampled_from(Status).map(int),
        st.integers(0, 0xFFFF),
        st.integers(0, 0xFFFFFFFF),
        st.binary(max_size=40),
    ),
    max_size=6,
)
RECORDS = st.lists(
    st.builds(
        Record,
        status=st.integers(0, 5),
        reserved=st.sampled_from([0, 0, 0, 1]),
        error=st.integers(0, 0xFFFF),
        done=st.integers(0, 0xFFFFFFFF),
        data=st.integers(0, 12) | st.integers(0, 0xFFFFFFFF),
        size=st.integers(0, 12) | st.integers(0, 0xFFFFFFFF),
    ),
    max_size=4,
)
thorough = settings(max_examples=250, deadline=None, database=None, derandomize=True)


@thorough
@given(OUTCOMES)
def test_outcomes_come_back(outcomes: list[Outcome]) -> None:
    records, data = encode_outcomes(outcomes)
    assert len(records) == OUTCOME.size * len(outcomes)
    assert decode_outcomes(records, data) == outcomes
    assert decode_outcomes(memoryview(records), memoryview(data)) == outcomes


@thorough
@given(OUTCOMES)
def test_what_a_wait_gives_comes_back(outcomes: list[Outcome]) -> None:
    assert decode_wait(encode_wait(outcomes), len(outcomes)) == outcomes


@thorough
@given(OUTCOMES.filter(bool))
def test_a_wait_for_more_than_there_was_is_refused(outcomes: list[Outcome]) -> None:
    short = encode_wait(outcomes)[: OUTCOME.size * len(outcomes) - 1]
    with pytest.raises(ValueError, match=f"a job of {len(outcomes)} accesses needs"):
        decode_wait(short, len(outcomes))


def decoded(records: bytes, data: bytes) -> list[Outcome] | None:
    """The outcomes, held to what a decoder promises; None if they were refused."""
    try:
        outcomes = decode_outcomes(records, data)
    except ValueError:
        return None
    assert len(outcomes) * OUTCOME.size == len(records)
    for index, outcome in enumerate(outcomes):
        fields = OUTCOME.format.unpack_from(records, index * OUTCOME.size)
        status, reserved, error_number, done, start, size = fields
        assert Status(status) == outcome.status
        assert (reserved, error_number, done) == (0, outcome.error, outcome.done)
        assert start + size <= len(data)
        assert outcome.data == data[start : start + size]
    return outcomes


@thorough
@given(st.binary(max_size=70), st.binary(max_size=20))
def test_any_bytes_are_decoded_or_refused(records: bytes, data: bytes) -> None:
    decoded(records, data)


@thorough
@given(RECORDS, st.binary(max_size=20))
def test_any_records_are_decoded_or_refused(records: list[Record], data: bytes) -> None:
    outcomes = decoded(b"".join(OUTCOME.format.pack(*each) for each in records), data)
    sound = all(
        each.status in set(Status) and not each.reserved and each.data + each.size <= len(data)
        for each in records
    )
    assert (outcomes is not None) == sound


@thorough
@given(OUTCOMES.filter(bool), st.data())
def test_damaged_outcomes_are_decoded_or_refused(
    outcomes: list[Outcome], data: st.DataObject
) -> None:
    records, buffer = encode_outcomes(outcomes)
    damaged = bytearray(records)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(records) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(buffer)))
    decoded(bytes(damaged), buffer[:end])
    # A wait's data is cut at its count, which may be wrong, too.
    wait = bytes(damaged) + buffer[:end]
    count = data.draw(st.integers(0, 8))
    with suppress(ValueError):
        assert len(decode_wait(wait, count)) == count


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (Record(5, 0, 0, 0, 0, 0), "outcome 1: unknown status 5"),
        (Record(0, 9, 0, 0, 0, 0), "outcome 1: reserved byte is 9"),
        (Record(0, 0, 0, 8, 1, 8), r"outcome 1: data 1\+8 lies outside the side buffer of 8 bytes"),
        (Record(0, 0, 0, 8, 0xFFFFFFFF, 8), "lies outside"),
    ],
)
def test_what_is_wrong_is_named(record: Record, problem: str) -> None:
    good = OUTCOME.format.pack(*Record(0, 0, 0, 8, 0, 8))
    with pytest.raises(ValueError, match=problem):
        decode_outcomes(good + OUTCOME.format.pack(*record), bytes(8))


def test_part_of_a_record_is_none() -> None:
    with pytest.raises(ValueError, match="17 bytes are no whole number of 16-byte records"):
        decode_outcomes(bytes(17), b"")
