"""linux:hmm with drivers that were changed by a line or two: a certification finds each of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hmm_changes import CHANGES, edited, mended

from adapters.vm.holder import lacks
from adapters.worker import Limits, Worker
from conformance import examine
from conformance.examine import Examiner, Failure
from conformance.shards import plan_for, run_shard, shards
from reference.program import Program
from reference.trace import Violation

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

LIMITS = Limits(start=120)
SEED = 4
PROGRAMS = 600
"""Within which each is found: the first of what `certify --seed 4` runs."""
RUNS = 8
"""Of a reduction, each of which may cost a machine."""


@pytest.fixture(scope="module")
def source() -> str:
    """The source of the kernel's own driver, without the failures that it is known for."""
    problem = lacks()
    if problem:
        pytest.fail(f"{problem}; `tox -e vm` does so")
    return mended()


def spec_of(folder: Path, source: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "test_hmm.c").write_text(source)
    # KSM and migration to a device do not go together, whatever the driver does.
    return f"linux:hmm,driver={folder / 'test_hmm.c'},merge=off"


class Search:
    """Programs as in a certification, until one fails by another rule than those passed over."""

    def __init__(self, worker: Worker, passed_over: frozenset[str] = frozenset()) -> None:
        self.description = worker.description
        self.examiner = Examiner(worker)
        self.passed_over = passed_over
        self.found: tuple[Program, Violation] | None = None

    def consume(self, program: Program, length: int) -> bool:
        violation = self.examiner.examine(program, length)
        if violation is not None and violation.rule not in self.passed_over:
            self.found = program, violation
        return self.found is None and self.examiner.coverage.programs < PROGRAMS

    def run(self) -> Search:
        for shard in shards(self.description, SEED):
            run_shard(
                plan_for(self.description, self.description.model, shard), shard, self.consume
            )
            if self.found or self.examiner.coverage.programs >= PROGRAMS:
                break
        return self

    def reduced(self) -> Failure:
        """The failure, with less in it."""
        assert self.found is not None, f"not found in {self.examiner.coverage.programs} programs"
        return self.examiner.reduce(*self.found)


def test_the_mended_driver_passes(source: str, tmp_path: Path) -> None:
    with Worker(spec_of(tmp_path / "mended", source), limits=LIMITS) as worker:
        search = Search(worker).run()
    assert search.found is None
    assert search.examiner.coverage.programs == PROGRAMS


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_driver_is_found(
    name: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "_SOME", RUNS)
    change = CHANGES[name]
    # Whatever memory a stale entry leads to may be a process's of the machine, and that one dies.
    harm = frozenset({"R1"}) - change.rules
    with Worker(spec_of(tmp_path / "it", edited(source, change.edits)), limits=LIMITS) as worker:
        reduced = Search(worker, harm).run().reduced()
    assert reduced.violation.rule in change.rules
    with Worker(spec_of(tmp_path / "mended", source), limits=LIMITS) as worker:
        assert Examiner(worker).examine(reduced.program) is None
