"""`lastwriter mutants`: what the suite finds, and what it says of that."""

from __future__ import annotations

from pathlib import Path

import pytest
from commanding import lastwriter


def test_a_mutant_of_each_kind_is_killed(tmp_path: Path) -> None:
    done = lastwriter(tmp_path, "mutants", "hmm-aba", "discard-missed")
    assert done.errors == ""
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0].split() == [
        *("mutant", "made", "from", "rule", "programs", "seconds"),
        *("length", "switches", "shortest"),
    ]
    assert [line.split()[:2] for line in lines[1:3]] == [
        ["hmm-aba", "faulting"],
        ["discard-missed", "caching"],
    ]
    assert lines[-1] == "2 of 2 killed"
    assert not list(tmp_path.iterdir())


def test_one_that_survives_is_a_failure(tmp_path: Path) -> None:
    done = lastwriter(tmp_path, "mutants", "--seconds", "0.1", "trylock-spin")
    assert done.status == 1
    assert "survived" in done.out
    assert done.out.splitlines()[-1] == "0 of 1 killed"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("nosuch",), "no mutant 'nosuch'"),
        (("hmm-abba",), "no mutant 'hmm-abba'; near: hmm-aba"),
        (("--seconds", "0"), "Invalid value for '--seconds': 0.0 is not in"),
    ],
)
def test_bad_usage(arguments: tuple[str, ...], error: str, tmp_path: Path) -> None:
    done = lastwriter(tmp_path, "mutants", *arguments)
    assert done.error.startswith(error)
    assert (done.status, done.out) == (2, "")
