"""What a spec of a candidate in the virtual machine says: `linux:hmm,driver=PATH,flavour=debug`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..candidate import CandidateError
from .mirrors import DEFAULT, MIRRORS

__all__ = ["FLAVOURS", "MachineSpec", "names_machine", "spec_of"]

FLAVOURS = ("lean", "debug")
_PREFIX = "linux:hmm"
_FORM = (
    "linux:hmm[,driver=FILE.c|,module=FILE.ko][,nodes=1][,flavour=debug][,cpus=N][,merge=off] "
    "or linux:hmm/NAME[,flavour=debug][,cpus=N][,merge=off]"
)
_MOST_CPUS = 8


def spec_of(mirror: str) -> str:
    """What names a mirror in the machine, as it is."""
    return _PREFIX if mirror == DEFAULT else f"{_PREFIX}/{mirror}"


def names_machine(spec: str) -> bool:
    """Whether the spec is meant to name a candidate in the virtual machine."""
    return spec.partition(",")[0].partition("/")[0] == _PREFIX


@dataclass(frozen=True)
class MachineSpec:
    """A candidate in the virtual machine."""

    text: str
    mirror: str = DEFAULT
    """Which of those that run in the machine."""
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
        mirror = head.removeprefix(_PREFIX).removeprefix("/") or DEFAULT
        if mirror not in MIRRORS or head != spec_of(mirror):
            there = ", ".join(map(spec_of, MIRRORS))
            raise CandidateError(f"no mirror {head!r} in the machine; there are {there}")
        given: dict[str, str] = {}
        for part in parts:
            key, _, value = part.partition("=")
            if key not in _KEYS or not value or key in given:
                raise CandidateError(f"{text}: {part!r}: a spec is {_FORM}")
            given[key] = value
        own = _OF_HMM & given.keys() if mirror != DEFAULT else ()
        if own:
            raise CandidateError(f"{text}: {', '.join(sorted(own))} is for {_PREFIX} alone")
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


_OF_HMM = frozenset({"driver", "module", "nodes"})
_KEYS = _OF_HMM | {"flavour", "cpus", "merge"}
