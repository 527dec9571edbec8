"""What a user of the command can mend: told in one line, with exit status 2."""

from __future__ import annotations

import click

__all__ = ["INTERRUPTED", "Problem", "UsageError"]

INTERRUPTED = 130
"""Exit status after Ctrl-C."""


class Problem(Exception):
    """A file that cannot be used: one line that names file and problem."""


class UsageError(click.ClickException):
    """Bad usage, or a candidate that cannot be reached: one line."""
