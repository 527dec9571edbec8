"""Bounded exhaustive search finds what an interleaving shows, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import msgspec
import pytest
from racing import Unchecked, attempt, wrong

from conformance.explore.bounds import (
    BOUNDS,
    Bound,
    Catalogue,
    Covered,
    Part,
    parts,
)
from conformance.explore.programs import (
    alphabet,
    count_programs,
    small_geometry,
    small_programs,
)
from conformance.explore.schedules import Explored, explore
from conformance.explore.sweep import sweep
from reference.description import Description
from reference.drivers.faulting import FaultingDriver
from reference.host import Run, run_program
from reference.host.record import What
from reference.program import Program
from reference.schedule import Offer, Schedule, Switch
from reference.syncmodels import Sync
from reference.text import parse
from reference.validity import check_program

RACE = """\
lastwriter 1
geometry page_size=4096 pages=2 processes=1 devices=1 files=0 keys=0 jobs=0
map p0 rw page=0 pages=1
attach d0 p0
dread d0 page=0 offset=0 length=8
unmap p0 page=0 pages=1
"""
DESCRIPTION = Description(
    name="small",
    operations=frozenset(
        {"map", "unmap", "read", "write", "attach", "dread", "dwrite", "fork", "exit"}
    ),
    processes=2,
)


def results(text: str, switches: int, covered: Explored) -> list[tuple[Program, Run]]:
    run = lambda program: run_program(program, FaultingDriver)  # noqa: E731
    return list(explore(parse(text), run, switches, covered))


def histories(found: list[tuple[Program, Run]]) -> set[tuple[tuple[int, object], ...]]:
    return {tuple((each.index, each.outcome) for each in run.history) for _, run in found}


def test_it_says_when_every_schedule_has_been_run() -> None:
    covered = Explored()
    found = results(RACE, 1, covered)
    assert covered.complete
    assert covered.runs == len(found)
    assert all(run.broken is None and wrong(program, run) is None for program, run in found)


def test_it_is_not_complete_until_then() -> None:
    covered = Explored()
    run = lambda program: run_program(program, FaultingDriver)  # noqa: E731
    assert len(list(islice(explore(parse(RACE), run, 1, covered), 5))) == 5
    assert not covered.complete


def test_pruning_loses_no_behaviour() -> None:
    text = RACE + "write p0 page=1 offset=0 length=8 value=0x100\n"
    pruned, whole = Explored(), Explored()
    some = histories(results(text, 2, pruned))
    every = [
        (program, run)
        for program, run in explore(
            parse(text), lambda each: _anonymous(run_program(each, FaultingDriver)), 2, whole
        )
    ]
    assert pruned.pruned > 0
    assert whole.pruned == 0
    assert pruned.runs < whole.runs
    assert some == histories(every)


class Polite(FaultingDriver):
    """Lets others run before each fault."""

    def fault(self, address: int, write: bool) -> int:
        self.kernel.cond_resched()
        return super().fault(address, write)


def test_a_busy_wait_is_not_the_point_before_it() -> None:
    program = parse(RACE.replace("processes=1", "processes=2") + "fork p0 child=p1\n")
    some = explore(program, lambda each: run_program(each, Polite), 1, Explored())
    every = explore(program, lambda each: _anonymous(run_program(each, Polite)), 1, Explored())
    assert histories(list(some)) == histories(list(every))


def _anonymous(run: Run) -> Run:
    """A run whose states cannot be told apart, so that none is taken to be known."""
    run.offers = [Offer(*offer[:4], state=0) for offer in run.offers]
    return run


def test_one_switch_is_enough_for_an_unchecked_install() -> None:
    program = parse(RACE)
    found = explore(program, lambda each: attempt(each, Unchecked), 1, Explored())
    failing = [each for each, result in found if result.violation is not None]
    assert failing
    assert all(len(each.schedule.switches) == 1 for each in failing)
    assert attempt(program, Unchecked).violation is None
    assert all(attempt(each, FaultingDriver).violation is None for each in failing)


def test_a_schedule_is_followed_exactly() -> None:
    program = replace(parse(RACE), schedule=Schedule(strategy="random", seed=3, depth=2))
    first = run_program(program, FaultingDriver)
    assert first.switches
    followed = replace(program, schedule=Schedule(tuple(first.switches)))
    second = run_program(followed, FaultingDriver)
    assert (second.record, second.outcomes) == (first.record, first.outcomes)
    assert second.switches == first.switches


def test_a_switch_to_who_cannot_run_is_passed_over() -> None:
    schedule = Schedule((Switch(0, 0, 1, 9),))
    run = run_program(replace(parse(RACE), schedule=schedule), FaultingDriver)
    assert run.switches == []
    assert len(run.outcomes) == 4


@pytest.mark.parametrize("length", [1, 2])
def test_small_programs_are_valid_and_different(length: int) -> None:
    programs = list(small_programs(DESCRIPTION, Sync.FAULTING, length))
    assert len(programs) == len(set(programs))
    for program in programs:
        check_program(program)
        assert program.geometry == small_geometry(DESCRIPTION)


def test_programs_that_differ_by_the_names_of_pages_are_one() -> None:
    letters = alphabet(DESCRIPTION)
    paged = [letter for letter in letters if letter.pages or letter.length]
    programs = list(small_programs(DESCRIPTION, Sync.FAULTING, 1))
    assert len(programs) == len(letters) - len(paged) / 2


COPIES = """\
lastwriter 1
geometry page_size=4096 pages=2 processes=1 devices=1 files=0 keys=0 jobs=0
map p0 rw page=0 pages=1
attach d0 p0
write p0 page=0 offset=0 length=8 value=0x100
to_device d0 page=0 pages=1
read p0 page=0 offset=0 length=8
"""


def test_a_sweep_makes_every_failure_happen_once() -> None:
    found = list(sweep(parse(COPIES), lambda program: run_program(program, FaultingDriver)))
    assert found[0][0].schedule.injections == ()
    failures = [program.schedule.injections[0] for program, _ in found[1:]]
    assert len(failures) == len(set(failures))
    assert {("copy", 1), ("copy", 2), ("allocation", 1)} <= set(failures)
    for program, run in found[1:]:
        entries = [each for each in run.record if each.what == What.FAIL]
        assert [each.arguments for each in entries] == [program.schedule.injections[0]]
        assert run.broken is None


@pytest.mark.parametrize("length", [1, 2, 3])
def test_small_programs_are_counted_without_being_made(length: int) -> None:
    few = msgspec.structs.replace(
        DESCRIPTION, operations=frozenset({"map", "attach", "read", "dwrite", "fork", "exit"})
    )
    made = sum(1 for _ in small_programs(few, Sync.FAULTING, length))
    assert count_programs(few, length) == made > 0


@pytest.mark.parametrize("bound", [Bound(1, 1), Bound(2, 0), Bound(1, 2)])
def test_the_parts_of_a_bound_are_all_of_it(bound: Bound) -> None:
    whole = list(small_programs(DESCRIPTION, Sync.FAULTING, bound.operations))
    found = list(parts(bound, len(whole)))
    assert len(found) > 1 or bound.switches == 0
    catalogue = Catalogue(DESCRIPTION, Sync.FAULTING)
    ordered = [each for part in found for each in catalogue.programs(part)]
    assert len(ordered) == len(whole)
    assert set(ordered) == set(whole)
    # Forwards, backwards, and some of them not to their end.
    for part in (*found, *reversed(found)):
        expected = ordered[part.first : part.first + part.programs]
        assert list(islice(catalogue.programs(part), 1)) == expected[:1]
        assert list(catalogue.programs(part)) == expected


def test_a_part_is_covered_when_every_schedule_was_run() -> None:
    part = Part(Bound(1, 1), 0, 3)
    covered = Covered()
    runs = []

    def run(program: Program, length: int) -> Sequence[Offer]:
        assert length < len(program)  # which reads all memory at its end
        runs.append(program)
        return run_program(program, FaultingDriver).offers

    catalogue = Catalogue(DESCRIPTION, Sync.FAULTING)
    catalogue.explore(part, run, covered)
    assert (covered.programs, covered.failed, covered.runs) == (3, 0, len(runs))
    for program in catalogue.programs(part):
        mine = {each.schedule.switches for each in runs if each.operations == program.operations}
        explored = explore(program, lambda each: run_program(each, FaultingDriver), 1, Explored())
        assert mine == {each.schedule.switches for each, _ in explored}


def test_a_part_that_ends_early_covers_no_more_than_it_has_run() -> None:
    part = Part(Bound(1, 1), 0, 3)
    catalogue = Catalogue(DESCRIPTION, Sync.FAULTING)
    programs = list(catalogue.programs(part))
    covered = Covered()

    def run(program: Program, length: int) -> Sequence[Offer] | None:
        if program.operations == programs[1].operations:
            return None
        if program.operations == programs[2].operations and program.schedule.switches:
            raise InterruptedError
        return run_program(program, FaultingDriver).offers

    with pytest.raises(InterruptedError):
        catalogue.explore(part, run, covered)
    assert (covered.programs, covered.failed) == (1, 1)


def test_bounds_say_what_they_cover() -> None:
    assert str(Bound(3, 1)) == (
        "all programs of 3 operations on 2 pages, all schedules with up to 1 switch"
    )
    assert len(set(BOUNDS)) == len(BOUNDS)
