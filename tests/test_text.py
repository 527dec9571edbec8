"""The text form: whatever is printed is parsed back, and nothing else breaks the parser."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import schedules

from reference.geometry import LIMITS, PAGE_SIZES, Geometry
from reference.operations import Event, Flag, Kind, Operation
from reference.program import Comment, Program
from reference.signatures import RIGHTS, SIGNATURES, Argument
from reference.syncmodels import Sync
from reference.text import ParseError, dump, format_operation, parse
from reference.validity import check_program, repair

fixed = settings(derandomize=True, database=None, deadline=None)
U64 = (1 << 64) - 1
NEWLINE = re.compile(r"\r\n?|\n")
KINDS = st.sampled_from(Kind)
every_kind = pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name.lower())

# -- arbitrary programs -----------------------------------------------------------------------


def numbers(geometry: Geometry) -> dict[str, st.SearchStrategy[int]]:
    """Values for each field of an operation, most of them inside the arena."""
    pages = geometry.pages
    return {
        "process": st.integers(0, geometry.processes),
        "device": st.integers(0, geometry.devices),
        "page": st.integers(0, pages - 1),
        "pages": st.integers(1, min(4, pages)),
        "offset": st.integers(0, 8).map(lambda word: 8 * word),
        "length": st.sampled_from([8, 16, 64, 4096]),
        "target": st.integers(0, pages - 1),
        "file": st.integers(0, geometry.files),
        "key": st.integers(0, geometry.keys),
        "job": st.integers(0, geometry.jobs),
        "event": st.sampled_from(Event).map(int),
        "value": st.integers(0, U64),
        "expected": st.integers(0, U64),
    }


def flags(draw: st.DrawFn, argument: Argument) -> int:
    if argument.style == "rights":
        return int(draw(st.sampled_from(list(RIGHTS.values()))))
    return int(draw(st.sampled_from([Flag(0), argument.flag])))


@st.composite
def operations(
    draw: st.DrawFn, geometry: Geometry, kinds: st.SearchStrategy[Kind] = KINDS
) -> Operation:
    """An operation that may or may not make sense; the fields that its kind does not use are 0."""
    kind = draw(kinds)
    fields, bits, values = dict.fromkeys(Operation._fields, 0), 0, numbers(geometry)
    if kind == Kind.FORK:
        values["target"] = values["process"]
    for argument in SIGNATURES[kind].arguments:
        bits |= flags(draw, argument)
        if argument.field != "flags":
            fields[argument.field] = draw(values[argument.field])
    if kind == Kind.MAP and not bits & Flag.FILE:
        fields |= {"file": 0, "target": 0}
    return Operation(**(fields | {"kind": int(kind), "flags": bits}))


geometries = st.builds(
    Geometry,
    st.sampled_from(PAGE_SIZES),
    *(st.integers(low, min(high, 64)) for low, high in LIMITS.values()),
)
BEGINNING = parse("""lastwriter 1
fork p0 child=p1
attach d0 p0
attach d1 p1
dread d0 page=0 offset=0 length=8 job=1
submit d0 job=1
wait d0 job=1
""").operations
"""Without these most of what is drawn makes no sense."""
words_of_comments = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(
    lambda text: NEWLINE.sub("", text).strip()
)


@st.composite
def commented(draw: st.DrawFn, count: int) -> tuple[Comment, ...]:
    """Comments in the order in which they stand in a text."""
    before = draw(st.lists(st.integers(0, count), max_size=4))
    beside = draw(st.sets(st.integers(0, count - 1), max_size=3)) if count else set()
    places = sorted([*((index, False) for index in before), *((index, True) for index in beside)])
    return tuple(Comment(index, draw(words_of_comments), inline) for index, inline in places)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    geometry = draw(st.just(Geometry()) | geometries)
    drawn = draw(st.lists(operations(geometry), max_size=12))
    begun = BEGINNING[: draw(st.integers(0, len(BEGINNING)))]
    valid = tuple(repair((*begun, *drawn), geometry))
    model, seed = draw(st.sampled_from(Sync)), draw(st.integers(0, U64))
    return Program(valid, geometry, model, seed, draw(commented(len(valid))), draw(schedules))


# -- there and back ---------------------------------------------------------------------------


@given(programs())
@fixed
def test_a_printed_program_is_parsed_back(program: Program) -> None:
    check_program(program)
    text = dump(program)
    assert parse(text) == program
    assert dump(parse(text)) == text


@st.composite
def shuffled(draw: st.DrawFn, line: str) -> str:
    """The same operation or geometry with arguments and white space in another way."""
    code, sign, comment = line.partition("#")
    words = code.split()
    placed = 2 if words[0] in {"strategy", "switch"} else 1
    gap = st.sampled_from([" ", "\t", "   ", " \t"])
    words = [*words[:placed], *draw(st.permutations(words[placed:]))]
    return draw(st.sampled_from(["", " "])) + draw(gap).join(words) + sign + comment


@given(programs(), st.sampled_from(["\n", "\r\n", "\r"]), st.data())
@fixed
def test_layout_does_not_matter(program: Program, newline: str, data: st.DataObject) -> None:
    title, *rest = NEWLINE.split(dump(program))
    lines = [title + " "]
    for line in rest:
        movable = line and not line.startswith(("#", "model", "seed", "fail"))
        lines.append(data.draw(shuffled(line)) if movable else line)
        lines += data.draw(st.sampled_from([[], [""], ["  "]]))
    assert parse(newline.join(lines)) == program


@every_kind
def test_every_kind_is_printed_and_parsed_back(kind: Kind) -> None:
    geometry, taken = Geometry(), 0

    @given(operations(geometry, st.just(kind)))
    @settings(fixed, max_examples=25)
    def check(operation: Operation) -> None:
        nonlocal taken
        for begun in range(len(BEGINNING) + 1):
            program = Program(tuple(repair((*BEGINNING[:begun], operation), geometry)))
            taken += operation in program.operations
            assert parse(dump(program)) == program

    check()
    assert taken


@every_kind
def test_every_kind_is_printed_as_its_signature_says(kind: Kind) -> None:
    arguments = SIGNATURES[kind].arguments
    values = {a.field: 1 for a in arguments} | {"kind": int(kind), "flags": 0}
    for argument in arguments:
        values["flags"] |= int(argument.flag) | (3 if argument.style == "rights" else 0)
    name, *words = format_operation(
        Operation(**{field: values.get(field, 0) for field in Operation._fields})
    ).split()
    assert name == kind.name.lower()
    assert len(words) == len(arguments)
    named = [word.partition("=")[0] for word in words if "=" in word]
    positional = {"process", "device", "rights", "word"}
    assert named == [a.name for a in arguments if a.style not in positional]


def test_comments_of_header_lines_go_before_the_first_operation() -> None:
    program = parse(
        "lastwriter 1 # one\nseed 3#two\n# three\nmap p0 r page=0 pages=1 # four\n#five"
    )
    assert program.comments == (
        Comment(0, "one"),
        Comment(0, "two"),
        Comment(0, "three"),
        Comment(0, "four", inline=True),
        Comment(1, "five"),
    )


def test_a_comment_of_several_lines_stays_a_comment() -> None:
    program = parse("lastwriter 1\nexit p0\n")
    text = "why\nexit p0\r\nindeed"
    noted = Program(program.operations, comments=(Comment(0, text), Comment(0, text, inline=True)))
    assert parse(dump(noted)).operations == program.operations
    assert parse(dump(noted)).comments == (
        *(Comment(0, line) for line in ("why", "exit p0", "indeed")),
        Comment(0, "why exit p0 indeed", inline=True),
    )


# -- what is no program -----------------------------------------------------------------------


def check_parser(text: str) -> None:
    """Either a program that survives printing, or an error that points into the text."""
    try:
        program = parse(text)
    except ParseError as caught:
        error = caught
    else:
        check_program(program)
        assert parse(dump(program)) == program
        return
    lines = NEWLINE.split(text)
    assert 1 <= error.line <= len(lines)
    assert 1 <= error.column <= len(lines[error.line - 1]) + 1
    assert str(error).startswith(f"<program>:{error.line}:{error.column}: ")


@given(st.text())
@fixed
def test_arbitrary_text(text: str) -> None:
    check_parser(text)
    check_parser("lastwriter 1\n" + text)


PIECES = st.one_of(
    st.sampled_from([kind.name.lower() for kind in Kind]),
    st.sampled_from(["model", "geometry", "seed", "lastwriter", "\n", " ", "=", "#", "\t", "\r"]),
    st.sampled_from(["p0", "d0", "rw", "none", "shared", "page=0", "pages=1", "key=", "job=9"]),
    st.sampled_from(["0", "1", "99999", "0x", "0xffffffffffffffff", "1" * 30, "-1", "pages"]),
    st.text(max_size=3),
)
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), PIECES), min_size=1, max_size=4)


@given(programs(), edits)
@settings(fixed, max_examples=300)
def test_text_with_edits(program: Program, edits: list[tuple[float, int, str]]) -> None:
    text = dump(program)
    for place, length, piece in edits:
        at = int(place * len(text))
        text = text[:at] + piece + text[at + length :]
    check_parser(text)


START = "lastwriter 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: expected 'lastwriter 1'"),
        ("\n", "1:1: expected 'lastwriter 1'"),
        ("# no title", "1:1: expected 'lastwriter 1'"),
        ("lastwriter", "1:11: expected a version"),
        ("lastwriter one", "1:12: expected a number, got 'one'"),
        ("lastwriter 2\nmap", "1:12: program of version 2, this is 1"),
        ("  lastwriters 1", "1:3: expected 'lastwriter 1', got 'lastwriters'"),
        ("lastwriter 1 1", "1:14: unexpected '1'"),
        (START + "model", "2:6: expected a sync model"),
        (
            START + "model pinning",
            "2:7: expected one of faulting, refcounting, registration, got 'pinning'",
        ),
        (START + "seed -1", "2:6: expected a number, got '-1'"),
        (START + f"seed {1 << 64}", f"2:6: {1 << 64} is above {U64}"),
        (START + "seed " + "9" * 21, f"2:6: expected a number, got '{'9' * 21}'"),
        (START + "geometry pages=4 pages=4", "2:18: unknown or repeated field 'pages'"),
        (START + "geometry colour=4", "2:10: unknown or repeated field 'colour'"),
        (START + "geometry pages", "2:15: expected '='"),
        (START + "geometry pages=", "2:16: expected a number, got ''"),
        (START + "geometry pages=0", "2:1: pages: 0 is not in 1..1024"),
        (START + "geometry pages=70000", "2:1: pages: 70000 is not in 1..1024"),
        (
            START + "geometry page_size=8192",
            "2:1: page_size: 8192 is none of (4096, 65536, 2097152)",
        ),
        (START + "exit p0\n\n seed 4", "4:2: seed belongs before the first operation"),
        ("lastwriter 1\nseed 4\n# x\n  seed 4", "4:3: seed stands in line 2 already"),
        ("lastwriter 1\nmodel faulting\nmodel registration", "3:1: model stands in line 2 already"),
        (
            "lastwriter 1\ngeometry pages=4\nseed 1\ngeometry",
            "4:1: geometry stands in line 2 already",
        ),
        (START + "exit p0\nmodel faulting", "3:1: model belongs before the first operation"),
        (START + "strategy", "2:9: expected a strategy"),
        (
            START + "strategy dice",
            "2:10: expected one of follow, random, pct, explore, windows, got 'dice'",
        ),
        (START + "strategy pct depth=65536", "2:20: 65536 is above 65535"),
        (START + "strategy pct seed=1 at=2", "2:21: unknown or repeated field 'at'"),
        (START + "strategy pct\nstrategy pct", "3:1: strategy stands in line 2 already"),
        (START + "switch", "2:7: expected an actor (p0)"),
        (START + "switch p3", "2:8: 'p3' is no actor: one is p0, p1, p2, d0, d1, k, e0, e1"),
        (START + "switch p0 operation=1 to=k", "2:27: expected point="),
        (START + "switch p0 operation=1 point=x to=k", "2:29: expected a number, got 'x'"),
        (
            START + "switch k operation=1 point=2 to=",
            "2:33: '' is no actor: one is p0, p1, p2, d0, d1, k, e0, e1",
        ),
        (START + "exit p0\nfail copy 1", "3:1: fail belongs before the first operation"),
        (
            START + "fail disk 1",
            "2:6: expected one of allocation, copy, wait, trylock, insert, got 'disk'",
        ),
        (START + "fail copy", "2:10: expected a number"),
        (START + "fail copy 1 2", "2:13: unexpected '2'"),
        (START + "launch p0", "2:1: unknown operation 'launch'"),
        (START + "read", "2:5: expected a process (p0)"),
        (START + "attach p0", "2:10: expected a device (d0)"),
        (START + "protect p0 page=0 pages=1", "2:26: expected none, r or rw"),
        (START + "read p0 page=0 offset=0  # length?", "2:24: expected length="),
        (START + "fork p0", "2:8: expected child="),
        (START + "read p0 page=0 offset=0 length=8 length=8", "2:34: unexpected 'length=8'"),
        (START + "read p0 page=0 offset=0 length=8 value=1", "2:34: unexpected 'value=1'"),
        (START + "map p0 r rw page=0 pages=1", "2:10: unexpected 'rw'"),
        (START + "unmap p0 page=x pages=1", "2:15: expected a number, got 'x'"),
        (START + "unmap p0 page=65536 pages=1", "2:15: 65536 is above 65535"),
        (START + "exit p256", "2:7: 256 is above 255"),
        (
            START + "write p0 page=0 offset=0 length=8 value=0x10000000000000000",
            "2:41: expected a number, got '0x10000000000000000'",
        ),
        (START + "unmap p0 page=15 pages=2", "2:1: pages 15+2 is not inside 0..16"),
        (START + "unmap p0 page=3 pages=0", "2:1: pages 3+0 is not inside 0..16"),
        (START + "unmap p0 page=16 pages=1", "2:1: page 16 is not below 16"),
        (START + "remap p0 page=0 pages=2 to=15", "2:1: pages 15+2 is not inside 0..16"),
        (
            START + "read p0 page=15 offset=4088 length=16",
            "2:1: the access ends at byte 65544, behind the arena",
        ),
        (
            START + "read p0 page=0 offset=4 length=8",
            "2:1: offset 4 is not a multiple of 8 below 4096",
        ),
        (
            START + "read p0 page=0 offset=0 length=0",
            "2:1: length 0 is not a multiple of 8 in 1..4194304",
        ),
        (START + "exit p1", "2:1: process 1 does not exist"),
        (START + "detach d0", "2:1: device 0 is not attached"),
        (START + "attach d0 p0\nwait d0 job=1", "3:1: job 1 is not in flight"),
        (
            START + "invalidate p0 page=0 pages=1 event=flush",
            "2:36: expected one of unmap, clear, protection_vma, protection_page, soft_dirty, "
            "release, migrate, exclusive, unknown",
        ),
        (
            START + "map p0 rw page=0 pages=1 from=2",
            "2:1: an anonymous mapping has neither file nor from",
        ),
    ],
)
def test_what_is_wrong_is_said_and_where(text: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text, "it.lw")
    assert str(caught.value) == f"it.lw:{message}"
    line, column, _ = message.split(":", 2)
    assert (caught.value.line, caught.value.column) == (int(line), int(column))


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("seed 0xFf", lambda program: program.seed == 255),
        (f"seed {U64}", lambda program: program.seed == U64),
        ("model registration", lambda program: program.model is Sync.REGISTRATION),
        ("geometry", lambda program: program.geometry == Geometry()),
        ("geometry pages=007", lambda program: program.geometry.pages == 7),
        ("exit p0#done", lambda program: program.comments == (Comment(0, "done", inline=True),)),
        ("exit\u00a0p0", lambda program: len(program) == 1),
    ],
)
def test_what_is_accepted(text: str, check: Callable[[Program], bool]) -> None:
    assert check(parse(START + text))
