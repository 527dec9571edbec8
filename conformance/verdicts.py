"""From what was exercised and what failed to a verdict, rule by rule."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

from reference.description import Description
from reference.protocol import missing, out_of_reach
from reference.rules import Rule, rules_for
from reference.syncmodels import Sync

__all__ = ["RuleResult", "Verdict", "overall", "results"]


class Verdict(enum.StrEnum):
    """What is known about a rule.  Only PASS is a pass."""

    PASS = "PASS"  # noqa: S105 (no password)
    FAIL = "FAIL"
    UNKNOWN = "UNKNOWN"
    """The budget ran out before the rule was exercised enough."""
    UNIMPLEMENTED = "UNIMPLEMENTED"
    """The candidate, or the suite, cannot put the rule to the test."""


class RuleResult(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one rule."""

    rule: str
    verdict: Verdict
    exercised: int
    """How often it was put to the test."""
    details: dict[str, int] = {}
    """The same, by what was done."""
    failures: int = 0
    """Failing programs that break it."""
    reason: str = ""
    """Why it is UNIMPLEMENTED or UNKNOWN, or that its failures were expected."""
    expected: bool = False


def results(
    description: Description,
    model: Sync,
    exercised: Mapping[str, int],
    failures: Mapping[str, int],
    expected: Iterable[str] = (),
    untested: Mapping[str, str] = MappingProxyType({}),
) -> list[RuleResult]:
    """The verdict on every rule of the sync model, in the order of the contract.

    `untested` says of rules why this run cannot put them to the test.
    """
    expectations = set(expected)
    lacking = missing(exercised, model, description.operations) if description.schedules else []
    return [
        _result(
            rule,
            description,
            {} if rule.id in untested else exercised,
            failures.get(rule.id, 0),
            rule.id in expectations,
            untested.get(rule.id, ""),
            [cell for cell in lacking if cell.split("/")[0] == rule.id],
        )
        for rule in rules_for(model)
    ]


def _result(
    rule: Rule,
    description: Description,
    exercised: Mapping[str, int],
    failures: int,
    expected: bool,
    untested: str,
    lacking: list[str],
) -> RuleResult:
    details = _details(rule, exercised)
    total = sum(details.values())
    verdict, reason = _verdict(rule, description, exercised, failures, untested)
    if verdict is Verdict.PASS and lacking:
        verdict, reason = Verdict.UNKNOWN, f"never met: {', '.join(lacking)}"
    if failures and expected:
        reason = "expected"
    return RuleResult(
        rule=rule.id,
        verdict=verdict,
        exercised=total,
        details={key.partition("/")[2]: count for key, count in details.items() if "/" in key},
        failures=failures,
        reason=reason,
        expected=expected,
    )


def _verdict(
    rule: Rule,
    description: Description,
    exercised: Mapping[str, int],
    failures: int,
    untested: str,
) -> tuple[Verdict, str]:
    if failures:
        return Verdict.FAIL, ""
    if untested:
        return Verdict.UNIMPLEMENTED, untested
    if rule.checked == "protocol":
        why = _why_not(rule, description, exercised)
        if why:
            return Verdict.UNIMPLEMENTED, why
    missing = [name for name in rule.needs if name not in description.operations]
    if missing:
        return Verdict.UNIMPLEMENTED, f"the candidate has no {', '.join(missing)}"
    total = sum(_details(rule, exercised).values())
    if total < rule.enough:
        return Verdict.UNKNOWN, f"exercised {total} of {rule.enough} times"
    return Verdict.PASS, ""


def _details(rule: Rule, exercised: Mapping[str, int]) -> dict[str, int]:
    """The cells of a rule, with how often each was reached."""
    return {cell: count for cell, count in exercised.items() if cell.split("/")[0] == rule.id}


def _why_not(rule: Rule, description: Description, exercised: Mapping[str, int]) -> str:
    """Why a rule of the protocol cannot be put to the test; empty if it can."""
    if not description.schedules:
        return "shows only in a driver's protocol events"
    return out_of_reach(exercised, rule.id)


def overall(rules: Iterable[RuleResult]) -> Verdict:
    """FAIL if a rule failed that was not expected to, else UNKNOWN if one is, else PASS."""
    counts = Counter(
        result.verdict
        for result in rules
        if not (result.verdict is Verdict.FAIL and result.expected)
    )
    for verdict in (Verdict.FAIL, Verdict.UNKNOWN):
        if counts[verdict]:
            return verdict
    return Verdict.PASS
