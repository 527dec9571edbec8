"""What a spec of a candidate in the virtual machine says: `linux:hmm,driver=PATH,flavour=debug`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..candidate import CandidateError

__all__ = ["FLAVOURS", "MIRRORS", "MachineSpec", "names_machine"]

FLAVOURS = ("lean", "debug")
MIRRORS = ("hmm",)
"""Mirrors that the agent in the machine can be, as its kernel's command line names them."""
_PREFIX = "linux:hmm"
_FORM = "linux:hmm[,driver=FILE.c|,module=FILE.ko][,flavour=debug][,cpus=N][,nodes=1][,merge=off]"
_MOST_CPUS = 8


def names_machine(spec: str) -> bool:
    """Whether the spec is meant to name a candidate in the virtual machine."""
    return spec.partition(",")[0].partition("/")[0] == _PREFIX


@dataclass(frozen=True)
class MachineSpec:
    """A candidate in the virtual machine."""

    text: str
    mirror: str = "hmm"
    flavour: str = "lean"
    driver: Path | None = None
    """C file of a driver that takes the place of the kernel's own."""
    module: Path | None = None
    """The same, compiled already."""
    cpus: int = 1
    nodes: int = 2
    """Devices that the driver has: with one, all that a program has are files of the same."""
    merge: bool = True
    """Pages of equal contents are merged, by KSM."""

    @classmethod
    def parse(cls, text: str) -> MachineSpec:
        """`CandidateError`, naming the part, unless it makes sense."""
        head, *parts = text.split(",")
        mirror = head.removeprefix(_PREFIX).removeprefix("/") or "hmm"
        if mirror not in MIRRORS:
            raise CandidateError(f"no mirror {head!r} in the machine; there is {_PREFIX}")
        given: dict[str, str] = {}
        for part in parts:
            key, _, value = part.partition("=")
            if key not in _KEYS or not value or key in given:
                raise CandidateError(f"{text}: {part!r}: a spec is {_FORM}")
            given[key] = value
        return cls._checked(text, mirror, given)

    @classmethod
    def _checked(cls, text: str, mirror: str, given: dict[str, str]) -> MachineSpec:
        flavour = given.get("flavour", "lean")
        if flavour not in FLAVOURS:
            raise CandidateError(f"{text}: no flavour {flavour!r}; there are {', '.join(FLAVOURS)}")
        if "driver" in given and "module" in given:
            raise CandidateError(f"{text}: driver and module exclude each other")
        return cls(
            text,
            mirror,
            flavour,
            _file(text, given, "driver", ".c"),
            _file(text, given, "module", ".ko"),
            _number(text, given, "cpus", 1, _MOST_CPUS),
            _number(text, given, "nodes", 2, 2),
            _switch(text, given, "merge"),
        )


def _number(text: str, given: dict[str, str], key: str, default: int, most: int) -> int:
    value = given.get(key, str(default))
    if not (value.isascii() and value.isdecimal() and 1 <= int(value) <= most):
        raise CandidateError(f"{text}: {key} is a number from 1 to {most}")
    return int(value)


def _switch(text: str, given: dict[str, str], key: str) -> bool:
    value = given.get(key, "on")
    if value not in {"on", "off"}:
        raise CandidateError(f"{text}: {key} is on or off")
    return value == "on"


def _file(text: str, given: dict[str, str], key: str, suffix: str) -> Path | None:
    if key not in given:
        return None
    path = Path(given[key])
    if path.suffix != suffix:
        raise CandidateError(f"{text}: {key} is a file that ends in {suffix}")
    if not path.is_file():
        raise CandidateError(f"{text}: no such file: {path}")
    return path.resolve()


_KEYS = frozenset({"driver", "module", "flavour", "cpus", "nodes", "merge"})
