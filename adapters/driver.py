"""Drivers as candidates: a host of its own for every program."""

from __future__ import annotations

from pathlib import Path

from reference.description import Description
from reference.drivers import Driver
from reference.drivers.mutants import BASES
from reference.host.run import HOSTED, run_program
from reference.operations import Kind
from reference.program import Program
from reference.trace import Trace

from .candidate import CandidateError
from .python import find

__all__ = ["DriverCandidate", "load_driver"]

_NEEDS = {
    Kind.FAULT: "fault",
    Kind.REGISTER: "register",
    Kind.UNREGISTER: "unregister",
    Kind.TO_DEVICE: "migrate_to_device",
    Kind.TO_SYSTEM: "migrate_to_system",
    Kind.EXCLUSIVE: "make_exclusive",
}
"""Operations that a driver can do if it overrides a method; the host does all others."""


class DriverCandidate:
    """A driver on the host."""

    def __init__(self, driver: type[Driver]) -> None:
        self._driver = driver

    def describe(self) -> Description:
        driver = self._driver
        lacking = {
            kind
            for kind, method in _NEEDS.items()
            if getattr(driver, method) is getattr(Driver, method)
        }
        return Description(
            name=driver.name,
            model=driver.model,
            keyed=driver.keyed,
            operations=frozenset(kind.name.lower() for kind in HOSTED - lacking),
            page_sizes=(4096, 65536),
            processes=3,
            devices=2,
            files=4,
            keys=4 if driver.keyed else 0,
            jobs=2,
            schedules=True,
        )

    def run_scheduled(self, program: Program) -> Trace:
        """Run a program on a fresh host, under its schedule."""
        run = run_program(program, self._driver)
        return Trace(program, tuple(run.outcomes), hosted=run.plain())


def load_driver(name: str) -> DriverCandidate:
    """The driver that `driver:NAME` names; `CandidateError` if there is none.

    NAME is that of a correct driver, `module:Class`,
    `path/to/file.py:Class`, `path/to/driver.so` or `path/to/driver.c`.
    """
    if name in BASES:
        return DriverCandidate(BASES[name])
    if name.endswith((".so", ".c")):
        from .driver_c import load_c_driver  # noqa: PLC0415 (only for those who have one)

        return DriverCandidate(load_c_driver(Path(name)))
    if ":" not in name:
        raise CandidateError(
            f"no driver {name!r}; there are {', '.join(sorted(BASES))}, "
            "or module:Class, path/to/file.py:Class, path/to/driver.so, path/to/driver.c"
        )
    driver = find(name)
    if not (isinstance(driver, type) and issubclass(driver, Driver)):
        raise CandidateError(f"driver:{name} is no subclass of {Driver.__module__}.Driver")
    return DriverCandidate(driver)
