"""`lastwriter certify`: programs on a candidate, verdicts, a certificate."""

from __future__ import annotations

from pathlib import Path

import click

from adapters.registry import Reach, reach_of
from reference.protocol import Profile
from reference.syncmodels import Sync

from .. import collector
from ..certify import PROGRAMS, SCHEDULED_PROGRAMS, Request, certify
from ..display import follow, show_verdict
from ..examine import profile_of
from ..expect import Expectation, load_expectations
from ..options import Means, profile_option, reaching
from ..problems import INTERRUPTED, UsageError
from ..screen import Screen
from ..store import write_atomically
from ..verdicts import Verdict
from .shared import OUT, default_candidate, prepare

__all__ = ["certify_command"]

STATUS = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.UNKNOWN: 3}


@click.command("certify")
@click.argument("candidate", required=False)
@click.option(
    "--model",
    type=click.Choice([sync.value for sync in Sync]),
    help="Sync model [default: the candidate's].",
)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Run for so long.")
@click.option(
    "--programs",
    type=click.IntRange(min=1),
    help="Run so many programs [2000; 24000 for a driver on the host].",
)
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), default=0, show_default=True,
              help="Seed of all programs.")  # fmt: skip
@click.option("-j", "--jobs", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Processes that share the work.")  # fmt: skip
@OUT
@click.option("--expect", type=click.Path(path_type=Path), help="File of expected failures.")
@profile_option
@reaching
def certify_command(
    candidate: str | None,
    model: str | None,
    seconds: float | None,
    programs: int | None,
    seed: int,
    jobs: int,
    out: Path,
    expect: Path | None,
    profile: str | None,
    means: Means,
) -> int:
    """Certify CANDIDATE, or this machine's own kernel.

    Exit status: 0 every required rule passed, 1 a rule failed, 2 bad usage or the candidate can't
    be reached, 3 undecided. It is the same if nobody reads what is printed.
    """
    if seconds is not None and programs is not None:
        raise UsageError("--seconds and --programs exclude each other")
    # What is found must be kept, whoever has stopped to listen.
    screen = Screen(lenient=True)
    spec = candidate or default_candidate(screen)
    if jobs > 1 and reach_of(spec) is Reach.REMOTE:
        raise UsageError(f"{spec}: an agent serves one client at a time; leave out -j")
    with means.open(spec) as runner:
        description = runner.description
    reading = profile_of(profile, description, "--profile")
    sync = Sync(model) if model else description.model
    expected: tuple[Expectation, ...] = ()
    if expect is not None:
        expected = tuple(load_expectations(expect, sync))
    prepare(out)
    if programs is None and seconds is None:
        programs = SCHEDULED_PROGRAMS if description.schedules else PROGRAMS
    request = Request(
        spec=spec,
        description=description,
        model=sync,
        out=out,
        seed=seed,
        programs=programs,
        seconds=seconds,
        jobs=jobs,
        limits=means.limits,
        expected=expected,
        in_process=means.in_process,
        tls=means.tls,
        profile=reading,
    )
    return _certify(request, screen)


def _certify(request: Request, screen: Screen) -> int:
    strict = ", strict profile" if request.profile is Profile.STRICT else ""
    screen.say(
        f"certifying {request.spec} as {request.model}: "
        f"{request.budget}, seed {request.seed}{strict}"
    )
    collector.rest()
    certificate = follow(certify(request), request, screen)
    show_verdict(certificate, screen)
    path = request.out / "certificate.json"
    write_atomically(path, certificate.to_json())
    screen.say(f"certificate: {path}")
    if certificate.problem:
        raise UsageError(certificate.problem)
    if screen.trouble and not isinstance(screen.trouble, BrokenPipeError):
        raise screen.trouble
    if certificate.interrupted:
        return INTERRUPTED
    if certificate.surprises:
        return STATUS[Verdict.FAIL]
    return STATUS[certificate.verdict]
