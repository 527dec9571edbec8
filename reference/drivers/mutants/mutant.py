"""What a driver mutant is, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from reference.drivers.ageing import AgeingDriver
from reference.drivers.caching import CachingDriver
from reference.drivers.counting import CountingDriver
from reference.drivers.driver import Driver
from reference.drivers.faulting import FaultingDriver
from reference.drivers.refcounting import RefcountingDriver
from reference.drivers.registration import RegistrationDriver
from reference.drivers.sharing import SharingDriver
from reference.drivers.svm import SvmDriver
from reference.geometry import Geometry
from reference.program import Program
from reference.protocol import Profile
from reference.schedule import Injection, Schedule, Switch, actor_number
from reference.text import parse
from reference.validity import check_program

__all__ = ["BASES", "DRIVER_MUTANTS", "DriverMutant", "plant"]

BASES: dict[str, type[Driver]] = {
    "faulting": FaultingDriver,
    "counting": CountingDriver,
    "refcounting": RefcountingDriver,
    "registration": RegistrationDriver,
    "caching": CachingDriver,
    "ageing": AgeingDriver,
    "sharing": SharingDriver,
    "svm": SvmDriver,
}
"""The correct drivers that mutants are made from, by name."""

_GEOMETRY = Geometry(pages=8, processes=2, devices=2, files=1, keys=2, jobs=1)


@dataclass(frozen=True)
class DriverMutant:
    """A correct driver with one bug that a real one has had."""

    id: str
    title: str
    """What goes wrong."""
    seen_in: str
    """A commit, an issue, a CVE or a project."""
    base: str
    """Name of the correct driver that it was made from."""
    rule: str
    """Id of the rule that the witness breaks first."""
    harm: str
    """Id of the rule that is broken in what it does to contents, or that ends the run; empty if
    only the protocol shows it."""
    minimal: int
    """Operations in the shortest program known to break any rule."""
    sequence: str
    """A witness: operation lines on which, with `schedule`, it breaks the rule."""
    schedule: Schedule
    """The witness's switches and injected failures."""
    page_size: int
    """Bytes in a page slot of the witness."""
    make: type[Driver]
    profile: Profile = Profile.TOLERANT
    """The strict one if kernels put up with it."""

    @property
    def switches(self) -> int:
        """Preemptions of the witness."""
        return len(self.schedule.switches)

    @property
    def program(self) -> Program:
        """The witness."""
        geometry = _GEOMETRY._replace(page_size=self.page_size)
        sizes = " ".join(f"{name}={size}" for name, size in geometry._asdict().items())
        header = f"lastwriter 1\nmodel {self.make.model}\ngeometry {sizes}\n"
        program = parse(header + self.sequence, self.id)
        check_program(program)
        return replace(program, schedule=self.schedule)


DRIVER_MUTANTS: dict[str, DriverMutant] = {}
"""All driver mutants, by id."""

Kind = TypeVar("Kind", bound=type[Driver])
Place = tuple[str, int, int, str]
"""A switch: actor, operation, point, and the actor that runs on."""


def plant(
    id: str,  # noqa: A002 - it is what the table's column is called
    *,
    title: str,
    seen_in: str,
    base: str,
    rule: str,
    harm: str,
    minimal: int,
    sequence: str,
    switches: Iterable[Place] = (),
    injections: Iterable[tuple[str, int]] = (),
    page_size: int = 4096,
    profile: Profile = Profile.TOLERANT,
) -> Callable[[Kind], Kind]:
    """Enter the decorated driver into the table."""

    def enter(make: Kind) -> Kind:
        if not issubclass(make, BASES[base]):
            raise TypeError(f"{make.__name__} is not made from {base}")
        lines = "".join(f"{line.strip()}\n" for line in sequence.strip().splitlines())
        schedule = Schedule(
            switches=tuple(_switch(place) for place in switches),
            injections=tuple(Injection(*injection) for injection in injections),
        )
        texts = id, title, seen_in, base, rule, harm
        DRIVER_MUTANTS[id] = DriverMutant(
            *texts, minimal, lines, schedule, page_size, make, profile
        )
        return make

    return enter


def _switch(place: Place) -> Switch:
    actor, operation, point, to = place
    return Switch(actor_number(actor), operation, point, actor_number(to))
