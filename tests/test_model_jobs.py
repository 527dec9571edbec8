"""An access of a job in flight happens once, however often the model looks at it."""

from __future__ import annotations

from functools import reduce
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_cases import MAP, W, read, write
from test_model import judged

from reference.model.page import Page
from reference.model.pending import Exposure, Pending
from reference.model.values import MASK, Change, holds, members

A, B = 0x10000000, 0x300000000
OTHER = write(offset=8)
SUBMITTED = [
    MAP,
    "attach d0 p0",
    write(),
    f"dadd d0 page=0 offset=0 length=8 value={A:#x} job=1",
    "submit d0 job=1",
]
SECOND = [f"dadd d0 page=0 offset=0 length=8 value={B:#x} job=2", "submit d0 job=2"]
DONE = f"wait d0 job=1 => {W}"


def add(value: int, old: int) -> str:
    return f"add p0 page=0 offset=0 length=8 value={value:#x} => {old}"


# name: (what comes after the submit, the rule that the last line breaks, or None)
ADDS = {
    "not yet": ([OTHER, f"{read()} => {W}"], None),
    "once": ([OTHER, f"{read()} => {W + A}"], None),
    "twice, after a write to its neighbour": ([OTHER, f"{read()} => {W + 2 * A}"], "A4"),
    "twice, after a change of the rights": (
        ["protect p0 r page=0 pages=1", f"{read()} => {W + 2 * A}"],
        "A4",
    ),
    "twice, after a call that failed": (
        ["discard p0 page=0 pages=2 => ENOMEM", f"{read()} => {W + 2 * A}"],
        "A4",
    ),
    "again, after it was seen": ([f"{read()} => {W + A}", f"{read()} => {W + 2 * A}"], "A4"),
    "later, after it was seen not to be": ([f"{read()} => {W}", f"{read()} => {W + A}"], None),
    "never, after it was seen": ([f"{read()} => {W + A}", f"{read()} => {W}"], "C1"),
    "twice, by the end": ([OTHER, DONE, f"{read()} => {W + 2 * A}"], "A4"),
    "after a write": ([write(value=B), f"{read()} => {B + A}"], None),
    "twice, after a write": ([write(value=B), f"{read()} => {B + 2 * A}"], "A4"),
    "twice, after a write, by the end": (
        [write(value=B), OTHER, DONE, f"{read()} => {B + 2 * A}"],
        "A4",
    ),
    "after an equal one of the CPU": ([add(A, W), f"{read()} => {W + 2 * A}"], None),
    "before an equal one of the CPU": ([add(A, W + A), f"{read()} => {W + 2 * A}"], None),
    "along with that of another job": ([*SECOND, f"{read()} => {W + A + B}"], None),
    "twice, beside another job": ([*SECOND, OTHER, f"{read()} => {W + 2 * A + B}"], "A4"),
    "twice, when another job was submitted": ([*SECOND, f"{read()} => {W + 2 * A}"], "A4"),
}


@pytest.mark.parametrize(("lines", "rule"), ADDS.values(), ids=ADDS)
def test_a_job_adds(lines: list[str], rule: str | None) -> None:
    violation = judged("\n".join([*SUBMITTED, *lines])).violation
    assert (violation and violation.rule) == rule
    assert violation is None or violation.index == len(SUBMITTED) + len(lines) - 1


def adds(value: int) -> Change:
    return lambda old: (old + value) & MASK


def writes(value: int) -> Change:
    return lambda old: value


def exchanges(expected: int, value: int) -> Change:
    return lambda old: value if old == expected else old


SMALL = st.integers(0, 5)
CHANGES = st.one_of(
    st.builds(adds, SMALL), st.builds(writes, SMALL), st.builds(exchanges, SMALL, SMALL)
)


def pending(values: frozenset[int], jobs: list[list[Change]]) -> Pending:
    """A word that may hold these values, and jobs that are submitted one after the other."""
    page = Page()
    for value in values:
        page.may_store(0, value)
    found = Pending(page, 0)
    for changes in jobs:
        found.join(Exposure(changes, [page], page.values(0), page.values(0)))
    return found


def reachable(values: frozenset[int], changes: list[Change]) -> set[int]:
    """What the changes may make of the values, in any order, each at most once."""
    found = set(values)
    for some in range(len(changes) + 1):
        for order in permutations(changes, some):
            found |= {reduce(lambda held, change: change(held), order, value) for value in values}
    return found


@given(st.lists(st.lists(CHANGES, max_size=2), max_size=2), SMALL)
def test_everything_that_jobs_may_do_is_expected(jobs: list[list[Change]], start: int) -> None:
    found = pending(frozenset({0, start}), jobs)
    changes = [change for job in jobs for change in job]
    assert all(holds(found.values, value) for value in reachable(frozenset({0, start}), changes))


@given(st.permutations(range(4)), st.integers(0, 4))
def test_no_sum_has_an_addend_twice(order: list[int], first: int) -> None:
    changes = [adds(1 << 8 * index) for index in order]
    found = pending(frozenset({0}), [changes[:first], changes[first:]])
    assert members(found.values) == reachable(frozenset({0}), changes)
