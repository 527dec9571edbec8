"""The sketch of a program under construction."""

from __future__ import annotations

from generated import describe

from conformance.generate import (
    Plan,
)
from conformance.generate.sketch import Side, Sketch
from reference.operations import (
    Flag,
    Kind,
    Operation,
)


def sketch_after(*operations: Operation, keyed: bool = False) -> Sketch:
    sketch = Sketch(Plan.for_candidate(describe(keyed=keyed)))
    for operation in operations:
        sketch.add(operation)
    return sketch


READ_WRITE = int(Flag.READ | Flag.WRITE)
MAP = Operation(Kind.MAP, 0, 0, READ_WRITE, 2, 4)
WRITE = Operation(Kind.WRITE, 0, 0, 0, 3, 0, 16, 16, value=1 << 20)


def test_the_sketch_splits_a_mapping_at_its_holes_and_rights() -> None:
    sketch = sketch_after(MAP, Operation(Kind.UNMAP, 0, 0, 0, 3, 1))
    assert sketch.runs(0) == [(2, 3), (4, 6)]
    sketch.add(Operation(Kind.PROTECT, 0, 0, int(Flag.READ), 5, 1))
    assert sketch.runs(0) == [(2, 3), (4, 5), (5, 6)]


def test_the_sketch_moves_a_mapping_with_its_stamps() -> None:
    sketch = sketch_after(MAP, WRITE, Operation(Kind.REMAP, 0, 0, 0, 3, 2, target=9))
    assert sketch.runs(0) == [(2, 3), (5, 6), (9, 11)]
    assert sketch.expected(0, 9, 24) == (1 << 20) + 1
    assert sketch.expected(0, 3, 24) == 0


def test_an_overlapping_remap_changes_nothing() -> None:
    sketch = sketch_after(MAP, WRITE, Operation(Kind.REMAP, 0, 0, 0, 3, 2, target=4))
    assert sketch.runs(0) == [(2, 6)]
    assert sketch.expected(0, 3, 16) == 1 << 20


def test_the_sketch_adds_and_forgets_stamps() -> None:
    add = Operation(Kind.ADD, 0, 0, 0, 3, 0, 24, 8, value=1 << 44)
    sketch = sketch_after(MAP, WRITE, add)
    assert sketch.expected(0, 3, 24) == (1 << 44) + (1 << 20) + 1
    sketch.add(Operation(Kind.DISCARD, 0, 0, 0, 3, 1))
    assert sketch.expected(0, 3, 24) == 0


def test_a_child_has_the_parents_memory_and_shares_only_what_is_shared() -> None:
    shared = Operation(Kind.MAP, 0, 0, READ_WRITE | Flag.SHARED, 8, 1)
    fork = Operation(Kind.FORK, 0, 0, 0, 0, 0, target=1)
    sketch = sketch_after(MAP, shared, WRITE, fork)
    assert sketch.expected(1, 3, 16) == 1 << 20
    sketch.add(WRITE._replace(process=1, value=9 << 20))
    sketch.add(WRITE._replace(process=1, page=8, value=10 << 20))
    assert sketch.expected(0, 3, 16) == 1 << 20
    assert sketch.expected(0, 8, 16) == 10 << 20


def test_a_registration_lives_only_where_its_rights_are_mapped() -> None:
    attach = Operation(Kind.ATTACH, 0, 0, 0, 0, 0)
    register = Operation(Kind.REGISTER, 0, 0, READ_WRITE, 4, 3, key=1)
    sketch = sketch_after(MAP, attach, register)
    assert not sketch.keys
    sketch.add(register._replace(pages=2))
    assert sketch.keys[0, 1][:2] == (4, 2)
    sketch.add(Operation(Kind.DETACH, 0, 0, 0, 0, 0))
    assert not sketch.keys


def test_a_huge_page_is_a_mapping_of_its_own() -> None:
    collapse = Operation(Kind.COLLAPSE, 0, 0, 0, 3, 2)
    assert sketch_after(MAP, collapse).runs(0) == [(2, 3), (3, 5), (5, 6)]
    # None is made across the edge of a mapping.
    assert sketch_after(MAP, collapse._replace(pages=4)).runs(0) == [(2, 6)]


def test_an_event_where_no_key_leads_asks_for_one() -> None:
    attach = Operation(Kind.ATTACH, 0, 0, 0, 0, 0)
    register = Operation(Kind.REGISTER, 0, 0, READ_WRITE, 4, 2, key=1)
    discard = Operation(Kind.DISCARD, 0, 0, 0, 2, 2)
    sketch = sketch_after(attach, MAP, register, keyed=True)
    for page, side in ((2, Side.KEYLESS), (4, Side.DEVICE)):
        sketch.add(discard._replace(page=page))
        aim = sketch.aim()
        assert aim is not None
        assert (aim.side, aim.page, aim.pages) == (side, page, 2)


def test_without_a_free_key_the_processor_looks() -> None:
    attach = Operation(Kind.ATTACH, 0, 0, 0, 0, 0)
    register = Operation(Kind.REGISTER, 0, 0, READ_WRITE, 4, 2)
    keys = [register._replace(key=key) for key in range(1, 5)]
    sketch = sketch_after(attach, MAP, *keys, MAP._replace(page=9), keyed=True)
    aim = sketch.aim()
    assert aim is not None
    assert aim.side == Side.CPU
