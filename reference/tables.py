"""The tables in the docs, made from the definitions that they describe.

A document has blocks between `<!-- begin generated: NAME -->` and `<!-- end generated -->`;
`python -m reference.tables` writes the tables of these names into them.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from .geometry import GEOMETRY, LIMITS, PAGE_SIZES
from .operations import OPERATION, Event, Flag, Kind
from .outcomes import OUTCOME, Seen, Status
from .packing import FAILURE, SCHEDULE, SWITCH
from .program import _HEADER, MAX_OPERATIONS
from .protocol.coverage import REQUIRED, UNTESTED
from .rules import RULES, Rule, family
from .schedule import ACTORS
from .schema import ABI_VERSION, Layout
from .signatures import RIGHTS, SIGNATURES, Argument
from .syncmodels import SYNC_MODELS, Sync
from .validity import MAX_JOB, MAX_LENGTH

__all__ = ["DOCS", "FAMILIES", "TABLES", "main", "refresh"]

DOCS = Path(__file__).resolve().parent.parent / "docs"
"""The documents of a source checkout."""

FAMILIES: Mapping[str, str] = {
    "C": "Contents",
    "E": "Events",
    "B": "Blockable or not",
    "S": "Start and end",
    "I": "Interval subscriptions",
    "L": "Life cycle of notifiers",
    "Y": "Young bits",
    "T": "TLBs that share the CPU's page tables",
    "H": "hmm_range_fault",
    "G": "Migration to device memory",
    "X": "Exclusive access",
    "K": "Count and sequence",
    "P": "Pins",
    "D": "DRM helpers",
    "A": "Accesses and calls",
    "W": "Work on the host",
    "R": "Robustness",
}
"""Titles of the families of rules, in their order."""


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


# -- operations -------------------------------------------------------------------------------

_WRITTEN: Mapping[str, str] = {
    "number": "{0}=N",
    "hex": "{0}=0xN",
    "process": "pN",
    "device": "dN",
    "child": "{0}=pN",
    "event": "{0}=EVENT",
    "rights": "RIGHTS",
    "word": "{0}",
}


def written(argument: Argument) -> str:
    """An argument as it stands in a program, in brackets if it may be left out."""
    text = _WRITTEN[argument.style].format(argument.name)
    return f"[{text}]" if argument.optional else text


def operations() -> str:
    return table(
        ["Operation", "Arguments", "Meaning"],
        (
            [
                f"`{kind.name.lower()}`",
                "`" + " ".join(map(written, signature.arguments)) + "`",
                signature.meaning,
            ]
            for kind, signature in SIGNATURES.items()
        ),
    )


def rights() -> str:
    return table(
        ["Rights", "Bits of `flags`"],
        ([f"`{name}`", f"{int(flags)}"] for name, flags in RIGHTS.items()),
    )


def limits() -> str:
    rows: list[Sequence[object]] = [["`page_size`", " or ".join(map(str, PAGE_SIZES))]]
    rows += [[f"`{name}`", f"{low} to {high}"] for name, (low, high) in LIMITS.items()]
    rows += [
        ["bytes of one access", f"8 to {MAX_LENGTH}"],
        ["accesses of one job", f"1 to {MAX_JOB}"],
    ]
    return table(["What", "Limits"], [*rows, ["operations in a packed program", MAX_OPERATIONS]])


# -- records and numbers ----------------------------------------------------------------------


def record(layout: Layout) -> str:
    """The fields of a record, in bytes."""
    rows = (
        [field.offset, field.width.size, f"`{field.name}`", field.meaning]
        for field in layout.fields
    )
    return table(["Offset", "Size", "Field", "Meaning"], rows)


_HEADER_MEANINGS = (
    "the letters `LWPROG`",
    f"version, {ABI_VERSION}",
    "sync model: " + ", ".join(f"{number} `{name}`" for number, name in enumerate(Sync)),
    "zero",
    "seed",
    "geometry record",
    "number of operations",
    "bytes of the schedule, which follows the operations; 0 for the plain one",
)


def header() -> str:
    """The header of the packed form, in bytes."""
    order, *codes = re.findall(r"<|[0-9]*[a-zA-Z]", _HEADER.format)
    rows, offset = [], 0
    for code, meaning in zip(codes, _HEADER_MEANINGS, strict=True):
        size = struct.calcsize(order + code)
        rows.append([offset, size, meaning])
        offset += size
    return table(["Offset", "Size", "Contents"], rows)


def numbers(values: type[enum.IntEnum] | type[enum.IntFlag]) -> str:
    """Names and numbers, in the order of the numbers."""
    ordered = sorted(values, key=int)
    return table(["Number", "Name"], ([int(value), f"`{value.name}`"] for value in ordered))


def actors() -> str:
    """Names and numbers of actors."""
    rows = ([number, f"`{name}`"] for name, number in ACTORS.items())
    return table(["Number", "Actor"], rows)


# -- rules ------------------------------------------------------------------------------------


def sync_models() -> str:
    return table(
        ["Model", "What it asks"],
        ([f"`{model.name}`", model.summary] for model in SYNC_MODELS.values()),
    )


def holds_for(rule: Rule) -> str:
    return "all" if set(rule.models) == set(Sync) else ", ".join(rule.models)


def rules_of(letter: str) -> str:
    """The rules of one family."""
    rows = (
        [f"**{rule.id}**", rule.text, holds_for(rule), rule.checked, rule.source]
        for rule in RULES.values()
        if family(rule.id) == letter
    )
    return table(["Id", "Rule", "Models", "Checked by", "Source"], rows)


def rules() -> str:
    """Every family under its title."""
    return "\n\n".join(
        f"### {letter}: {title}\n\n{rules_of(letter)}" for letter, title in FAMILIES.items()
    )


def exercises() -> str:
    """How the rules that need no protocol host are put to the test."""
    rows = (
        [
            f"**{rule.id}**",
            ", ".join(f"`{name}`" for name in rule.needs) or "nothing",
            rule.enough,
            rule.description,
            rule.expectation,
        ]
        for rule in RULES.values()
        if rule.checked != "protocol"
    )
    return table(["Id", "Needs", "Enough", "What the suite does", "What is expected"], rows)


def cells() -> str:
    """The cells that must be reached, by what they have in common."""
    groups: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for model, patterns in REQUIRED.items():
        for pattern in patterns:
            rule, event, may_block, state = [*pattern.split("/"), "", "", ""][:4]
            states = groups.setdefault((rule, event, may_block), {})
            states.setdefault(state, []).append(model)
    rows = (
        [f"**{rule}**", _any(event), _MAY_BLOCK[may_block], _any(state), _of_models(models)]
        for (rule, event, may_block), states in groups.items()
        for state, models in states.items()
    )
    return table(["Rule", "By event, or what was met", "May block", "Page", "Models"], rows)


_MAY_BLOCK = {"blockable": "yes", "nonblock": "no", "": ""}


def _any(name: str) -> str:
    return "any" if name == "*" else name


def _of_models(models: Sequence[str]) -> str:
    return "all" if len(models) == len(Sync) else ", ".join(models)


def untested() -> str:
    """The rules that are not checked yet."""
    rows = ([f"**{rule}**", reason] for rule, reason in UNTESTED.items())
    return table(["Rule", "Why"], rows)


# -- documents --------------------------------------------------------------------------------

TABLES: Mapping[str, Callable[[], str]] = {
    "operations": operations,
    "rights": rights,
    "limits": limits,
    "operation record": lambda: record(OPERATION),
    "outcome record": lambda: record(OUTCOME),
    "geometry record": lambda: record(GEOMETRY),
    "schedule record": lambda: record(SCHEDULE),
    "switch record": lambda: record(SWITCH),
    "failure record": lambda: record(FAILURE),
    "packed header": header,
    "kinds": lambda: numbers(Kind),
    "flags": lambda: numbers(Flag),
    "events": lambda: numbers(Event),
    "actors": actors,
    "statuses": lambda: numbers(Status),
    "seen": lambda: numbers(Seen),
    "sync models": sync_models,
    "rules": rules,
    "exercises": exercises,
    "cells": cells,
    "untested": untested,
}
"""What can stand in a generated block, by name."""

_BLOCK = re.compile(r"(<!-- begin generated: (.*?) -->\n).*?(<!-- end generated -->)", re.DOTALL)


def refresh(text: str) -> str:
    """The document with its generated blocks made anew; `ValueError` for an unknown name."""

    def block(match: re.Match[str]) -> str:
        make = TABLES.get(match[2])
        if make is None:
            raise ValueError(f"no such table: {match[2]!r}, only {', '.join(TABLES)}")
        return f"{match[1]}\n{make()}\n\n{match[3]}"

    return _BLOCK.sub(block, text)


def main() -> None:
    """Rewrite the generated blocks of every document."""
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        fresh = refresh(text)
        if fresh != text:
            path.write_text(fresh, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main()
