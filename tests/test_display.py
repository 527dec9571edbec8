"""A run as it is shown while it goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conformance.certify import Finished, Progress
from conformance.display import follow
from conformance.screen import Screen

REQUEST = cast("Any", SimpleNamespace(spec="tiny", programs=None, seconds=3600, out=Path()))


def test_where_there_is_no_terminal_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    certificate = cast("Any", object())
    times = (1, 299, 301, 400, 610, 900)
    events = [Progress(int(at), 100 * int(at), at // 600, float(at)) for at in times]
    assert follow([*events, Finished(certificate)], REQUEST, Screen()) is certificate
    assert capsys.readouterr().out.splitlines() == [
        "after 5 minutes: 301 programs, 30,100 operations",
        "after 10 minutes: 610 programs, 61,000 operations, 1 failing",
    ]
