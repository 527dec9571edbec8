"""What names a candidate: a spec, and how to reach what it names."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .candidate import Candidate, CandidateError, Scheduled
from .client import RemoteCandidate
from .python import adopt, load_python
from .vm.spec import names_machine

__all__ = ["Known", "Reach", "executable_of", "known", "open_candidate", "reach_of"]

_FORMS = (
    "module:name, path/to/file.py:name, path/to/library.so, reference:MODEL, mutant:ID, "
    "linux:NAME, linux:hmm, linux:hmm/NAME, ucx:rcache, driver:MODEL, driver:module:Class, "
    "driver:path/to/file.py:Class, "
    "driver:path/to/driver.so, driver:path/to/driver.c, tcp:HOST:PORT or unix:PATH"
)


class Reach(enum.Enum):
    """How a candidate is reached."""

    HERE = enum.auto()
    """Code to be loaded: Python or a shared library."""
    EXECUTABLE = enum.auto()
    """A program of its own that speaks the wire protocol on an inherited socket."""
    REMOTE = enum.auto()
    """An agent that is running already."""
    MACHINE = enum.auto()
    """A driver in a virtual machine of its own."""


_REACHES: Mapping[str, Reach] = {
    "linux": Reach.EXECUTABLE,
    "ucx": Reach.EXECUTABLE,
    "tcp": Reach.REMOTE,
    "unix": Reach.REMOTE,
}
"""How to reach a candidate, by the prefix of its spec; `HERE` for all others."""


@dataclass(frozen=True)
class Known:
    """A candidate that comes with the package, and whether it can run here."""

    spec: str
    available: bool
    reason: str = ""
    """Why not, if not."""


def reach_of(spec: str) -> Reach:
    """How to reach what the spec names; `CandidateError` if it has no known form."""
    prefix, colon, rest = spec.partition(":")
    if not spec or (colon and not (prefix and rest)) or not (colon or _is_library(spec)):
        raise CandidateError(f"{spec!r} names no candidate; one is {_FORMS}")
    if _is_library(spec):
        return Reach.HERE
    if names_machine(spec):
        return Reach.MACHINE
    return _REACHES.get(prefix, Reach.HERE)


def _is_library(spec: str) -> bool:
    return spec.endswith(".so") and not spec.startswith(("unix:", "driver:"))


def open_candidate(spec: str) -> Candidate | Scheduled:
    """The candidate, in this process or at its agent; `CandidateError` if it cannot be had."""
    reach = reach_of(spec)
    if reach is Reach.REMOTE:
        return RemoteCandidate.connect(spec)
    if reach in {Reach.EXECUTABLE, Reach.MACHINE}:
        raise CandidateError(f"{spec} is a program of its own and cannot be loaded into another")
    if _is_library(spec):
        from .ccffi import load_library  # noqa: PLC0415 (not everybody has a library)

        return load_library(Path(spec))
    prefix, _, name = spec.partition(":")
    own = _OWN.get(prefix)
    return own(name) if own else load_python(spec)


def _open_mirror(name: str) -> Candidate:
    from reference.mirrors import MIRRORS  # noqa: PLC0415 (only for those who ask for one)

    return adopt(_pick(MIRRORS, name, "reference mirror"), f"reference:{name}")


def _open_mutant(name: str) -> Candidate | Scheduled:
    from reference.drivers.mutants import DRIVER_MUTANTS  # noqa: PLC0415 (only for those who ask)
    from reference.mirrors import MUTANTS  # noqa: PLC0415 (likewise)

    from .driver import DriverCandidate  # noqa: PLC0415 (likewise)

    if name in DRIVER_MUTANTS:
        return DriverCandidate(DRIVER_MUTANTS[name].make)
    _pick({**MUTANTS, **DRIVER_MUTANTS}, name, "mutant")
    return adopt(MUTANTS[name].make, f"mutant:{name}")


def _open_driver(name: str) -> Scheduled:
    from .driver import load_driver  # noqa: PLC0415 (only for those who ask for one)

    return load_driver(name)


_OWN: Mapping[str, Callable[[str], Candidate | Scheduled]] = {
    "reference": _open_mirror,
    "mutant": _open_mutant,
    "driver": _open_driver,
}
"""What the forms of our own open, by prefix."""


def _pick(table: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in table:
        raise CandidateError(f"no {what} {name!r}; there are {', '.join(sorted(table))}")
    return table[name]


def known() -> list[Known]:
    """What comes with the package: reference mirrors, drivers on the host, mirrors of Linux.

    A Linux mirror is probed, which runs its executable for a moment; that of UCX may be compiled.
    """
    from reference.drivers import DRIVERS  # noqa: PLC0415 (only for those who ask for them)
    from reference.mirrors import MIRRORS  # noqa: PLC0415 (likewise)

    from . import linux, ucx  # noqa: PLC0415 (likewise)
    from .vm.holder import lacks  # noqa: PLC0415 (likewise)
    from .vm.mirrors import MIRRORS as IN_MACHINE  # noqa: PLC0415 (likewise)
    from .vm.spec import spec_of  # noqa: PLC0415 (likewise)

    mirrors = [Known(f"reference:{name}", available=True) for name in MIRRORS]
    mirrors += [Known(f"driver:{name}", available=True) for name in DRIVERS]
    probes = {f"linux:{name}": linux.probe(name) for name in linux.NAMES}
    probes |= {f"ucx:{name}": ucx.probe(name) for name in ucx.NAMES}
    mirrors += [Known(spec, found.available, found.reason) for spec, found in probes.items()]
    problem = lacks()
    return [
        *mirrors,
        *(Known(spec_of(name), problem is None, problem or "") for name in IN_MACHINE),
    ]


def executable_of(spec: str) -> tuple[Path, Mapping[str, str]]:
    """The executable that a spec names, and what it needs in its environment.

    `CandidateError` if it is unknown or cannot be had.
    """
    from . import linux, ucx  # noqa: PLC0415 (only for those who ask for one)

    prefix, _, name = spec.partition(":")
    if prefix == "ucx":
        return ucx.executable(name), ucx.ENVIRONMENT
    return linux.executable(name), {}
