"""Options of the command that several subcommands share: how to reach a candidate, and TLS."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from adapters.registry import Reach, reach_of
from adapters.tls import TLS_IS_FOR, TlsFiles
from adapters.worker import InProcess, Limits, Worker
from reference.protocol import Profile

from .problems import UsageError
from .runners import open_runner

__all__ = ["Means", "memory_option", "profile_option", "reaching", "tls_options"]

profile_option = click.option(
    "--profile", type=click.Choice([profile.value for profile in Profile]),
    help="How to read the rules that the kernel's own drivers take more or less seriously "
    "[tolerant].",
)  # fmt: skip
Command = Callable[..., Any]


@dataclass(frozen=True)
class Means:
    """How a candidate is reached, and what it may use."""

    limits: Limits
    in_process: bool = False
    tls: TlsFiles | None = None

    def open(self, spec: str) -> Worker | InProcess:
        """The candidate, ready to run programs; `UsageError`, `CandidateError`."""
        if self.in_process and reach_of(spec) is not Reach.HERE:
            raise UsageError(f"--in-process: {spec} cannot be loaded into this process")
        if self.in_process and self.tls:
            raise UsageError(f"{spec}: {TLS_IS_FOR}")
        return open_runner(spec, self.limits, in_process=self.in_process, tls=self.tls)


memory_option = click.option(
    "--memory", type=click.IntRange(min=16), default=4096, show_default=True, metavar="MIB",
    help="Memory that the candidate's process may take.",
)  # fmt: skip
_REACHING = (
    click.option(
        "--hang", type=click.FloatRange(min=0.01), default=10.0, show_default=True, metavar="S",
        help="Seconds that one program may take.",
    ),
    click.option(
        "--start", type=click.FloatRange(min=0.01), default=30.0, show_default=True, metavar="S",
        help="Seconds until the candidate has described itself.",
    ),
    memory_option,
    click.option(
        "--in-process", is_flag=True,
        help="Load CANDIDATE into this process: faster, but a crash or hang is one of the suite.",
    ),
)  # fmt: skip
_TLS = (
    click.option("--certificate", type=click.Path(path_type=Path), help="TLS: our certificate."),
    click.option("--key", type=click.Path(path_type=Path), help="TLS: its private key."),
    click.option("--authority", type=click.Path(path_type=Path), help="TLS: who signs the peers'."),
)


def tls_options(command: Command) -> Command:
    """Add the options of TLS; the command is given them as `tls`."""

    @functools.wraps(command)
    def with_files(
        *, certificate: Path | None, key: Path | None, authority: Path | None, **given: Any
    ) -> Any:
        return command(tls=TlsFiles.given(certificate, key, authority), **given)

    return _with(_TLS, with_files)


def reaching(command: Command) -> Command:
    """Add the options about reaching a candidate; the command is given them as `means`."""

    @functools.wraps(command)
    def with_means(
        *, hang: float, start: float, memory: int, in_process: bool, tls: TlsFiles | None,
        **given: Any,
    ) -> Any:  # fmt: skip
        limits = Limits(seconds=hang, memory=memory << 20, start=start)
        return command(means=Means(limits, in_process, tls), **given)

    return _with(_REACHING, tls_options(with_means))


def _with(options: tuple[Callable[[Command], Command], ...], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
