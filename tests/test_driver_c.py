"""Drivers in C: the worked ones are right, and the same as those in Python."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from c_drivers import (
    COMPILER,
    EXAMPLES,
    READ,
    compile_driver,
    snippet_driver,
    unjudged,
    write_driver,
)
from driving import complaint, programs, schedule, script, taken

from adapters.driver_c import INCLUDE, CDriver, layouts, load_c_driver
from reference.drivers import DRIVERS, Driver
from reference.host import hmm, migrate
from reference.host.digest import Opaque, digest
from reference.host.hardware import LOCAL
from reference.host.run import Run, run_program
from reference.host.space import AddressSpace
from reference.operations import Event, Operation
from reference.outcomes import Outcome
from reference.schedule import DEVICE, Injection, Schedule, Switch
from reference.syncmodels import Sync

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")

WORKED = [*DRIVERS, "template"]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of our own instead of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(params=WORKED)
def worked(request: pytest.FixtureRequest) -> type[CDriver]:
    return load_c_driver(EXAMPLES / f"{request.param}.c")


@pytest.fixture(params=DRIVERS)
def twins(request: pytest.FixtureRequest) -> tuple[type[Driver], type[CDriver]]:
    """The same driver in Python and in C."""
    return DRIVERS[request.param], load_c_driver(EXAMPLES / f"{request.param}.c")


@pytest.mark.parametrize("name", WORKED)
def test_it_compiles_without_complaint(name: str, tmp_path: Path) -> None:
    library = compile_driver(tmp_path, EXAMPLES / f"{name}.c")
    assert (
        load_c_driver(library).library.claims
        == load_c_driver(EXAMPLES / f"{name}.c").library.claims
    )


@pytest.mark.parametrize("strategy", ["follow", "random", "pct"])
@pytest.mark.parametrize(
    ("pages", "most", "count", "page_size"),
    [(2, 12, 150, 4096), (4, 40, 60, 4096), (16, 100, 10, 4096), (4, 30, 20, 65536)],
)
def test_it_is_right_under_every_schedule(
    worked: type[CDriver], strategy: str, pages: int, most: int, count: int, page_size: int
) -> None:
    drawn = programs(worked, count, 5, pages=pages, most=most, page_size=page_size)
    switches = 0
    for seed, program in enumerate(drawn):
        scheduled = replace(program, schedule=schedule(strategy, seed))
        run = run_program(scheduled, worked)
        assert complaint(scheduled, run) is None, taken(scheduled, run)
        assert len(run.outcomes) == len(program)
        switches += len(run.switches)
    assert (switches > 0) == (strategy != "follow")


def told(run: Run) -> list[tuple[int, Operation, Outcome]]:
    """The history without the places in the record, which has allocations in C."""
    return [(effect.index, effect.operation, effect.outcome) for effect in run.history]


def test_it_does_as_the_driver_in_python(twins: tuple[type[Driver], type[CDriver]]) -> None:
    python, c = twins
    assert (c.model, c.keyed, c.page_faults) == (python.model, python.keyed, python.page_faults)
    for program in programs(python, 100, 6, pages=4, most=40):
        expected, run = run_program(program, python), run_program(program, c)
        assert run.outcomes == expected.outcomes
        assert told(run) == told(expected)


def test_every_run_can_be_had_again(worked: type[CDriver]) -> None:
    for seed, program in enumerate(programs(worked, 30, 7, pages=4, most=40)):
        injections = (Injection("allocation", seed % 7 + 1),)
        scheduled = replace(program, schedule=schedule("random", seed))
        failing = replace(scheduled, schedule=replace(scheduled.schedule, injections=injections))
        first = run_program(failing, worked)
        again = run_program(taken(failing, first), worked)
        assert again.outcomes == first.outcomes
        assert again.record == first.record
        assert again.switches == first.switches
        assert first.broken is None


def test_callbacks_that_are_there_are_what_it_can_do() -> None:
    template = load_c_driver(EXAMPLES / "template.c")
    assert (template.name, template.model) == ("template", Sync.FAULTING)
    assert "fault" in vars(template)
    assert template.migrate_to_device is Driver.migrate_to_device
    refcounting = load_c_driver(EXAMPLES / "refcounting.c")
    assert {"register", "unregister", "submit", "complete"} <= vars(refcounting).keys()
    assert refcounting.retire is Driver.retire


def test_static_variables_are_new_in_every_run(tmp_path: Path) -> None:
    driver = snippet_driver(
        tmp_path, functions="static int runs;", open="if (runs++) return -EBUSY;"
    )
    assert [unjudged(driver, "attach d0 p0").outcomes[0].error for _ in range(3)] == [0, 0, 0]


def test_nothing_is_called_after_a_failed_open(tmp_path: Path) -> None:
    driver = snippet_driver(tmp_path, open="kfree(state); device->priv = NULL; return -ENOMEM;")
    run = run_program(next(programs(driver, 1, 1, pages=2, most=12)), driver)
    assert run.broken is None


def test_its_state_cannot_be_told(twins: tuple[type[Driver], type[CDriver]]) -> None:
    """Or schedules would be left out as leading to states that were met already."""
    python, c = twins
    found: list[str] = []

    def looking(base: type[Driver]) -> type[Driver]:
        def opened(self: Driver, mm: AddressSpace) -> int:
            answer = base.open(self, mm)
            try:
                digest(self.device.host)
            except Opaque:
                found.append("opaque")
            return answer

        return type("Looking", (base,), {"open": opened})

    unjudged(looking(python), "attach d0 p0")
    assert not found
    unjudged(looking(c), "attach d0 p0")
    assert found == ["opaque"]


def test_it_may_be_closed_while_the_cpu_wants_a_page_back() -> None:
    faulting = load_c_driver(EXAMPLES / "faulting.c")
    lines = """
        map p0 rw page=0 pages=1
        attach d0 p0
        to_device d0 page=0 pages=1
        read p0 page=0 offset=0 length=8
        detach d0"""
    program = script(faulting, lines)
    points = 0
    for point in range(1, 60):
        closing = replace(program, schedule=Schedule((Switch(0, 3, point, DEVICE),)))
        run = run_program(closing, faulting)
        assert complaint(closing, run) is None
        points += bool(run.switches)
    assert points > 10


def test_a_source_is_compiled_once(tmp_path: Path, cache: Path) -> None:
    source = write_driver(tmp_path)
    first = load_c_driver(source).library
    before = sorted(cache.rglob("snippet-*.so"))
    load_c_driver(source)
    assert sorted(cache.rglob("snippet-*.so")) == before
    write_driver(tmp_path, open="might_sleep();")
    load_c_driver(source)
    assert len(sorted(cache.rglob("snippet-*.so"))) == len(before) + 1
    assert first.path == source


def test_without_a_cache_folder_it_is_compiled_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert unjudged(snippet_driver(tmp_path), READ).broken is None


# ---- What the kernel's services are to C ----


def test_a_waiter_sees_what_came_before_it_slept(tmp_path: Path) -> None:
    wake = "state->words = kmalloc(8, GFP_ATOMIC); wake_up(&state->queue);"
    wait = "wait_event(state->queue, state->words); kfree(state->words);"
    assert unjudged(snippet_driver(tmp_path, fault=wake + wait), READ).broken is None


def test_a_waiter_that_nobody_wakes_is_a_deadlock(tmp_path: Path) -> None:
    """As in the kernel the condition alone does not wake: refcounting.c without its wake_up()."""
    source = (EXAMPLES / "refcounting.c").read_text()
    path = tmp_path / "forgetful.c"
    path.write_text(source.replace("wake_up(&buffer->idle);", ";"))
    driver = load_c_driver(path)
    drawn = enumerate(programs(driver, 1000, 5, pages=2, most=20))
    runs = (run_program(replace(p, schedule=schedule("random", s)), driver) for s, p in drawn)
    broken = next(run.broken for run in runs if run.broken is not None)
    assert broken.rule == "W1"
    assert "wait_event(&buffer->idle)" in str(broken)


def test_an_interrupted_wait_is_told(tmp_path: Path) -> None:
    driver = snippet_driver(
        tmp_path, fault="return wait_event_interruptible(state->queue, write) == -EINTR ? 0 : -EIO;"
    )
    failing = replace(schedule("follow", 0), injections=(Injection("wait", 1),))
    lines = "map p0 rw page=0 pages=1\nattach d0 p0\nfault d0 r page=0 pages=1"
    assert unjudged(driver, lines, failing).outcomes[-1].error == 0


# ---- The header and its double ----


def test_structures_are_laid_out_as_the_compiler_does(tmp_path: Path) -> None:
    lines = []
    for name, struct in layouts.STRUCTURES.items():
        lines.append(f'printf("%zu\\n", sizeof(struct {name}));')
        lines += [
            f'printf("%zu\\n", offsetof(struct {name}, {field[0]}));' for field in struct._fields_
        ]
    expected = []
    for struct in layouts.STRUCTURES.values():
        expected.append(ctypes.sizeof(struct))
        expected += [getattr(struct, field[0]).offset for field in struct._fields_]
    assert _printed(tmp_path, lines) == expected


def test_constants_are_those_of_the_host(tmp_path: Path) -> None:
    expected = {
        "LW_DRIVER_ABI_VERSION": layouts.ABI_VERSION,
        "LW_KEYED": layouts.KEYED,
        "LW_PAGE_FAULTS": layouts.PAGE_FAULTS,
        **{f"LW_{name.upper()}": number for number, name in enumerate(layouts.MODELS)},
        **{f"MMU_NOTIFY_{event.name}": int(event) for event in Event if event != Event.UNKNOWN},
        **{name: getattr(hmm, name) for name in hmm.__all__ if name.startswith("HMM_PFN")},
        **{name: getattr(migrate, name) for name in migrate.__all__ if name.isupper()},
        f"device_is_local({LOCAL}ul)": 1,
        f"device_is_local({LOCAL - 1}ul)": 0,
        "migrate_pfn(77)": migrate.migrate_pfn(77),
        "hmm_pfn_to_page(HMM_PFN_VALID | 77)": 77,
    }
    lines = [f'printf("%lu\\n", (unsigned long)({name}));' for name in expected]
    assert _printed(tmp_path, lines) == list(expected.values())


def _printed(folder: Path, lines: list[str]) -> list[int]:
    source, program = folder / "probe.c", folder / "probe"
    body = "\n    ".join(lines)
    source.write_text(
        f'#include <stdio.h>\n#include "lastwriter_driver.h"\nint main(void)\n{{\n    {body}\n}}\n'
    )
    subprocess.run([str(COMPILER), f"-I{INCLUDE}", str(source), "-o", str(program)], check=True)
    answer = subprocess.run([str(program)], check=True, capture_output=True, text=True)
    return [int(line) for line in answer.stdout.split()]


# ---- Under a sanitizer ----

SOAK = """
import sys
from dataclasses import replace
from pathlib import Path
from adapters.driver_c import load_c_driver
from driving import complaint, programs, schedule
from reference.host.run import run_program
driver = load_c_driver(Path(sys.argv[1]))
for seed, program in enumerate(programs(driver, 40, 8, pages=4, most=30)):
    scheduled = replace(program, schedule=schedule("random", seed))
    assert complaint(scheduled, run_program(scheduled, driver)) is None
print("done")
"""


@pytest.mark.parametrize("name", WORKED)
def test_sanitizers_have_nothing_to_say(name: str, tmp_path: Path) -> None:
    """Frames of suspended tasks are copied away and back, which ASan's stack checks cannot stand:
    it calls that a stack-buffer-underflow.  Heap, globals and undefined behaviour are checked."""
    sanitize = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "--param=asan-stack=0")
    library = compile_driver(tmp_path, EXAMPLES / f"{name}.c", *sanitize)
    found = subprocess.run(
        [str(COMPILER), "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    )
    environment = {
        **os.environ,
        "LD_PRELOAD": found.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)]),
    }
    result = subprocess.run(
        [sys.executable, "-c", SOAK, str(library)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout, result.stderr) == ("done\n", "")
