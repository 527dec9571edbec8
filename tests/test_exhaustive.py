"""What an exhaustive search claims does not depend on who runs its parts, or in which order."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from conformance.exhaustive import Exhaustive, Share
from conformance.explore.bounds import Bound, Covered
from conformance.explore.programs import count_programs
from reference.description import Description
from reference.syncmodels import Sync

DESCRIPTION = Description(
    name="small",
    operations=frozenset(
        {"map", "unmap", "protect", "discard", "reclaim", "read", "write"}
        | {"attach", "dread", "dwrite"}
    ),
)
TWO = (Bound(1, 1), Bound(2, 1))
Run = Callable[[Share], Covered]


def runs_of(number: int) -> int:
    """Runs that a program takes, in this test."""
    return 20 + number * 7 % 50


def run(share: Share) -> Covered:
    """Run a part, up to the limit of its runs."""
    covered = Covered()
    for number in range(share.part.first, share.part.first + share.part.programs):
        left = None if share.runs is None else share.runs - covered.runs
        if left is not None and runs_of(number) > left:
            covered.runs += left
            return covered
        covered.runs += runs_of(number)
        covered.programs += 1
    return covered


def search(runs: int | None, bounds: tuple[Bound, ...] = TWO) -> Exhaustive[int]:
    return Exhaustive(DESCRIPTION, Sync.FAULTING, runs, bounds)


def work(search: Exhaustive[int], jobs: int, seed: int, run: Run = run) -> list[int]:
    """Have so many workers do it all, each part taking its own time; what counted, in order."""
    random, out, counted = Random(seed), dict[int, Share](), list[int]()
    while True:
        while len(out) < jobs and (share := search.next()) is not None:
            out[share.number] = share
        if not out:
            assert search.over
            return counted
        share = out.pop(random.choice(list(out)))
        counted += search.take(share, run(share), share.number)


@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize("limit", [None, 1, 100, 1000, 5000])
def test_it_claims_the_same_however_many_share_it(limit: int | None, jobs: int) -> None:
    alone = search(limit)
    work(alone, 1, 0)
    for seed in range(5):
        shared = search(limit)
        counted = work(shared, jobs, seed)
        assert counted == sorted(set(counted))
        assert [each for each in shared.tallies if each.covered.runs] == [
            each for each in alone.tallies if each.covered.runs
        ]
        assert shared.runs == alone.runs == shared.reserved
        if limit is not None:
            assert shared.runs == min(limit, sum(map(runs_in_all, TWO)))


def runs_in_all(bound: Bound) -> int:
    return sum(map(runs_of, range(count_programs(DESCRIPTION, bound.operations))))


def test_a_bound_is_complete_when_every_program_is_covered() -> None:
    whole = search(None)
    work(whole, 3, 1)
    assert [each.complete for each in whole.tallies] == [True, True]
    assert [each.covered.runs for each in whole.tallies] == list(map(runs_in_all, TWO))
    first = runs_in_all(TWO[0])
    for limit, complete in ((first - 1, [False]), (first, [True]), (first + 1, [True, False])):
        part = search(limit)
        work(part, 2, 2)
        assert [each.complete for each in part.tallies if each.covered.runs] == complete


def test_what_was_lost_or_cut_short_is_not_claimed() -> None:
    for missing in range(3):
        part = search(None, TWO[:1])
        shares = []
        while (share := part.next()) is not None:
            shares.append(share)
        assert len(shares) == 3
        counted = [
            result
            for share in shares
            if share.number != missing
            for result in part.take(share, run(share), share.number)
        ]
        assert counted == list(range(missing))
        assert part.waiting
        assert part.rest() == list(range(missing + 1, 3))
        assert not part.tallies[0].complete
        assert part.tallies[0].covered.programs < part.tallies[0].total


def test_a_program_that_failed_leaves_its_bound_incomplete() -> None:
    def failing(share: Share) -> Covered:
        covered = run(share)
        if share.number == 1:
            covered.programs, covered.failed = covered.programs - 1, 1
        return covered

    part = search(None, TWO[:1])
    work(part, 2, 3, failing)
    (tally,) = part.tallies
    assert (tally.covered.failed, tally.complete) == (1, False)
    assert tally.covered.programs == tally.total - 1


def test_what_failed_counts_even_behind_the_limit() -> None:
    def failing(share: Share) -> Covered:
        covered = run(share)
        covered.failed = int(share.number == 1)
        return covered

    part = search(150)
    first, second = part.next(), part.next()
    assert first is not None
    assert second is None, "the first is expected to take all"
    part = search(300)
    first, second = part.next(), part.next()
    assert first is not None
    assert second is not None
    assert part.take(second, failing(second), 1) == []
    assert part.take(first, Covered(runs=300), 0) == [0, 1]
    assert part.over
    assert part.runs > 300


def test_a_candidate_without_schedules_is_not_searched() -> None:
    nothing = search(0)
    assert nothing.over
    assert nothing.next() is None
    assert (nothing.tallies, nothing.reserved, nothing.charged) == ([], 0, 0)
