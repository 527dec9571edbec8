"""Mirrors beside the kernel's HMM driver in its machine: each is what it says, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from commanding import lastwriter

from adapters.vm.holder import lacks
from adapters.vm.mirrors import DEFAULT, MIRRORS
from adapters.vm.spec import spec_of
from adapters.worker import Limits, Worker
from conformance.examine import Examiner
from conformance.shards import plan_for, run_shard, shards
from conformance.verdicts import Verdict
from reference.model import judge
from reference.outcomes import Status
from reference.program import Program
from reference.syncmodels import Sync
from reference.text import parse
from reference.trace import Violation

pytestmark = pytest.mark.vm

LIMITS = Limits(seconds=60, start=120)
SEED = 7
PROGRAMS = {"kvm": 100, "gup": 100, "udmabuf": 400, "iommufd": 100, "rxe": 100}
"""How many each has to pass; enough for every rule that it can be held to."""
LEAVING = """lastwriter 1
model registration
map p0 rw page=0 pages=2
attach d0 p0
register d0 key=1 rw page=0 pages=1
dwrite d0 page=0 offset=4088 length=16 value=0x100000 key=1
read p0 page=0 offset=4088 length=16
"""
REFUSED = """lastwriter 1
model registration
map p0 rw page=0 pages=4
attach d0 p0
register d0 key=1 r page=0 pages=1
register d0 key=2 rw page=1 pages=1
dwrite d0 page=0 offset=0 length=8 value=0x100000 key=1
dread d0 page=1 offset=0 length=8 key=1
unregister d0 key=1
dread d0 page=0 offset=0 length=8 key=1
dread d0 page=0 offset=0 length=8 key=3
dwrite d0 page=1 offset=0 length=8 value=0x200000 key=2
dread d0 page=1 offset=0 length=8 key=2
"""
"""What the keys do not allow, and then what they do."""
REGISTRATION = ("gup", "udmabuf", "iommufd", "rxe")
GUARDED = ("iommufd", "rxe")
"""Where the kernel itself knows the keys."""


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    problem = lacks()
    if problem:
        pytest.fail(f"{problem}; `tox -e vm` does so")


def test_all_are_tested() -> None:
    assert {DEFAULT, *PROGRAMS} == set(MIRRORS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_passes_for_what_it_is(name: str, tmp_path: Path) -> None:
    amount = ("--programs", str(PROGRAMS[name]), "--seed", str(SEED), "--hang", "60")
    done = lastwriter(tmp_path, "certify", spec_of(name), *amount)
    assert (done.status, done.certificate.verdict) == (0, Verdict.PASS), done.out
    assert done.certificate.candidate.name == spec_of(name)
    assert done.certificate.model == ("registration" if name in REGISTRATION else "faulting")
    assert done.rule("C1").exercised > 100


def test_the_second_mmu_is_a_nested_one() -> None:
    with Worker(spec_of("kvm"), limits=LIMITS) as worker:
        assert "nested paging" in worker.description.notes


@pytest.mark.parametrize("name", GUARDED)
def test_a_write_that_leaves_its_key_writes_nothing(name: str) -> None:
    """iommufd would do the part of it that lies inside."""
    program = parse(LEAVING)
    with Worker(spec_of(name), limits=LIMITS) as worker:
        trace = worker.run(program)
    assert trace.outcomes[3].status == Status.FAULT
    assert judge(trace).violation is None


@pytest.mark.parametrize("name", GUARDED)
def test_what_a_key_does_not_allow_is_refused_and_disturbs_nothing(name: str) -> None:
    with Worker(spec_of(name), limits=LIMITS) as worker:
        trace = worker.run(parse(REFUSED))
    assert [i for i, each in enumerate(trace.outcomes) if each.status == Status.FAULT] == [
        *(4, 5, 7, 8)
    ]
    assert {each.status for each in trace.outcomes[9:]} == {Status.OK}
    assert judge(trace).violation is None


def first_violation(name: str, model: Sync) -> Violation | None:
    """What some programs find in a mirror that is held to a model."""
    found: list[Violation] = []
    with Worker(spec_of(name), limits=LIMITS) as worker:
        examiner = Examiner(worker)

        def consume(program: Program, length: int) -> bool:
            violation = examiner.examine(program, length)
            found.extend([violation] if violation else [])
            return not found and examiner.coverage.programs < PROGRAMS[name]

        for shard in shards(worker.description, SEED):
            run_shard(plan_for(worker.description, model, shard), shard, consume)
            if found or examiner.coverage.programs >= PROGRAMS[name]:
                break
    return found[0] if found else None


@pytest.mark.parametrize("name", REGISTRATION)
def test_fails_for_what_it_is_not(name: str) -> None:
    """What is pinned does not follow the mapping, as a faulting mirror does."""
    violation = first_violation(name, Sync.FAULTING)
    assert violation is not None
    assert violation.rule in {"I12", "C1"}
