"""The model's short ways decide as the long ones do."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mirror_programs import random_program, run

from reference.mirrors import MIRRORS, Mirror
from reference.model import judge, lastwriter
from reference.model.accesses import access
from reference.model.page import GRANULE, Page, Watch
from reference.model.state import State
from reference.model.values import ANYTHING, MASK, MOST, Values, collect, holds, members, union
from reference.model.words import bytes_of, stamps, words_of
from reference.operations import ACCESSES, DEVICE_ACCESSES, Operation
from reference.outcomes import Outcome, Status
from reference.trace import Trace

NUMBERS = st.integers(0, MASK)
SMALL = st.integers(0, 7)
WORDS = st.lists(SMALL, min_size=1, max_size=9)
VALUES = st.sets(SMALL, min_size=1, max_size=4).map(collect)


@pytest.fixture(params=sorted(MIRRORS))
def mirror(request: pytest.FixtureRequest) -> Mirror:
    return MIRRORS[request.param]()


def traces(mirror: Mirror, *, spoilt: bool) -> list[Trace]:
    """Random programs with what a correct mirror answers, or with one answer changed."""
    found = []
    for seed in range(60):
        program = random_program(mirror.describe(), seed)
        outcomes = list(run(mirror, program))
        if spoilt and any(outcome.done for outcome in outcomes):
            spoil(outcomes, random.Random(seed))
        found.append(Trace(program, tuple(outcomes)))
    return found


def spoil(outcomes: list[Outcome], rng: random.Random) -> None:
    index = rng.choice([i for i, outcome in enumerate(outcomes) if outcome.done])
    outcome = outcomes[index]
    changed = bytes([outcome.data[0] ^ 1]) + outcome.data[1:] if outcome.data else b""
    refused = Outcome(Status.FAULT, 14)
    outcomes[index] = rng.choice((outcome._replace(data=changed), refused))


def at_length(step: lastwriter.Step) -> lastwriter.Step:
    """The step of an access without its short way."""

    def judged(state: State, operation: Operation, outcome: Outcome) -> None:
        process = operation.process
        if operation.kind in DEVICE_ACCESSES:
            process = state.attached.get(operation.device, -1)
        if process < 0 or operation.job:
            step(state, operation, outcome)
        else:
            access(state, operation, outcome, process, short=False)

    return judged


@pytest.mark.parametrize("spoilt", [False, True], ids=["right", "spoilt"])
def test_a_simple_access_is_judged_like_any_other(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, spoilt: bool
) -> None:
    recorded = traces(mirror, spoilt=spoilt)
    short = list(map(judge, recorded))
    assert any(judgement.violation for judgement in short) == spoilt
    # In a table, where a compiled model looks too; it does not look up its own functions.
    for kind in ACCESSES:
        monkeypatch.setitem(lastwriter._STEPS, kind, at_length(lastwriter._STEPS[kind]))
    assert list(map(judge, recorded)) == short


@given(st.lists(NUMBERS, max_size=9))
def test_words_survive_being_bytes(words: list[int]) -> None:
    assert list(words_of(bytes_of(words))) == words


@pytest.mark.parametrize("value", [0, 5, MASK - 3, MASK - 2, MASK])
def test_stamps_count_up_and_wrap(value: int) -> None:
    assert list(stamps(value, 4)) == [(value + k) % (MASK + 1) for k in range(4)]


@given(VALUES, VALUES, SMALL)
def test_a_union_holds_what_either_holds(left: Values, right: Values, value: int) -> None:
    both = union(left, right)
    assert holds(both, value) == (holds(left, value) or holds(right, value))
    assert both == union(right, left)
    assert isinstance(both, int) == (len(members(left) | members(right)) == 1)


def test_a_union_of_too_many_is_anything() -> None:
    most = frozenset(range(MOST))
    assert union(most, MOST - 1) is most
    assert union(most, MOST) is ANYTHING
    assert union(ANYTHING, 1) is union(1, ANYTHING) is ANYTHING


class File:
    """One page of a file."""

    def __init__(self, page: Page | None) -> None:
        self._page = page

    def page(self, index: int) -> Page | None:
        return self._page


EDGE = GRANULE - 5
"""Where runs begin, so that they go from one granule into the next."""
SIDES = st.sampled_from([frozenset[int](), frozenset({0}), frozenset({1})])


@st.composite
def pages(draw: st.DrawFn) -> Page:
    """A page with words before and behind the edge of a granule."""
    page = Page()
    page.store_run(EDGE, bytes_of(draw(WORDS)))
    for word, values in draw(st.dictionaries(st.integers(0, 12), VALUES)).items():
        page.store(EDGE + word, values)
    return page


@st.composite
def uncertain_pages(draw: st.DrawFn) -> Page:
    """The same, perhaps freed lazily, or a private copy that may still be the file's page."""
    page = draw(pages())
    if draw(st.booleans()):
        page.lazy, page.kept = True, draw(SIDES)
    if draw(st.booleans()):
        page.backing, page.copied = (File(draw(st.none() | pages())), 0), draw(SIDES)
    return page


@given(uncertain_pages(), st.integers(0, 9))
def test_the_values_of_a_run_are_those_of_its_words(page: Page, at: int) -> None:
    first = EDGE + at
    assert page.values_in(first, 9) == [page.values(word) for word in range(first, first + 9)]


@given(uncertain_pages(), st.integers(0, 9), st.data())
def test_a_run_fits_where_each_of_its_words_does(page: Page, at: int, data: st.DataObject) -> None:
    first, length = EDGE + at, 9
    words = [
        data.draw(st.sampled_from(sorted(members(values))) | SMALL)
        for values in page.values_in(first, length)
    ]
    each = [holds(page.values(word), value) for word, value in enumerate(words, first)]
    assert page.fits(first, bytes_of(words)) == all(each)


@given(uncertain_pages(), st.integers(0, 9), WORDS)
def test_a_run_that_may_be_stored_is_word_by_word_the_same(
    run: Page, at: int, new: list[int]
) -> None:
    first, single = EDGE + at, run.copy()
    run.watch, single.watch = Watch(), Watch()
    run.may_store_run(first, bytes_of(new))
    for word, value in enumerate(new, first):
        single.may_store(word, value)
    everything = range(EDGE - 1, EDGE + 20)
    assert [run.values(word) for word in everything] == [single.values(word) for word in everything]
    assert (run.rewritten, run.watch.written) == (single.rewritten, single.watch.written)


@given(st.integers(0, 9999), SMALL)
def test_a_word_that_differs_in_a_long_run_is_found(at: int, value: int) -> None:
    page = Page()
    page.store_run(0, bytes_of([9] * 5000))
    words = [9] * 5000 + [0] * 5000
    assert page.fits(0, bytes_of(words))
    words[at] = value
    assert page.fits(0, bytes_of(words)) == (value == 0 and at >= 5000)


def test_a_word_that_may_hold_several_values_does_not_hold_the_one_before() -> None:
    page = Page()
    page.store_run(0, bytes_of([1]))
    page.unsure[0] = frozenset({11, 12})
    assert page.fits(0, bytes_of([11]))
    assert not page.fits(0, bytes_of([1]))
