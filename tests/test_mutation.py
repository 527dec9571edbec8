"""The suite against bugs that real mirrors have shipped: each found, and made short.

Budgets are in programs, so that what is found does not depend on the machine.
"""

from __future__ import annotations

import math

import pytest

from adapters.worker import InProcess
from conformance.mutation import PAGE, TABLES, Planted, base_of, rows_of, score, scores
from reference.drivers.mutants import DRIVER_MUTANTS
from reference.mirrors import MUTANTS
from reference.model import judge
from reference.rules import RULES

LATE = {"nested-end-reopens": 400, "vma-split": 700}
"""Driver mutants that take longer: with the programs in which they are found, and no coverage."""
SLOW = frozenset(
    {
        *("full-device-spin", "merge-with-dead-neighbour", "put-vs-invalidate"),
        *("stale-input-on-retry", "trylock-spin", "unmap-length-mismatch"),
    }
)
"""Those that take too long for a test: the page and tests of their witnesses hold them."""
SOON = 600
"""Programs in which all others are found."""


def held(mutant: Planted, budget: int | None, enough: int | None = None) -> None:
    """Have it found, by a rule that applies to it, and made as short as can be."""
    result = score(mutant, budget=budget, seconds=math.inf, enough=enough)
    assert result.best is not None, f"survived {result.programs} programs"
    runner = InProcess(f"mutant:{mutant.id}")
    again = judge(runner.run(result.best.program), result.profile).violation
    assert again == result.best.violation
    assert runner.description.model in RULES[again.rule].models
    base = InProcess(base_of(mutant)).run(result.best.program)
    assert judge(base, result.profile).violation is None
    assert len(result.best.program) <= mutant.minimal


@pytest.mark.proof
@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_mirror_is_killed(name: str) -> None:
    held(MUTANTS[name], None)


@pytest.mark.parametrize("name", sorted(DRIVER_MUTANTS.keys() - LATE.keys() - SLOW))
def test_a_driver_is_killed_soon(name: str) -> None:
    held(DRIVER_MUTANTS[name], SOON)


@pytest.mark.proof
@pytest.mark.parametrize("name", sorted(LATE))
def test_a_driver_is_killed_later(name: str) -> None:
    held(DRIVER_MUTANTS[name], LATE[name], enough=1)


def test_scores_do_not_depend_on_the_processes() -> None:
    names = ("hmm-aba", "half-copied", "dead-never-purged")
    alone, shared = (
        [(each.id, each.programs, each.best) for each in scores(names, jobs=jobs)]
        for jobs in (1, 2)
    )
    assert [each[0] for each in alone] == list(names)
    assert alone == shared


def test_the_search_ends_at_its_budget_and_at_its_time() -> None:
    late = DRIVER_MUTANTS["trylock-spin"]
    result = score(late, budget=20)
    assert (result.best, result.programs) == (None, 20)
    result = score(late, seconds=0.0)
    assert (result.best, result.programs) == (None, 1)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_tables_list_every_mutant(name: str) -> None:
    rows = rows_of(PAGE.read_text(encoding="utf-8"), name)
    assert [row[0] for row in rows] == list(TABLES[name])
    for row in rows:
        mutant = TABLES[name][row[0]]
        assert row[1:4] == [mutant.title, mutant.seen_in, mutant.base]
        assert row[4] in RULES
        assert int(row[7]) <= mutant.minimal
