"""Shards: the programs of a run follow from the seed alone."""

from __future__ import annotations

from itertools import islice

import pytest
from generated import describe

from conformance.backend import NAME as BACKEND
from conformance.generate import PROFILES
from conformance.shards import HUGE_PER_SHARD, PER_SHARD, Shard, plan_for, run_shard, shards
from reference.description import Description
from reference.operations import DEVICE_ACCESSES
from reference.program import Program
from reference.syncmodels import Sync
from reference.validity import check_program

EVERY_SIZE = (4096, 65536, 2 << 20)


def take(description: Description, seed: int, count: int) -> list[Shard]:
    return list(islice(shards(description, seed), count))


def made(description: Description, shard: Shard) -> list[tuple[Program, int]]:
    """The programs of a shard, with their lengths without the closing sweep."""
    found: list[tuple[Program, int]] = []
    plan = plan_for(description, Sync.FAULTING, shard)

    def consume(program: Program, length: int) -> bool:
        found.append((program, length))
        return True

    run_shard(plan, shard, consume)
    return found


@pytest.mark.parametrize("index", [0, 1, 2, 5])
def test_a_shard_is_a_function_of_its_seed(index: int) -> None:
    description = describe()
    first, again, other = (take(description, seed, 6)[index] for seed in (7, 7, 8))
    assert first == again
    assert made(description, first) == made(description, again)
    assert made(description, first) != made(description, other)


@pytest.mark.parametrize("index", range(4))
def test_programs_are_as_many_as_asked_for_valid_and_swept(index: int) -> None:
    description = describe()
    shard = take(description, 3, 4)[index]
    found = made(description, shard)
    assert len(found) == PER_SHARD
    assert len({program.operations for program, _ in found}) > PER_SHARD // 2
    for program, length in found:
        check_program(program)
        assert 0 < length <= len(program)
        assert program.seed == shard.seed
    assert any(length < len(program) for program, length in found)


def test_keyed_candidates_are_never_asked_without_a_key() -> None:
    description = describe(keyed=True)
    accesses = [
        operation
        for shard in take(description, 3, 4)
        for program, _ in made(description, shard)
        for operation in program.operations
        if operation.kind in DEVICE_ACCESSES
    ]
    assert len(accesses) > 100
    assert all(operation.key for operation in accesses)


@pytest.mark.parametrize("index", [0, 1])
def test_the_consumer_can_end_it(index: int) -> None:
    description = describe()
    shard = take(description, 3, 2)[index]
    plan = plan_for(description, Sync.FAULTING, shard)
    seen: list[Program] = []

    def consume(program: Program, length: int) -> bool:
        seen.append(program)
        return len(seen) < 3

    run_shard(plan, shard, consume)
    assert seen == [program for program, _ in made(description, shard)[:3]]


@pytest.mark.parametrize("index", [0, 1])
def test_a_limited_shard_gives_fewer(index: int) -> None:
    description = describe()
    shard = take(description, 3, 2)[index]
    assert len(made(description, shard.limited(4))) == 4
    assert shard.limited(1000) == shard


def test_shards_differ_in_all_that_matters() -> None:
    found = take(describe(page_sizes=EVERY_SIZE), 1, 128)
    assert [shard.index for shard in found] == list(range(128))
    assert len({shard.seed for shard in found}) == 128
    assert {shard.backend for shard in found[:2]} == {"hypothesis", BACKEND}
    assert {shard.profile for shard in found} == set(PROFILES)
    assert {shard.page_size for shard in found} == set(EVERY_SIZE)
    assert sum(shard.page_size == 4096 for shard in found) == 112
    huge = [shard for shard in found if shard.page_size == EVERY_SIZE[-1]]
    assert {shard.programs for shard in huge} == {HUGE_PER_SHARD}


def test_a_candidate_with_one_page_size_has_no_other() -> None:
    found = take(describe(page_sizes=(65536,)), 1, 64)
    assert {shard.page_size for shard in found} == {65536}
