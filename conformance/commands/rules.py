"""`lastwriter rules`: the rules of the contract."""

from __future__ import annotations

from pathlib import Path

import click
from rich.measure import Measurement
from rich.table import Table

from reference.rules import RULES, Rule, lookup
from reference.syncmodels import Sync

from ..problems import UsageError
from ..screen import Screen

__all__ = ["rules"]


@click.command()
@click.option(
    "--coverage",
    type=click.Path(path_type=Path),
    metavar="CERTIFICATE",
    multiple=True,
    help="Show what of the protocol a certified driver was put to the test with.",
)
@click.argument("rule", required=False)
def rules(rule: str | None, coverage: tuple[Path, ...]) -> None:
    """The rules of the contract, or one of them in full."""
    screen = Screen()
    if coverage:
        if rule is not None:
            raise UsageError("--coverage is about all rules: leave the rule out")
        _show_coverage(coverage, screen)
        return
    if rule is None:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("rule", "checked by", "models", ""):
            table.add_column(column)
        for each in RULES.values():
            table.add_row(each.id, each.checked, _models(each), each.text)
        screen.print(table)
        return
    try:
        found = lookup(rule)
    except ValueError as error:
        raise UsageError(str(error)) from None
    screen.print(_in_full(found))


_ROOM = 1000
"""Columns that no table needs."""


def _show_coverage(paths: tuple[Path, ...], screen: Screen) -> None:
    from ..coverage import (  # noqa: PLC0415 (only for those who ask for it)
        MARK,
        coverage_rows,
        coverage_table,
        load_certificate,
        never_met,
    )

    certificates = [load_certificate(path) for path in paths]
    table = coverage_table(certificates)
    # Cut to the width of a terminal it would say nothing.
    room = screen.options.update(max_width=_ROOM)
    screen.width = max(screen.width, Measurement.get(screen, room, table).maximum)
    screen.print(table)
    lacking = [cell for each in certificates for cell in never_met(coverage_rows(each))]
    screen.print()
    if lacking:
        screen.say(f"{MARK} must be met for a PASS, and never was: {'; '.join(lacking)}")
    else:
        screen.say("every cell that must be met for a PASS was met")


def _models(rule: Rule) -> str:
    return "all" if set(rule.models) == set(Sync) else ", ".join(rule.models)


def _in_full(rule: Rule) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for name, text in (
        (rule.id, rule.text),
        ("source", rule.source),
        ("models", _models(rule)),
        ("needs", ", ".join(rule.needs) or "nothing special"),
        ("checked by", rule.checked),
        ("how", rule.description),
        ("expected", rule.expectation),
        ("enough", f"exercised {rule.enough} times"),
    ):
        table.add_row(name, text)
    return table
