"""What a mutant is, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from reference.mirrors.device import Device
from reference.mirrors.events import MemoryEvents
from reference.mirrors.memory import AddressSpace
from reference.mirrors.mirror import Caching, Faulting, Looking, Mirror, Refcounting, Registering

__all__ = ["BASES", "MUTANTS", "Mutant", "plant"]

BASES: Mapping[str, type[Mirror]] = {
    "faulting": Faulting,
    "refcounting": Refcounting,
    "registration": Registering,
    "caching": Caching,
    "looking": Looking,
}
"""The correct mirrors, by name."""


@dataclass(frozen=True)
class Mutant:
    """A correct mirror with one bug that a real one has had."""

    id: str
    title: str
    """What goes wrong."""
    seen_in: str
    """A commit, an issue, a CVE or a project."""
    base: str
    """Name of the correct mirror that it was made from."""
    rule: str
    """Id of the rule that the witness breaks."""
    minimal: int
    """Operations in the shortest program known to show it."""
    sequence: str
    """A witness: operation lines on which it breaks the rule and its base does not."""
    page_size: int
    """Bytes in a page slot of the witness."""
    make: Callable[[], Mirror]


MUTANTS: dict[str, Mutant] = {}
"""All mutants, by id."""

Part = TypeVar("Part", bound=type[Device] | type[AddressSpace] | type[MemoryEvents])


def plant(
    id: str,  # noqa: A002 - it is what the table's column is called
    *,
    title: str,
    seen_in: str,
    base: str,
    rule: str,
    minimal: int,
    sequence: str,
    page_size: int = 4096,
) -> Callable[[Part], Part]:
    """Enter the mutant that has the decorated class in place of its base's part."""

    def enter(part: Part) -> Part:
        lines = "".join(f"{line.strip()}\n" for line in sequence.strip().splitlines())
        MUTANTS[id] = Mutant(
            id, title, seen_in, base, rule, minimal, lines, page_size, _assemble(id, base, part)
        )
        return part

    return enter


def _assemble(id: str, base: str, part: type) -> Callable[[], Mirror]:  # noqa: A002
    for role, kind in _ROLES.items():
        if issubclass(part, kind):
            return type(part.__name__, (BASES[base],), {"name": f"mutant:{id}", role: part})
    raise TypeError(f"{part.__name__} is no part of a mirror")


_ROLES: Mapping[str, type] = {
    "device_class": Device,
    "space_class": AddressSpace,
    "events_class": MemoryEvents,
}
