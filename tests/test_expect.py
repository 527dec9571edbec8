"""Files of expected failures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conformance.expect import Expectation, ExpectError, load_expectations, surprises
from conformance.verdicts import RuleResult, Verdict
from reference.syncmodels import Sync
from reference.text import parse

ENTRY = '[[expect]]\nrule = "{}"\nreason = "known"\nlink = "https://example.org/1"\n'
I12 = ENTRY.format("I12")


def load(tmp_path: Path, text: str | bytes, model: Sync = Sync.FAULTING) -> list[Expectation]:
    path = tmp_path / "expect.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_expectations(path, model)


def test_entries_are_kept_in_order(tmp_path: Path) -> None:
    found = load(tmp_path, ENTRY.format("R2") + I12)
    assert [each.rule for each in found] == ["R2", "I12"]
    assert found[1].reason == "known"


def test_entries_of_another_model_are_left_out(tmp_path: Path) -> None:
    text = I12 + 'model = "registration"\n' + I12 + 'model = "faulting"\n'
    assert [each.model for each in load(tmp_path, text)] == [Sync.FAULTING]


def test_an_entry_may_be_about_some_operations_only(tmp_path: Path) -> None:
    text = I12 + 'operations = ["punch", "truncate"]\n' + I12 + 'operations = ["remap"]\n'
    first, second = load(tmp_path, text)
    punch = parse(
        "lastwriter 1\nmodel faulting\nmap p0 rw shared page=0 pages=1\npunch p0 page=0 pages=1"
    )
    assert first.covers("I12", punch)
    assert not first.covers("C1", punch)
    assert not second.covers("I12", punch)
    assert load(tmp_path, I12)[0].covers("I12", punch)


def test_no_entries(tmp_path: Path) -> None:
    assert load(tmp_path, "expect = []\n") == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "missing required field `expect`"),
        ("expect = 7\n", r"Expected `array`, got `int` - at `\$.expect`"),
        ("[[expect]\n", r"at line 1, column"),
        (b"\xff\xfe", "can't decode byte 0xff"),
        (I12 + "why = 1\n", "unknown field `why`"),
        ('[[expect]]\nrule = "I12"\nlink = "x"\n', r"missing required field `reason`.*expect\[0\]"),
        (I12.replace("known", "  "), "rule I12 needs a reason and a link"),
        (I12.replace("https://example.org/1", ""), "rule I12 needs a reason and a link"),
        (ENTRY.format("I99"), "no such rule: 'I99'; near: I9"),
        (ENTRY.format("I99") + 'model = "registration"\n', "no such rule: 'I99'"),
        (ENTRY.format("P2"), "rule P2 is no rule of the faulting model"),
        (ENTRY.format("G9") + 'model = "registration"\n', "G9 is no rule of the registration"),
        (I12 + 'model = "magic"\n', "Invalid enum value 'magic'"),
        (I12 + I12, "rule I12 is named twice"),
        (I12 + I12 + 'model = "faulting"\n', "rule I12 is named twice"),
        (I12 + I12 + 'operations = ["punch"]\n', "rule I12 is named twice"),
        (I12 + 'operations = ["pinch"]\n', "rule I12 names no operation: 'pinch'"),
        (I12 + 'operations = ["PUNCH"]\n', "rule I12 names no operation: 'PUNCH'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, text: str | bytes, problem: str) -> None:
    with pytest.raises(ExpectError, match=problem) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/expect.toml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "problem"), [("missing", "No such file or directory"), ("", "Is a directory")]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, problem: str) -> None:
    path = tmp_path / name
    with pytest.raises(ExpectError, match=f"^{re.escape(str(path))}: {problem}$"):
        load_expectations(path, Sync.FAULTING)


def test_what_is_rare_is_no_surprise(tmp_path: Path) -> None:
    rules = [RuleResult(rule="I12", verdict=Verdict.PASS, exercised=1)]
    assert surprises(load(tmp_path, I12 + "rare = true\n"), rules) == []


@pytest.mark.parametrize("verdict", Verdict)
def test_only_a_failure_is_no_surprise(tmp_path: Path, verdict: Verdict) -> None:
    rules = [RuleResult(rule="I12", verdict=verdict, exercised=1)]
    lines = surprises(load(tmp_path, I12), rules)
    if verdict is Verdict.FAIL:
        assert lines == []
    else:
        assert lines == [f"rule I12 was expected to fail (known), but is {verdict}"]
