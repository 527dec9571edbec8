"""The suite as separate checks: one group of rules and one shard of its programs at a time.

`certify` decides about a candidate as a whole; this is for a test runner, which decides test by
test and shares them out among processes.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis import seed as hypothesis_seed
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from adapters.candidate import CandidateError
from adapters.journal import journal_path
from adapters.tls import TlsFiles
from adapters.worker import Limits, Worker
from reference.description import Description
from reference.program import Program
from reference.protocol import Profile
from reference.rules import RULES, Group, rules_for
from reference.syncmodels import Sync
from reference.trace import Trace, Violation

from .certify import PER_RULE, Found
from .display import replay_command
from .examine import SLOW, Coverage, Examiner, Failure, profile_of
from .expect import Expectation, load_expectations
from .explain import explain, plain, render
from .generate import PROFILES, Plan, with_sweep
from .generate.machine import machine_for
from .shards import Shard, plan_for, run_shard
from .shards import shards as endless_shards
from .store import Store, file_name, runnable

__all__ = ["PROFILES_OF", "Checked", "Suite", "Task", "prepare", "report"]

PROFILES_OF: Mapping[Group, tuple[str, ...]] = {
    "contents": ("all", "contents", "files", "atomics"),
    "access": ("rights", "all", "files"),
    "calls": ("mapping", "files", "all"),
    "invalidation": ("mapping", "events", "all", "files"),
    "migration": ("migration", "events", "atomics"),
    "fork": ("fork", "all"),
    "registration": ("registration", "mapping", "fork"),
    "jobs": ("jobs", "mapping"),
    "robustness": ("all", "jobs", "fork", "registration"),
    "protocol": ("all", "events", "mapping", "migration", "registration", "jobs"),
}
"""The profiles of the programs that put each group of rules to the test; the first comes most."""

REPLAYS = 3
"""Runs of a program that failed once, since some don't fail every time."""


@dataclass(frozen=True)
class Task:
    """What to test, and how much to do: the same in every process of a run."""

    spec: str
    description: Description
    model: Sync
    seed: int
    out: Path
    programs: int = 50
    """For each shard of each group."""
    shards: int = 4
    limits: Limits = field(default_factory=Limits)
    tls: TlsFiles | None = None
    expected: tuple[Expectation, ...] = ()
    profile: Profile = Profile.TOLERANT
    known: Mapping[str, Program] = field(default_factory=dict)
    """The failing programs that an earlier run kept, by name."""

    @property
    def store(self) -> Store:
        database = settings().database
        return Store(self.out / "failures", self.spec, self.model, database, self.profile)

    def missing(self, group: Group) -> str:
        """Why no rule of the group can be put to the test; empty if one can."""
        rules = [rule for rule in rules_for(self.model) if rule.group == group]
        if not rules:
            return f"no rule of this group is part of the {self.model} model"
        if group == "protocol" and not self.description.schedules:
            return "the candidate is no driver on the host, and shows no protocol"
        lacking = [
            {name for name in rule.needs if name not in self.description.operations}
            for rule in rules
        ]
        if not all(lacking):
            return ""
        names = sorted(set().union(*lacking))
        reasons = [
            f"{name} ({self.description.left_out[name]})"
            if name in self.description.left_out
            else name
            for name in names
        ]
        return f"the candidate has no {', '.join(reasons)}"


def prepare(
    spec: str,
    *,
    model: str | None,
    seed: int,
    out: Path,
    programs: int,
    shards: int,
    seconds: float,
    expect: Path | None,
    tls: TlsFiles | None,
    profile: str | None = None,
) -> Task:
    """Reach the candidate, and make sure of everything that is named.

    `CandidateError`, `ExpectError` or `OSError` (for `out`) if something cannot be used.
    """
    out.mkdir(parents=True, exist_ok=True)
    limits = Limits(seconds=seconds)
    journal = _journal(out)
    try:
        with Worker(spec, limits=limits, journal=journal, tls=tls) as worker:
            description = worker.description
    finally:
        journal.unlink(missing_ok=True)
    sync = Sync(model) if model else description.model
    expected = tuple(load_expectations(expect, sync)) if expect else ()
    reading = profile_of(profile, description, "--lw-profile")
    task = Task(
        spec, description, sync, seed, out, programs, shards, limits, tls, expected, reading
    )
    try:
        plan_for(description, sync, next(endless_shards(description, seed)))
    except ValueError as error:
        raise CandidateError(str(error)) from None
    task.store.take_in(out)
    kept = {
        name: program
        for name, program in task.store.named()
        if runnable(program, description, sync)
    }
    return replace(task, known=kept)


def _journal(out: Path) -> Path:
    return journal_path(out, secrets.token_hex(4))


@dataclass
class Checked:
    """What came of one shard of one group."""

    coverage: Coverage = field(default_factory=Coverage)
    failing: Counter[str] = field(default_factory=Counter)
    """Failing programs by rule, those that are expected included."""
    broken: Found | None = None
    """A rule of the group that is broken, unless that is expected."""
    passing: list[Found] = field(default_factory=list)
    """Rules of other groups, likewise: the first program of this process for each."""


class Suite:
    """A candidate in the hands of one test process; `CandidateError` if it can't be reached."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.expected = frozenset(each.rule for each in task.expected)
        self.store = task.store
        self.journal = _journal(task.out)
        self.worker = Worker(task.spec, limits=task.limits, journal=self.journal, tls=task.tls)
        self.examiner = Examiner(self.worker, self.expected, profile=task.profile)
        self._met: set[str] = set()
        """Rules that were seen broken while another group was tested."""
        self._covered: Counter[str] = Counter()
        """Reduced programs that break a rule as they are expected to, by rule."""

    def close(self) -> None:
        """End the candidate's process; the journal is for those that could not get here."""
        self.worker.close()
        with suppress(OSError):
            self.journal.unlink()

    # -- groups of rules ----------------------------------------------------------------------

    def check(self, group: Group, number: int) -> Checked:
        """Run one shard of a group, up to the first program that breaks a rule of the group."""
        checked = Checked()
        self.examiner.coverage = checked.coverage

        def consume(program: Program, length: int) -> bool:
            violation = self.examiner.examine(program, length)
            if violation is not None:
                self._sort_in(group, checked, program, violation)
            return checked.broken is None

        self._each(group, number, consume)
        return checked

    def _sort_in(
        self, group: Group, checked: Checked, program: Program, violation: Violation
    ) -> None:
        rule = RULES[violation.rule]
        checked.failing[rule.id] += 1
        own = rule.group == group
        if self._settled(rule.id) or (rule.id in self._met and not own):
            return
        found = self._keep(program, violation)
        if self.expects(found.failure.violation.rule, found.failure.needs):
            self._covered[rule.id] += 1
            return
        # The reduced program may show that it is a matter of this group after all.
        if own or RULES[found.failure.violation.rule].group == group:
            checked.broken = found
        else:
            self._met.add(rule.id)
            checked.passing.append(found)

    def _settled(self, rule: str) -> bool:
        """Whether another program that breaks the rule says nothing new.

        What is expected of some programs only shows when they are reduced, of which a few are.
        """
        whole = any(each.rule == rule and not each.operations for each in self.task.expected)
        return whole or self._covered[rule] >= PER_RULE

    def expects(self, rule: str, program: Program) -> bool:
        """Whether a program, which should be reduced, breaks a rule as it is expected to."""
        return any(each.covers(rule, program) for each in self.task.expected)

    def _each(self, group: Group, number: int, consume: Callable[[Program, int], bool]) -> None:
        """Hand the programs of a shard of a group to `consume` until it has had enough."""
        going = True
        lost: list[CandidateError] = []

        def guarded(program: Program, length: int) -> bool:
            nonlocal going
            # Hypothesis would run a program again after an exception.
            try:
                going = consume(program, length)
            except CandidateError as error:
                lost.append(error)
                going = False
            return going

        for shard in self._shards(group, number, PROFILES_OF[group]):
            if going:
                run_shard(self._plan(shard), shard, guarded)
        if lost:
            raise lost[0]

    def _shards(self, name: str, number: int, profiles: tuple[str, ...]) -> Iterator[Shard]:
        """Every so many-th of an endless list that follows from the seed and the name alone."""
        task = self.task
        digest = hashlib.blake2b(f"{task.seed}/{name}".encode(), digest_size=8).digest()
        endless = endless_shards(task.description, int.from_bytes(digest, "little"), profiles)
        left = task.programs
        while left:
            shard = next(islice(endless, number, number + 1)).limited(left)
            number = task.shards - 1
            left -= shard.programs
            yield shard

    def _plan(self, shard: Shard) -> Plan:
        return plan_for(self.task.description, self.task.model, shard)

    def _keep(self, program: Program, violation: Violation) -> Found:
        try:
            failure = self.examiner.reduce(program, violation)
        except CandidateError:
            # It could not be started or reached again, which must not cost us the program.
            failure = Failure(program, violation, Trace(program, ()), program, 0, unstable=False)
        return self._saved(failure)

    def _saved(self, failure: Failure) -> Found:
        path = self.store.folder / file_name(failure)
        return Found(failure, path if path.exists() else self.store.add(failure))

    # -- programs that failed before, and rules that are expected to --------------------------

    def replay(self, program: Program) -> Found | None:
        """Run a program that failed before; what it breaks now."""
        for _ in range(REPLAYS):
            trace = self.worker.run(program)
            violation = self.examiner.judge(trace).violation
            if violation is not None:
                return self._saved(Failure(program, violation, trace, program, 0, unstable=False))
        return None

    def seek(self, expected: Expectation) -> Found | None:
        """A program that breaks a rule as expected: a kept one, or a new one of its group."""
        rule = expected.rule
        for program in self.task.known.values():
            found = self.replay(program)
            if found is not None and expected.covers(found.failure.violation.rule, program):
                return found
        broken: list[Found] = []

        def consume(program: Program, length: int) -> bool:
            violation = self.examiner.examine(program, length)
            if violation is not None and expected.covers(violation.rule, program):
                found = self._keep(program, violation)
                if expected.covers(found.failure.violation.rule, found.failure.needs):
                    broken.append(found)
            return not broken

        group = RULES[rule].group
        for number in range(self.task.shards if group in PROFILES_OF else 0):
            if not broken:
                self._each(group, number, consume)
        return broken[0] if broken else None

    # -- Hypothesis' state machine ------------------------------------------------------------

    def run_machine(self, number: int) -> Checked:
        """Have Hypothesis generate a shard of programs step by step, and reduce what fails."""
        shard = next(self._shards("machine", number, PROFILES))
        hunt = _Hunt(self, self._plan(shard))
        machine = machine_for(hunt.plan, hunt.execute)
        hypothesis_seed(shard.seed)(machine)
        chosen = settings(
            machine.TestCase.settings,
            max_examples=shard.programs,
            backend=shard.backend,
            database=None,
            derandomize=False,
            phases=[Phase.generate, Phase.shrink],
            print_blob=False,
            report_multiple_bugs=False,
        )
        try:
            run_state_machine_as_test(machine, settings=chosen)
        except CandidateError:
            if not hunt.failures:
                raise
            hunt.checked.broken = self._saved(hunt.failure(unstable=True))
        except (_RuleBroken, Flaky) as error:
            hunt.checked.broken = self._saved(hunt.failure(unstable=isinstance(error, Flaky)))
        if hunt.slow is not None:
            hunt.checked.broken = self._keep(*hunt.slow)
        return hunt.checked


class _RuleBroken(Exception):
    """A program broke a rule.  Each rule has a subclass, by which Hypothesis tells them apart."""

    @staticmethod
    @cache
    def of(rule: str) -> type[_RuleBroken]:
        return type(rule, (_RuleBroken,), {})


class _Hunt:
    """The programs of a state machine, and those of them that failed."""

    def __init__(self, suite: Suite, plan: Plan) -> None:
        self.suite = suite
        self.plan = plan
        self.checked = Checked()
        self.failures: list[Failure] = []
        self.runs = 0
        """Runs since the first failure."""
        self.slow: tuple[Program, Violation] | None = None
        """A failure that takes so long to show that Hypothesis would not be done reducing it."""

    def execute(self, program: Program) -> None:
        """Run a program of the machine; raises if it breaks a rule that is not expected to."""
        if not program.operations or self.slow:
            return
        whole = with_sweep(program, self.plan)
        trace = self.suite.worker.run(whole)
        judgement = self.suite.examiner.judge(trace)
        if self.failures:
            self.runs += 1
        else:
            self.checked.coverage.add(len(program), len(whole), judgement)
        violation = judgement.violation
        # As it was found: that Hypothesis reduces what is expected would be a failure.
        if violation is None or self.suite.expects(violation.rule, program):
            return
        if violation.rule in SLOW:
            self.slow = whole, violation
        else:
            self._take(trace, violation)
            raise _RuleBroken.of(violation.rule)(violation.message)

    def _take(self, trace: Trace, violation: Violation) -> None:
        end = violation.index + 1
        cut = trace.cut(trace.program.with_operations(trace.program.operations[:end]))
        found = self.failures[0].found if self.failures else trace.program
        self.checked.failing[violation.rule] += 1
        self.failures.append(Failure(cut.program, violation, cut, found, self.runs, unstable=False))

    def failure(self, *, unstable: bool) -> Failure:
        """What Hypothesis ended with; if it was led astray, the shortest program that failed."""
        if unstable:
            shortest = min(self.failures, key=lambda each: len(each.program))
            return replace(shortest, unstable=True, runs=self.runs)
        return replace(self.failures[-1], runs=self.runs)


def report(found: Found, task: Task) -> str:
    """What is wrong, as text: the rule, the table of operations and how to run them again."""
    again = replay_command(found.path, task.spec, task.tls, task.profile)
    return plain(render(explain(found.failure), again)).strip("\n")
