"""Running the commands of a build: watched, logged, and ended with whoever runs them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from ..candidate import CandidateError
from ..process import Child
from ..wire import printable

__all__ = ["BuildError", "last_lines", "run_logged"]

_TICK = 0.1
_LAST = 12
"""Lines of a log that an error shows."""
_TAIL = 16 << 10


class BuildError(CandidateError):
    """A step of a build that failed: which, where its log is, and the log's last lines."""

    verbatim = True


def run_logged(
    what: str,
    command: Sequence[str],
    log: Path,
    watch: Callable[[], None] = lambda: None,
    *,
    stdin: int = subprocess.DEVNULL,
    keep: Sequence[int] = (),
) -> None:
    """Run a command to its end; `BuildError` if it fails.

    What it prints is added to the log.  `watch` is called now and then; what that raises ends the
    command.  It inherits the files in `keep`, which stay open until the last of its processes ends.
    """
    line = ["sh", "-c", 'exec "$@" >>"$0" 2>&1', str(log), *command]
    environment = dict(os.environ, LC_ALL="C", KBUILD_BUILD_USER="lastwriter", KBUILD_BUILD_HOST="")
    child = Child(lambda _: line, environment, keep, stdin)
    try:
        while (end := child.death(_TICK)) is None:
            watch()
        watch()
        if end != "exited with status 0":
            raise BuildError(f"cannot {what}: {command[0]} {end}; log: {log}\n{last_lines(log)}")
    finally:
        child.end()


def last_lines(log: Path) -> str:
    """What a log ends with."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"(no log: {error.strerror})"
    return "\n".join(printable(line) for line in text.splitlines()[-_LAST:])
