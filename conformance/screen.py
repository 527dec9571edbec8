"""The terminal, or what takes its place."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import UnsupportedOperation
from typing import Any

from rich.console import Console
from rich.text import Text

__all__ = ["Screen", "abandon_stdout"]


class Screen(Console):
    """A terminal, or what takes its place, for text that is to be shown as it is.

    `OSError` if it cannot be; or, if it is `lenient`, nothing more is shown and `trouble` says why.
    """

    def __init__(self, *, stderr: bool = False, lenient: bool = False) -> None:
        # Some terminals and all files understand no escape codes, not even for bold.
        plain = False if os.environ.get("NO_COLOR") else None
        super().__init__(
            stderr=stderr, force_terminal=plain, markup=False, emoji=False, highlight=False
        )
        self.lenient = lenient
        self.trouble: OSError | None = None

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError as error:
            if not self.lenient:
                raise
            self.trouble = error
            self.quiet = True
            abandon_stdout()

    def say(self, text: str, style: str = "") -> None:
        """One line, however long, so that what it names can be copied."""
        self.print(Text(text, style), soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Nobody reads on: the command decides what that means."""
        raise BrokenPipeError


def abandon_stdout() -> None:
    """What is still to be written there must not fail once more when Python ends."""
    with suppress(UnsupportedOperation):  # it is no file, but something in its place
        stdout = sys.stdout.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stdout)
        os.close(nowhere)
