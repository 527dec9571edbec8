"""Failing programs that are kept: as files to read and replay, and in Hypothesis' example database.

Whatever was found once is run first the next time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase

from adapters.journal import left_behind
from reference.description import Description
from reference.operations import DEVICE_ACCESSES, Kind
from reference.program import Comment, Program
from reference.protocol import Profile
from reference.rules import RULES
from reference.schedule import PLAIN
from reference.syncmodels import Sync
from reference.text import ParseError, dump, parse
from reference.validity import ProgramError, check_program

from .examine import Failure
from .problems import Problem

__all__ = [
    "LoadError",
    "Store",
    "file_name",
    "load_program",
    "obstacle",
    "runnable",
    "write_atomically",
]

SUFFIX = ".lw"


class LoadError(Problem):
    """A file that holds no program: one line that names file, place and problem."""


def load_program(path: Path) -> Program:
    """The program in a file, in text or packed form; `LoadError` if there is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror}") from None
    try:
        if data.startswith(b"LWPROG"):
            program = Program.from_bytes(data)
            check_program(program)
            return program
        return parse(data.decode(), str(path))
    except UnicodeDecodeError as error:
        raise LoadError(f"{path}: byte {error.start} is no UTF-8 text") from None
    except ParseError as error:
        raise LoadError(str(error)) from None
    except (ProgramError, ValueError) as error:
        raise LoadError(f"{path}: {error}") from None


def write_atomically(path: Path, text: str) -> None:
    """Write a file whole or not at all; `OSError`, naming it, if that is not possible."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def obstacle(program: Program, description: Description) -> str | None:
    """Why a candidate cannot run a program that was made for another, or an older one."""
    geometry = program.geometry
    if program.schedule != PLAIN and not description.schedules:
        return "it takes no schedules"
    if geometry.page_size not in description.page_sizes:
        return f"it has no pages of {geometry.page_size} bytes"
    for name in ("processes", "devices", "files", "keys", "jobs"):
        if getattr(geometry, name) > getattr(description, name):
            return f"it has {getattr(description, name)} {name}, not {getattr(geometry, name)}"
    kinds = description.kinds(geometry.page_size)
    lacking = {Kind(operation.kind) for operation in program.operations} - kinds
    if lacking:
        return f"it has no {', '.join(kind.name.lower() for kind in sorted(lacking))}"
    keyless = any(each.kind in DEVICE_ACCESSES and not each.key for each in program.operations)
    return "its device accesses need keys" if description.keyed and keyless else None


def runnable(program: Program, description: Description, model: Sync) -> bool:
    """Whether a candidate can run a program, which was made for the same sync model."""
    return program.model == model and obstacle(program, description) is None


def file_name(failure: Failure) -> str:
    """A name for the file of a failing program: the rule, and a hash of what is run."""
    return f"{failure.violation.rule}-{_digest(failure.program)}{SUFFIX}"


def _digest(program: Program) -> str:
    anonymous = replace(program, seed=0)
    return hashlib.blake2b(anonymous.to_bytes(), digest_size=4).hexdigest()


class Store:
    """Failing programs of one candidate under one sync model."""

    def __init__(
        self,
        folder: Path,
        spec: str,
        model: Sync,
        database: ExampleDatabase | None = None,
        profile: Profile = Profile.TOLERANT,
    ) -> None:
        self.folder = folder
        self.spec = spec
        self.profile = profile
        self.key = f"lastwriter/{spec}/{model}".encode()
        self.database = database or DirectoryBasedExampleDatabase(".hypothesis/examples")

    def add(self, failure: Failure) -> Path:
        """Keep a failing program; the file that it is now in."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / file_name(failure)
        write_atomically(path, dump(self._annotated(failure)))
        self.database.save(self.key, failure.program.to_bytes())
        return path

    def take_in(self, folder: Path) -> None:
        """Keep the programs of journals in a folder whose runs were killed.

        What took a whole run down with it is worth being run first the next time.  `OSError` if
        one cannot be kept: then its journal stays.
        """
        for journal, programs in left_behind(folder):
            with suppress(ProgramError):
                for program in programs:
                    self._take_in(program, journal)
                journal.unlink()

    def _take_in(self, program: Program, journal: Path) -> None:
        check_program(program)
        self.folder.mkdir(parents=True, exist_ok=True)
        comment = Comment(0, f"running when {journal.stem.partition('-')[2]} was killed")
        text = dump(replace(program, comments=(comment,)))
        write_atomically(self.folder / f"killed-{_digest(program)}{SUFFIX}", text)

    def _annotated(self, failure: Failure) -> Program:
        rule = RULES[failure.violation.rule]
        strict = "; strict profile" if self.profile is Profile.STRICT else ""
        lines = [
            f"{rule.id}: {rule.text}",
            failure.violation.message.partition("\n")[0],
            f"candidate {self.spec}{strict}" + ("; unstable" if failure.unstable else ""),
        ]
        comments = [Comment(0, " ".join(line.split())) for line in lines]
        here = Comment(failure.violation.index, "breaks the rule", inline=True)
        return replace(failure.program, comments=(*comments, here))

    def load(self) -> Iterator[Program]:
        """Every program that was kept, those of the folder first; unreadable ones are passed over.

        A file that a newer version wrote, or that somebody is editing, must not stop a run.
        """
        for _, program in self.named():
            yield program

    def named(self) -> Iterator[tuple[str, Program]]:
        """The same, each with a name that no other has: that of its file, if it has one."""
        seen = set()
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            with suppress(LoadError):
                program = replace(load_program(path), comments=())
                seen.add(program)
                yield path.stem, program
        for data in sorted(self.database.fetch(self.key)):
            with suppress(ValueError):
                program = Program.from_bytes(data)
                check_program(program)
                if program not in seen:
                    digest = hashlib.blake2b(data, digest_size=4).hexdigest()
                    yield f"database-{digest}", program
