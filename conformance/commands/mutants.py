"""`lastwriter mutants`: score the suite on planted bugs."""

from __future__ import annotations

import difflib

import click
from rich.table import Table

from ..mutation import ALL, HEADINGS, SECONDS, scores
from ..problems import UsageError
from ..screen import Screen

__all__ = ["mutants"]

_IN_THE_PAGE = frozenset({"what goes wrong", "seen in"})
"""Columns of the table of mutants that are too wide for a terminal."""


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=SECONDS,
    show_default=True,
    metavar="S",
    help="Processor time for each mutant at most.",
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("-j", "--jobs", type=click.IntRange(1, 256), default=1, show_default=True,
              metavar="N", help="Processes that share the work.")  # fmt: skip
@click.argument("mutant", nargs=-1, metavar="[ID]...")
@click.pass_context
def mutants(
    context: click.Context, seconds: float, seed: int, jobs: int, mutant: tuple[str, ...]
) -> None:
    """Score the suite: does it find planted bugs, by which rule, and how short?

    Exit status 1 if one of them survives.
    """
    unknown = [name for name in mutant if name not in ALL]
    if unknown:
        near = difflib.get_close_matches(unknown[0], ALL, n=3)
        raise UsageError(f"no mutant {unknown[0]!r}{'; near: ' if near else ''}{', '.join(near)}")
    screen = Screen()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown = [place for place, name in enumerate(HEADINGS) if name not in _IN_THE_PAGE]
    for place in shown:
        table.add_column(HEADINGS[place])
    names, killed = mutant or tuple(ALL), 0
    with screen.status("") as status:
        done = scores(names, seed, seconds, jobs)
        for number, name in enumerate(names, 1):
            status.update(f"{name} ({number} of {len(names)})")
            score = next(done)
            killed += score.best is not None
            cells = score.cells()
            table.add_row(*[cells[place] for place in shown])
    screen.print(table)
    screen.print(f"{killed} of {len(names)} killed")
    context.exit(0 if killed == len(names) else 1)
