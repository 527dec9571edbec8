"""What was found in real kernels stays readable, and can be expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters import linux, ucx
from adapters.vm import mirrors as vm_mirrors
from conformance.expect import load_expectations
from conformance.store import load_program
from reference.mirrors import MIRRORS
from reference.model import judge
from reference.syncmodels import Sync
from reference.trace import Trace

ROOT = Path(__file__).parent.parent
FINDINGS = ROOT / "docs" / "findings"
PROGRAMS = sorted(FINDINGS.glob("*.lw"))
EXPECTED = sorted(FINDINGS.glob("*.toml"))


def test_there_are_some() -> None:
    assert PROGRAMS
    assert EXPECTED


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_correct_mirror_passes(path: Path) -> None:
    program = load_program(path)
    mirror = MIRRORS[program.model]()
    mirror.reset(program.geometry)
    outcomes = tuple(mirror.run(program.operations))
    assert judge(Trace(program, outcomes)).violation is None
    assert any(f"({path.name})" in page.read_text() for page in FINDINGS.glob("*.md"))


@pytest.mark.parametrize("path", EXPECTED, ids=lambda path: path.stem)
def test_it_can_be_expected(path: Path) -> None:
    kind, _, name = path.stem.partition("-")
    names = {"linux": (*linux.NAMES, *vm_mirrors.MIRRORS), "ucx": ucx.NAMES}
    assert name in names[kind]
    expectations = [each for model in Sync for each in load_expectations(path, model)]
    assert expectations
    for each in expectations:
        assert (ROOT / each.link).exists()
