"""The plugin for pytest: `pytest --candidate SPEC` tests a candidate.

Only options, and hooks that do nothing without `--candidate`: whoever has the distribution
installed loads this with every pytest.
"""

from __future__ import annotations

import argparse
import math
import pickle
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reference.syncmodels import Sync

if TYPE_CHECKING:
    from .suite import Suite, Task

__all__ = ["NO_CANDIDATE", "TASK"]

TASK = pytest.StashKey["Task"]()
"""What this pytest is to test; in the stash of its configuration if it was given a candidate."""

NO_CANDIDATE = "give a candidate: --candidate SPEC"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("lastwriter", "conformance of mirrors (lastwriter)")
    group.addoption(
        "--candidate", metavar="SPEC",
        help="Test this candidate: module:name, path/to/file.py:name, path/to/library.so, "
        "reference:MODEL, linux:NAME, tcp:HOST:PORT or unix:PATH. Unless told otherwise, only "
        "the suite is collected then.",
    )  # fmt: skip
    group.addoption(
        "--sync-model", choices=[sync.value for sync in Sync],
        help="Sync model. [the candidate's own]",
    )  # fmt: skip
    group.addoption(
        "--lw-seed", type=int, metavar="N", help="Seed of all programs. [random, and printed]"
    )
    group.addoption(
        "--lw-programs", type=_positive, default=50, metavar="N",
        help="Programs in each shard. [%(default)s]",
    )  # fmt: skip
    group.addoption(
        "--lw-shards", type=_positive, default=4, metavar="N",
        help="Shards of each group of rules, for -n to share out. [%(default)s]",
    )  # fmt: skip
    group.addoption(
        "--lw-out", type=Path, default=Path("lastwriter-out"), metavar="DIR",
        help="Folder of failing programs, which run first the next time. [%(default)s]",
    )  # fmt: skip
    group.addoption(
        "--lw-expect", type=Path, metavar="FILE", help="TOML file of expected failures."
    )
    group.addoption(
        "--lw-profile", choices=["strict", "tolerant"],
        help="How to read the rules of the protocol of a driver on the host. [tolerant]",
    )  # fmt: skip
    group.addoption(
        "--lw-hang", type=_seconds, default=10.0, metavar="S",
        help="Seconds that one program may take. [%(default)s]",
    )  # fmt: skip
    group.addoption(
        "--lw-allow-unknown", action="store_true",
        help="Do not fail because a rule was not put to the test often enough.",
    )  # fmt: skip
    for name, what in (
        ("certificate", "our certificate"),
        ("key", "its private key"),
        ("authority", "who signs the agent's"),
    ):
        group.addoption(f"--lw-{name}", type=Path, metavar="FILE", help=f"TLS: {what}.")


def _positive(text: str) -> int:
    with suppress(ValueError):
        if int(text) >= 1:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0.01 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.01")


def pytest_configure(config: pytest.Config) -> None:
    """Collect the suite, and not what else lies here, if there is a candidate."""
    given = config.args_source is pytest.Config.ArgsSource.ARGS
    if config.getoption("candidate") is not None and not given:
        config.args = [str(Path(__file__).parent)]
        config.args_source = pytest.Config.ArgsSource.ARGS


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Find out whether there is a candidate; `UsageError` if it can't be used."""
    config = session.config
    if config.getoption("candidate") is None:
        return
    if hasattr(config, "workerinput"):
        packed = config.workerinput["lastwriter"]
        config.stash[TASK] = pickle.loads(packed)  # noqa: S301 (from the process that started us)
        return
    from .summary import Summary  # noqa: PLC0415 (only where there is a candidate)

    config.stash[TASK] = task = _prepare(config)
    summary = Summary(task, allow_unknown=config.getoption("lw_allow_unknown"))
    config.pluginmanager.register(summary, "lastwriter-summary")


def _prepare(config: pytest.Config) -> Task:
    from adapters.candidate import CandidateError  # noqa: PLC0415 (only where there is one)
    from adapters.tls import TlsFiles  # noqa: PLC0415

    from .expect import ExpectError  # noqa: PLC0415
    from .suite import prepare  # noqa: PLC0415

    seed = config.getoption("lw_seed")
    out = config.getoption("lw_out")
    try:
        _check_processes(config)
        return prepare(
            config.getoption("candidate"),
            model=config.getoption("sync_model"),
            seed=secrets.randbits(32) if seed is None else seed,
            programs=config.getoption("lw_programs"),
            shards=config.getoption("lw_shards"),
            out=out,
            expect=config.getoption("lw_expect"),
            seconds=config.getoption("lw_hang"),
            profile=config.getoption("lw_profile"),
            tls=TlsFiles.given(
                config.getoption("lw_certificate"),
                config.getoption("lw_key"),
                config.getoption("lw_authority"),
                prefix="--lw-",
            ),
        )
    except (CandidateError, ExpectError) as error:
        raise pytest.UsageError(str(error)) from None
    except OSError as error:
        raise pytest.UsageError(f"--lw-out {out}: {error.strerror}") from None


def _check_processes(config: pytest.Config) -> None:
    from adapters.registry import Reach, reach_of  # noqa: PLC0415 (only where it is needed)

    spec = config.getoption("candidate")
    if len(config.getoption("tx", None) or []) > 1 and reach_of(spec) is Reach.REMOTE:
        raise pytest.UsageError(f"{spec}: an agent serves one client at a time; leave out -n")


@pytest.fixture(scope="session")
def lastwriter_suite(request: pytest.FixtureRequest) -> Iterator[Suite]:
    """The suite with the candidate at work, one for each test process."""
    from .suite import Suite  # noqa: PLC0415 (only where there is a candidate)

    task = request.config.stash.get(TASK, None)
    if task is None:
        pytest.skip(NO_CANDIDATE)
    suite = Suite(task)
    yield suite
    suite.close()
