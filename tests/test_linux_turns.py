"""The turn goes from process to process of a Linux mirror, whichever of them is the quicker."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from linux_agents import Agent, check_available

from adapters.compiler import find_compiler
from conformance.generate import Plan, Profile, random_programs
from reference.geometry import Geometry
from reference.model import judge
from reference.syncmodels import Sync
from reference.trace import Trace

ROOT = Path(__file__).parent.parent
LINUX = ROOT / "adapters" / "linux"
OPTIONS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")
WRAPPED = ("-Wl,--wrap=syscall", "-Wl,--wrap=lw_run")
PROGRAMS = 40


@pytest.fixture
def eager(tmp_path: Path) -> Iterator[Agent]:
    """An agent in which nobody who is woken lets the coordinator go first."""
    check_available("process_vm")
    path = tmp_path / "eager_agent"
    shared = sorted(LINUX.glob("process*.c"))  # with the device, which is process_vm's
    files = [ROOT / "adapters/agent/agent.c", *shared, LINUX / "outside.c"]
    command = [*find_compiler(), *OPTIONS, *WRAPPED, f"-I{ROOT / 'adapters/include'}", f"-I{LINUX}"]
    files.append(Path(__file__).parent / "eager_turns.c")
    subprocess.run([*command, *map(str, files), "-o", str(path)], check=True)
    agent = Agent("process_vm", path)
    yield agent
    agent.close()


def test_a_process_that_is_through_before_the_coordinator_looks(eager: Agent) -> None:
    description = eager.client.describe()
    geometry = description.limit(Geometry())
    profile = Profile.for_candidate(description, geometry, Sync.FAULTING)
    plan = Plan(description, geometry, Sync.FAULTING, profile)
    for program in islice(random_programs(plan, seed=0, sweep=True), PROGRAMS):
        eager.client.reset(program.geometry)
        outcomes = eager.client.run(program.operations)
        assert judge(Trace(program, tuple(outcomes))).violation is None
