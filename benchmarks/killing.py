"""Time to kill driver mutants, beside a plain state machine of Hypothesis without a scheduler."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from hypothesis.strategies import SearchStrategy
from rich.console import Console
from rich.table import Table

from adapters.worker import InProcess
from conformance.backend import steady_choices
from conformance.examine import Examiner
from conformance.mutation import score
from reference.description import Description
from reference.drivers.mutants import DRIVER_MUTANTS, DriverMutant
from reference.geometry import Geometry
from reference.operations import WORD, Event, Flag, Kind, Operation
from reference.program import Program
from reference.signatures import RIGHTS, SIGNATURES
from reference.validity import Liveness

__all__ = ["main"]

NAMES = (
    *("over-invalidation", "zero-size-lookup", "sleep-in-atomic"),
    *("hmm-aba", "eagain-forever", "remove-returns-early"),
)
"""Three that need no interleaving, and three that do or that show in the protocol only."""
SEEDS = 3
STEPS = 12
"""Operations of the state machine's programs: as many as most of ours have."""
PAGES = 4
PATIENCE = 5.0
"""Seconds of processor time after which nothing has been found."""


@dataclass(frozen=True)
class Result:
    """What came of one seed."""

    found: bool
    programs: int
    seconds: float
    """Processor time up to the first program that failed, or in all."""


def ours(mutant: DriverMutant, number: int) -> Result:
    """Programs, schedules and judge as in a certification."""
    found = score(mutant, number, seconds=PATIENCE, enough=1)
    return Result(found.best is not None, found.programs, found.seconds)


# -- the state machine ------------------------------------------------------------------------


class _Failed(Exception):
    """The program that was just run breaks a rule."""


class _Late(Exception):
    """No time is left."""


class _Machine(RuleBasedStateMachine):
    """A rule for each kind of operation with arguments that do not know of each other.

    What makes no sense where it stands is left out.  The program is run, in its order, at the end.
    """

    geometry: Geometry
    execute: Callable[[tuple[Operation, ...]], None]

    def __init__(self) -> None:
        super().__init__()
        self.live = Liveness(self.geometry)
        self.operations: list[Operation] = []

    def take(self, operation: Operation) -> None:
        if self.live.step(operation) is None:
            self.operations.append(operation)

    def teardown(self) -> None:
        type(self).execute((*self.operations, *_reads(self.live, self.geometry)))


def _reads(live: Liveness, geometry: Geometry) -> Iterator[Operation]:
    """Reads of every page by everybody who may."""
    for device, job in sorted(live.in_flight):
        yield Operation(Kind.WAIT, 0, device, 0, 0, 0, job=job)
    for page in range(geometry.pages):
        for process in sorted(live.alive):
            yield Operation(Kind.READ, process, 0, 0, page, 0, length=WORD)
        for device in sorted(live.attached):
            key = min(geometry.keys, 1)
            yield Operation(Kind.DREAD, 0, device, 0, page, 0, length=WORD, key=key)


def _arguments(kind: Kind, geometry: Geometry) -> SearchStrategy[Operation]:
    """Operations of a kind with any small arguments."""
    fields = SIGNATURES[kind].fields
    first = st.integers(0, geometry.pages - 1)
    strategies: dict[str, SearchStrategy[Any]] = {
        "process": st.integers(0, geometry.processes - 1),
        "device": st.integers(0, geometry.devices - 1),
        "page": first,
        "pages": st.integers(1, geometry.pages),
        "target": first,
        "length": st.just(WORD),
        "value": st.integers(1, 1 << 20),
        "key": st.integers(min(geometry.keys, 1), geometry.keys),
        "job": st.integers(0, geometry.jobs),
        "event": st.sampled_from([int(event) for event in Event]),
    }
    flags = {
        Kind.INVALIDATE: (0, int(Flag.NONBLOCK)),
        Kind.MAP: tuple(map(int, RIGHTS.values())),
        Kind.PROTECT: tuple(map(int, RIGHTS.values())),
        Kind.FAULT: (int(RIGHTS["r"]), int(RIGHTS["rw"])),
        Kind.REGISTER: (int(RIGHTS["r"]), int(RIGHTS["rw"])),
    }
    none = dict.fromkeys(("process", "device", "page", "pages"), st.just(0))
    drawn = {name: each for name, each in strategies.items() if name in fields}
    if kind == Kind.MAP:  # anonymous memory, which has no place in a file
        drawn["target"] = st.just(0)
    flag = st.sampled_from(flags.get(kind, (0,)))
    return st.builds(Operation, st.just(kind), flags=flag, **(none | drawn))


def machine(
    description: Description, execute: Callable[[tuple[Operation, ...]], None]
) -> type[_Machine]:
    """The state machine for what a driver can do, as one would write it for it."""
    geometry = description.limit(
        Geometry(pages=PAGES, processes=2, devices=2, files=0, keys=2, jobs=1)
    )
    body: dict[str, Any] = {"geometry": geometry, "execute": staticmethod(execute)}
    for kind in sorted(description.kinds(geometry.page_size) - {Kind.TRUNCATE}):

        def step(self: _Machine, operation: Operation) -> None:
            self.take(operation)

        step.__name__ = step.__qualname__ = kind.name.lower()
        body[step.__name__] = rule(operation=_arguments(kind, geometry))(step)
    return type("Plain", (_Machine,), body)


def plain(mutant: DriverMutant, number: int) -> Result:
    """The state machine until a program fails, run in its order and judged as ours are."""
    runner = InProcess(f"mutant:{mutant.id}")
    description, examiner = runner.description, Examiner(runner, profile=mutant.profile)
    start, programs = time.process_time(), 0

    def execute(operations: tuple[Operation, ...]) -> None:
        nonlocal programs
        if time.process_time() - start >= PATIENCE:
            raise _Late
        programs += 1
        if examiner.examine(Program(operations, made.geometry, description.model)) is not None:
            raise _Failed

    made = machine(description, execute)
    hypothesis_seed(number)(made)
    options = settings(
        max_examples=1_000_000,
        stateful_step_count=STEPS,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    found = False
    with steady_choices():
        try:
            run_state_machine_as_test(made, settings=options)
        except _Failed:
            found = True
        except _Late:
            pass
    return Result(found, programs, time.process_time() - start)


# -- the table --------------------------------------------------------------------------------


def _cells(results: Sequence[Result]) -> tuple[str, str, str]:
    found = [each for each in results if each.found]
    seconds = statistics.median(each.seconds for each in results)
    late = "> " if 2 * len(found) <= len(results) else ""
    programs = statistics.median(each.programs for each in results)
    return f"{len(found)} of {len(results)}", f"{late}{programs:.0f}", f"{late}{seconds:.2f} s"


def _ratio(plain_ones: Sequence[Result], our_ones: Sequence[Result]) -> str:
    found = sum(each.found for each in plain_ones)
    late = "> " if 2 * found <= len(plain_ones) else ""
    theirs, own = (
        statistics.median(each.seconds for each in some) for some in (plain_ones, our_ones)
    )
    return f"{late}{theirs / max(own, 0.01):.1f}"


def main(names: Sequence[str] = NAMES) -> None:
    table = Table(
        title=f"Time to kill: medians of {SEEDS} seeds, at most {PATIENCE:.0f} s of processor time"
    )
    table.add_column("mutant")
    for heading in ("killed", "programs", "CPU"):
        table.add_column(heading, justify="right")
    for heading in ("state machine", "programs", "CPU", "ratio of CPU"):
        table.add_column(heading, justify="right")
    for name in names:
        mutant = DRIVER_MUTANTS[name]
        own = [ours(mutant, number) for number in range(1, SEEDS + 1)]
        other = [plain(mutant, number) for number in range(1, SEEDS + 1)]
        table.add_row(name, *_cells(own), *_cells(other), _ratio(other, own))
    table.caption = "ratio: the state machine's time by ours; > where it found nothing in time"
    Console(width=120).print(table)


if __name__ == "__main__":
    main(sys.argv[1:] or NAMES)
