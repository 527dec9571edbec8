"""How fast programs are generated, and how much they vary.

`python -m benchmarks.generation [EXAMPLES]` prints a table; more examples, steadier figures.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.control import current_build_context
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from rich.console import Console
from rich.table import Table

from conformance.backend import NAME as RANDOM
from conformance.generate import Plan, length_distribution, near_copies, programs, random_programs
from conformance.generate.machine import machine_for
from reference.description import Description
from reference.operations import Kind, Operation
from reference.program import Program

EVERYTHING = Description(
    name="everything",
    operations=frozenset(kind.name.lower() for kind in Kind),
    processes=3,
    devices=2,
    files=4,
    keys=4,
    jobs=2,
)
"""A mirror that can do everything."""

EXAMPLES = 300


@dataclass
class Sample:
    """Programs from one front end, and what they took."""

    name: str
    programs: list[Program] = field(default_factory=list)
    choices: int = 0
    seconds: float = 0.0
    """CPU time: what else the machine does matters less."""

    def take(self, program: Program) -> None:
        """Keep a program that Hypothesis is just now running."""
        self.programs.append(program)
        self.choices += len(current_build_context().data.nodes)

    @property
    def operations(self) -> int:
        return sum(map(len, self.programs))

    @property
    def choices_per_operation(self) -> float:
        return self.choices / max(self.operations, 1)


def from_strategy(plan: Plan, backend: str, examples: int) -> Sample:
    """Programs from the strategy, with a fixed seed, no database and no shrinking."""
    sample = Sample(f"strategy, {backend}")

    @seed(1)
    @settings(_settings(backend, examples))
    @given(programs(plan))
    def run(program: Program) -> None:
        sample.take(program)

    _time(sample, run)
    return sample


def from_machine(plan: Plan, backend: str, examples: int) -> Sample:
    """Programs from the state machine."""
    sample = Sample(f"state machine, {backend}")
    machine = machine_for(plan, sample.take)
    _time(sample, lambda: _run_machine(machine, plan, backend, examples))
    return sample


def from_plain_machine(plan: Plan, examples: int) -> Sample:
    """Programs from a state machine as one would write it first: an argument for each field."""
    sample = Sample("plain state machine, hypothesis")

    class Machine(PlainMachine):
        def teardown(self) -> None:
            sample.take(Program(tuple(self.operations), plan.geometry, plan.model))

    _time(sample, lambda: _run_machine(Machine, plan, "hypothesis", examples))
    return sample


def from_seed(plan: Plan, examples: int) -> Sample:
    """Programs from a seed, without Hypothesis."""
    sample = Sample("random programs")
    _time(sample, lambda: sample.programs.extend(islice(random_programs(plan, 1), examples)))
    return sample


def _run_machine(
    machine: type[RuleBasedStateMachine], plan: Plan, backend: str, examples: int
) -> None:
    seed(1)(machine)
    run_state_machine_as_test(
        machine,
        settings=settings(_settings(backend, examples), stateful_step_count=plan.max_operations),
    )


def _settings(backend: str, examples: int) -> settings:
    return settings(
        database=None,
        phases=[Phase.generate],
        max_examples=examples,
        deadline=None,
        backend=backend,
        suppress_health_check=list(HealthCheck),
    )


def _time(sample: Sample, run: Callable[[], Any]) -> None:
    start = time.process_time()
    run()
    sample.seconds = time.process_time() - start


_page, _pages, _small = st.integers(0, 15), st.integers(1, 4), st.integers(0, 2)
_words, _value = st.integers(0, 511), st.integers(0, 2**64 - 1)


class PlainMachine(RuleBasedStateMachine):
    """The baseline: ten rules that know nothing of what is valid."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def record(self, operation: Operation) -> None:
        self.operations.append(operation)

    @rule(process=_small, flags=st.sampled_from([0, 1, 3, 5, 7]), page=_page, pages=_pages)
    def map(self, process: int, flags: int, page: int, pages: int) -> None:
        self.record(Operation(Kind.MAP, process, 0, flags, page, pages))

    @rule(process=_small, page=_page, pages=_pages)
    def unmap(self, process: int, page: int, pages: int) -> None:
        self.record(Operation(Kind.UNMAP, process, 0, 0, page, pages))

    @rule(process=_small, flags=st.sampled_from([0, 1, 3]), page=_page, pages=_pages)
    def protect(self, process: int, flags: int, page: int, pages: int) -> None:
        self.record(Operation(Kind.PROTECT, process, 0, flags, page, pages))

    @rule(process=_small, page=_page, pages=_pages)
    def discard(self, process: int, page: int, pages: int) -> None:
        self.record(Operation(Kind.DISCARD, process, 0, 0, page, pages))

    @rule(process=_small, child=_small)
    def fork(self, process: int, child: int) -> None:
        self.record(Operation(Kind.FORK, process, 0, 0, 0, 0, target=child))

    @rule(device=_small, process=_small)
    def attach(self, device: int, process: int) -> None:
        self.record(Operation(Kind.ATTACH, process, device, 0, 0, 0))

    @rule(process=_small, page=_page, word=_words, words=_pages)
    def read(self, process: int, page: int, word: int, words: int) -> None:
        self.record(Operation(Kind.READ, process, 0, 0, page, 0, 8 * word, 8 * words))

    @rule(process=_small, page=_page, word=_words, words=_pages, value=_value)
    def write(self, process: int, page: int, word: int, words: int, value: int) -> None:
        self.record(Operation(Kind.WRITE, process, 0, 0, page, 0, 8 * word, 8 * words, value=value))

    @rule(device=_small, page=_page, word=_words, words=_pages)
    def dread(self, device: int, page: int, word: int, words: int) -> None:
        self.record(Operation(Kind.DREAD, 0, device, 0, page, 0, 8 * word, 8 * words))

    @rule(device=_small, page=_page, word=_words, words=_pages, value=_value)
    def dwrite(self, device: int, page: int, word: int, words: int, value: int) -> None:
        self.record(Operation(Kind.DWRITE, 0, device, 0, page, 0, 8 * word, 8 * words, value=value))


def _table(samples: Sequence[Sample]) -> Table:
    table = Table(title="Generation of programs, one core")
    for heading in (
        "front end",
        "choices/op",
        "ops/s (CPU)",
        "ratio",
        "mean length",
        "near-copies",
    ):
        table.add_column(heading, justify="left" if heading == "front end" else "right")
    # The last one is the baseline.
    baseline = samples[-1].operations / samples[-1].seconds
    for sample in samples:
        speed = sample.operations / sample.seconds
        table.add_row(
            sample.name,
            f"{sample.choices_per_operation:.2f}",
            f"{speed:,.0f}",
            f"{speed / baseline:.1f}",
            f"{sample.operations / len(sample.programs):.1f}",
            f"{near_copies(sample.programs):.0%}",
        )
    return table


def main(examples: int = EXAMPLES) -> None:
    plan = Plan.for_candidate(EVERYTHING)
    samples = [
        from_seed(plan, 10 * examples),
        from_strategy(plan, "hypothesis", examples),
        from_strategy(plan, RANDOM, examples),
        from_machine(plan, "hypothesis", examples // 3),
        from_machine(plan, RANDOM, examples // 3),
        from_plain_machine(plan, examples // 3),
    ]
    console = Console(width=100)
    console.print(_table(samples))
    for sample in samples[:3]:
        lengths = length_distribution(sample.programs, 20)
        counts = ", ".join(f"{r.start}-{r.stop - 1}: {count}" for r, count in lengths.items())
        console.print(f"{sample.name}: lengths {counts}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EXAMPLES)
