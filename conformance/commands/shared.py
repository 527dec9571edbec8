"""What several subcommands share."""

from __future__ import annotations

from pathlib import Path

import click

from adapters.registry import known

from ..problems import UsageError
from ..screen import Screen

__all__ = ["CANDIDATE", "OUT", "default_candidate", "prepare"]

CANDIDATE = click.argument("candidate")
OUT = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("lastwriter-out"), show_default=True,
    help="Folder for certificate and failing programs.",
)  # fmt: skip


def default_candidate(screen: Screen) -> str:
    """What is certified if nothing is named: this machine's kernel, if it can be."""
    kernel = next(each for each in known() if each.spec == "linux:process_vm")
    if kernel.available:
        return kernel.spec
    screen.say(f"linux:process_vm cannot run here: {kernel.reason}")
    return "reference:faulting"


def prepare(out: Path) -> None:
    """Make sure of the output folder before anything runs."""
    probe = out / ".writable"
    try:
        out.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"\0" * 4096)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        problem = "it is no folder" if isinstance(error, FileExistsError) else error.strerror
        raise UsageError(f"--out {out}: {problem}") from None
