"""`lastwriter rules`: the rules of the contract."""

from __future__ import annotations

import click
from rich.table import Table

from reference.rules import RULES, Rule, lookup
from reference.syncmodels import Sync

from ..problems import UsageError
from ..screen import Screen

__all__ = ["rules"]


@click.command()
@click.argument("rule", required=False)
def rules(rule: str | None) -> None:
    """The rules of the contract, or one of them in full."""
    screen = Screen()
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
