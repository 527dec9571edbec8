"""Where generated programs aim: at the edges, and at what just happened."""

from __future__ import annotations

from collections import Counter

import pytest
from generated import describe, last_page, process_of, steps, take

from conformance.generate import (
    Plan,
    with_sweep,
)
from conformance.generate.sketch import Sketch
from reference.geometry import Geometry
from reference.operations import (
    ACCESSES,
    CPU_ACCESSES,
    DEVICE_ACCESSES,
    Flag,
    Kind,
    Operation,
)
from reference.program import Program
from reference.validity import MAX_LENGTH


@pytest.fixture(params=[False, True], ids=["plain", "keyed"])
def plan(request: pytest.FixtureRequest) -> Plan:
    return Plan.for_candidate(describe(keyed=request.param))


RANGE_EVENTS = frozenset(
    {
        Kind.MAP, Kind.UNMAP, Kind.PROTECT, Kind.DISCARD, Kind.PUNCH, Kind.FREE, Kind.RECLAIM,
        Kind.MIGRATE, Kind.COLLAPSE, Kind.SPLIT, Kind.MERGE, Kind.INVALIDATE,
    }
)  # fmt: skip


def test_every_supported_kind_appears(plan: Plan) -> None:
    counts = Counter(each.kind for p in take(plan, 500) for each in p.operations)
    assert counts.keys() == plan.profile.weights.keys()
    assert min(counts.values()) >= 10


def test_accesses_lie_at_the_edges_of_pages(plan: Plan) -> None:
    size = plan.geometry.page_size
    offsets: Counter[int] = Counter()
    straddling = pages = words = accesses = 0
    for program in take(plan, 200):
        for operation in program.operations:
            if operation.kind in ACCESSES:
                accesses += 1
                offsets[operation.offset] += 1
                straddling += last_page(operation, size) > operation.page
                pages += operation.length >= size
                words += operation.length <= 64
    for offset in (0, size - 8, size // 2):
        assert offsets[offset] >= 0.05 * accesses
    assert straddling >= 0.04 * accesses
    assert pages >= 0.005 * accesses
    assert words >= 0.9 * accesses


def test_long_accesses_are_bounded_on_huge_pages() -> None:
    description = describe(page_sizes=(2 << 20,))
    plan = Plan.for_candidate(description, Geometry(page_size=2 << 20))
    lengths = [each.length for p in take(plan, 100) for each in with_sweep(p, plan).operations]
    assert max(lengths) <= MAX_LENGTH


def test_most_accesses_hit_mapped_memory_and_some_do_not(plan: Plan) -> None:
    hits = accesses = 0
    for program in take(plan, 200):
        for sketch, operation in steps(plan, program):
            if operation.kind in ACCESSES:
                accesses += 1
                hits += operation.page in sketch.areas[process_of(sketch, operation)]
    assert 0.6 <= hits / accesses <= 0.95


def test_most_mapped_memory_is_writable(plan: Plan) -> None:
    writable = total = 0
    for program in take(plan, 100):
        sketch = Sketch(plan)
        for operation in program.operations:
            sketch.add(operation)
        for areas in sketch.areas.values():
            total += len(areas)
            writable += sum(bool(area.flags & Flag.WRITE) for area in areas.values())
    assert 0.5 <= writable / total <= 0.95


def test_the_other_side_looks_soon_after_an_event(plan: Plan) -> None:
    events = looked = 0
    for program in take(plan, 200):
        for sketch, operation in steps(plan, program):
            if operation.kind in RANGE_EVENTS and sketch.index + 3 < len(program):
                events += 1
                looked += _looked_at(plan, sketch, operation, program)
    assert events > 1000
    assert looked >= 0.5 * events


def _looked_at(plan: Plan, sketch: Sketch, event: Operation, program: Program) -> bool:
    """Whether a device that mirrors the event's pages, or else a CPU, accesses them next."""
    wanted = DEVICE_ACCESSES if reachable(plan, sketch, event) else CPU_ACCESSES
    following = program.operations[sketch.index + 1 : sketch.index + 4]
    return any(
        each.kind in wanted
        and each.page < event.page + event.pages
        and last_page(each, plan.geometry.page_size) >= event.page
        for each in following
    )


def reachable(plan: Plan, sketch: Sketch, event: Operation) -> bool:
    attached = sketch.live.attached
    if not plan.description.keyed:
        return event.process in attached.values()
    return any(
        attached[device] == event.process
        and key.page < event.page + event.pages
        and event.page < key.page + key.pages
        for (device, _), key in sketch.keys.items()
    )


def test_ranges_meet_the_edges_of_mappings(plan: Plan) -> None:
    sorts: Counter[str] = Counter()
    for program in take(plan, 200):
        for sketch, operation in steps(plan, program):
            if operation.kind in RANGE_EVENTS:
                first, end = operation.page, operation.page + operation.pages
                for start, stop in sketch.runs(operation.process):
                    sorts["whole"] += (start, stop) == (first, end)
                    sorts["starts"] += start == first and end < stop
                    sorts["ends"] += stop == end and start < first
                    sorts["straddles"] += first < start < end or first < stop < end
    assert min(sorts[sort] for sort in ("whole", "starts", "ends", "straddles")) >= 100


def test_most_compare_exchanges_can_succeed(plan: Plan) -> None:
    aimed = total = 0
    for program in take(plan, 200):
        for sketch, operation in steps(plan, program):
            if operation.kind in (Kind.CAS, Kind.DCAS):
                process = process_of(sketch, operation)
                known = sketch.expected(process, operation.page, operation.offset)
                total += 1
                aimed += operation.expected == known
    assert 0.6 <= aimed / total <= 0.95


def test_values_tell_which_operation_wrote_them(plan: Plan) -> None:
    for program in take(plan, 50):
        for index, operation in enumerate(program.operations, start=1):
            if operation.kind in (Kind.ADD, Kind.DADD):
                assert operation.value == index << 44
            elif operation.kind in ACCESSES - {Kind.READ, Kind.DREAD}:
                assert operation.value == index << 20


def test_keyed_accesses_mostly_stay_inside_a_live_key() -> None:
    plan = Plan.for_candidate(describe(keyed=True))
    size = plan.geometry.page_size
    inside = total = 0
    for program in take(plan, 200):
        for sketch, operation in steps(plan, program):
            if operation.kind in DEVICE_ACCESSES:
                total += 1
                key = sketch.keys.get((operation.device, operation.key))
                if key is not None and key.page <= operation.page:
                    inside += last_page(operation, size) < key.page + key.pages
    assert 0.7 <= inside / total <= 0.97


def test_something_happens_while_a_job_is_in_flight(plan: Plan) -> None:
    sizes: Counter[int] = Counter()
    between = waits = 0
    for program in take(plan, 300):
        started: dict[tuple[int, int], int] = {}
        for sketch, operation in steps(plan, program):
            job = (operation.device, operation.job)
            if operation.kind == Kind.SUBMIT:
                sizes[sketch.live.queued[job]] += 1
                started[job] = sketch.index
            elif operation.kind == Kind.WAIT:
                waits += 1
                between += sketch.index > started[job] + 1
    assert sizes.keys() == {1, 2, 3}
    assert between >= 0.7 * waits
    assert waits >= 100


def test_remaps_mostly_move_one_mapping_elsewhere(plan: Plan) -> None:
    moved = overlapping = total = 0
    for program in take(plan, 300):
        for sketch, operation in steps(plan, program):
            if operation.kind == Kind.REMAP:
                first, end = operation.page, operation.page + operation.pages
                runs = sketch.runs(operation.process)
                uniform = any(start <= first and end <= stop for start, stop in runs)
                overlaps = abs(operation.target - first) < operation.pages
                total += 1
                moved += uniform and not overlaps
                overlapping += overlaps
    assert moved >= 0.6 * total
    assert 0 < overlapping < 0.25 * total
