"""The reducer, on predicates in place of candidates: what it can find is known exactly."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from random import Random

import pytest
from generated import describe, take

from conformance.generate import Plan
from conformance.reduce import Reduced, reduce
from reference.geometry import Geometry
from reference.operations import DEVICE_KINDS, Flag, Kind, Operation
from reference.program import Program
from reference.text import parse
from reference.trace import Violation
from reference.validity import check_program

Predicate = Callable[[Program], Violation | None]
Wanted = Callable[[Operation], bool]
PLAN = Plan.for_candidate(describe())
HEADER = """lastwriter 1
model faulting
geometry page_size=4096 pages=16 processes=3 devices=2 files=4 keys=4 jobs=4
"""


def of(lines: str) -> Program:
    program = parse(HEADER + "".join(f"{line.strip()}\n" for line in lines.strip().splitlines()))
    check_program(program)
    return program


def kind(*kinds: Kind) -> Wanted:
    return lambda operation: operation.kind in kinds


def in_order(*wanted: Wanted, rule: str = "C1") -> Predicate:
    """Fails at the operation that completes this subsequence."""

    def predicate(program: Program) -> Violation | None:
        check_program(program)
        left = list(wanted)
        for index, operation in enumerate(program.operations):
            if left and left[0](operation):
                left.pop(0)
                if not left:
                    return Violation(rule, index, "found")
        return None

    return predicate


def reduced(program: Program, predicate: Predicate, **options: object) -> Reduced:
    violation = predicate(program)
    assert violation is not None
    return reduce(program, violation, predicate, **options)  # type: ignore[arg-type]


@functools.cache
def generated() -> list[Program]:
    return take(PLAN, 400)


def failing(predicate: Predicate) -> Iterable[Program]:
    """Generated programs that fail, but not soon."""
    found = []
    for program in generated():
        violation = predicate(program)
        if violation is not None and violation.index >= 20:
            found.append(program)
        if len(found) == 5:
            return found
    raise AssertionError("too few programs fail")


def lines_of(program: Program) -> list[Kind]:
    return [Kind(each.kind) for each in program.operations]


# -- fewer operations -------------------------------------------------------------------------


def test_nothing_is_left_behind_the_failure() -> None:
    program = of("""
        map p0 rw page=0 pages=1
        read p0 page=0 offset=0 length=8
        unmap p0 page=0 pages=1
        read p0 page=0 offset=0 length=8
    """)
    result = reduced(program, in_order(kind(Kind.MAP), kind(Kind.READ)), limit=3)
    assert result.program.operations == program.operations[:2]
    assert result.violation.index == 1


@pytest.mark.parametrize(
    "wanted",
    [
        (Kind.WRITE,),
        (Kind.MAP, Kind.ATTACH, Kind.DREAD),
        (Kind.FORK, Kind.MAP, Kind.DISCARD, Kind.WRITE, Kind.READ),
        (Kind.MAP, Kind.DWRITE, Kind.TO_DEVICE, Kind.RECLAIM, Kind.READ),
    ],
    ids=str,
)
def test_delta_debugging_reaches_the_minimum(wanted: tuple[Kind, ...]) -> None:
    predicate = in_order(*map(kind, wanted))
    for program in failing(predicate):
        found = lines_of(reduced(program, predicate).program)
        # What must be there to be valid comes on top.
        set_up = {Kind.ATTACH} if set(wanted) & DEVICE_KINDS else set()
        assert sorted(found) == sorted({*wanted} | set_up)


def test_operations_that_need_each_other_go_together() -> None:
    predicate = in_order(kind(Kind.READ))
    program = of("""
        map p0 rw page=0 pages=1
        attach d0 p0
        dread d0 page=0 offset=0 length=8 job=1
        submit d0 job=1
        wait d0 job=1
        read p0 page=0 offset=0 length=8
    """)
    assert lines_of(reduced(program, predicate).program) == [Kind.READ]


def test_the_result_fails_and_is_valid() -> None:
    predicate = in_order(kind(Kind.MAP), kind(Kind.DREAD, Kind.DCAS), kind(Kind.UNMAP, Kind.WAIT))
    for program in failing(predicate):
        result = reduced(program, predicate)
        check_program(result.program)
        assert predicate(result.program) == result.violation
        assert result.violation.index == len(result.program) - 1
        assert (result.program.geometry, result.program.seed) == (program.geometry, program.seed)
        assert not result.unstable


def test_a_shorter_program_is_found_behind_a_longer_one() -> None:
    """Two reads fail, and so does a write and a device's read: one change at a time won't do."""

    def predicate(program: Program) -> Violation | None:
        kinds = lines_of(program)
        long = [Kind.MAP, Kind.ATTACH, Kind.WRITE, Kind.DREAD, Kind.MAP, Kind.DREAD]
        short = [Kind.MAP, Kind.ATTACH, Kind.DWRITE, Kind.MAP, Kind.DREAD]
        failed = kinds in (long, short)
        return Violation("I12", len(kinds) - 1, "stale") if failed else None

    program = of("""
        map p0 rw page=0 pages=1
        attach d0 p0
        write p0 page=0 offset=0 length=8 value=0x100000
        dread d0 page=0 offset=0 length=8
        map p0 rw page=0 pages=1
        dread d0 page=0 offset=0 length=8
    """)
    assert len(reduced(program, predicate).program) == 5


def test_one_big_change_is_found_in_place_of_many() -> None:
    """Fails if three pages or more were unmapped, however often that took an operation."""

    def predicate(program: Program) -> Violation | None:
        kinds, last = lines_of(program), program.operations[-1]
        gone = {
            page
            for each in program.operations
            if each.kind == Kind.UNMAP
            for page in range(each.page, each.page + each.pages)
        }
        failed = last.kind == Kind.DREAD and Kind.MAP in kinds and len(gone) >= 3
        return Violation("I12", len(kinds) - 1, "stale") if failed else None

    program = of("""
        map p0 rw page=0 pages=4
        attach d0 p0
        unmap p0 page=0 pages=1
        unmap p0 page=2 pages=1
        fork p0 child=p1
        unmap p1 page=3 pages=1
        dread d0 page=0 offset=0 length=8
    """)
    assert lines_of(reduced(program, predicate).program) == [
        *(Kind.MAP, Kind.ATTACH, Kind.UNMAP, Kind.DREAD)
    ]


# -- simpler operations -----------------------------------------------------------------------


def test_arguments_become_the_simplest() -> None:
    program = of("""
        map p0 r shared page=4 pages=6 file=2 from=5
        cas p0 page=4 offset=4088 length=24 expected=0x300000 value=0x900000
        remap p0 page=4 pages=3 to=8 dontunmap
        protect p0 r page=4 pages=6
    """)
    wanted = in_order(
        kind(Kind.MAP), kind(Kind.CAS, Kind.WRITE), kind(Kind.REMAP), kind(Kind.PROTECT)
    )
    assert (
        reduced(program, wanted).program.operations
        == of("""
        map p0 rw page=0 pages=1
        write p0 page=0 offset=0 length=8 value=0x200000
        remap p0 page=0 pages=1 to=1
        protect p0 rw page=0 pages=1
    """).operations
    )


def test_an_argument_that_matters_stays() -> None:
    predicate = in_order(
        lambda each: each.kind == Kind.MAP and bool(each.flags & Flag.SHARED),
        lambda each: each.kind == Kind.READ and each.length >= 16 and each.offset == 4088,
    )
    program = of("""
        map p0 r shared page=2 pages=3 file=1
        read p0 page=2 offset=4088 length=40
    """)
    mapped, read = reduced(program, predicate).program.operations
    assert mapped.flags == Flag.READ | Flag.WRITE | Flag.SHARED
    assert (read.page, read.offset, read.length) == (0, 4088, 16)


def test_a_change_of_the_mapping_becomes_an_unmap() -> None:
    changes = frozenset({Kind.REMAP, Kind.DISCARD, Kind.UNMAP})
    predicate = in_order(kind(Kind.MAP), kind(*changes), kind(Kind.READ))
    for program in failing(predicate):
        assert lines_of(reduced(program, predicate).program)[1] == Kind.UNMAP


def test_a_job_becomes_an_access_done_at_once() -> None:
    predicate = in_order(kind(Kind.MAP), kind(Kind.DWRITE), kind(Kind.READ))
    program = of("""
        map p0 rw page=0 pages=1
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x100000 job=3
        submit d0 job=3
        wait d0 job=3
        read p0 page=0 offset=0 length=8
    """)
    result = reduced(program, predicate).program
    assert not any(each.job for each in result.operations)
    assert Kind.SUBMIT not in lines_of(result)


def test_processes_devices_and_mappings_that_do_not_matter_are_gone() -> None:
    program = of("""
        map p0 rw page=7 pages=1
        fork p0 child=p2
        map p2 rw page=3 pages=2
        map p2 rw page=9 pages=2
        attach d0 p0
        attach d1 p2
        dwrite d1 page=3 offset=0 length=8 value=0x700000
        read p2 page=3 offset=0 length=8
    """)

    def predicate(program: Program) -> Violation | None:
        """A device's write and a read of the same page of the same process."""
        attached = {
            each.device: each.process for each in program.operations if each.kind == Kind.ATTACH
        }
        written = {
            (attached[each.device], each.page)
            for each in program.operations
            if each.kind == Kind.DWRITE
        }
        last = program.operations[-1]
        seen = last.kind == Kind.READ and (last.process, last.page) in written
        mapped = any(each.kind == Kind.MAP for each in program.operations)
        return Violation("C1", len(program) - 1, "lost") if seen and mapped else None

    assert (
        reduced(program, predicate).program.operations
        == of("""
        map p0 rw page=0 pages=1
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x300000
        read p0 page=0 offset=0 length=8
    """).operations
    )


# -- names and values -------------------------------------------------------------------------


def test_names_become_the_lowest() -> None:
    program = of("""
        fork p0 child=p2
        map p2 rw page=5 pages=2 file=3
        attach d1 p2
        register d1 key=3 rw page=5 pages=1
        dwrite d1 page=6 offset=0 length=8 value=0x500000 key=3 job=4
        submit d1 job=4
        truncate p2 file=3 pages=0
    """)
    predicate = in_order(
        kind(Kind.FORK),
        lambda each: each.kind == Kind.MAP and bool(each.process and each.flags & Flag.FILE),
        lambda each: each.kind == Kind.ATTACH and each.process > 0,
        kind(Kind.REGISTER),
        lambda each: each.kind == Kind.DWRITE and each.key > 0 and each.job > 0,
        kind(Kind.SUBMIT),
        lambda each: each.kind == Kind.TRUNCATE and each.process > 0,
    )
    result = reduced(program, predicate).program
    fork, mapped, attach, register, write, submit, truncate = result.operations
    assert fork.target == mapped.process == attach.process == truncate.process == 1
    assert mapped.file == truncate.file == attach.device == 0
    assert (register.device, register.key, write.key) == (0, 1, 1)
    assert write.job == submit.job == 1
    assert {mapped.page, register.page, write.page} == {0, 1}


def test_values_are_stamped_anew_and_what_is_expected_with_them() -> None:
    program = of("""
        map p0 rw page=0 pages=1
        write p0 page=0 offset=0 length=24 value=0x4b00000
        cas p0 page=0 offset=16 length=8 expected=0x4b00002 value=0x5100000
        add p0 page=0 offset=0 length=8 value=0x60000000000000
    """)

    def predicate(program: Program) -> Violation | None:
        values = {each.value: each for each in program.operations if each.kind == Kind.WRITE}
        swaps = [each for each in program.operations if each.kind == Kind.CAS]
        if lines_of(program)[-1] != Kind.ADD or not swaps or swaps[0].expected - 2 not in values:
            return None
        return Violation("C1", len(program) - 1, "found")

    write, swap, add = reduced(program, predicate).program.operations[-3:]
    assert write.value == 1 << 20
    assert (swap.expected, swap.value) == ((1 << 20) + 2, 2 << 20)
    assert add.value == 3 << 44


def test_large_pages_keep_their_numbers_apart() -> None:
    geometry = Geometry(page_size=65536, pages=8)
    first = Operation(Kind.MAP, 0, 0, 3, 2, 1)
    second = Operation(Kind.MAP, 0, 0, 3, 5, 1)
    read = Operation(Kind.READ, 0, 0, 0, 5, 0, 8192, 8)
    program = Program((first, second, read), geometry)

    def predicate(program: Program) -> Violation | None:
        mapped = {each.page for each in program.operations if each.kind == Kind.MAP}
        last = program.operations[-1]
        failed = len(mapped) == 2 and last.kind == Kind.READ and last.page == max(mapped)
        return Violation("C1", len(program) - 1, "found") if failed else None

    assert [each.page for each in reduced(program, predicate).program.operations] == [0, 1, 1]


# -- what must not happen ---------------------------------------------------------------------


def sometimes(predicate: Predicate, share: float, seed: int = 5) -> Predicate:
    random = Random(seed)
    return lambda program: predicate(program) if random.random() < share else None


def test_an_unstable_failure_is_marked_and_still_reduced() -> None:
    always = in_order(kind(Kind.MAP), kind(Kind.DREAD), kind(Kind.UNMAP))
    for number, program in enumerate(failing(always)):
        violation = always(program)
        assert violation is not None
        flaky = sometimes(always, 0.5, seed=number + 50)
        result = reduce(program, violation, flaky)
        assert result.unstable
        assert always(result.program) is not None
        assert len(result.program) == 4  # with the attach


def test_what_an_attempt_leaves_behind_does_not_lead_astray() -> None:
    """A crash that comes late is another program's."""
    fatal = in_order(kind(Kind.MAP), kind(Kind.FORK), kind(Kind.READ), rule="R1")
    harmed = False

    def harmful(program: Program) -> Violation | None:
        nonlocal harmed
        crashed = fatal(program) or (Violation("R1", 0, "of before") if harmed else None)
        # It is replaced behind a crash, and not behind a fork that does no harm yet.
        harmed = crashed is None and in_order(kind(Kind.FORK))(program) is not None
        return crashed

    program = next(iter(failing(fatal)))
    violation = fatal(program)
    assert violation is not None
    result = reduce(program, violation, harmful)
    assert result.unstable
    assert fatal(result.program) is not None


def test_a_program_that_never_fails_again_is_given_back_as_it_was() -> None:
    program = take(PLAN, 1)[0]
    violation = Violation("C1", 0, "once")
    result = reduce(program, violation, lambda program: None)
    assert (result.program, result.violation) == (program, violation)
    assert result.unstable
    assert result.runs <= 3


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("limit", [0, 1, 2, 3, 10, 47])
def test_the_limit_is_kept(limit: int, share: float) -> None:
    runs = 0
    always = in_order(kind(Kind.MAP), kind(Kind.READ))
    program = next(iter(failing(always)))
    flaky = sometimes(always, share)

    def counted(program: Program) -> Violation | None:
        nonlocal runs
        runs += 1
        return flaky(program)

    violation = always(program)
    assert violation is not None
    result = reduce(program, violation, counted, limit=limit)
    assert runs == result.runs <= limit
    assert always(result.program) is not None


def renamed_when_short(first: str, later: str) -> Predicate:
    """A failure that breaks another rule if it comes before the tenth operation."""
    found = in_order(kind(Kind.MAP), kind(Kind.READ), kind(Kind.WRITE), rule=first)

    def predicate(program: Program) -> Violation | None:
        violation = found(program)
        if violation is None or violation.index >= 9:
            return violation
        return Violation(later, violation.index, violation.message)

    return predicate


@pytest.mark.parametrize(
    ("first", "later", "short"),
    [
        ("C1", "I12", True),
        ("R1", "R1", True),
        ("C1", "R1", False),
        ("R1", "C1", False),
        ("R1", "R2", False),
        ("C1", "A4", False),  # which is expected to fail, below
        ("A4", "C1", False),
        ("A4", "A4", True),
    ],
)
def test_another_rule_may_be_broken_but_not_any_rule(first: str, later: str, short: bool) -> None:
    predicate = renamed_when_short(first, later)
    for program in failing(predicate):
        violation = predicate(program)
        assert violation is not None
        result = reduce(program, violation, predicate, excluded=frozenset({"A4"}))
        assert result.violation.rule == (later if short else first)
        assert (len(result.program) < 10) == short


def test_no_program_is_run_twice_while_reducing() -> None:
    predicate = in_order(kind(Kind.MAP), kind(Kind.FORK), kind(Kind.READ))
    program = next(iter(failing(predicate)))
    seen: list[tuple[Operation, ...]] = []

    def watched(program: Program) -> Violation | None:
        seen.append(program.operations)
        return predicate(program)

    violation = predicate(program)
    assert violation is not None
    result = reduce(program, violation, watched)
    # It is made sure of at the beginning and at the end.
    tried = seen[3:-1]
    assert len(tried) == len(set(tried))
    assert seen[-1] == result.program.operations
