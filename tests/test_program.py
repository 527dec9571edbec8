"""The packed form of programs, and which programs make sense."""

import re
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import schedules

from reference.geometry import LIMITS, PAGE_SIZES, Geometry
from reference.operations import (
    DEVICE_KINDS,
    OPERATION,
    Flag,
    Kind,
    Operation,
    decode_operations,
    encode_operations,
)
from reference.program import Comment, Program
from reference.schedule import ENGINE, KERNEL, PLAIN, Injection, Schedule, Switch
from reference.signatures import SIGNATURES
from reference.syncmodels import Sync
from reference.text import parse
from reference.validity import Liveness, ProgramError, check_program, repair

fixed = settings(derandomize=True, database=None, deadline=None)
HEADER = 48
COUNT_AT = 40
GEOMETRY_AT = 24

records = st.builds(
    Operation,
    st.sampled_from(Kind).map(int),
    *(st.integers(0, field.width.maximum) for field in OPERATION.fields[1:]),
)
geometries = st.builds(
    Geometry, st.sampled_from(PAGE_SIZES), *(st.integers(*limits) for limits in LIMITS.values())
)
programs = st.builds(
    Program,
    st.lists(records, max_size=6).map(tuple),
    geometries,
    st.sampled_from(Sync),
    st.integers(0, (1 << 64) - 1),
    schedule=schedules,
)
SMALL = parse("lastwriter 1\nseed 5\nmap p0 rw page=0 pages=2\nexit p0\n")

# -- packed -----------------------------------------------------------------------------------


@given(programs, st.binary(max_size=50))
@fixed
def test_a_packed_program_is_unpacked_whatever_is_behind_it(program: Program, rest: bytes) -> None:
    packed = program.to_bytes()
    behind = len(packed) - HEADER - len(program) * OPERATION.size
    assert (behind == 0) == (program.schedule == PLAIN)
    assert Program.from_bytes(packed) == program
    assert Program.from_bytes(packed + rest) == program
    assert Program.from_bytes(packed).to_bytes() == packed


def test_comments_are_not_packed() -> None:
    noted = Program(SMALL.operations, seed=5, comments=(Comment(0, "a comment"),))
    assert noted.to_bytes() == SMALL.to_bytes()


def check_unpacking(data: bytes) -> None:
    """Either a program that survives packing, or a ValueError with something to say."""
    try:
        program = Program.from_bytes(data)
    except ValueError as error:
        refusal = str(error)
    else:
        assert Program.from_bytes(program.to_bytes()) == program
        return
    assert len(refusal) > 10


@given(st.binary(max_size=200))
@fixed
def test_arbitrary_bytes(data: bytes) -> None:
    check_unpacking(data)
    check_unpacking(SMALL.to_bytes()[:9] + data)


@given(programs, st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4))
@settings(fixed, max_examples=300)
def test_packed_bytes_with_edits(program: Program, edits: list[tuple[float, int]]) -> None:
    data = bytearray(program.to_bytes())
    for place, value in edits:
        data[int(place * (len(data) - 1))] = value
    check_unpacking(bytes(data))


@given(programs, st.floats(0, 1))
@fixed
def test_a_part_of_a_packed_program_is_none(program: Program, place: float) -> None:
    packed = program.to_bytes()
    with pytest.raises(ValueError, match=r"bytes"):
        Program.from_bytes(packed[: int(place * (len(packed) - 1))])


@pytest.mark.parametrize(
    ("at", "new", "message"),
    [
        (0, b"lwprog", "not a packed program"),
        (6, b"\2\0", "packed program of version 2, this is 1"),
        (8, b"\3", "unknown sync model 3"),
        (9, b"\1", "byte 9 is 0x01, not zero"),
        (15, b"\xff", "byte 15 is 0xff, not zero"),
        (44, b"\1", "a packed schedule has 24 bytes or more, got 1"),
        (44, b"\0\2\3", "a schedule of 197120 bytes does not fit in 129 bytes"),
        (47, b"\x80", "a schedule of 2147483648 bytes does not fit in 129 bytes"),
        (COUNT_AT, b"\3\0\0\0", "3 operations do not fit in 129 bytes"),
        (COUNT_AT, b"\xff\xff\xff\xff", "4294967295 operations do not fit in 129 bytes"),
        (GEOMETRY_AT, b"\0\0\0\0", "page_size: 0 is none of (4096, 65536, 2097152)"),
        (GEOMETRY_AT + 4, b"\1\4", "pages: 1025 is not in 1..1024"),
        (GEOMETRY_AT + 6, b"\0\0", "processes: 0 is not in 1..3"),
        (GEOMETRY_AT + 8, b"\3\0", "devices: 3 is not in 0..2"),
        (GEOMETRY_AT + 10, b"\5\0", "files: 5 is not in 0..4"),
        (GEOMETRY_AT + 12, b"\x09\0", "keys: 9 is not in 0..8"),
        (GEOMETRY_AT + 14, b"\5\0", "jobs: 5 is not in 0..4"),
        (HEADER, b"\0", "operation 0: unknown kind 0"),
        (HEADER + OPERATION.size, b"\x0f", "operation 1: unknown kind 15"),
    ],
)
def test_what_is_wrong_with_packed_data_is_said(at: int, new: bytes, message: str) -> None:
    data = bytearray(SMALL.to_bytes() + b"\0")
    data[at : at + len(new)] = new
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Program.from_bytes(bytes(data))


SCHEDULED = Program(
    (),
    schedule=Schedule(
        (Switch(0, 3, 7, KERNEL), Switch(ENGINE, 1, 2, 0)), "pct", 9, 3, (Injection("copy", 2),)
    ),
)
FIRST_SWITCH, FIRST_FAILURE = HEADER + 24, HEADER + 24 + 2 * 12


@pytest.mark.parametrize(
    ("at", "new", "message"),
    [
        (44, b"\x37", "2 switches and 1 failures do not fill a schedule of 55 bytes"),
        (HEADER + 8, b"\3", "3 switches and 1 failures do not fill a schedule of 56 bytes"),
        (HEADER + 15, b"\xff", "2 switches and 4278190081 failures do not fill a schedule of 56"),
        (HEADER + 18, b"\5", "unknown strategy 5"),
        (HEADER + 19, b"\1", "a reserved byte of the schedule is not zero"),
        (HEADER + 23, b"\1", "a reserved byte of the schedule is not zero"),
        (FIRST_SWITCH + 8, b"\7", "no actor has number 7"),
        (FIRST_SWITCH + 9, b"\x1a", "no actor has number 26"),
        (FIRST_SWITCH + 11, b"\1", "a reserved byte of a switch is not zero"),
        (FIRST_FAILURE + 4, b"\5", "unknown site 5"),
        (FIRST_FAILURE + 5, b"\1", "a reserved byte of a failure is not zero"),
        (FIRST_FAILURE + 7, b"\1", "a reserved byte of a failure is not zero"),
    ],
)
def test_what_is_wrong_with_a_packed_schedule_is_said(at: int, new: bytes, message: str) -> None:
    data = bytearray(SCHEDULED.to_bytes())
    assert Program.from_bytes(bytes(data)) == SCHEDULED
    data[at : at + len(new)] = new
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Program.from_bytes(bytes(data))


def test_a_plain_schedule_is_packed_in_one_way_only() -> None:
    data = bytearray(Program(()).to_bytes()) + bytes(24)
    data[44] = 24
    with pytest.raises(ValueError, match=r"^the plain schedule is packed as nothing$"):
        Program.from_bytes(bytes(data))


def test_a_number_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a schedule that cannot be packed: "):
        Program((), schedule=Schedule((Switch(0, 1 << 32, 0, 1),))).to_bytes()


def test_short_data_is_no_program() -> None:
    with pytest.raises(ValueError, match=r"^a packed program has 48 bytes or more, got 47$"):
        Program.from_bytes(SMALL.to_bytes()[:47])


def test_more_operations_than_a_program_has_room_for_are_refused_even_if_they_are_there() -> None:
    operation = encode_operations(SMALL.operations[:1])
    data = bytearray(SMALL.to_bytes()[:HEADER])
    struct.pack_into("<I", data, COUNT_AT, (1 << 20) + 1)
    with pytest.raises(ValueError, match=r"^1048577 operations do not fit in 41943128 bytes$"):
        Program.from_bytes(bytes(data) + operation * ((1 << 20) + 1))


@given(st.lists(records, max_size=5))
@fixed
def test_operations_are_decoded_as_they_were_encoded(operations: list[Operation]) -> None:
    data = encode_operations(operations)
    assert decode_operations(data) == operations
    assert decode_operations(memoryview(data)) == operations


def test_a_partial_record_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^39 bytes are no whole number of 40-byte records$"):
        decode_operations(bytes(39))


def test_other_operations_leave_no_comments() -> None:
    noted = Program(SMALL.operations, seed=9, comments=(Comment(0, "a comment"),))
    changed = noted.with_operations(SMALL.operations[:1])
    assert changed == Program(SMALL.operations[:1], seed=9)


# -- which programs make sense ----------------------------------------------------------------


@given(st.lists(records, max_size=8), geometries)
@fixed
def test_what_repair_leaves_makes_sense(operations: list[Operation], geometry: Geometry) -> None:
    left = tuple(repair(operations, geometry))
    check_program(Program(left, geometry))
    assert tuple(repair(left, geometry)) == left


def test_repair_leaves_out_what_depends_on_what_was_left_out() -> None:
    text = "attach d0 p0\ndwrite d0 page=0 offset=0 length=8 value=0x1 job=1\nsubmit d0 job=1\n"
    program = parse(f"lastwriter 1\n{text}wait d0 job=1\nexit p0\n")
    assert list(repair(program.operations[1:], program.geometry)) == [program.operations[-1]]
    without_access = (program.operations[0], *program.operations[2:])
    assert list(repair(without_access, program.geometry)) == [
        program.operations[0],
        program.operations[-1],
    ]


def test_the_first_operation_without_sense_is_named() -> None:
    program = Program((SMALL.operations[1], SMALL.operations[1]))
    with pytest.raises(ProgramError, match=r"^operation 1: process 0 does not exist$") as caught:
        check_program(program)
    assert (caught.value.index, caught.value.problem) == (1, "process 0 does not exist")


def sensible(kind: Kind) -> tuple[Liveness, Operation]:
    """An operation of the kind that makes sense, and what must have been before it."""
    live = Liveness(Geometry())
    values = {"kind": int(kind), "process": 0, "device": 0, "flags": 0, "page": 0, "pages": 0}
    fields = SIGNATURES[kind].fields
    values |= {name: 1 for name in ("pages", "target", "key") if name in fields}
    values |= {"length": 8} if "length" in fields else {}
    values |= {"job": 1} if kind in {Kind.SUBMIT, Kind.WAIT} else {}
    if any(argument.style == "rights" for argument in SIGNATURES[kind].arguments):
        values["flags"] = int(Flag.READ)
    if kind == Kind.MAP:
        values["target"] = 0
    if kind in DEVICE_KINDS - {Kind.ATTACH}:
        live.attached[0] = 0
    if kind == Kind.SUBMIT:
        live.queued[0, 1] = 1
    if kind == Kind.WAIT:
        live.in_flight[0, 1] = 1
    return live, Operation(**values)


every_kind = pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name.lower())


@every_kind
def test_a_sensible_operation_is_taken(kind: Kind) -> None:
    live, operation = sensible(kind)
    assert live.step(operation) is None


@every_kind
def test_fields_that_a_kind_does_not_use_are_zero(kind: Kind) -> None:
    live, operation = sensible(kind)
    unused = set(Operation._fields) - SIGNATURES[kind].fields - {"kind"}
    assert "reserved" in unused
    for name in unused:
        problem = live.step(operation._replace(**{name: 7}))
        assert problem == f"{kind.name.lower()} does not use {name}, which is 7"


@every_kind
def test_flags_that_a_kind_does_not_use_are_zero(kind: Kind) -> None:
    live, operation = sensible(kind)
    used = Flag(0)
    for argument in SIGNATURES[kind].arguments:
        used |= argument.flag | (Flag.READ | Flag.WRITE if argument.style == "rights" else Flag(0))
    for bit in (1 << number for number in range(8)):
        if not bit & int(used):
            problem = live.step(operation._replace(flags=operation.flags | bit))
            assert problem is not None, f"flag {bit:#x}"
            assert "does not use flags" in problem


@pytest.mark.parametrize("kind", [Kind.MAP, Kind.PROTECT, Kind.FAULT, Kind.REGISTER])
def test_writing_without_reading_is_no_right(kind: Kind) -> None:
    live, operation = sensible(kind)
    assert live.step(operation._replace(flags=int(Flag.WRITE))) == "write without read"


@pytest.mark.parametrize("kind", [Kind.FAULT, Kind.REGISTER])
def test_devices_ask_for_some_right(kind: Kind) -> None:
    live, operation = sensible(kind)
    assert live.step(operation._replace(flags=0)) == f"{kind.name.lower()} asks for no right"


ATTACHED = "attach d0 p0\n"
QUEUED = ATTACHED + "dread d0 page=0 offset=0 length=8 job=1\n"
IN_FLIGHT = QUEUED + "submit d0 job=1\n"


@pytest.mark.parametrize(
    ("before", "last", "problem"),
    [
        ("fork p0 child=p1\n", "fork p0 child=p1", "process 1 exists or has existed"),
        (
            "fork p0 child=p1\nexit p1\n",
            "fork p0 child=p1",
            "process 1 exists or has existed",
        ),
        ("", "fork p0 child=p3", "child 3 is not below 3"),
        ("exit p0\n", "attach d0 p0", "process 0 does not exist"),
        (ATTACHED, "attach d0 p0", "device 0 is attached already"),
        (ATTACHED + "detach d0\n", "detach d0", "device 0 is not attached"),
        ("", "attach d2 p0", "device 2 is not below 2"),
        ("", "truncate p0 file=4 pages=0", "file 4 is not below 4"),
        ("", "truncate p0 file=0 pages=17", "pages 17 is above 16"),
        ("", "map p0 r page=0 pages=1 file=4", "file 4 is not below 4"),
        ("", "map p0 r page=0 pages=2 file=0 from=15", "pages 15+2 is not inside 0..16"),
        (ATTACHED, "register d0 key=0 r page=0 pages=1", "key 0 is no key"),
        (ATTACHED, "register d0 key=5 r page=0 pages=1", "key 5 is above 4"),
        (ATTACHED, "unregister d0 key=0", "key 0 is no key"),
        (ATTACHED, "dread d0 page=0 offset=0 length=8 job=3", "job 3 is above 2"),
        (ATTACHED, "submit d0 job=1", "job 1 is empty or in flight"),
        (ATTACHED, "submit d0 job=0", "job 0 is empty or in flight"),
        (QUEUED, "wait d0 job=1", "job 1 is not in flight"),
        (QUEUED, "detach d0", "device 0 has a job that was not waited for"),
        (IN_FLIGHT, "submit d0 job=1", "job 1 is empty or in flight"),
        (IN_FLIGHT, "dread d0 page=0 offset=0 length=8 job=1", "job 1 is in flight"),
        (IN_FLIGHT, "unregister d0 key=1", "device 0 has a job that was not waited for"),
        (
            ATTACHED + 8 * "dread d0 page=0 offset=0 length=8 job=1\n",
            "dread d0 page=0 offset=0 length=8 job=1",
            "job 1 is full",
        ),
    ],
)
def test_only_what_exists_is_named(before: str, last: str, problem: str) -> None:
    parse(f"lastwriter 1\n{before}")
    with pytest.raises(ValueError, match=f":1: {re.escape(problem)}$"):
        parse(f"lastwriter 1\n{before}{last}\n")


@pytest.mark.parametrize(
    "text",
    [
        ATTACHED + "exit p0\ndread d0 page=0 offset=0 length=8\ndetach d0",
        IN_FLIGHT + "wait d0 job=1\ndetach d0",
        IN_FLIGHT + "wait d0 job=1\ndread d0 page=0 offset=0 length=8 job=1",
        IN_FLIGHT + "exit p0\nwait d0 job=1",
        "map p0 none page=15 pages=1 file=3 from=15",
        "truncate p0 file=3 pages=0\ntruncate p0 file=3 pages=16",
        "read p0 page=15 offset=4088 length=8",
        "remap p0 page=0 pages=8 to=0",
    ],
)
def test_what_may_go_wrong_only_when_run_makes_sense(text: str) -> None:
    check_program(parse(f"lastwriter 1\n{text}\n"))
