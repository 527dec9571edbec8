"""Mirrors in C: the examples, by both loaders, and what the sanitizers say to them."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from adapters import ccffi, clib
from adapters.clib import Library
from reference.cheader import HEADER
from reference.description import Description
from reference.geometry import Geometry
from reference.mirrors import MIRRORS
from reference.model import judge
from reference.operations import EVENTS, Flag, Kind, Operation
from reference.outcomes import Outcome, Status, decode_wait
from reference.program import Program
from reference.signatures import RIGHTS, SIGNATURES
from reference.trace import Trace
from reference.validity import repair

COMPILER = shutil.which("gcc") or shutil.which("cc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "adapters" / "examples"
STRICT = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
LOADERS: dict[str, Callable[[Path], Library]] = {
    "ctypes": clib.load_library,
    "cffi": ccffi.load_library,
}
RW = Flag.READ | Flag.WRITE


def compile_library(folder: Path, source: Path, *options: str) -> Path:
    library = folder / f"{source.stem}.so"
    include = [f"-I{HEADER.parent}", f"-I{EXAMPLES}"]
    command = [str(COMPILER), *STRICT, *include, *options, str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    return library


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of our own instead of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(tmp_path_factory.mktemp("example"), EXAMPLES / "mirror.c")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(tmp_path_factory.mktemp("template"), EXAMPLES / "template.c")


@pytest.fixture(params=LOADERS)
def load(request: pytest.FixtureRequest) -> Callable[[Path], Library]:
    return LOADERS[request.param]


# ---- Random programs ----


def random_flags(chance: random.Random, kind: Kind) -> int:
    """Rights, mostly all of them, and any of the bare words of this kind."""
    flags = Flag(0)
    for argument in SIGNATURES[kind].arguments:
        if argument.style == "rights":
            flags |= chance.choice([*RIGHTS.values(), RW, RW])
        elif chance.random() < 0.4:
            flags |= argument.flag
    return int(flags)


def random_operation(chance: random.Random, kind: Kind, geometry: Geometry) -> Operation:
    """Any operation of this kind; most of them make sense somewhere."""
    page = chance.randrange(geometry.pages)
    pages = chance.randint(1, min(3, geometry.pages - page))
    length = 8 * chance.randint(1, 4 if chance.random() < 0.8 else geometry.page_size // 8)
    fields = {
        "process": chance.randrange(geometry.processes),
        "device": chance.randrange(max(1, geometry.devices)),
        "flags": random_flags(chance, kind),
        "page": page,
        "pages": pages,
        "offset": chance.choice([0, 0, 8, geometry.page_size - 8]),
        "length": length,
        "target": chance.randrange(geometry.pages if kind != Kind.FORK else geometry.processes),
        "file": chance.randrange(max(1, geometry.files)),
        "job": chance.choice([0, chance.randint(0, geometry.jobs)]),
        "event": chance.randrange(8),
        "value": chance.choice([0, 1, chance.getrandbits(64)]) % (2**64 - 4096),
        "expected": chance.choice([0, 1]),
    }
    if kind in {Kind.SUBMIT, Kind.WAIT}:
        fields["job"] = chance.randint(1, max(1, geometry.jobs))
    if kind == Kind.MAP and not fields["flags"] & Flag.FILE:
        fields["file"] = fields["target"] = 0
    used = SIGNATURES[kind].fields | {"kind"}
    chosen = {name: value for name, value in fields.items() if name in used}
    return Operation(*[0] * 6)._replace(kind=kind, **chosen)


def random_program(seed: int, description: Description, length: int = 150) -> Program:
    """A valid program over a small arena, where all is mapped and attached to begin with."""
    chance = random.Random(seed)
    geometry = description.limit(Geometry(pages=6))
    kinds = sorted(description.kinds(geometry.page_size))
    often = [kind for kind in kinds if kind not in {Kind.EXIT, Kind.DETACH}] * 4
    often += [kind for kind in (Kind.MAP, Kind.READ, Kind.DREAD, Kind.DWRITE) if kind in kinds] * 12
    operations = [Operation(Kind.MAP, 0, 0, RW, 0, geometry.pages)]
    operations += [Operation(Kind.ATTACH, 0, d, 0, 0, 0) for d in range(geometry.devices)]
    operations += [
        random_operation(chance, chance.choice(often + kinds), geometry) for _ in range(length)
    ]
    return Program(tuple(repair(operations, geometry)), geometry, description.model, seed)


def outcomes_of(library: Library, program: Program, batch: int) -> list[Outcome]:
    library.reset(program.geometry)
    outcomes: list[Outcome] = []
    for start in range(0, len(program), batch):
        outcomes += library.run(program.operations[start : start + batch])
    library.close()
    return outcomes


def is_allowed(program: Program, outcomes: Sequence[Outcome]) -> bool:
    return judge(Trace(program, tuple(outcomes))).violation is None


# ---- The examples ----


@pytest.mark.parametrize("name", ["example", "template"])
def test_examples_do_what_the_contract_asks(name: str, request: pytest.FixtureRequest) -> None:
    library = clib.load_library(request.getfixturevalue(name))
    for seed in range(150):
        program = random_program(seed, library.describe())
        assert is_allowed(program, outcomes_of(library, program, len(program))), seed


def test_the_example_and_the_reference_agree(example: Path) -> None:
    """Two mirrors with nothing in common, on what leaves a mirror no choice."""
    library, reference = clib.load_library(example), MIRRORS["faulting"]()
    described = library.describe()
    choices = {"free", "remap", "submit", "wait"}
    strict = msgspec.structs.replace(described, operations=described.operations - choices, jobs=0)
    for seed in range(100):
        program = random_program(seed, strict)
        reference.reset(program.geometry)
        answers = zip(
            program.operations,
            outcomes_of(library, program, len(program)),
            reference.run(program.operations),
            strict=True,
        )
        for operation, ours, theirs in answers:
            if operation.kind not in EVENTS:  # whether an event can happen is up to the mirror
                assert ours._replace(error=0) == theirs._replace(error=0), (seed, operation)


def test_random_programs_do_all_that_the_example_can(example: Path) -> None:
    """Otherwise the tests around this one would show less than they seem to."""
    library = clib.load_library(example)
    done = set()
    for seed in range(60):
        program = random_program(seed, library.describe())
        outcomes = outcomes_of(library, program, 50)
        done |= {
            (operation.kind, outcome.status)
            for operation, outcome in zip(program.operations, outcomes, strict=True)
        }
    kinds = library.describe().kinds(4096)
    assert {kind for kind, status in done if status == Status.OK} == kinds
    assert Status.UNSUPPORTED not in {status for _, status in done}
    assert {kind for kind, status in done if status == Status.FAULT} >= {Kind.READ, Kind.DCAS}


def test_both_loaders_give_the_same(example: Path) -> None:
    slow, fast = clib.load_library(example), ccffi.load_library(example)
    assert slow.describe() == fast.describe()
    for seed in range(40):
        program = random_program(seed, slow.describe())
        whole = outcomes_of(slow, program, len(program))
        assert outcomes_of(fast, program, len(program)) == whole
        assert outcomes_of(slow, program, 1) == whole
        assert outcomes_of(fast, program, 7) == whole


def notifications() -> list[str]:
    text = (EXAMPLES / "memory.h").read_text()
    return re.findall(r"^ +notify\(m, .*;.*$", text, re.MULTILINE)


@pytest.mark.parametrize("index", range(len(notifications())))
def test_every_notification_of_the_example_is_needed(
    tmp_path: Path, example: Path, index: int
) -> None:
    """Frames are used again at once, so a translation that outlives its page shows."""
    text = (EXAMPLES / "memory.h").read_text()
    (tmp_path / "mirror.c").write_text((EXAMPLES / "mirror.c").read_text())
    at = [match.start() for match in re.finditer(r"^ +notify\(m, ", text, re.MULTILINE)][index]
    (tmp_path / "memory.h").write_text(text[:at] + "    //" + text[at:])
    mutant = clib.load_library(compile_library(tmp_path, tmp_path / "mirror.c"))
    assert any(judged_worse(mutant, clib.load_library(example), seed) for seed in range(600))


def judged_worse(mutant: Library, correct: Library, seed: int) -> bool:
    """Whether the contract forbids what the mutant does; quick where it does nothing else."""
    program = random_program(seed, correct.describe())
    outcomes = outcomes_of(mutant, program, len(program))
    if outcomes == outcomes_of(correct, program, len(program)):
        return False
    return not is_allowed(program, outcomes)


SANITIZED = """\
import sys
from pathlib import Path
from adapters.clib import load_library
from reference.program import Program

library = load_library(Path(sys.argv[1]))
files = sorted(Path(sys.argv[2]).iterdir())
for file in files:
    program = Program.from_bytes(file.read_bytes())
    library.reset(program.geometry)
    library.run(program.operations)
library.close()
print(len(files))
"""


def test_the_sanitizers_have_nothing_to_say(tmp_path: Path, example: Path) -> None:
    options = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
    library = compile_library(tmp_path, EXAMPLES / "mirror.c", *options)
    programs = tmp_path / "programs"
    programs.mkdir()
    description = clib.load_library(example).describe()
    for seed in range(300):
        (programs / str(seed)).write_bytes(random_program(seed, description).to_bytes())
    assert run_sanitized(library, programs) == (0, "300\n", "")


def test_the_sanitizers_would_speak_up(tmp_path: Path, example: Path) -> None:
    """A frame that is freed instead of kept is used after that, and this is seen."""
    text = (EXAMPLES / "memory.h").read_text()
    broken = text.replace("    m->free_frames = frame;\n}", "    free(frame);\n}")
    assert broken != text
    (tmp_path / "memory.h").write_text(broken)
    (tmp_path / "mirror.c").write_text((EXAMPLES / "mirror.c").read_text())
    library = compile_library(tmp_path, tmp_path / "mirror.c", "-fsanitize=address", "-g")
    programs = tmp_path / "programs"
    programs.mkdir()
    program = random_program(1, clib.load_library(example).describe())
    (programs / "1").write_bytes(program.to_bytes())
    status, _, errors = run_sanitized(library, programs)
    assert status != 0
    assert "heap-use-after-free" in errors


def run_sanitized(library: Path, programs: Path) -> tuple[int, str, str]:
    """Exit status, output and errors of running the programs in a process with the sanitizer."""
    runtime = subprocess.run(
        [str(COMPILER), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {
        "PYTHONPATH": str(ROOT),
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    result = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(library), str(programs)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    return result.returncode, result.stdout, result.stderr


# ---- The side buffer ----


def access(kind: Kind, length: int, job: int = 0, page: int = 0) -> Operation:
    return Operation(kind, 0, 0, 0, page, 0, 0, length, job=job)


def test_a_batch_with_much_data_takes_several_calls(
    example: Path, load: Callable[[Path], Library]
) -> None:
    library = load(example)
    geometry = library.describe().limit(Geometry(page_size=2 << 20, pages=2))
    library.reset(geometry)
    map_all = Operation(Kind.MAP, 0, 0, RW, 0, 2)
    write = access(Kind.WRITE, 4 << 20)._replace(value=5)
    outcomes = library.run([map_all, write, *[access(Kind.READ, 4 << 20)] * 9])
    assert [outcome.status for outcome in outcomes] == [Status.OK] * 11
    assert {len(outcome.data) for outcome in outcomes[2:]} == {4 << 20}
    last = 5 + (4 << 20) // 8 - 1
    assert all(outcome.data[-8:] == last.to_bytes(8, "little") for outcome in outcomes[2:])
    library.close()


def test_a_wait_finds_room_for_the_data_of_its_job(
    example: Path, load: Callable[[Path], Library]
) -> None:
    library = load(example)
    geometry = library.describe().limit(Geometry(page_size=2 << 20, pages=2))
    library.reset(geometry)
    queue: Sequence[Operation] = [access(Kind.DREAD, 4 << 20, job=2)] * 8
    before = [Operation(Kind.MAP, 0, 0, RW, 0, 2), Operation(Kind.ATTACH, 0, 0, 0, 0, 0), *queue]
    started = library.run([*before, Operation(Kind.SUBMIT, 0, 0, 0, 0, 0, job=2)])
    assert started == [Outcome(Status.OK)] * 11
    (waited,) = library.run([Operation(Kind.WAIT, 0, 0, 0, 0, 0, job=2)])
    reads = decode_wait(waited.data, 8)
    assert [(read.status, len(read.data)) for read in reads] == [(Status.OK, 4 << 20)] * 8
    library.close()


def test_a_reset_leaves_nothing_behind(example: Path, load: Callable[[Path], Library]) -> None:
    library = load(example)
    program = random_program(3, library.describe())
    first = outcomes_of(library, program, len(program))
    library.reset(program.geometry)
    library.run(program.operations[:100])
    assert outcomes_of(library, program, len(program)) == first


def test_without_the_fast_path_all_works_through_ctypes(
    example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = random_program(5, clib.load_library(example).describe())
    expected = outcomes_of(clib.load_library(example), program, 10)
    monkeypatch.setattr(ccffi, "fast_path", lambda: None)
    assert outcomes_of(ccffi.load_library(example), program, 10) == expected
