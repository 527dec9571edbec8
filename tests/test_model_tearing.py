"""Words that a job copies byte by byte, while somebody else reads or writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_cases import MAP, read, write
from test_model import judged

from reference.model.page import Page
from reference.model.pending import Exposure, Pending
from reference.model.values import Change, collect, holds, mixes, mixtures

OLD, NEW = 0x5000007, 0x5400100
MIXED = 0x5400007
FOREIGN = 0x5600007
"""With a byte that neither of the two has."""
ATTACHED = [MAP, "attach d0 p0", write(value=OLD)]
READS = [*ATTACHED, f"{read(who='dread d0')} job=1", "submit d0 job=1"]
WRITES = [*ATTACHED, f"{write(value=NEW, who='dwrite d0')} job=1", "submit d0 job=1"]
WAIT = "wait d0 job=1"
DONE = f"{WAIT} => done"
OTHER = 0xA05000000


def rule_of(lines: list[str], atomicity: int) -> str:
    """The rule that the last line breaks, or nothing."""
    violation = judged("\n".join(lines), atomicity=atomicity).violation
    assert violation is None or violation.index == len(lines) - 1
    return "" if violation is None else violation.rule


@pytest.mark.parametrize(
    ("lines", "whole", "torn"),
    [
        pytest.param(
            [*READS, write(value=NEW), f"{WAIT} => {MIXED}"], "C3", "", id="read while written"
        ),
        pytest.param(
            [*READS, write(value=NEW), f"{WAIT} => {FOREIGN}"], "C3", "C3", id="no byte of either"
        ),
        pytest.param([*READS, f"{WAIT} => {MIXED}"], "A4", "A4", id="read and not written"),
        pytest.param([*WRITES, f"{read()} => {MIXED}"], "A4", "", id="half written"),
        pytest.param([*WRITES, f"{read()} => {FOREIGN}"], "A4", "A4", id="written by nobody"),
        pytest.param(
            [*WRITES, f"{read()} => {NEW}", f"{read()} => {OLD}"], "C1", "C1", id="never undone"
        ),
        pytest.param([*WRITES, DONE, f"{read()} => {MIXED}"], "A4", "C1", id="whole by the end"),
        pytest.param(
            [*WRITES, write(value=OTHER), DONE, f"{read()} => {OTHER & ~0xFF00 | 0x100}"],
            "A4",
            "",
            id="both wrote",
        ),
    ],
)
def test_a_word_that_a_job_races_for(lines: list[str], whole: str, torn: str) -> None:
    assert (rule_of(lines, 8), rule_of(lines, 1)) == (whole, torn)


def test_a_word_seen_half_written_is_whole_later() -> None:
    seen = [*WRITES, f"{read()} => {MIXED}"]
    assert rule_of([*seen, f"{read()} => {NEW}"], 1) == ""
    assert rule_of([*seen, DONE, f"{read()} => {NEW}"], 1) == ""
    assert rule_of([*seen, DONE, f"{read()} => {MIXED}"], 1) == "C1"


WORDS = st.integers(0, 0x3FF) | st.integers(0, (1 << 64) - 1)


@given(st.sets(WORDS, min_size=1, max_size=3).map(collect), WORDS)
def test_mixtures_are_all_that_mixes(values: int | frozenset[int], value: int) -> None:
    mixed = mixtures(values)
    assert holds(mixed, value) or not mixes(values, value)
    assert isinstance(mixed, int) or all(mixes(values, each) for each in mixed if each >= 0)
    assert mixtures(mixed) == mixed


def writes(value: int) -> Change:
    return lambda old: value


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.lists(st.integers(0, 1), max_size=4))
def test_bytes_of_two_jobs_may_come_in_any_order(first: int, second: int, order: list[int]) -> None:
    page = Page()
    word = Pending(page, 0, tears=True)
    for value in (first, second):
        word.join(Exposure([writes(value)], [page], 0, 0))
    held, left = 0, [[0xFF, 0xFF00], [0xFF, 0xFF00]]
    for job in order:
        if left[job]:
            mask = left[job].pop(0)
            held = held & ~mask | (first, second)[job] & mask
    assert holds(word.values, held)
