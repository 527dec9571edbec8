"""The real kernel certified, and no false alarm on anything that is correct."""

from __future__ import annotations

from pathlib import Path

import pytest
from commanding import Done, lastwriter

from adapters.linux import NAMES, probe
from adapters.worker import InProcess, Worker
from conformance.examine import Examiner
from conformance.shards import plan_for, run_shard, shards
from conformance.store import load_program
from conformance.verdicts import Verdict
from reference.geometry import Geometry
from reference.program import Program
from reference.text import dump

PROBES = {name: probe(name) for name in NAMES}
CORRECT = {
    **dict.fromkeys(("reference:faulting", "reference:refcounting"), 200_000),
    **dict.fromkeys(("reference:registration", "linux:process_vm"), 200_000),
    **dict.fromkeys(("linux:kvm", "linux:userfaultfd", "linux:userfaultfd_copy"), 20_000),
}
"""How many operations what is correct has to pass."""
# With KSM on, userfaultfd_copy fails as docs/findings/userfaultfd-merged.md says; tests leave the
# machine's settings alone.
FINDINGS = Path(__file__).parent.parent / "docs" / "findings"
SEED = 2026


def needs(name: str) -> pytest.MarkDecorator:
    found = PROBES[name]
    return pytest.mark.skipif(not found.available, reason=f"linux:{name}: {found.reason}")


def certified(folder: Path, spec: str, *options: str) -> Done:
    done = lastwriter(folder, "certify", spec, "--seed", "7", *options)
    assert done.errors == ""
    return done


@needs("process_vm")
def test_process_vm_passes(tmp_path: Path) -> None:
    done = certified(tmp_path, "linux:process_vm", "--programs", "200", "-j", "2")
    assert (done.status, done.certificate.verdict) == (0, Verdict.PASS), done.out
    assert done.certificate.failing_programs == 0
    assert "Linux" in done.certificate.candidate.version
    assert done.rule("C1").exercised > 100


@needs("kvm")
def test_kvm_passes(tmp_path: Path) -> None:
    done = certified(tmp_path, "linux:kvm", "--programs", "150")
    assert (done.status, done.certificate.verdict) == (0, Verdict.PASS), done.out
    assert done.certificate.model == "faulting"
    assert done.rule("I12").exercised > 100


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs(name)) for name in ("userfaultfd", "userfaultfd_copy")]
)
def test_pages_may_migrate(name: str, tmp_path: Path) -> None:
    done = certified(tmp_path, f"linux:{name}", "--programs", "200")
    assert (done.status, done.certificate.verdict) == (0, Verdict.PASS), done.out
    assert all(done.rule(rule).exercised for rule in ("G2", "G4", "G7", "G9", "H7"))


@needs("io_uring")
def test_io_uring_passes_for_what_it_is(tmp_path: Path) -> None:
    done = certified(tmp_path, "linux:io_uring", "--programs", "200")
    assert (done.status, done.certificate.verdict) == (0, Verdict.PASS), done.out
    assert done.certificate.model == "registration"


@needs("io_uring")
def test_io_uring_fails_for_what_it_is_not(tmp_path: Path) -> None:
    """Registered buffers pin pages: they do not follow the mapping, as faulting mirrors do."""
    done = certified(tmp_path, "linux:io_uring", "--programs", "60", "--model", "faulting")
    assert done.status == 1
    failed = {each.rule for each in done.certificate.rules if each.verdict is Verdict.FAIL}
    assert failed & {"I12", "C1"}
    record = next(each for each in done.certificate.failures if each.rule in {"I12", "C1"})
    path = f"lastwriter-out/{record.file}"
    assert record.operations == len(load_program(tmp_path / path)) <= 8
    assert lastwriter(tmp_path, "replay", path, "linux:io_uring").status == 1


@pytest.mark.parametrize(
    ("name", "atomicity"),
    [
        pytest.param(name, atomicity, marks=needs(name))
        for name, atomicity in (("process_vm", 1), ("io_uring", 1), ("kvm", 8), ("userfaultfd", 8))
    ],
)
def test_what_comes_of_a_program_is_judged_by_how_words_are_copied(
    name: str, atomicity: int
) -> None:
    with Worker(f"linux:{name}") as worker:
        assert worker.run(Program((), Geometry())).atomicity == atomicity


def open_candidate(spec: str) -> InProcess | Worker:
    return Worker(spec) if spec.startswith("linux:") else InProcess(spec)


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("spec", "operations"),
    [
        pytest.param(
            *(spec, operations), marks=[needs(spec[6:])] if spec.startswith("linux:") else []
        )
        for spec, operations in CORRECT.items()
    ],
)
def test_no_false_alarm_in_so_many_operations(spec: str, operations: int) -> None:
    with open_candidate(spec) as runner:
        description = runner.description
        examiner = Examiner(runner)
        coverage = examiner.coverage
        alarms: list[str] = []

        def consume(program: Program, length: int) -> bool:
            violation = examiner.examine(program, length)
            if violation is not None:
                alarms.append(f"{violation}\n{dump(program)}")
            return coverage.operations < operations and not alarms

        for shard in shards(description, SEED):
            if coverage.operations >= operations or alarms:
                break
            run_shard(plan_for(description, description.model, shard), shard, consume)
    # As a message, which is printed whole: the program may not fail again.
    assert not alarms, alarms[0]
    assert coverage.operations >= operations
    assert coverage.exercised["R1"] == coverage.programs
    assert coverage.exercised["A2"] > operations // 20


@needs("io_uring")
def test_the_finding_is_expected_where_the_kernel_has_it(tmp_path: Path) -> None:
    """The saved program runs first; on a kernel without the bug, expecting it is an error."""
    kept = tmp_path / "lastwriter-out" / "failures"
    kept.mkdir(parents=True)
    (kept / "C1.lw").write_text((FINDINGS / "io_uring-not-dirtied.lw").read_text())
    expected = ("--expect", str(FINDINGS / "linux-io_uring.toml"))
    done = certified(tmp_path, "linux:io_uring", "--programs", "200", *expected)
    lost = done.rule("C1").verdict is Verdict.FAIL
    assert (done.status, done.certificate.surprises == []) == ((0, True) if lost else (1, False))
    assert {each.rule for each in done.certificate.failures} <= {"C1"}
