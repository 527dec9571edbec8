"""The suite as tests of one candidate; see `pytest --help` for its options.

What failed before comes first, then each group of rules, then Hypothesis' own state machine.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reference.rules import Group

from .expect import Expectation
from .plugin import NO_CANDIDATE, TASK
from .suite import Checked, Suite, Task, report
from .summary import record

Check = Callable[[Group], None]
Values = list[object]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each known failure, each rule that is expected to fail, and each shard."""
    task = metafunc.config.stash.get(TASK, None)
    for name, (values, otherwise) in _parameters(task).items():
        if name in metafunc.fixturenames:
            reason = otherwise if task else NO_CANDIDATE
            nothing = pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")
            metafunc.parametrize(name, values or [nothing])


def _parameters(task: Task | None) -> dict[str, tuple[Values, str]]:
    """The values of each parameter, and what it means that there are none."""
    known: Values = list(task.known) if task else []
    shards: Values = list(range(task.shards)) if task else []
    expected: Values = [
        pytest.param(
            each,
            id="-".join((each.rule, *each.operations)),
            marks=pytest.mark.xfail(
                reason=f"{each.rule}: {each.reason} ({each.link})",
                raises=pytest.fail.Exception,
                strict=not each.rare,
            ),
        )
        for each in (task.expected if task else ())
    ]
    return {
        "known": (known, "no failing program was kept"),
        "expected": (expected, "no rule is expected to fail"),
        "shard": (shards, ""),
    }


def test_known_failures(
    lastwriter_suite: Suite, known: str, request: pytest.FixtureRequest
) -> None:
    """A program that once broke a rule does not do so any more."""
    suite = lastwriter_suite
    found = suite.replay(suite.task.known[known])
    if found is None:
        return
    for each in suite.task.expected:
        if each.covers(found.failure.violation.rule, found.failure.needs):
            request.node.add_marker(pytest.mark.xfail(reason=f"{each.rule}: {each.reason}"))
    pytest.fail(report(found, suite.task), pytrace=False)


def test_expected_failures(lastwriter_suite: Suite, expected: Expectation) -> None:
    """A rule that is expected to fail does, or this test is an error unless that is rare."""
    found = lastwriter_suite.seek(expected)
    if found is not None:
        pytest.fail(report(found, lastwriter_suite.task), pytrace=False)


@pytest.fixture
def check(lastwriter_suite: Suite, shard: int, request: pytest.FixtureRequest) -> Check:
    """Tests one shard of a group of rules."""

    def check_group(group: Group) -> None:
        reason = lastwriter_suite.task.missing(group)
        if reason:
            pytest.skip(reason)
        checked = lastwriter_suite.check(group, shard)
        record(request.node, group, shard, checked)
        _fail_if_broken(checked, lastwriter_suite)

    return check_group


def _fail_if_broken(checked: Checked, suite: Suite) -> None:
    if checked.broken is not None:
        pytest.fail(report(checked.broken, suite.task), pytrace=False)


def test_contents(check: Check) -> None:
    """Everybody reads what was last written."""
    check("contents")


def test_access(check: Check) -> None:
    """Accesses succeed where the mapping allows them, and fault cleanly where it does not."""
    check("access")


def test_calls(check: Check) -> None:
    """Memory management calls succeed and fail as Linux says."""
    check("calls")


def test_invalidation(check: Check) -> None:
    """The device's view ends when an invalidation returns."""
    check("invalidation")


def test_migration(check: Check) -> None:
    """Nothing is lost on the way to device memory and back."""
    check("migration")


def test_fork(check: Check) -> None:
    """Parent and child are independent."""
    check("fork")


def test_registration(check: Check) -> None:
    """Registered frames stay allocated."""
    check("registration")


def test_jobs(check: Check) -> None:
    """Jobs in flight meet changes of the mapping."""
    check("jobs")


def test_robustness(check: Check) -> None:
    """The candidate neither crashes nor hangs, and answers properly."""
    check("robustness")


def test_protocol(check: Check) -> None:
    """A driver on the host keeps to the rules between driver and kernel."""
    check("protocol")


def test_state_machine(lastwriter_suite: Suite, shard: int, request: pytest.FixtureRequest) -> None:
    """Programs of Hypothesis' state machine break no rule; Hypothesis reduces those that do."""
    checked = lastwriter_suite.run_machine(shard)
    record(request.node, "", shard, checked)
    _fail_if_broken(checked, lastwriter_suite)
