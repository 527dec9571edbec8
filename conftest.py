"""For a checkout: makes the suite's plugin known where it is not installed, and examples steady."""

import os
import sys
from collections.abc import Iterator

import pytest

from conformance.backend import steady_choices

# Where it is known already, this file may be met too late to name plugins.
if "conformance.plugin" not in sys.modules:
    pytest_plugins = ["conformance.plugin"]

# Tests of other things leave the machine's settings alone, though root may run them.
os.environ.setdefault("LASTWRITER_SETTINGS", "keep")


def pytest_configure(config: pytest.Config) -> None:
    """Measures coverage in the processes that tests run in, and not in those that they start.

    In hundreds of short ones measuring takes longer than what is measured.
    """
    runs_tests = hasattr(config, "workerinput") or not config.getoption("numprocesses", None)
    if runs_tests:
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


@pytest.fixture(autouse=True)
def _steady() -> Iterator[None]:
    """The same examples whatever modules were imported before."""
    with steady_choices():
        yield
