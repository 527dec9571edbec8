"""`lastwriter candidates`: what can be certified here."""

from __future__ import annotations

import click
from rich.table import Table

from adapters.registry import known

from ..screen import Screen

__all__ = ["candidates"]


@click.command()
def candidates() -> None:
    """What can run here; what can't, and why."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("candidate", "", ""):
        table.add_column(column)
    for each in known():
        table.add_row(each.spec, "yes" if each.available else "no", each.reason)
    for form, meaning in (
        ("path/to/mirror.so", "a C shared library (docs/c-interface.md)"),
        ("module:name, path/to/file.py:name", "a Python class, factory or object"),
        ("driver:path/to/file.py:Class", "a driver in Python, on the host (docs/host.md)"),
        ("driver:path/to/driver.c, .so", "a driver in C, on the host"),
        ("linux:hmm,driver=test_hmm.c", "a changed driver in the machine (docs/linux-hmm.md)"),
        ("tcp:HOST:PORT, unix:PATH", "an agent (docs/wire.md)"),
    ):
        table.add_row(form, "", meaning)
    Screen().print(table)
