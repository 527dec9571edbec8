"""For a checkout: makes the suite's plugin known where it is not installed, and examples steady."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from conformance.backend import steady_choices

if TYPE_CHECKING:
    from coverage import Coverage

# Where it is known already, this file may be met too late to name plugins.
if "conformance.plugin" not in sys.modules:
    pytest_plugins = ["conformance.plugin"]

# Tests of other things leave the machine's settings alone, though root may run them.
os.environ.setdefault("LASTWRITER_SETTINGS", "keep")


MEASURED_SECONDS = 0.05
"""Processor time for which the coverage of a test is measured: what a long one does after that, it
has mostly done before, and measuring takes longer than what is measured."""


def pytest_configure(config: pytest.Config) -> None:
    """Measures coverage in the processes that tests run in, and not in those that they start."""
    runs_tests = hasattr(config, "workerinput") or not config.getoption("numprocesses", None)
    # Whoever tests a candidate in a checkout need not have it installed.
    coverage = sys.modules.get("coverage")
    if runs_tests and coverage is not None and (measuring := coverage.Coverage.current()):
        config.pluginmanager.register(Measured(measuring))


class Measured:
    """Measures the coverage of each test for a while."""

    def __init__(self, coverage: Coverage) -> None:
        self._coverage = coverage
        self._stopped = False
        _leave_others_alone()
        signal.signal(signal.SIGVTALRM, self._stop)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        signal.setitimer(signal.ITIMER_VIRTUAL, MEASURED_SECONDS)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            if self._stopped:
                self._coverage.start()
                _leave_others_alone()
            self._stopped = False

    def _stop(self, *_: object) -> None:
        self._coverage.stop()
        self._stopped = True


def _leave_others_alone() -> None:
    """Take back what says, since coverage began, that processes are to be measured as well."""
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


@pytest.fixture(autouse=True)
def _steady() -> Iterator[None]:
    """The same examples whatever modules were imported before."""
    with steady_choices():
        yield
