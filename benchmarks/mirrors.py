"""What of a mirror's speed is left when the suite checks it: generated, run and judged.

The same programs are then sent to the same candidate again as packed batches, whose answers are
received and not even decoded, the next program being sent while one runs, as the suite does.  The
suite's share is what lies between the two.  Last, as many processes as there are CPUs check them
side by side, as those of a certification do.

    python -m benchmarks mirrors [SPEC…]
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

from rich.console import Console
from rich.table import Table

from adapters.client import batches
from adapters.links import ChildLink, holders_of
from adapters.registry import Reach, known, reach_of
from adapters.wire import ClosedError, FrameType, Stream, encode_geometry
from adapters.worker import Limits, Worker
from conformance import collector
from conformance.ahead import Ahead, Ran
from conformance.examine import Examiner
from conformance.shards import plan_for, run_shard, shards
from reference.operations import OPERATION, encode_operations
from reference.program import Program

__all__ = ["main"]

PROGRAMS = 300
SEED = 1
ROUNDS = 4
"""Times that each is measured, in turns; the best counts."""
LIMITS = Limits(seconds=60, start=120)
CONSOLE = Console(width=100)
AHEAD = 60 << 10
"""Bytes that a candidate may be sent while it does something else."""

Frames = list[tuple[FrameType, bytes]]


@dataclass(frozen=True)
class Row:
    """One candidate: operations in a second of wall time, those of closing sweeps included."""

    spec: str
    checked: float
    raw: float
    beside: float

    def cells(self) -> list[str]:
        return [
            self.spec,
            f"{self.raw:,.0f}",
            *self._beside_raw(self.checked),
            *self._beside_raw(self.beside),
        ]

    def _beside_raw(self, speed: float) -> tuple[str, str]:
        return f"{speed:,.0f}", f"{speed / self.raw:.2f}"


def check(worker: Worker) -> tuple[list[Program], float]:
    """Programs as a certification runs them, and the seconds that this took."""
    examiner, programs = Examiner(worker), list[Program]()
    ahead = Ahead(examiner)

    def judge(ran: Ran | None) -> None:
        if ran is None or examiner.account(ran.trace, ran.length) is None:
            return
        if ran.trace.breakdown is None:
            ahead.hold()
            if examiner.distrust(ran.trace):
                ahead.again()

    def consume(program: Program, length: int) -> bool:
        judge(ahead.exchange(program, length))
        programs.append(program)
        return len(programs) < PROGRAMS

    start = time.perf_counter()
    for shard in shards(worker.description, SEED):
        plan = plan_for(worker.description, worker.description.model, shard)
        run_shard(plan, shard, consume)
        if len(programs) >= PROGRAMS:
            break
    while (ran := ahead.last()) is not None:
        judge(ran)
    return programs, time.perf_counter() - start


def frames(program: Program) -> Frames:
    """The frames that a program is sent as."""
    made = [(FrameType.RESET, encode_geometry(program.geometry))]
    records, at = encode_operations(program.operations), 0
    for count in batches(program.operations):
        end = at + count * OPERATION.size
        made.append((FrameType.RUN, count.to_bytes(4, "little") + records[at:end]))
        at = end
    return made


def exchange(stream: Stream, programs: Sequence[Frames], depth: int) -> Iterator[None]:
    """Have programs run, and say so after each; a short one is sent while those before it run."""
    waited_for: deque[Frames] = deque()

    def receive() -> None:
        for _ in waited_for[0]:
            stream.receive()
        waited_for.popleft()

    for program in programs:
        short = sum(len(payload) for _, payload in program) <= AHEAD
        while waited_for and not (short and len(waited_for) < depth):
            receive()
            yield
        for kind, payload in program:
            stream.send(kind, payload)
            if not short:
                stream.receive()
        if short:
            waited_for.append(program)
        else:
            yield
    while waited_for:
        receive()
        yield


def send_all(spec: str, programs: Sequence[Program], depth: int) -> float:
    """Operations in a second, with what it takes to replace a candidate that dies of a program."""
    made, done, start = [*map(frames, programs)], 0, 0.0
    with closing(holders_of(spec)) as holders:
        while done < len(made):
            with closing(ChildLink(spec, LIMITS, holders)) as link:
                start = start or time.perf_counter()
                with suppress(ClosedError):
                    for _ in exchange(link.client.stream, made[done:], depth):
                        done += 1
            done += 1  # which it has died of, if there is one
    return sum(map(len, programs)) / (time.perf_counter() - start)


_READY: list[Barrier] = []
"""In a process beside others, where all wait until each has its candidate."""


def _begin_beside(ready: Barrier) -> None:
    collector.rest()  # as in the processes of a certification
    _READY.append(ready)


def _check_beside(spec: str) -> float:
    with Worker(spec, limits=LIMITS) as worker:
        _READY[0].wait(LIMITS.start)
        programs, seconds = check(worker)
    return sum(map(len, programs)) / seconds


def measure(spec: str) -> Row:
    """All ways in turns, so that what else the machine does falls on each."""
    checked, raw, beside = [], [], []
    count, context = os.cpu_count() or 1, multiprocessing.get_context("spawn")
    ready = context.Barrier(count)
    with (
        Worker(spec, limits=LIMITS) as worker,
        context.Pool(count, _begin_beside, (ready,)) as others,
    ):
        for _ in range(ROUNDS):
            programs, seconds = check(worker)
            checked.append(sum(map(len, programs)) / seconds)
            raw.append(send_all(spec, programs, worker.depth))
            # Each process takes one: none goes on before all have begun.
            beside.append(sum(others.map(_check_beside, [spec] * count, chunksize=1)))
    return Row(spec, max(checked), max(raw), max(beside))


def available() -> list[str]:
    """The mirrors that can run here; for the others, why not."""
    mirrors = [each for each in known() if reach_of(each.spec) in {Reach.EXECUTABLE, Reach.MACHINE}]
    for each in mirrors:
        if not each.available:
            CONSOLE.print(f"{each.spec} left out: {each.reason}")
    return [each.spec for each in mirrors if each.available]


def main(*specs: str) -> None:
    collector.rest()
    table = Table(title=f"{PROGRAMS} generated programs, closing sweeps included; operations/s")
    headings = ("candidate", "raw", "checked", "/ raw", "with all CPUs", "/ raw")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "candidate" else "right")
    for spec in specs or available():
        table.add_row(*measure(spec).cells())
    CONSOLE.print(table)
    CONSOLE.print(
        f"wall time, the best of {ROUNDS} in turns; raw: packed batches, no suite; with all CPUs: "
        "a process for each"
    )


if __name__ == "__main__":
    main()
