"""The mutants: each is wrong where its witness says so, and its base is not."""

from __future__ import annotations

import pytest
from mirror_programs import judged, random_program, run, script

from reference.mirrors import MIRRORS, MUTANTS, Mutant
from reference.validity import repair


@pytest.fixture(params=sorted(MUTANTS))
def mutant(request: pytest.FixtureRequest) -> Mutant:
    return MUTANTS[request.param]


class TestMutants:
    def test_there_are_enough_and_each_has_a_text(self) -> None:
        assert len(MUTANTS) >= 34
        assert len({mutant.title for mutant in MUTANTS.values()}) == len(MUTANTS)
        assert all(mutant.seen_in and mutant.base in MIRRORS for mutant in MUTANTS.values())

    def test_the_witness_breaks_the_rule_and_its_base_does_not(self, mutant: Mutant) -> None:
        correct, wrong = MIRRORS[mutant.base](), mutant.make()
        program = script(wrong, mutant.sequence, mutant.page_size)
        assert mutant.minimal == len(program)
        assert run(correct, program) != run(wrong, program)
        assert judged(correct, program).violation is None
        violation = judged(wrong, program).violation
        assert violation is not None
        assert violation.rule == mutant.rule
        assert violation.index == len(program) - 1, "the last operation should show it"

    def test_no_operation_of_the_witness_can_be_left_out(self, mutant: Mutant) -> None:
        wrong = mutant.make()
        program = script(wrong, mutant.sequence, mutant.page_size)
        for index in range(len(program)):
            kept = program.operations[:index] + program.operations[index + 1 :]
            shorter = program.with_operations(tuple(repair(kept, program.geometry)))
            assert judged(wrong, shorter).violation is None

    def test_it_names_itself_and_keeps_to_its_base_description(self, mutant: Mutant) -> None:
        description, base = mutant.make().describe(), MIRRORS[mutant.base]().describe()
        assert description.name == f"mutant:{mutant.id}"
        assert description.operations == base.operations

    def test_it_runs_on_whatever_comes(self, mutant: Mutant) -> None:
        wrong = mutant.make()
        description = wrong.describe()
        for seed in range(60):
            program = random_program(description, seed)
            assert len(run(wrong, program)) == len(program)
