"""The suite against bugs that real mirrors have shipped: each found, and made short."""

from __future__ import annotations

import pytest

from adapters.worker import InProcess
from conformance.mutation import BEGIN, END, PAGE, score
from reference.mirrors import MUTANTS
from reference.model import judge
from reference.rules import RULES

pytestmark = pytest.mark.proof


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


def test_the_table_lists_every_mutant() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = text.partition(BEGIN)[2].partition(END)[0].strip().splitlines()[2:]
    cells = {row.split(" | ")[0].removeprefix("| "): row.split(" | ") for row in rows}
    assert list(cells) == list(MUTANTS)
    for name, row in cells.items():
        mutant = MUTANTS[name]
        assert row[1:4] == [mutant.title, mutant.seen_in, mutant.base]
        assert row[4] in RULES
        assert int(row[6]) <= mutant.minimal
