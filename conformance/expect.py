"""Expected failures: a file that says which rules a candidate is known to break, and why."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from reference.operations import Kind
from reference.program import Program
from reference.rules import lookup
from reference.syncmodels import Sync

from .problems import Problem
from .verdicts import RuleResult, Verdict

__all__ = ["ExpectError", "Expectation", "load_expectations", "surprises"]


class ExpectError(Problem):
    """A file of expected failures that cannot be used: one line that names file and problem."""


class Expectation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule that is known to fail."""

    rule: str
    reason: str
    link: str
    model: Sync | None = None
    """Only under this sync model; without it, under any."""
    operations: tuple[str, ...] = ()
    """Only for programs that do one of these; without it, for all."""
    rare: bool = False
    """A run may well not meet it: then it is no surprise."""

    def covers(self, rule: str, program: Program) -> bool:
        """Whether a program is expected to break a rule."""
        kinds = {Kind(operation.kind).name.lower() for operation in program.operations}
        return rule == self.rule and not (self.operations and kinds.isdisjoint(self.operations))


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    expect: tuple[Expectation, ...]


def load_expectations(path: Path, model: Sync) -> list[Expectation]:
    """The expectations of a TOML file that hold for a sync model.

    `ExpectError` for a file that cannot be read, a rule that does not exist, one that is not part
    of the sync model, or one that is named twice.
    """
    try:
        document = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
    except OSError as error:
        raise ExpectError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ExpectError(f"{path}: {error}") from None
    for expectation in document.expect:
        _check(path, expectation.model or model, expectation)
    chosen = [each for each in document.expect if each.model in {None, model}]
    for index, expectation in enumerate(chosen):
        same = [each for each in chosen[:index] if each.rule == expectation.rule]
        if same and not all(each.operations for each in (*same, expectation)):
            raise ExpectError(f"{path}: rule {expectation.rule} is named twice")
    return chosen


def _check(path: Path, model: Sync, expectation: Expectation) -> None:
    try:
        rule = lookup(expectation.rule)
    except ValueError as error:
        raise ExpectError(f"{path}: {error}") from None
    if model not in rule.models:
        raise ExpectError(f"{path}: rule {rule.id} is no rule of the {model} model")
    if not expectation.reason.strip() or not expectation.link.strip():
        raise ExpectError(f"{path}: rule {rule.id} needs a reason and a link")
    for name in expectation.operations:
        if name.upper() not in Kind.__members__ or name != name.lower():
            raise ExpectError(f"{path}: rule {rule.id} names no operation: {name!r}")


def surprises(expectations: Iterable[Expectation], rules: Iterable[RuleResult]) -> list[str]:
    """The expectations that were not met, a line each."""
    verdicts = {result.rule: result.verdict for result in rules}
    return [
        f"rule {each.rule} was expected to fail ({each.reason}), but is {verdicts[each.rule]}"
        for each in expectations
        if not each.rare and verdicts[each.rule] is not Verdict.FAIL
    ]
