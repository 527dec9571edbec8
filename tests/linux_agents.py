"""What the tests of the real Linux mirrors share: an agent of one with its client."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from adapters.client import RemoteCandidate
from adapters.linux import CONTROLS, NAMES, executable, probe
from adapters.process import Child
from adapters.registry import executable_of
from adapters.wire import Stream
from reference.geometry import Geometry
from reference.outcomes import Outcome, Status
from reference.text import parse

OK, FAULT, ERROR, SKIPPED, UNSUPPORTED = Status
HUGE = 2 << 20
MIRRORS = tuple(name for name in NAMES if name not in CONTROLS)
"""Those that must be correct."""
SECONDS = 30.0
"""Far more than anything here takes: how long to wait before it counts as lost."""


class Agent:
    """A mirror's executable, the installed one unless a path is given, with a client of it."""

    def __init__(self, name: str, path: Path | None = None) -> None:
        spec = name if ":" in name else f"linux:{name}"
        environment: Mapping[str, str] = {}
        if path is None:
            path, environment = executable_of(spec)
        self.keyed = spec == "linux:io_uring"
        self.child = Child(
            lambda file: [str(path), "--fd", str(file)], {**os.environ, **environment}
        )
        self.client = RemoteCandidate(Stream.of_socket(self.child.socket), str(path))

    def run(self, text: str, *, page_size: int = 4096, pages: int = 16) -> list[Outcome]:
        """The outcomes of a program, one operation a line, in a fresh arena.

        `VIA` stands for the key of a registration, `MIRROR` for an attachment of d0 to p0 with
        pages 0 and 1 registered.
        """
        mirror = "attach d0 p0\n" + "register d0 key=1 rw page=0 pages=2\n" * self.keyed
        text = text.replace("MIRROR", mirror).replace("VIA", "key=1" * self.keyed)
        description = self.client.describe()
        geometry = description.limit(Geometry(page_size=page_size, pages=pages))
        header = " ".join(f"{key}={value}" for key, value in geometry._asdict().items())
        title = f"lastwriter 1\nmodel {description.model}\ngeometry {header}\n"
        lines = [" ".join(line.split()) for line in text.splitlines()]
        program = parse(title + "\n".join(lines))
        self.client.reset(program.geometry)
        return self.client.run(program.operations)

    def processes(self) -> list[int]:
        """Process ids of the agent's children."""
        path = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def close(self) -> None:
        self.client.close()
        self.child.end()


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


def read(*values: int) -> Outcome:
    return Outcome(OK, 0, 8 * len(values), words(*values))


def statuses(outcomes: list[Outcome]) -> list[int]:
    return [outcome.status for outcome in outcomes]


def check_available(name: str) -> None:
    executable(name)  # one that was not built is no reason to skip
    found = probe(name)
    if not found.available:
        pytest.skip(f"linux:{name}: {found.reason}")


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()
