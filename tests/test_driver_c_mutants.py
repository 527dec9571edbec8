"""Bugs in C: the worked drivers, changed, fail as the mutants in Python do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from c_driver_bugs import C_BUGS
from c_drivers import COMPILER, EXAMPLES

from adapters.driver_c import load_c_driver
from reference.drivers.driver import Driver
from reference.drivers.mutants import DRIVER_MUTANTS
from reference.host import run_program
from reference.model import judge
from reference.program import Program
from reference.schedule import Injection
from reference.trace import Trace

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder of our own instead of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def witness(name: str) -> Program:
    """The one of the mutant in Python, whose driver asks for less memory."""
    program = DRIVER_MUTANTS[name].program
    number = C_BUGS[name].allocation
    injections = (Injection("allocation", number),) if number else ()
    return replace(program, schedule=replace(program.schedule, injections=injections))


def broken_rule(program: Program, driver: type[Driver]) -> str | None:
    run = run_program(program, driver)
    violation = judge(Trace(program, tuple(run.outcomes), hosted=run.plain())).violation
    return violation.rule if violation else None


def test_there_are_enough() -> None:
    assert len(C_BUGS) >= 12
    assert DRIVER_MUTANTS.keys() >= C_BUGS.keys()


@pytest.mark.parametrize("name", sorted(C_BUGS))
def test_it_breaks_the_rule_that_the_mutant_breaks(name: str, tmp_path: Path) -> None:
    bug, program = C_BUGS[name], witness(name)
    original = EXAMPLES / f"{bug.driver}.c"
    source = tmp_path / f"{name}.c"
    source.write_text(bug.apply(original.read_text(encoding="utf-8")), encoding="utf-8")
    assert broken_rule(program, load_c_driver(original)) is None
    assert broken_rule(program, load_c_driver(source)) == DRIVER_MUTANTS[name].rule
