"""The driver mutants: each is wrong where its witness says so, and its base is not."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import msgspec
import pytest

from conformance.generate import Plan, random_programs
from reference.description import Description
from reference.drivers.driver import Driver
from reference.drivers.mutants import BASES, DRIVER_MUTANTS, DriverMutant
from reference.geometry import Geometry
from reference.host import HOSTED, run_program
from reference.host.record import What
from reference.mirrors import MUTANTS
from reference.model import judge
from reference.operations import Kind
from reference.program import Program
from reference.protocol import Profile
from reference.rules import RULES
from reference.schedule import Schedule
from reference.trace import Trace, Violation
from reference.validity import repair

PLANTED = frozenset(
    {
        *("hmm-aba", "start-only", "seq-after-lookup", "check-outside-lock"),
        *("stale-input-on-retry", "reg-mid-invalidate", "nested-end-reopens", "dma-map-left"),
        *("notify-before-ready", "remove-returns-early", "end-skipped", "lock-kept-on-refusal"),
        *("sleep-in-atomic", "register-under-own-lock", "peer-lock-inversion"),
        *("dirty-needs-lock", "zero-size-lookup", "vma-split", "first-chunk-only"),
        *("cow-break-forgotten", "partial-fault-unwind", "merge-with-dead-neighbour"),
        *("unmap-length-mismatch", "eagain-forever", "trylock-spin", "full-device-spin"),
        *("dead-never-purged", "put-vs-invalidate", "partial-unmap-in-use"),
        *("end-inclusive", "over-invalidation", "zero-page-leak"),
    }
)
OF_HMM = frozenset({Kind.TO_DEVICE, Kind.TO_SYSTEM, Kind.EXCLUSIVE})
OF_KEYS = frozenset({Kind.REGISTER, Kind.UNREGISTER})
STRATEGIES = ("follow", "random", "pct")


@pytest.fixture(params=sorted(DRIVER_MUTANTS))
def mutant(request: pytest.FixtureRequest) -> DriverMutant:
    return DRIVER_MUTANTS[request.param]


def violation(
    program: Program,
    driver: type[Driver],
    profile: Profile = Profile.TOLERANT,
    *,
    protocol: bool = True,
) -> Violation | None:
    """What is wrong with a run; without `protocol` the record is left out, but for failures."""
    run = run_program(program, driver)
    hosted = run.plain()
    if not protocol:
        failures = tuple(entry for entry in run.record if entry.what == What.FAIL)
        hosted = msgspec.structs.replace(hosted, record=failures)
    return judge(Trace(program, tuple(run.outcomes), hosted=hosted), profile).violation


def describe(driver: type[Driver]) -> Description:
    kinds = HOSTED - OF_HMM - (frozenset({Kind.FAULT}) if driver.keyed else OF_KEYS)
    return Description(
        name=driver.name,
        model=driver.model,
        keyed=driver.keyed,
        operations=frozenset(kind.name.lower() for kind in kinds),
        page_sizes=(4096,),
        processes=3,
        devices=2,
        files=4,
        keys=4 if driver.keyed else 0,
        jobs=2,
    )


class TestMutants:
    def test_the_table_has_the_planted_ones_and_each_has_a_text(self) -> None:
        assert DRIVER_MUTANTS.keys() == PLANTED
        assert not DRIVER_MUTANTS.keys() & MUTANTS.keys()
        assert len({each.title for each in DRIVER_MUTANTS.values()}) == len(DRIVER_MUTANTS)
        assert all(each.seen_in for each in DRIVER_MUTANTS.values())

    def test_the_witness_breaks_the_rule_and_its_base_does_not(self, mutant: DriverMutant) -> None:
        assert violation(mutant.program, BASES[mutant.base], mutant.profile) is None
        found = violation(mutant.program, mutant.make, mutant.profile)
        assert found is not None
        assert found.rule == mutant.rule
        assert mutant.make.model in RULES[found.rule].models

    def test_it_does_harm_even_if_nobody_watches_the_protocol(self, mutant: DriverMutant) -> None:
        assert violation(mutant.program, BASES[mutant.base], protocol=False) is None
        found = violation(mutant.program, mutant.make, protocol=False)
        assert (found.rule if found else "") == mutant.harm

    def test_without_its_switches_it_does_none(self, mutant: DriverMutant) -> None:
        if mutant.switches:
            plain = replace(mutant.program, schedule=Schedule())
            assert violation(plain, mutant.make, protocol=False) is None

    def test_no_operation_of_the_witness_can_be_left_out(self, mutant: DriverMutant) -> None:
        program = mutant.program
        assert mutant.minimal <= len(program)
        for index in range(len(program)):
            kept = program.operations[:index] + program.operations[index + 1 :]
            plain = replace(program, schedule=replace(program.schedule, switches=()))
            shorter = plain.with_operations(tuple(repair(kept, program.geometry)))
            assert violation(shorter, mutant.make, protocol=False) is None


class TestBases:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize("name", ["counting", "caching"])
    def test_they_are_right_under_random_schedules(self, name: str, strategy: str) -> None:
        driver = BASES[name]
        description = describe(driver)
        plan = Plan.for_candidate(description, description.limit(Geometry(pages=8)))
        for seed, program in enumerate(islice(random_programs(plan, 11, sweep=True), 40)):
            schedule = Schedule(strategy=strategy, seed=seed, depth=(2, 3, 5)[seed % 3])
            scheduled = replace(program, schedule=schedule, model=driver.model)
            assert violation(scheduled, driver) is None
