"""The `lastwriter` command: a thin shell over the library."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from adapters.candidate import CandidateError

from .problems import INTERRUPTED, Problem
from .version import own_version

__all__ = ["main"]

_COMMANDS = {
    "agent": "agent:agent",
    "candidates": "candidates:candidates",
    "certify": "certify:certify_command",
    "mutants": "mutants:mutants",
    "replay": "programs:replay",
    "rules": "rules:rules",
    "shrink": "programs:shrink",
    "sweep": "programs:sweep_command",
    "vm": "vm:vm",
}
"""Subcommands, each with its module and name: it is loaded when it is asked for."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command; exits with its status."""
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        status = commands.main(given or ["--help"], "lastwriter", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        sys.exit(INTERRUPTED)
    except (click.ClickException, CandidateError, Problem, OSError) as error:
        _say(error)
        sys.exit(2)
    sys.exit(status or 0)


def _say(error: Exception) -> None:
    """The problem, in one line; but what a compiler said as it stands."""
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    if isinstance(error, OSError):
        from .screen import abandon_stdout  # noqa: PLC0415 (rarely needed)

        abandon_stdout()
        where = f"{error.filename}: " if error.filename else ""
        text = f"{where}{error.strerror or error}"
    if not (isinstance(error, CandidateError) and error.verbatim):
        text = " ".join(text.splitlines())
    if not isinstance(error, BrokenPipeError):
        click.echo(f"lastwriter: {text}", err=True)


class _Commands(click.Group):
    """Subcommands that are loaded when they are asked for, so that none waits for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        found = getattr(importlib.import_module(f"{__package__}.commands.{module}"), name)
        assert isinstance(found, click.Command)
        return found


def _tell_version(context: click.Context, _: click.Parameter, given: bool) -> None:
    if given:
        click.echo(f"lastwriter, version {own_version()}")
        context.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_tell_version,
    help="Show the version and exit.",
)  # fmt: skip
def commands() -> None:
    """Does a CPU access return what was last written, by the CPU or a device?

    A conformance suite for mirrors: software and hardware that let a device use a process's
    addresses.
    """


if __name__ == "__main__":
    main()
