"""The rules of the contract, loaded from `rules.toml`.

>>> from reference.rules import RULES, lookup
>>> lookup("I12").group
'invalidation'
>>> lookup("I99")
Traceback (most recent call last):
    ...
ValueError: no such rule: 'I99'; near: I9, S9, I8
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Literal

import msgspec

from .syncmodels import Sync

__all__ = ["RULES", "Checked", "Group", "Rule", "family", "lookup", "rules_for"]

Checked = Literal["contents", "worker", "protocol"]
"""Who checks a rule: the last-writer model, the worker that holds the candidate, or a host that
calls a driver's notifier callbacks.  A candidate without such a host has the last ones
UNIMPLEMENTED."""

Group = Literal[
    "contents",
    "access",
    "calls",
    "invalidation",
    "migration",
    "fork",
    "registration",
    "jobs",
    "robustness",
    "protocol",
]
"""What a rule is about: the heading under which a report shows it."""


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule that a mirror is held to."""

    id: str
    """Stable name: the family's letter and a number, or `E.` and the name of an event."""
    title: str = ""
    """The rule in a few words, if it is one that is checked now."""
    text: str
    """The rule, in one sentence."""
    source: str
    """Where it comes from: file and lines, or document, of a kernel; `lastwriter` for our own."""
    models: tuple[Sync, ...] = tuple(Sync)
    """Synchronisation models that it holds for."""
    needs: tuple[str, ...] = ()
    """Operations that a candidate must be capable of, or the rule is UNIMPLEMENTED."""
    checked: Checked
    group: Group
    description: str
    """What the suite does to put it to the test."""
    expectation: str
    """What a correct candidate shows."""
    enough: int = 10
    """How often it must have been put to the test for a PASS."""


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rules: tuple[Rule, ...]


def load(text: str) -> Mapping[str, Rule]:
    """Rules by id, in the order of the text.

    Raises `msgspec.ValidationError` (a `ValueError`) for a key that is unknown or missing and for
    a value of the wrong type, `tomllib.TOMLDecodeError` (another) for text that is not TOML, and
    `ValueError` for an id that is there twice.
    """
    document = msgspec.convert(tomllib.loads(text), _Document)
    rules: dict[str, Rule] = {}
    for rule in document.rules:
        if rule.id in rules:
            raise ValueError(f"rule {rule.id} is there twice")
        rules[rule.id] = rule
    return MappingProxyType(rules)


RULES: Mapping[str, Rule] = load(
    resources.files(__package__).joinpath("rules.toml").read_text(encoding="utf-8")
)
"""Every rule by its id, ordered by family."""


def rules_for(model: Sync) -> list[Rule]:
    """The rules that hold for a synchronisation model, in order."""
    return [rule for rule in RULES.values() if model in rule.models]


def family(rule: str) -> str:
    """The letter of the family that a rule's id begins with."""
    return rule[:1]


def lookup(rule: str) -> Rule:
    """The rule with this id; `ValueError`, with ids that are spelt like it, if there is none."""
    found = RULES.get(rule)
    if found is None:
        near = difflib.get_close_matches(rule.upper(), RULES, n=3, cutoff=0.4)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise ValueError(f"no such rule: {rule!r}{hint}")
    return found
