"""linux:hmm in its real machine: its own driver, and changed ones that go wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from commanding import Running

from adapters.candidate import CandidateError
from adapters.vm.holder import MachineHolder, lacks
from adapters.vm.places import current
from adapters.vm.run import BuildError
from adapters.worker import Limits, Worker
from conformance.examine import Examiner
from reference.model import judge
from reference.program import Program
from reference.text import parse
from reference.trace import Violation

pytestmark = pytest.mark.vm

LIMITS = Limits(seconds=60, start=120)
PROGRAM = """lastwriter 1
map p0 rw page=0 pages=2
attach d0 p0
dwrite d0 page=0 offset=0 length=8 value=0x100000
read p0 page=0 offset=0 length=8
dread d0 page=1 offset=0 length=8
unmap p0 page=1 pages=1
map p0 rw page=1 pages=1
write p0 page=1 offset=0 length=8 value=0x200000
dread d0 page=1 offset=0 length=8
detach d0
"""
INVALIDATE = "static bool dmirror_interval_invalidate("
WRITE = "static int dmirror_write(struct dmirror *dmirror, struct hmm_dmirror_cmd *cmd)\n{\n"
CHANGES = {
    # What the mirror knows is never forgotten.
    "forgets nothing": ("dmirror_do_update(dmirror, range->start, range->end);", ";"),
    "warns": (WRITE, f'{WRITE}\tWARN(1, "not today\\n");\n'),
    "crashes": (WRITE, f"{WRITE}\tWRITE_ONCE(*(int *)8, 1);\n"),
    "hangs": (WRITE, f"{WRITE}\tfor (;;)\n\t\tmsleep(1000);\n"),
}


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    problem = lacks()
    if problem:
        pytest.fail(f"{problem}; `tox -e vm` does so")


@pytest.fixture(scope="module")
def program() -> Program:
    return parse(PROGRAM)


def changed(folder: Path, name: str) -> str:
    """The spec of the kernel's own driver with a change."""
    source = (current("lean").build / "source" / "lib" / "test_hmm.c").read_text()
    old, new = CHANGES[name]
    assert source.count(old) == 1
    path = folder / "test_hmm.c"
    path.write_text(source.replace(old, new))
    return f"linux:hmm,driver={path}"


def violation_of(spec: str, program: Program, limits: Limits = LIMITS) -> Violation:
    """What comes of a program, twice: after a failure there is another machine."""
    with Worker(spec, limits=limits) as worker:
        examiner = Examiner(worker)
        first, second = (examiner.examine(program) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.rule == second.rule
    return first


def test_the_driver_as_it_is(program: Program) -> None:
    with Worker("linux:hmm", limits=LIMITS) as worker:
        for _ in range(3):
            trace = worker.run(program)
            assert judge(trace).violation is None, trace
        assert worker.description.version.startswith("6.")


def test_a_driver_that_is_the_same_but_compiled_here(program: Program, tmp_path: Path) -> None:
    CHANGES["nothing"] = (INVALIDATE, INVALIDATE)
    with Worker(changed(tmp_path, "nothing"), limits=LIMITS) as worker:
        assert judge(worker.run(program)).violation is None
        assert ", driver " in worker.description.version


def test_stale_translations(program: Program, tmp_path: Path) -> None:
    violation = violation_of(changed(tmp_path, "forgets nothing"), program)
    assert (violation.rule, violation.index) == ("I12", 8)


def test_a_warning(program: Program, tmp_path: Path) -> None:
    violation = violation_of(changed(tmp_path, "warns"), program)
    assert violation.rule == "R5"
    assert violation.message.startswith("kernel: WARNING: CPU: 0 PID: ")
    title, head, said = violation.message.splitlines()[:3]
    assert " at test_hmm.c:" in title
    assert (head, said) == ("the kernel's log:", "not today")


def test_a_warning_in_a_program_that_was_sent_behind(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has warned when the answer to the first one is looked at."""

    def late(holder: MachineHolder, number: int) -> None:
        while holder._machine.log.look() is None:
            pass
        settle(holder, number)

    settle = MachineHolder.settle
    monkeypatch.setattr(MachineHolder, "settle", late)
    quiet = Program(program.operations[:2], program.geometry)
    with Worker(changed(tmp_path, "warns"), limits=LIMITS) as worker:
        for each in (quiet, program):
            worker.begin(each)
        first, second = worker.finish(), worker.finish()
    assert judge(first).violation is None
    assert second.breakdown is not None
    assert second.breakdown.message.startswith("WARNING: CPU: 0 PID: ")


def test_an_oops(program: Program, tmp_path: Path) -> None:
    violation = violation_of(changed(tmp_path, "crashes"), program)
    assert violation.rule == "R1"
    first = violation.message.splitlines()[0]
    assert first.startswith(
        "crash: BUG: kernel NULL pointer dereference, address: 0000000000000008"
    )


def test_a_hang(program: Program, tmp_path: Path) -> None:
    hasty = Limits(seconds=1, start=120)
    assert violation_of(changed(tmp_path, "hangs"), program, hasty).rule == "R2"


def test_a_driver_that_does_not_compile(tmp_path: Path) -> None:
    (tmp_path / "test_hmm.c").write_text("this is no driver\n")
    with pytest.raises(BuildError, match=r"cannot compile (.|\n)*test_hmm\.c:1:"):
        Worker(f"linux:hmm,driver={tmp_path / 'test_hmm.c'}", limits=LIMITS)


def test_a_module_that_the_kernel_does_not_take(tmp_path: Path) -> None:
    module = tmp_path / "test_hmm.ko"
    module.write_bytes(b"\x7fELF" + bytes(1000))
    with pytest.raises(CandidateError, match="the kernel does not take it: error: "):
        Worker(f"linux:hmm,module={module}", limits=LIMITS)


def test_a_suite_that_is_killed_leaves_no_machine(tmp_path: Path) -> None:
    with Running(tmp_path, "certify", "linux:hmm", "--seconds", "1000", "-j", "2") as running:
        running.await_line("certifying linux:hmm")
        running.process.kill()
        running.await_nobody()
