"""What of a mirror's speed is left when the suite checks it: generated, run and judged.

The same programs are then sent to the same candidate again as packed batches, whose answers are
received and not even decoded.  The suite's share is what lies between the two.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from adapters.client import batches
from adapters.registry import Reach, known, reach_of
from adapters.wire import ClosedError, FrameType, Stream, encode_geometry
from adapters.worker import ChildLink, Limits, Worker
from conformance.ahead import Ahead, Ran
from conformance.examine import Examiner
from conformance.shards import plan_for, run_shard, shards
from reference.operations import OPERATION, encode_operations
from reference.program import Program

__all__ = ["main"]

PROGRAMS = 300
SEED = 1
ROUNDS = 3
"""Times that both are measured, in turns; the best of each counts."""
LIMITS = Limits(seconds=60, start=120)


@dataclass(frozen=True)
class Row:
    """One candidate: operations in a second of wall time, those of closing sweeps included."""

    spec: str
    checked: float
    raw: float

    def cells(self) -> list[str]:
        ratio = f"{self.checked / self.raw:.2f}"
        return [self.spec, f"{self.raw:,.0f}", f"{self.checked:,.0f}", ratio]


def check(worker: Worker) -> tuple[list[Program], float]:
    """Programs as a certification runs them, and the seconds that this took."""
    examiner, programs = Examiner(worker), list[Program]()
    ahead = Ahead(examiner)

    def judge(ran: Ran | None) -> None:
        if ran is not None and examiner.account(ran.trace, ran.length) is not None:
            ahead.hold()
            if examiner.distrust():
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
    judge(ahead.last())
    return programs, time.perf_counter() - start


def frames(program: Program) -> list[tuple[FrameType, bytes]]:
    """The frames that a program is sent as."""
    made = [(FrameType.RESET, encode_geometry(program.geometry))]
    records, at = encode_operations(program.operations), 0
    for count in batches(program.operations):
        end = at + count * OPERATION.size
        made.append((FrameType.RUN, count.to_bytes(4, "little") + records[at:end]))
        at = end
    return made


def send(stream: Stream, program: Sequence[tuple[FrameType, bytes]]) -> float:
    """Seconds to have it run, one frame after the other."""
    start = time.perf_counter()
    for kind, payload in program:
        stream.send(kind, payload)
        stream.receive()
    return time.perf_counter() - start


def send_all(spec: str, programs: Sequence[Program]) -> float:
    """Operations in a second of those programs that the candidate survives."""
    link, operations, seconds = ChildLink(spec, LIMITS), 0, 0.0
    try:
        for program in programs:
            try:
                seconds += send(link.client.stream, frames(program))
                operations += len(program)
            except ClosedError:
                link.close()
                link = ChildLink(spec, LIMITS)
    finally:
        link.close()
    return operations / seconds


def measure(spec: str) -> Row:
    """Both ways in turns, so that what else the machine does falls on both."""
    checked, raw = [], []
    with Worker(spec, limits=LIMITS) as worker:
        for _ in range(ROUNDS):
            programs, seconds = check(worker)
            checked.append(sum(map(len, programs)) / seconds)
            raw.append(send_all(spec, programs))
    return Row(spec, max(checked), max(raw))


def main() -> None:
    table = Table(title=f"{PROGRAMS} generated programs, closing sweeps included, one process")
    for heading in ("candidate", "raw operations/s", "checked operations/s", "checked / raw"):
        table.add_column(heading, justify="left" if heading == "candidate" else "right")
    console = Console(width=100)
    for each in known():
        if reach_of(each.spec) not in {Reach.EXECUTABLE, Reach.MACHINE}:
            continue
        if each.available:
            table.add_row(*measure(each.spec).cells())
        else:
            console.print(f"{each.spec} left out: {each.reason}")
    console.print(table)
    console.print(f"wall time, the best of {ROUNDS} in turns; raw: packed batches, no suite")


if __name__ == "__main__":
    main()
