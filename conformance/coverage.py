"""What of the protocol a run has reached, as a table: rule, event, flag and state of the pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.table import Table
from rich.text import Text

from reference.operations import Event
from reference.protocol import required
from reference.protocol.coverage import REQUIRED
from reference.record import STATES
from reference.rules import RULES
from reference.syncmodels import Sync

from .certificate import Certificate
from .store import LoadError
from .verdicts import Verdict

__all__ = [
    "HEADS",
    "MARK",
    "Row",
    "coverage_rows",
    "coverage_table",
    "load_certificate",
    "never_met",
]

HEADS = ("rule", "event", "may block", "model", *STATES.values(), "in all")
MARK = "!"
"""Stands in a cell that must be reached and never was."""
_ANY = "*"
_PARTS = 2
"""Slashes between event, flag and state."""
_MAY_BLOCK = {"blockable": "yes", "nonblock": "no", _ANY: "any", "": ""}
_EVENTS = {event.name: int(event) for event in Event}


class Row(NamedTuple):
    """How often a rule was put to the test by one event with one flag."""

    rule: str
    event: str
    may_block: str
    model: Sync
    states: Mapping[str, int]
    """By the state that a page of the range was in."""
    total: int
    """For a rule that no range puts to the test, how often it was; else the sum of the states."""
    lacking: frozenset[str]
    """States that must be reached and never were; `*` if it is one of them that must."""

    def cells(self) -> list[str]:
        """The row under `HEADS`."""
        counts = [self._cell(self.states.get(state, 0), state) for state in STATES.values()]
        return [
            self.rule,
            "any" if self.event == _ANY else self.event,
            _MAY_BLOCK[self.may_block],
            self.model,
            *counts,
            self._cell(self.total, _ANY),
        ]

    def _cell(self, count: int, state: str) -> str:
        if state in self.lacking:
            return MARK
        return f"{count:,}" if count else ""


def load_certificate(path: Path) -> Certificate:
    """The certificate of a driver in a file; `LoadError` if it is none."""
    try:
        certificate = msgspec.json.decode(path.read_bytes(), type=Certificate)
    except msgspec.DecodeError as error:
        raise LoadError(f"{path}: no certificate: {error}") from None
    if not certificate.capabilities.schedules:
        raise LoadError(f"{path}: {certificate.candidate.spec} is no driver on the host")
    return certificate


def coverage_rows(certificate: Certificate) -> list[Row]:
    """The rows of one certificate, in the order of the contract and of the events."""
    reached = dict(_exercised(certificate))
    lacking = {
        pattern
        for pattern, count in required(
            reached, certificate.model, certificate.capabilities.operations
        ).items()
        if not count
    }
    groups: dict[tuple[str, str, str], dict[str, int]] = {}
    for cell, count in [*reached.items(), *dict.fromkeys(lacking, 0).items()]:
        rule, event, may_block, state = [*cell.split("/"), "", "", ""][:4]
        groups.setdefault((rule, event, may_block), {})[state] = count
    tested = {rule.rule for rule in certificate.rules if rule.verdict != Verdict.UNIMPLEMENTED}
    order = list(RULES)
    return [
        Row(
            *group,
            certificate.model,
            {state: count for state, count in states.items() if count},
            sum(states.values()),
            frozenset(state or _ANY for state in states if _name(*group, state) in lacking),
        )
        for group, states in sorted(
            groups.items(), key=lambda item: (order.index(item[0][0]), _place(item[0][1]), item[0])
        )
        if group[0] in tested
    ]


def _exercised(certificate: Certificate) -> Iterator[tuple[str, int]]:
    """Counts by cell, of what the protocol showed; those of a rule as a whole by its id.

    Some of the rules that contents show are counted by cell too, or must be met.
    """
    must = {pattern.split("/")[0] for pattern in REQUIRED[certificate.model]}
    for result in certificate.rules:
        of_protocol = RULES[result.rule].checked == "protocol"
        for cell, count in result.details.items():
            if of_protocol or cell.count("/") == _PARTS:
                yield f"{result.rule}/{cell}", count
        rest = result.exercised - sum(result.details.values())
        if rest and (of_protocol or result.rule in must):
            yield result.rule, rest


def _name(rule: str, event: str, may_block: str, state: str) -> str:
    return "/".join(filter(None, (rule, event, may_block, state)))


def _place(event: str) -> int:
    return _EVENTS.get(event, len(_EVENTS) if event else -1)


def never_met(rows: Iterable[Row]) -> list[str]:
    """In words, the cells that must be reached and never were."""
    return [
        " ".join(filter(None, (row.rule, row.event.replace(_ANY, "any event"), row.may_block)))
        + (f" {state.replace(_ANY, 'any state')}" if row.may_block else "")
        for row in rows
        for state in sorted(row.lacking)
    ]


def coverage_table(certificates: Sequence[Certificate]) -> Table:
    """The rows of certificates, of different sync models as it may be, one after another."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, head in enumerate(HEADS):
        table.add_column(head, justify="right" if place > 3 else "left", no_wrap=True)
    before = ""
    for row in (row for each in certificates for row in coverage_rows(each)):
        rule, *rest = row.cells()
        shown = [Text(cell, "bold red" if cell == MARK else "") for cell in rest]
        table.add_row("" if rule == before else rule, *shown)
        before = rule
    return table
