"""What every test of the suite itself runs under."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conformance.backend import steady_choices


@pytest.fixture(autouse=True)
def _steady() -> Iterator[None]:
    """The same examples whatever modules other tests have imported before."""
    with steady_choices():
        yield
