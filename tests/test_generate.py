"""Generated programs: valid, repeatable, long, and swept at the end."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from generated import EVERY_KIND, collect, describe, steps, take
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.backend import NAME
from conformance.generate import (
    PROFILES,
    Plan,
    Profile,
    length_distribution,
    programs,
    random_program,
    with_sweep,
)
from conformance.generate.build import build
from conformance.generate.choose import CHOICES, choose, context, possible, table
from conformance.generate.fresh import grown_from_seed
from conformance.generate.sketch import Sketch
from reference.geometry import Geometry
from reference.operations import (
    ACCESSES,
    DEVICE_ACCESSES,
    Kind,
    Operation,
)
from reference.program import Program
from reference.syncmodels import Sync
from reference.validity import check_program


@pytest.fixture(params=[False, True], ids=["plain", "keyed"])
def plan(request: pytest.FixtureRequest) -> Plan:
    return Plan.for_candidate(describe(keyed=request.param))


# Validity.


def test_random_programs_are_valid(plan: Plan) -> None:
    for program in take(plan, 300):
        check_program(program)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_gives_valid_programs(name: str) -> None:
    for keyed in (False, True):
        plan = Plan.for_candidate(describe(keyed=keyed), profile=name)
        for program in take(plan, 40):
            check_program(program)


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(pages=1),
        Geometry(pages=2, page_size=65536),
        Geometry(pages=16, page_size=2 << 20),
        Geometry(pages=1024),
    ],
    ids=str,
)
def test_programs_are_valid_in_every_geometry(geometry: Geometry) -> None:
    for keyed in (False, True):
        description = describe(keyed=keyed, page_sizes=(4096, 65536, 2 << 20))
        plan = Plan.for_candidate(description, geometry)
        for program in take(plan, 40):
            check_program(with_sweep(program, plan))


@pytest.mark.parametrize("resource", ["devices", "files", "keys", "jobs"])
def test_programs_do_without_what_the_candidate_lacks(resource: str) -> None:
    plan = Plan.for_candidate(msgspec.structs.replace(describe(), **{resource: 0}))
    for program in take(plan, 60):
        check_program(program)


def test_choices_of_any_size_give_valid_operations(plan: Plan) -> None:
    extremes = [0, 1, 255, 256, 2**63, 2**64 - 1, 2**64, 10**30, -1]
    for kind_choice in extremes:
        for packed in extremes:
            sketch = Sketch(plan)
            operations = []
            for _ in range(30):
                operations.append(choose(sketch, kind_choice, packed))
                sketch.add(operations[-1])
            check_program(Program(tuple(operations), plan.geometry, plan.model))


def test_every_possible_kind_can_be_built_anywhere(plan: Plan) -> None:
    for program in take(plan, 8):
        for sketch, operation in steps(plan, program):
            done = Program(program.operations[: sketch.index], plan.geometry, plan.model)
            if sketch.index % 7:
                continue
            for kind in plan.profile.weights:
                if possible(kind, context(sketch)):
                    new = build(sketch, kind, operation.page * 0x0123456789ABCDEF)
                    check_program(done.with_operations((*done.operations, new)))


def test_the_sketch_refuses_what_cannot_be() -> None:
    sketch = Sketch(Plan.for_candidate(describe()))
    with pytest.raises(ValueError, match="device 0 is not attached"):
        sketch.add(Operation(Kind.DETACH, 0, 0, 0, 0, 0))


# Restriction to what a candidate can do.


def test_only_supported_kinds_are_generated() -> None:
    names = frozenset({"map", "unmap", "read", "write", "attach", "dread", "discard", "fork"})
    plan = Plan.for_candidate(describe(operations=names, only_at={"discard": (65536,)}))
    kinds = {Kind(each.kind).name.lower() for p in take(plan, 100) for each in p.operations}
    assert kinds == names - {"discard"}


def test_an_access_carries_a_key_exactly_if_the_candidate_is_keyed(plan: Plan) -> None:
    for program in take(plan, 100):
        for operation in with_sweep(program, plan).operations:
            if operation.kind in DEVICE_ACCESSES:
                assert bool(operation.key) == plan.description.keyed


def test_a_candidate_without_jobs_gets_no_job() -> None:
    plan = Plan.for_candidate(describe(operations=EVERY_KIND - {"wait"}))
    assert not any(operation.job for p in take(plan, 100) for operation in p.operations)


@pytest.mark.parametrize("name", ["all", "jobs"])
@pytest.mark.parametrize("page_size", [4096, 65536])
def test_beside_a_job_a_device_writes_whole_units(name: str, page_size: int) -> None:
    unit, sizes = 4096, (4096, 65536)
    description = describe(write_unit=unit, page_sizes=sizes)
    geometry = Geometry(page_size=page_size, pages=8, keys=0)
    plan = Plan.for_candidate(description, geometry, name)
    seen: Counter[tuple[str, bool]] = Counter()
    for program in take(plan, 150):
        for sketch, operation in steps(plan, program):
            if operation.kind != Kind.DWRITE:
                continue
            whole = operation.offset % unit == 0 and operation.length % unit == 0
            beside = bool(operation.job or sketch.live.in_flight)
            seen["job" if operation.job else "beside" if beside else "alone", whole] += 1
            if operation.job:
                assert operation.length == unit
    assert not seen["job", False]
    assert not seen["beside", False]
    assert min(seen["job", True], seen["beside", True]) > 20
    assert min(seen["alone", True], seen["alone", False]) > 50


def test_a_candidate_that_can_do_nothing_by_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="no operation that is possible"):
        Plan.for_candidate(describe(operations=frozenset({"fork", "attach", "dread"})))


def test_an_unknown_profile_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no profile 'speed'; there are all, contents"):
        Profile.named("speed")


def test_max_operations_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_operations: 0"):
        Plan.for_candidate(describe(), max_operations=0)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("mapping", {Kind.REMAP, Kind.UNMAP}),
        ("rights", {Kind.PROTECT}),
        ("files", {Kind.TRUNCATE}),
        ("fork", {Kind.EXIT}),
        ("migration", {Kind.MIGRATE, Kind.TO_DEVICE}),
        ("jobs", {Kind.SUBMIT, Kind.WAIT}),
        ("registration", {Kind.REGISTER, Kind.UNREGISTER}),
        ("atomics", {Kind.ADD, Kind.DCAS}),
        ("events", {Kind.RECLAIM, Kind.SPLIT}),
    ],
)
def test_a_profile_emphasises_its_group(name: str, kinds: set[Kind]) -> None:
    def share(profile: str) -> float:
        found = take(Plan.for_candidate(describe(), profile=profile), 100)
        counts = Counter(each.kind for program in found for each in program.operations)
        return sum(counts[kind] for kind in kinds) / counts.total()

    assert share(name) > 1.3 * share("all")


def test_waiting_models_get_more_invalidations() -> None:
    description = describe()
    refcounting = Profile.for_candidate(description, Geometry(), Sync.REFCOUNTING)
    faulting = Profile.for_candidate(description, Geometry(), Sync.FAULTING)
    assert refcounting.weights[Kind.INVALIDATE] > faulting.weights[Kind.INVALIDATE]


# Determinism.


def test_a_program_follows_from_seed_and_index(plan: Plan) -> None:
    again = Plan.for_candidate(plan.description)
    assert take(plan, 20) == [random_program(again, 7, index) for index in range(20)]
    assert take(plan, 20, 8) != take(plan, 20)


def test_a_program_carries_the_seed_that_gives_it_again(plan: Plan) -> None:
    for program in take(plan, 20):
        assert grown_from_seed(plan, program.seed).program == program
        assert Program.from_bytes(program.to_bytes()) == program


def test_random_programs_are_all_different(plan: Plan) -> None:
    assert len({program.operations for program in take(plan, 300)}) == 300


# Lengths.


@pytest.mark.parametrize("backend", ["hypothesis", NAME])
def test_strategy_programs_are_valid_long_and_cheap(plan: Plan, backend: str) -> None:
    found, choices = collect(plan, 200, backend)
    for program in found:
        check_program(program)
    operations = sum(map(len, found))
    assert operations >= 40 * len(found)
    assert max(map(len, found)) == plan.max_operations
    assert choices <= 1.5 * operations


def test_random_programs_are_long_and_never_too_long(plan: Plan) -> None:
    lengths = list(map(len, take(plan, 300)))
    assert sum(lengths) >= 40 * len(lengths)
    assert max(lengths) <= plan.max_operations
    assert min(lengths) <= 10


def test_the_length_distribution_counts_every_program(plan: Plan) -> None:
    found = take(plan, 100)
    counts = length_distribution(found, 25)
    assert sum(counts.values()) == 100
    assert next(iter(counts)) == range(25)
    for bucket, count in counts.items():
        assert count == sum(len(program) in bucket for program in found)


@pytest.mark.parametrize("longest", [1, 3, 200])
def test_max_operations_is_respected(longest: int) -> None:
    plan = Plan.for_candidate(describe(), max_operations=longest)
    assert {len(p) <= longest for p in take(plan, 50)} == {True}
    assert max(len(p) for p in collect(plan, 50, NAME)[0]) == longest


# Smaller choices are simpler.


def test_zero_is_the_simplest_choice_of_every_kind() -> None:
    sketch = Sketch(Plan.for_candidate(describe()))
    sketch.add(build(sketch, Kind.MAP, 0))
    sketch.add(build(sketch, Kind.ATTACH, 0))
    for kind in (Kind.WRITE, Kind.DREAD, Kind.UNMAP, Kind.MIGRATE):
        operation = build(sketch, kind, 0)
        assert operation[1:7] == (0, 0, 0, 0, operation.pages, 0)
        assert operation.pages == (0 if kind in ACCESSES else 1)
        assert operation.length == (8 if kind in ACCESSES else 0)


def test_lower_kind_choices_do_not_depend_on_the_context(plan: Plan) -> None:
    """What the shrinker leaves standing should mean the same after it removed something."""
    contexts = {
        context(sketch)
        for program in take(plan, 5)
        for sketch, _ in steps(plan, program)
        if any(sketch.areas.values())
    }
    assert len(contexts) > 10
    richest = table(plan, max(contexts) | 0xFF8)
    for facts in contexts:
        for kind, usual in zip(table(plan, facts), richest[: CHOICES // 2], strict=False):
            assert kind == usual or not possible(usual, facts)


def test_the_benchmark_runs() -> None:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-W", "error", "-m", "benchmarks.generation", "6"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "near-copies" in result.stdout
    assert "plain state machine" in result.stdout
    assert not result.stderr


# The closing sweep.


def test_the_sweep_reads_everything_from_every_side() -> None:
    plan = Plan.for_candidate(describe())
    for program in take(plan, 50):
        swept = with_sweep(program, plan)
        check_program(swept)
        sketch = Sketch(plan)
        for operation in program.operations:
            sketch.add(operation)
        tail = swept.operations[len(program) :]
        reads = {(o.kind, o.process, o.device, o.page) for o in tail if o.kind in ACCESSES}
        sides = [(Kind.READ, p, 0) for p in sketch.live.alive]
        sides += [(Kind.DREAD, 0, d) for d in sketch.live.attached]
        assert reads == {(*side, page) for side in sides for page in range(plan.geometry.pages)}
        assert {o.length for o in tail} <= {0, plan.geometry.page_size}
        assert sum(o.kind == Kind.WAIT for o in tail) == len(sketch.live.in_flight)


def test_the_sweep_of_a_keyed_candidate_reads_through_every_live_key_and_beside_it() -> None:
    plan = Plan.for_candidate(describe(keyed=True))
    arena = plan.geometry.pages
    device_reads = 0
    for program in take(plan, 50):
        swept = with_sweep(program, plan)
        check_program(swept)
        sketch = Sketch(plan)
        for operation in program.operations:
            sketch.add(operation)
        tail = swept.operations[len(program) :]
        found = [(o.device, o.key, o.page) for o in tail if o.kind == Kind.DREAD]
        device_reads += len(found)
        assert found == [
            (*key, page)
            for key, range_ in sorted(sketch.keys.items())
            for page in range(range_.page - 1, range_.page + range_.pages + 1)
            if 0 <= page < arena
        ]
    assert device_reads > 50


def test_the_sweep_looks_before_it_reads() -> None:
    """What a device has in its memory comes home when it is read."""
    plan = Plan.for_candidate(describe())
    looks = 0
    for program in take(plan, 20):
        swept = with_sweep(program, plan)
        check_program(swept)
        tail = [o for o in swept.operations[len(program) :] if o.kind != Kind.WAIT]
        devices = [o.device for o in tail if o.kind == Kind.SNAPSHOT]
        looks += len(devices)
        assert [o.kind for o in tail[: len(devices)]] == [Kind.SNAPSHOT] * len(devices)
        assert devices == sorted({o.device for o in tail if o.kind == Kind.DREAD})
    assert looks > 10


@pytest.mark.parametrize("make", [take, lambda plan, n: collect(plan, n, NAME)[0]])
def test_programs_with_a_sweep_are_programs_swept(
    plan: Plan, make: Callable[[Plan, int], list[Program]]
) -> None:
    found = make(plan, 10)
    assert [with_sweep(program, plan).operations[: len(program)] for program in found] == [
        program.operations for program in found
    ]
    assert random_program(plan, 7, 3, sweep=True) == with_sweep(take(plan, 4)[3], plan)


@given(st.data())
@settings(max_examples=20, derandomize=True, database=None, deadline=None)
def test_the_strategy_sweeps_on_request(data: st.DataObject) -> None:
    plan = Plan.for_candidate(describe(), max_operations=20)
    program = data.draw(programs(plan, sweep=True))
    check_program(program)
    assert sum(operation.kind == Kind.READ for operation in program.operations) >= 16


def test_a_candidate_that_cannot_read_is_not_swept() -> None:
    plan = Plan.for_candidate(describe(operations=frozenset({"map", "write"})))
    program = take(plan, 1)[0]
    assert with_sweep(program, plan) == program
