"""The host beside the real kernel: of the same programs the model allows what either answers."""

from __future__ import annotations

from itertools import islice

import pytest
from driving import complaint

from adapters.linux import probe
from adapters.worker import Worker
from conformance.generate import Plan, random_programs
from reference.description import Description
from reference.drivers.faulting import FaultingDriver
from reference.geometry import Geometry
from reference.host.run import run_program
from reference.model import judge
from reference.operations import Kind
from reference.program import Program
from reference.trace import Trace

PROBE = probe("process_vm")
OPERATIONS = 100_000
SEED = 2026
ARENAS = (Geometry(pages=4), Geometry(pages=16), Geometry(page_size=65536, pages=4))

pytestmark = [
    pytest.mark.proof,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PROBE.available, reason=f"linux:process_vm: {PROBE.reason}"),
]


def draw(description: Description, arena: Geometry) -> list[Program]:
    """A third of the operations, of the kinds that the kernel's mirror can do.

    The driver can do them all, on as many processes, devices and files.
    """
    plan = Plan.for_candidate(description, description.limit(arena))
    found: list[Program] = []
    drawn = random_programs(plan, SEED, sweep=True)
    while sum(map(len, found)) < OPERATIONS / len(ARENAS):
        found += islice(drawn, 100)
    return found


@pytest.mark.parametrize("arena", ARENAS, ids=lambda arena: f"{arena.page_size}x{arena.pages}")
def test_the_model_allows_what_both_answer(arena: Geometry) -> None:
    with Worker("linux:process_vm") as kernel:
        programs = draw(kernel.description, arena)
        answered: set[Kind] = set()
        for program in programs:
            run = run_program(program, FaultingDriver)
            assert complaint(program, run) is None, program
            of_host = judge(Trace(program, tuple(run.outcomes)))
            assert of_host.violation is None, (of_host.violation, program)
            of_kernel = judge(kernel.run(program))
            assert of_kernel.violation is None, (of_kernel.violation, program)
            answered.update(Kind(operation.kind) for operation in program.operations)
    assert sum(map(len, programs)) >= OPERATIONS / len(ARENAS)
    assert answered == kernel.description.kinds(arena.page_size)
