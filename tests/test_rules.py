"""The rules are complete, and the model names no other."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import reference.model
from reference.model.judge import BREAKDOWN_RULES
from reference.operations import Event, Kind
from reference.rules import RULES, Rule, family, load, lookup, rules_for
from reference.syncmodels import Sync
from reference.trace import Cause

COUNTS = {
    "C": 3,
    "E": 3 + len(Event) - 1,  # one for each but UNKNOWN, which is E1's
    "B": 12,
    "S": 9,
    "I": 17,
    "L": 7,
    "Y": 3,
    "T": 4,
    "H": 14,
    "G": 10,
    "X": 1,
    "K": 1,
    "P": 2,
    "D": 2,
    "A": 4,
    "W": 6,
    "R": 5,
}
CONTENTS = {
    *("C1", "C2", "C3", "B3", "B11", "I12", "L2", "L7", "H3", "H7"),
    *("H12", "H13", "H14"),
    *("G2", "G4", "G7", "G9", "X1", "P2", "A1", "A2", "A4", "A6"),
}
WORKER = ["R1", "R2", "R3", "R4", "R5"]
HOST = ["W1", "W2", "W3", "W4", "W5", "W6"]
MODEL = Path(reference.model.__file__).parent
RULE = """
[[rules]]
id = "Z1"
group = "contents"
checked = "contents"
text = "T."
source = "S"
description = "D."
expectation = "E."
"""

every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)


def test_every_family_has_all_its_rules() -> None:
    assert Counter(map(family, RULES)) == COUNTS


def test_families_are_in_order_and_their_rules_too() -> None:
    assert list(dict.fromkeys(map(family, RULES))) == list(COUNTS)
    numbered = [rule for rule in RULES if rule[1:].isdecimal()]
    order = list(COUNTS)
    assert numbered == sorted(numbered, key=lambda rule: (order.index(rule[0]), int(rule[1:])))


def test_there_is_a_rule_for_every_event_in_its_order() -> None:
    events = [rule.removeprefix("E.") for rule in RULES if rule.startswith("E.")]
    assert events == [event.name for event in Event if event is not Event.UNKNOWN]


@every_rule
def test_rule_is_complete(rule: Rule) -> None:
    assert re.fullmatch(r"[A-Z]([1-9][0-9]?|\.[A-Z_]+)", rule.id)
    for text in (rule.text, rule.description, rule.expectation):
        assert re.fullmatch(r"[A-Z].{10,}\.", text, re.DOTALL), text
        assert text == " ".join(text.split())
    assert not re.search(r"\. [A-Z]", rule.text), "one sentence"
    assert rule.models
    assert len(set(rule.models)) == len(rule.models)
    assert rule.enough > 0


@every_rule
def test_rule_needs_operations_that_exist(rule: Rule) -> None:
    assert set(rule.needs) <= {kind.name.lower() for kind in Kind}
    assert list(rule.needs) == sorted(set(rule.needs))


@every_rule
def test_rule_has_a_source(rule: Rule) -> None:
    if family(rule.id) in "AWR":
        assert rule.source == "lastwriter"
    else:
        assert re.match(r"(derived from )?(\w+/)+\S", rule.source)
        assert re.search(r"\(Linux 6\.12\)|newer kernels", rule.source)


def test_who_checks_what() -> None:
    for rule in RULES.values():
        assert (rule.checked == "contents") == (rule.id in CONTENTS), rule.id
        assert (rule.checked == "worker") == (rule.id in WORKER), rule.id
        assert (rule.checked == "protocol") == (rule.group == "protocol"), rule.id


def ids_in(source: str) -> Iterator[str]:
    """Rule ids among the string constants; `I12/unmap` and the like count as I12."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if found := re.match(r"([A-Z][0-9]{1,2})(/|$)", node.value):
                yield found[1]


def test_the_model_counts_and_names_exactly_the_rules_that_it_checks() -> None:
    named = {rule for path in MODEL.glob("*.py") for rule in ids_in(path.read_text("utf-8"))}
    assert named == {*CONTENTS, *WORKER, *HOST}


def test_every_breakdown_breaks_a_rule_of_the_worker() -> None:
    assert set(BREAKDOWN_RULES) == set(Cause)
    assert {RULES[rule].checked for rule in BREAKDOWN_RULES.values()} == {"worker"}


def test_rules_for_a_model_are_those_that_name_it() -> None:
    ids = {model: [rule.id for rule in rules_for(model)] for model in Sync}
    assert "P2" in ids[Sync.REGISTRATION]
    assert "P2" not in ids[Sync.FAULTING] + ids[Sync.REFCOUNTING]
    for rule in ("H3", "H7", "G9", "X1"):
        assert rule in ids[Sync.FAULTING]
        assert rule not in ids[Sync.REFCOUNTING] + ids[Sync.REGISTRATION]
    for model in Sync:
        assert ids[model] == [rule for rule in RULES if rule in ids[model]]
        assert {"C1", "I12", "A1", "A4", *WORKER} <= set(ids[model])


def test_lookup_gives_the_rule() -> None:
    for rule in RULES:
        assert lookup(rule) is RULES[rule]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("I99", "no such rule: 'I99'; near: I9, S9, I8"),
        ("E.UNMAPP", "no such rule: 'E.UNMAPP'; near: E.UNMAP, E.MIGRATE, E.PROTECTION_VMA"),
        ("i12", "no such rule: 'i12'; near: I12, I2, I1"),
        ("quite different", "no such rule: 'quite different'"),
        ("", "no such rule: ''"),
    ],
)
def test_lookup_of_what_is_no_rule_suggests_near_ones(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        lookup(name)


def test_loading_fills_in_what_is_left_out() -> None:
    rule = load(RULE)["Z1"]
    assert (rule.models, rule.needs, rule.enough) == (tuple(Sync), (), 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RULE + 'colour = "red"\n', "unknown field `colour`"),
        (RULE.replace('source = "S"\n', ""), "missing required field `source`"),
        (RULE.replace('group = "contents"', 'group = "other"'), "Invalid enum value 'other'"),
        (RULE.replace('checked = "contents"', 'checked = "never"'), "Invalid enum value 'never'"),
        (RULE + 'models = ["pinning"]\n', "Invalid enum value 'pinning'"),
        (RULE + 'needs = "read"\n', "Expected `array`, got `str`"),
        ('title = "rules"\n' + RULE, "unknown field `title`"),
    ],
)
def test_loading_is_strict(text: str, message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=re.escape(message)):
        load(text)


def test_an_id_is_there_once() -> None:
    with pytest.raises(ValueError, match=r"^rule Z1 is there twice$"):
        load(RULE + RULE)
