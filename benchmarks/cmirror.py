"""What the suite costs on top of a mirror in C, an operation, in batches of 100.

The example mirror is built on the spot.  Its own work is measured by handing the same packed
operations to it again and again in a loop in C, and is subtracted from what the same batches take
through ctypes, through cffi, and over the wire to a worker process.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.table import Table

import adapters
from adapters import ccffi, clib
from adapters.candidate import Candidate
from adapters.worker import Worker
from conformance.generate import Plan, random_programs
from reference.cheader import HEADER
from reference.geometry import GEOMETRY, Geometry
from reference.model import judge
from reference.operations import ACCESSES, Kind, Operation, encode_operations
from reference.program import Program
from reference.trace import Trace

from .timing import Spent, best_of

__all__ = ["main"]

BATCH = 100
PROGRAMS = 200
REPEATS = 7
EXAMPLES = Path(adapters.__path__[0]) / "examples"

TIMER = """
#include <stdlib.h>
#include <time.h>
#include "lastwriter.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* Least seconds of `repeats` times: every program on a fresh mirror, in one batch each. */
double own_work(const lw_geometry *geometry, const lw_operation *operations,
                const uint32_t *counts, uint32_t programs, uint32_t repeats)
{
    static lw_outcome outcomes[4096];
    static uint8_t data[16 << 20];
    double least = 1e9;
    for (uint32_t r = 0; r < repeats; r++) {
        const lw_operation *next = operations;
        double spent = 0;
        for (uint32_t p = 0; p < programs; next += counts[p++]) {
            void *mirror = lw_open(geometry);
            double start = now();
            for (uint32_t done = 0; done < counts[p];)
                done += lw_run(mirror, next + done, counts[p] - done, outcomes, data, sizeof data);
            spent += now() - start;
            lw_close(mirror);
        }
        if (spent < least)
            least = spent;
    }
    return least;
}
"""


@dataclass(frozen=True)
class Batches:
    """Programs of a batch each, all of one geometry."""

    programs: Sequence[Program]

    @property
    def geometry(self) -> Geometry:
        return self.programs[0].geometry

    @property
    def operations(self) -> int:
        return sum(map(len, self.programs))


def build(folder: Path) -> Path:
    """The example mirror, with the loop that measures its own work."""
    compiler = shutil.which("cc") or shutil.which("gcc") or sys.exit("no C compiler on the PATH")
    timer, library = folder / "timer.c", folder / "mirror.so"
    timer.write_text(TIMER)
    include = [f"-I{HEADER.parent}", f"-I{EXAMPLES}"]
    sources = [str(EXAMPLES / "mirror.c"), str(timer)]
    options = ["-std=gnu11", "-O2", "-fPIC", "-shared"]
    subprocess.run([compiler, *options, *include, *sources, "-o", str(library)], check=True)
    return library


def generated(library: Path) -> Batches:
    """Programs of 100 operations each, as the suite generates them."""
    plan = Plan.for_candidate(clib.load_library(library).describe())
    long = (each for each in random_programs(plan, 1) if len(each) == BATCH)
    return Batches(list(islice(long, PROGRAMS)))


def plain(geometry: Geometry) -> Batches:
    """Reads and writes of a word, half of them by a device: the work that a mirror has least of."""
    start = (Operation(Kind.MAP, 0, 0, 3, 0, 4), Operation(Kind.ATTACH, 0, 0, 0, 0, 0))
    kinds = sorted(ACCESSES)
    accesses = tuple(
        Operation(
            kinds[index % len(kinds)],
            *(0, 0, 0, index % 4, 0, 8 * (index % 512), 8),
            value=(index << 20) * (kinds[index % len(kinds)] not in {Kind.READ, Kind.DREAD}),
        )
        for index in range(BATCH - len(start))
    )
    return Batches([Program(start + accesses, geometry)] * PROGRAMS)


def own_work(library: Path, batches: Batches) -> float:
    """Seconds that the mirror itself takes, without opening and closing."""
    function = ctypes.CDLL(str(library)).own_work
    function.restype = ctypes.c_double
    records = b"".join(encode_operations(each.operations) for each in batches.programs)
    counts = (ctypes.c_uint32 * len(batches.programs))(*map(len, batches.programs))
    geometry = GEOMETRY.format.pack(*batches.geometry)
    return float(function(geometry, records, counts, len(counts), REPEATS))


def in_process(candidate: Candidate, batches: Batches) -> Spent:
    """Time in `run`: what is reset in between costs the same in a loop that only resets."""

    def resets() -> None:
        for _ in batches.programs:
            candidate.reset(batches.geometry)

    def runs() -> None:
        for program in batches.programs:
            candidate.reset(batches.geometry)
            candidate.run(program.operations)

    return _difference(best_of(REPEATS, runs), best_of(REPEATS, resets))


def in_worker(worker: Worker, batches: Batches, after: Callable[[Trace], object]) -> Spent:
    """The same over the wire, with what is done with each trace."""
    empty = Program((), batches.geometry)

    def resets() -> None:
        for _ in batches.programs:
            worker.run(empty)

    def runs() -> None:
        for program in batches.programs:
            after(worker.run(program))

    return _difference(best_of(REPEATS, runs), best_of(REPEATS, resets))


def _difference(whole: Spent, part: Spent) -> Spent:
    return Spent(whole.wall - part.wall, whole.cpu - part.cpu)


def in_process_judged(candidate: Candidate, batches: Batches) -> Spent:
    """Run and judge in one process."""

    def resets() -> None:
        for _ in batches.programs:
            candidate.reset(batches.geometry)

    def runs() -> None:
        for program in batches.programs:
            candidate.reset(batches.geometry)
            judge(Trace(program, tuple(candidate.run(program.operations))))

    return _difference(best_of(REPEATS, runs), best_of(REPEATS, resets))


def rows(library: Path, batches: Batches) -> list[tuple[str, Spent, Spent]]:
    """Way to the mirror, and what it takes without and with the model."""
    ways: list[tuple[str, Candidate]] = [("ctypes", clib.load_library(library))]
    if ccffi.fast_path() is not None:
        ways.append(("cffi", ccffi.load_library(library)))
    found = [
        (name, in_process(candidate, batches), in_process_judged(candidate, batches))
        for name, candidate in ways
    ]
    with Worker(str(library)) as worker:
        alone = in_worker(worker, batches, lambda trace: None)
        judged = in_worker(worker, batches, judge)
    return [*found, ("worker, over the wire", alone, judged)]


def show(title: str, library: Path, batches: Batches) -> Table:
    own = 1e6 * own_work(library, batches) / batches.operations
    table = Table(title=f"{title}; the mirror's own work: {own:.2f} µs an operation")
    table.add_column("way")
    for heading in ("wall", "CPU", "beyond its own work", "judged too: wall", "CPU"):
        table.add_column(heading, justify="right")
    for name, alone, judged in rows(library, batches):
        seconds = (alone.wall, alone.cpu, judged.wall, judged.cpu)
        wall, cpu, judged_wall, judged_cpu = (1e6 * each / batches.operations for each in seconds)
        figures = (wall, cpu, wall - own, judged_wall, judged_cpu)
        table.add_row(name, *(f"{each:.2f}" for each in figures))
    return table


def main() -> None:
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder))
        batches = generated(library)
        console.print(show("C mirror, generated programs", library, batches))
        console.print(show("C mirror, words only", library, plain(batches.geometry)))
    console.print(
        f"µs an operation, in batches of {BATCH}, best of {REPEATS}.  The CPU time is this "
        "process's, without the worker's."
    )


if __name__ == "__main__":
    main()
