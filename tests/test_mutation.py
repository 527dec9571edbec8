"""The suite against bugs that real mirrors have shipped: each found, and made short."""

from __future__ import annotations

import pytest

from adapters.worker import InProcess
from conformance.mutation import PAGE, TABLES, Planted, base_of, rows_of, score
from reference.drivers.mutants import DRIVER_MUTANTS, DriverMutant
from reference.mirrors import MUTANTS
from reference.model import judge
from reference.rules import RULES

pytestmark = pytest.mark.proof
NOT_FOUND = frozenset({"put-vs-invalidate", "stale-input-on-retry", "trylock-spin"})
"""Driver mutants that chance does not find in the time that the page says."""
RARE = NOT_FOUND | {
    *("full-device-spin", "lock-kept-on-refusal", "merge-with-dead-neighbour"),
    *("partial-fault-unwind", "unmap-length-mismatch", "vma-split", "zero-size-lookup"),
}
"""Those that take more programs than a test has time for; their witnesses have tests elsewhere."""
LONGER = {"notify-before-ready": 1, "lock-kept-on-refusal": 1}
"""Driver mutants whose failing programs stay this much longer than the shortest one known."""
SOON = 1000
"""Programs in which all others are found."""


def longest(mutant: Planted) -> int:
    """Operations that a reduced program may have: the witness's."""
    if isinstance(mutant, DriverMutant):
        return len(mutant.program) + LONGER.get(mutant.id, 0)
    return mutant.minimal


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_killed(name: str) -> None:
    mutant = MUTANTS[name]
    result = score(mutant)
    assert result.best is not None, f"survived {result.programs} programs"
    rule = RULES[result.best.violation.rule]
    runner = InProcess(f"mutant:{name}")
    assert runner.description.model in rule.models
    again = judge(runner.run(result.best.program)).violation
    assert again is not None
    assert again.rule == rule.id
    assert len(result.best.program) <= mutant.minimal


@pytest.mark.parametrize("name", sorted(DRIVER_MUTANTS.keys() - RARE))
def test_a_driver_is_killed_under_some_schedule(name: str) -> None:
    mutant = DRIVER_MUTANTS[name]
    result = score(mutant, budget=SOON)
    assert result.best is not None, f"survived {result.programs} programs"
    again = judge(InProcess(f"mutant:{name}").run(result.best.program)).violation
    assert again == result.best.violation
    assert mutant.make.model in RULES[again.rule].models
    assert judge(InProcess(base_of(mutant)).run(result.best.program)).violation is None
    assert len(result.best.program) <= longest(mutant)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_tables_list_every_mutant(name: str) -> None:
    rows = rows_of(PAGE.read_text(encoding="utf-8"), name)
    assert [row[0] for row in rows] == list(TABLES[name])
    for row in rows:
        mutant = TABLES[name][row[0]]
        assert row[1:4] == [mutant.title, mutant.seen_in, mutant.base]
        if row[0] in NOT_FOUND:
            assert row[4] == "survived"
        else:
            assert row[4] in RULES
            assert int(row[7]) <= longest(mutant)
