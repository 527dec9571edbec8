"""Journals: what a candidate was given last, in a file, in case nobody is left to tell.

That is one program, or those that wait for it as well.

A journal is locked for as long as its owner lives, so that whoever finds one can tell a run that
goes on from one that was killed.  (A process id would not do: it may be another's by now, or one
of another container.)
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from reference.program import Program

from .candidate import CandidateError

__all__ = ["Journal", "journal_path", "journals_of", "left_behind"]

_END = bytes(8)
"""No packed program begins like this."""
_MOST = 16
"""Programs that are taken from a journal, whoever may have written it."""


def journal_path(folder: Path, run: str) -> Path:
    """Where this process keeps its journal; `run` is a word that no other run has."""
    return folder / f"running-{run}-{os.getpid()}.lwb"


def journals_of(folder: Path, run: str) -> list[Path]:
    """The journals of all processes of a run."""
    return sorted(folder.glob(f"running-{run}-*.lwb"))


class Journal:
    """A file that holds a few packed programs; `CandidateError` if it cannot be had."""

    def __init__(self, path: Path) -> None:
        # Locked before it has its name: nobody can take it for one that was left behind.
        hidden = path.with_name(f".{path.name}")
        try:
            self._file = os.open(hidden, os.O_WRONLY | os.O_CREAT, 0o644)
        except OSError as error:
            raise _unusable(path, error) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.replace(path)
        except OSError as error:
            self.close()
            with suppress(OSError):
                hidden.unlink()
            raise _unusable(path, error) from None

    def write(self, *packed: bytes) -> None:
        """Put packed programs in the place of the last; what those had more stays behind them."""
        os.pwrite(self._file, b"".join((*packed, _END)), 0)

    def close(self) -> None:
        """Let go of the file, which stays."""
        os.close(self._file)


def _unusable(path: Path, error: OSError) -> CandidateError:
    return CandidateError(f"cannot write the journal {path}: {error.strerror}")


def left_behind(folder: Path) -> Iterator[tuple[Path, list[Program]]]:
    """The journals of owners that died, with their programs.

    Each is locked while the caller has it, and may be removed then.  Those without a whole program
    are passed over, and removed if they are empty.
    """
    for path in sorted(folder.glob("running-*.lwb")):
        with suppress(OSError), _locked(path):
            data = path.read_bytes()
            programs = list(islice(_programs_in(data), _MOST))
            if programs:
                yield path, programs
            elif not data:
                path.unlink()


def _programs_in(data: bytes) -> Iterator[Program]:
    """Whole programs, one after the other, up to where there is none."""
    with suppress(ValueError):
        while data:
            program = Program.from_bytes(data)
            yield program
            data = data[len(program.to_bytes()) :]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """`OSError` if somebody else has it, or if it is gone."""
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(file)
