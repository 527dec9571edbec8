"""Libraries that are not what they should be, and the fast path that may be missing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters import ccffi, clib
from adapters.candidate import CandidateError, GarbageError
from adapters.clib import Library
from reference.cheader import HEADER
from reference.geometry import Geometry
from reference.operations import Kind, Operation
from reference.outcomes import Outcome, Status

COMPILER = shutil.which("gcc") or shutil.which("cc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "adapters" / "examples"
STRICT = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
LOADERS: dict[str, Callable[[Path], Library]] = {
    "ctypes": clib.load_library,
    "cffi": ccffi.load_library,
}

Compile = Callable[..., Path]


def compile_library(folder: Path, source: Path, *options: str) -> Path:
    library = folder / f"{source.stem}.so"
    include = [f"-I{HEADER.parent}", f"-I{EXAMPLES}"]
    command = [str(COMPILER), *STRICT, *include, *options, str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    return library


def access(kind: Kind, length: int, job: int = 0, page: int = 0) -> Operation:
    return Operation(kind, 0, 0, 0, page, 0, 0, length, job=job)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(tmp_path_factory.mktemp("template"), EXAMPLES / "template.c")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of our own instead of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(params=LOADERS)
def load(request: pytest.FixtureRequest) -> Callable[[Path], Library]:
    return LOADERS[request.param]


# ---- Libraries that are not what they should be ----

BAD = r"""
#include <errno.h>
#include <string.h>
#include "lastwriter.h"

#ifndef DESCRIPTION
#define DESCRIPTION "{\"name\": \"bad\", \"operations\": [\"read\"]}"
#endif
#ifndef VERSION
#define VERSION LW_ABI_VERSION
#endif
#ifndef MIRROR
#define MIRROR &mirror
#endif
#ifndef DONE
#define DONE count
#endif
#ifndef OUTCOME
#define OUTCOME {.status = LW_STATUS_OK}
#endif

static int mirror;
uint32_t lw_abi_version(void) { return VERSION; }
const char *lw_describe(void) { return DESCRIPTION; }
void *lw_open(const lw_geometry *geometry) { (void)geometry; errno = ERRNO; return MIRROR; }
void lw_close(void *opened) { (void)opened; }
#ifndef NO_RUN
uint32_t lw_run(void *opened, const lw_operation *operations, uint32_t count,
                lw_outcome *outcomes, uint8_t *data, uint32_t capacity)
{
    (void)opened, (void)operations, (void)data, (void)capacity, (void)mirror;
    for (uint32_t i = 0; i < count; i++) {
        lw_outcome outcome = OUTCOME;
        if (i != LEFT_OUT)
            outcomes[i] = outcome;
    }
    return DONE;
}
#endif
"""


@pytest.fixture
def bad(tmp_path: Path) -> Compile:
    def build(**macros: str) -> Path:
        source = tmp_path / "bad.c"
        source.write_text(BAD)
        values = {"ERRNO": "0", "LEFT_OUT": "count"} | macros
        options = [f"-D{name}={value}" for name, value in values.items()]
        return compile_library(tmp_path, source, *options)

    return build


def refusal(load: Callable[[Path], Library], path: Path) -> str:
    """The message with which a library is refused: one line that names its path."""
    with pytest.raises(CandidateError) as caught:
        load(path).reset(Geometry(processes=1, devices=1))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_a_library_that_does_nothing_wrong_is_taken(
    bad: Compile, load: Callable[[Path], Library]
) -> None:
    library = load(bad())
    assert library.describe().operations == {"read"}
    library.reset(Geometry())
    assert library.run([access(Kind.READ, 8)] * 100) == [Outcome(Status.OK)] * 100
    assert library.run([]) == []


def test_a_file_that_is_not_there(tmp_path: Path, load: Callable[[Path], Library]) -> None:
    assert refusal(load, tmp_path / "none.so") == "no such file"


def test_a_file_that_is_no_library(tmp_path: Path, load: Callable[[Path], Library]) -> None:
    path = tmp_path / "text.so"
    path.write_text("hello\n" * 100)
    assert refusal(load, path).startswith("not a loadable shared library: ")
    assert refusal(load, tmp_path).startswith("not a loadable shared library: ")


def test_a_name_without_a_folder_is_a_file_here(
    template: Path, load: Callable[[Path], Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(template.parent)
    assert load(Path(template.name)).describe().name == "my mirror"


def test_missing_functions_are_all_named(
    bad: Compile, tmp_path: Path, load: Callable[[Path], Library]
) -> None:
    assert refusal(load, bad(NO_RUN="1")) == "does not export lw_run"
    source = tmp_path / "empty.c"
    source.write_text("extern int nothing;\n")
    assert refusal(load, compile_library(tmp_path, source)) == (
        "does not export lw_abi_version, lw_describe, lw_open, lw_run, lw_close"
    )


def test_another_abi_version(bad: Compile, load: Callable[[Path], Library]) -> None:
    assert refusal(load, bad(VERSION="7")) == (
        "has ABI version 7, this lastwriter has ABI version 1"
    )


@pytest.mark.parametrize(
    ("description", "problem"),
    [
        ("0", "lw_describe returns NULL"),
        (r'"{oops"', "lw_describe: not JSON: "),
        (r'"{\"name\": \"\xff\xfe\"}"', "lw_describe: not JSON: "),
        (r'"{}"', "lw_describe: invalid description: "),
        (
            r'"{\"name\": \"x\", \"operations\": [\"fly\"]}"',
            "lw_describe: invalid description: operations: no such operation: fly",
        ),
        (
            r'"{\"name\": \"x\", \"operations\": [], \"processes\": 9}"',
            "lw_describe: invalid description: processes: 9 is not in 1..3",
        ),
    ],
)
def test_a_description_that_is_none(
    bad: Compile, load: Callable[[Path], Library], description: str, problem: str
) -> None:
    assert refusal(load, bad(DESCRIPTION=description)).startswith(problem)


def test_an_open_that_fails(bad: Compile, load: Callable[[Path], Library]) -> None:
    message = refusal(load, bad(MIRROR="(void *)0", ERRNO="ENODEV"))
    assert message == "lw_open failed: No such device"


def test_an_open_that_fails_without_saying_why(
    bad: Compile, load: Callable[[Path], Library]
) -> None:
    assert refusal(load, bad(MIRROR="(void *)0")) == "lw_open failed: errno was not set"


@pytest.mark.parametrize(
    ("macros", "problem"),
    [
        ({"DONE": "0"}, "says that it did 0"),
        ({"DONE": "count+1"}, "says that it did 4"),
        ({"DONE": "0xffffffff"}, "says that it did 4294967295"),
        ({"OUTCOME": "{.status=9}"}, "outcome 0: unknown status 9"),
        ({"OUTCOME": "{.reserved=i/2}"}, "outcome 2: reserved byte is 1"),
        ({"OUTCOME": "{.size=i*5000}"}, "outcome 1: data 0+5000 lies outside"),
        ({"OUTCOME": "{.data=0xfffffff8,.size=16}"}, "outcome 0: data 4294967288+16 lies outside"),
        ({"LEFT_OUT": "2"}, "outcome 2: unknown status 255"),
    ],
)
def test_garbage_is_recognised(
    bad: Compile, load: Callable[[Path], Library], macros: dict[str, str], problem: str
) -> None:
    library = load(bad(**macros))
    library.reset(Geometry())
    with pytest.raises(GarbageError, match=re.escape(problem)):
        library.run([access(Kind.READ, 8)] * 3)


def test_run_needs_a_mirror_that_is_open(template: Path) -> None:
    with pytest.raises(RuntimeError, match="run before reset"):
        clib.load_library(template).run([access(Kind.READ, 8)])


# ---- The fast path ----


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "fresh"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "lastwriter"


def test_the_module_is_compiled_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cffi", reason="cffi is not installed")
    module, where = ccffi.find_fast_path()
    assert module is not None, where
    assert [str(file) for file in fresh.rglob("*") if file.is_file()] == [where]
    monkeypatch.setenv("CC", "false")
    assert ccffi.find_fast_path()[1] == where


ANSWER = "from adapters import ccffi; print(ccffi.fast_path_reason(), ccffi.fast_path() is None)"


def fast_path_elsewhere() -> subprocess.Popen[str]:
    """A process that prints where its fast path is, and whether it has none."""
    return subprocess.Popen(
        [sys.executable, "-c", ANSWER], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_several_processes_may_compile_at_once(fresh: Path) -> None:
    pytest.importorskip("cffi", reason="cffi is not installed")
    processes = [fast_path_elsewhere() for _ in range(3)]
    answers = {process.communicate()[0] for process in processes}
    (file,) = [file for file in fresh.rglob("*") if file.is_file()]
    assert answers == {f"{file} False\n"}


def test_a_damaged_module_is_replaced(fresh: Path) -> None:
    pytest.importorskip("cffi", reason="cffi is not installed")
    answer = fast_path_elsewhere().communicate()[0]
    (file,) = [file for file in fresh.rglob("*") if file.is_file()]
    file.write_bytes(b"half a module")
    assert fast_path_elsewhere().communicate()[0] == answer == f"{file} False\n"
    assert file.read_bytes()[:4] == b"\x7fELF"


def test_without_cffi_there_is_a_reason(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "_cffi_backend", None)
    assert ccffi.find_fast_path() == (None, "cffi is not installed")
    assert not fresh.exists()


def test_without_a_compiler_there_is_a_reason(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cffi", reason="cffi is not installed")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert ccffi.find_fast_path() == (None, "no C compiler on the PATH")
    assert not fresh.exists()


def test_a_compiler_that_fails_is_a_reason(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cffi", reason="cffi is not installed")
    monkeypatch.setenv("CC", "false")
    assert ccffi.find_fast_path() == (None, "false fails: exit status 1")


def test_a_cache_that_cannot_be_written_is_a_reason(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cffi", reason="cffi is not installed")
    fresh.parent.write_text("a file in the way")
    module, reason = ccffi.find_fast_path()
    assert module is None
    assert reason.startswith("cannot keep the module in a cache folder: ")
