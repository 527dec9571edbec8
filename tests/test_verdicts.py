"""From counts to verdicts."""

from __future__ import annotations

import pytest
from generated import describe

from conformance.verdicts import RuleResult, Verdict, overall, results
from reference.rules import RULES, rules_for
from reference.syncmodels import Sync

PASS, FAIL, UNKNOWN, UNIMPLEMENTED = Verdict
ENOUGH = {rule.id: rule.enough for rule in RULES.values()}


def verdict(rule: str, **changes: object) -> RuleResult:
    """The verdict on one rule, where all others pass."""
    fields: dict[str, object] = {
        "description": describe(), "model": Sync.FAULTING, "exercised": ENOUGH, "failures": {},
    }  # fmt: skip
    every = results(**(fields | changes))  # type: ignore[arg-type]
    assert [each.rule for each in every] == [each.id for each in rules_for(every_model(changes))]
    return next(each for each in every if each.rule == rule)


def every_model(changes: dict[str, object]) -> Sync:
    return Sync(str(changes.get("model", Sync.FAULTING)))


def result(verdict: Verdict, *, expected: bool = False) -> RuleResult:
    return RuleResult(rule="C1", verdict=verdict, exercised=1, expected=expected)


def test_exercised_enough_is_a_pass() -> None:
    assert verdict("C1").verdict is PASS
    assert verdict("C1").exercised == ENOUGH["C1"]


def test_one_time_too_few_is_not() -> None:
    found = verdict("C1", exercised=ENOUGH | {"C1": ENOUGH["C1"] - 1})
    assert (found.verdict, found.reason) == (UNKNOWN, "exercised 9 of 10 times")


def test_details_count_for_the_rule_that_they_belong_to() -> None:
    found = verdict("I12", exercised={"I12": 1, "I12/unmap": 5, "I1": 100, "I12/map": 6})
    assert (found.verdict, found.exercised) == (PASS, 12)
    assert found.details == {"unmap": 5, "map": 6}


def test_a_failure_outweighs_everything() -> None:
    found = verdict("C1", failures={"C1": 2})
    assert (found.verdict, found.failures, found.expected) == (FAIL, 2, False)
    lacking = verdict("G9", failures={"G9": 1}, description=describe(operations=frozenset()))
    assert lacking.verdict is FAIL


def test_an_expected_failure_is_marked() -> None:
    found = verdict("C1", failures={"C1": 2}, expected=["C1"])
    assert (found.verdict, found.reason, found.expected) == (FAIL, "expected", True)


def test_what_the_candidate_lacks_is_named() -> None:
    found = verdict("X1", description=describe(operations=frozenset({"map"})))
    assert found.verdict is UNIMPLEMENTED
    assert found.reason.startswith("the candidate has no ")
    assert "exclusive" in found.reason


def test_what_the_suite_cannot_see_is_never_a_pass() -> None:
    found = verdict("E.UNMAP", exercised=dict.fromkeys(RULES, 1000))
    assert (found.verdict, found.exercised) == (UNIMPLEMENTED, 1000)


def test_what_a_run_cannot_test_is_never_a_pass() -> None:
    found = verdict("R3", untested={"R3": "in the same process"})
    assert (found.verdict, found.reason) == (UNIMPLEMENTED, "in the same process")
    assert found.exercised == 0


@pytest.mark.parametrize("model", Sync)
def test_rules_of_other_models_are_left_out(model: Sync) -> None:
    every = results(describe(), model, {}, {})
    assert {each.rule for each in every} == {
        rule.id for rule in RULES.values() if model in rule.models
    }
    assert {each.verdict for each in every} == {UNKNOWN, UNIMPLEMENTED}


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ([], PASS),
        ([result(PASS), result(UNIMPLEMENTED)], PASS),
        ([result(PASS), result(UNKNOWN)], UNKNOWN),
        ([result(UNKNOWN), result(FAIL)], FAIL),
        ([result(PASS), result(FAIL, expected=True)], PASS),
        ([result(UNKNOWN), result(FAIL, expected=True)], UNKNOWN),
        ([result(FAIL), result(FAIL, expected=True)], FAIL),
    ],
)
def test_overall(found: list[RuleResult], verdict: Verdict) -> None:
    assert overall(found) is verdict
