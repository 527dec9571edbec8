"""What pytest prints of a run of the suite: what was tested, and what its tests don't show."""

from __future__ import annotations

import json
import pickle
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reference.rules import RULES

from .display import replay_command
from .suite import Checked, Task
from .verdicts import RuleResult, Verdict, results
from .version import own_version

__all__ = ["Summary", "record"]

PROPERTY = "lastwriter"
"""The property of a test's report that says what it has covered, as JSON."""


def record(item: pytest.Item, group: str, shard: int, checked: Checked) -> None:
    """Leave in the test's report what it covered and found, for the summary."""
    coverage = checked.coverage
    covered = {
        "group": group,
        "shard": shard,
        "programs": coverage.programs,
        "operations": coverage.operations,
        "exercised": coverage.exercised,
        "failing": checked.failing,
        "broken": checked.broken and checked.broken.failure.violation.rule,
        "passing": [
            (found.failure.violation.rule, found.failure.violation.message, str(found.path))
            for found in checked.passing
        ],
    }
    item.user_properties.append((PROPERTY, json.dumps(covered)))


class Summary:
    """Sums up what the tests did, in the process that reports."""

    def __init__(self, task: Task, *, allow_unknown: bool) -> None:
        self.task = task
        self.allow_unknown = allow_unknown
        self.shards: defaultdict[str, set[int]] = defaultdict(set)
        """What ran of each group."""
        self.programs = 0
        self.operations = 0
        self.exercised: Counter[str] = Counter()
        self.failing: Counter[str] = Counter()
        self.broken: set[str | None] = set()
        """Rules that a test failed for."""
        self.passing: dict[str, tuple[str, str]] = {}
        """Message and file of the first program that broke a rule outside of the test's group."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["lastwriter"] = pickle.dumps(self.task)

    def pytest_report_header(self) -> list[str]:
        task, description = self.task, self.task.description
        version = f" {description.version}" if description.version else ""
        return [
            f"candidate: {task.spec} ({description.name}{version}), model {task.model}",
            f"lastwriter: {own_version()}, seed {task.seed}, "
            f"{task.shards} shards of {task.programs} programs for each group, "
            f"{len(task.known)} known failures",
        ]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties if report.when == "call" else ():
            if name == PROPERTY:
                self._add(json.loads(str(value)))

    def _add(self, covered: dict[str, Any]) -> None:
        self.shards[covered["group"]].add(covered["shard"])
        self.programs += covered["programs"]
        self.operations += covered["operations"]
        self.exercised.update(covered["exercised"])
        self.failing.update(covered["failing"])
        self.broken.add(covered["broken"])
        for rule, message, path in covered["passing"]:
            self.passing.setdefault(rule, (message, path))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # A group must not count as tested and found good when a rule of it was seen to be broken.
        tested = any(RULES[rule].group in self.shards for rule in self._unnoticed())
        if session.exitstatus == pytest.ExitCode.OK and (tested or self._failing_for_unknown()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _unnoticed(self) -> list[str]:
        """Rules that were seen to be broken only by the tests of other groups."""
        return [rule for rule in self.passing if rule not in self.broken]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        write = terminalreporter.write_line
        unnoticed = self._unnoticed()
        if unnoticed:
            terminalreporter.write_sep("=", "rules broken in tests of other groups", yellow=True)
        for rule in unnoticed:
            message, path = self.passing[rule]
            write(f"{rule} ({RULES[rule].group}): {message}", yellow=True)
            again = replay_command(Path(path), self.task.spec, self.task.tls, self.task.profile)
            write(f"    again: {again}")
        if not self.programs:
            return
        unknown = list(self._unknown())
        if unknown:
            fails = self._failing_for_unknown()
            terminalreporter.write_sep("=", "undecided rules", red=fails, yellow=not fails)
        for result in unknown:
            group = RULES[result.rule].group
            write(f"{result.rule} ({group}) is {result.verdict}: {result.reason}")
        if self._failing_for_unknown():
            more = f"--lw-programs {2 * self.task.programs}"
            write(f"UNKNOWN is no pass: give them more ({more}), or --lw-allow-unknown", red=True)
        terminalreporter.write_sep("=", "lastwriter")
        write(
            f"{self.programs:,} programs, {self.operations:,} operations; "
            f"the same again: --lw-seed {self.task.seed}"
        )

    def _failing_for_unknown(self) -> bool:
        """Whether a group was tested in full, and a rule of it is not decided for all that."""
        whole = {group for group, ran in self.shards.items() if len(ran) == self.task.shards}
        groups = {RULES[result.rule].group for result in self._unknown()}
        return not self.allow_unknown and bool(whole & groups)

    def _unknown(self) -> Iterator[RuleResult]:
        """The rules of the groups tested that were not put to the test often enough."""
        task = self.task
        for result in results(task.description, task.model, self.exercised, self.failing):
            tested = RULES[result.rule].group in self.shards
            if tested and result.verdict is Verdict.UNKNOWN:
                yield result
