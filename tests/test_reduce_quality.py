"""How short programs of 100 operations become, for planted bugs of different classes.

The seeds are fixed, so the lengths are too; the benchmark `reduction` measures more of them.
"""

from __future__ import annotations

import functools
import statistics

import pytest

from benchmarks.planted import LENGTH, Planted, fails, find
from conformance.reduce import Reduced, reduce
from reference.mirrors import MIRRORS, MUTANTS
from reference.validity import check_program

SEEDS = range(3)
SELECTED = (
    "discard-missed",  # an event that is not heard of
    "stale-key-live",  # access kept
    "inflight-entry-kept",
    "wait-not-awaited",
    "close-orphans-pages",  # the end of a device
    "half-copied",  # migration
    "failed-copy-accepted",
    "non-owner-refused",  # two devices
    "second-hook-wins",
    "unsubscribe-shared",
    "event-dropped-oom",
    "cached-weaker-flags",  # rights
    "downgrade-not-seen",
    "wrong-mm",  # processes
    "pinned-then-fork",
    "ro-pin-of-shared",
    "contains-not-overlaps",  # ranges
    "end-convention",
    "subpage-length",
    "hit-after-remap",  # a cache
)


every_mutant = pytest.mark.parametrize("mutant", SELECTED)


@functools.cache
def found(mutant: str) -> list[tuple[Planted, Reduced]]:
    planted = [find(mutant, seed) for seed in SEEDS]
    return [(each, reduce(each.program, each.violation, each.reproduce)) for each in planted]


@every_mutant
def test_it_ends_at_the_minimal_length(mutant: str) -> None:
    for planted, result in found(mutant):
        assert len(planted.program) >= LENGTH
        assert len(result.program) == MUTANTS[mutant].minimal
        assert not result.unstable


@every_mutant
def test_what_is_left_shows_the_planted_bug(mutant: str) -> None:
    base = MIRRORS[MUTANTS[mutant].base]()
    for planted, result in found(mutant):
        check_program(result.program)
        assert fails(planted.mirror, result.program) == result.violation
        assert fails(base, result.program) is None


def test_it_takes_few_runs() -> None:
    runs = [result.runs for mutant in SELECTED for _, result in found(mutant)]
    assert statistics.median(runs) <= 200
    assert max(runs) <= 500
