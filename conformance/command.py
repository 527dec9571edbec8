"""The `lastwriter` command: a thin shell over the library."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click
from rich.table import Table

from adapters.candidate import CandidateError
from adapters.registry import Reach, known, reach_of
from adapters.worker import InProcess, Limits, Worker
from reference.model import judge
from reference.program import Program
from reference.rules import RULES, Rule, lookup
from reference.syncmodels import Sync
from reference.text import dump

from .certificate import own_version
from .certify import Request, certify
from .display import Screen, follow, replay_command, show_verdict
from .examine import Examiner, Failure, as_found
from .expect import Expectation, ExpectError, load_expectations
from .explain import explain, render
from .store import LoadError, load_program, obstacle, write_atomically
from .tasks import open_runner
from .verdicts import Verdict

__all__ = ["main"]

DEFAULT_PROGRAMS = 2000
"""Programs of a run that is given neither a number of them nor a time."""
STATUS = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.UNKNOWN: 3}
INTERRUPTED = 130


class UsageError(click.ClickException):
    """Bad usage, or a candidate that cannot be reached: one line, exit status 2."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command; exits with its status."""
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        status = commands.main(given or ["--help"], "lastwriter", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        sys.exit(INTERRUPTED)
    except (click.ClickException, CandidateError, LoadError, ExpectError, OSError) as error:
        _say(error)
        sys.exit(2)
    sys.exit(status or 0)


def _say(error: Exception) -> None:
    """The problem, in one line."""
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    if isinstance(error, OSError):
        # Whatever is still to be written there must not fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        where = f"{error.filename}: " if error.filename else ""
        text = f"{where}{error.strerror or error}"
    if not isinstance(error, BrokenPipeError):
        click.echo(f"lastwriter: {' '.join(text.splitlines())}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(own_version(), package_name="lastwriter")
def commands() -> None:
    """Does a CPU access return what was last written, by the CPU or a device?

    A conformance suite for mirrors: software and hardware that let a device use a process's
    addresses.
    """


_CANDIDATE = click.argument("candidate")
_HANG = click.option(
    "--hang", type=click.FloatRange(min=0.01), default=10.0, show_default=True, metavar="S",
    help="Seconds that one program may take.",
)  # fmt: skip
_START = click.option(
    "--start", type=click.FloatRange(min=0.01), default=30.0, show_default=True, metavar="S",
    help="Seconds until the candidate has described itself.",
)  # fmt: skip
_IN_PROCESS = click.option(
    "--in-process", is_flag=True,
    help="Load CANDIDATE into this process: faster, but a crash or hang is one of the suite.",
)  # fmt: skip
_MEMORY = click.option(
    "--memory", type=click.IntRange(min=16), default=4096, show_default=True, metavar="MIB",
    help="Memory that the candidate's process may take.",
)  # fmt: skip


@commands.command()
def candidates() -> None:
    """What can run here; what can't, and why."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("candidate", "", ""):
        table.add_column(column)
    for each in known():
        table.add_row(each.spec, "yes" if each.available else "no", each.reason)
    for form, meaning in (
        ("path/to/mirror.so", "a C shared library (docs/c-interface.md)"),
        ("module:name, path/to/file.py:name", "a Python class, factory or object"),
        ("tcp:HOST:PORT, unix:PATH", "an agent (docs/wire.md)"),
    ):
        table.add_row(form, "", meaning)
    Screen().print(table)


def _open(
    spec: str, *, hang: float, start: float, memory: int, in_process: bool
) -> Worker | InProcess:
    """The candidate that the options ask for."""
    if in_process and reach_of(spec) is not Reach.HERE:
        raise UsageError(f"--in-process: {spec} cannot be loaded into this process")
    limits = Limits(seconds=hang, memory=memory << 20, start=start)
    return open_runner(spec, limits, in_process=in_process)


@commands.command("certify")
@click.argument("candidate", required=False)
@click.option(
    "--model",
    type=click.Choice([sync.value for sync in Sync]),
    help="Sync model [default: the candidate's].",
)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Run for so long.")
@click.option("--programs", type=click.IntRange(min=1), help="Run so many programs [2000].")
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), default=0, show_default=True,
              help="Seed of all programs.")  # fmt: skip
@click.option("-j", "--jobs", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Processes that share the work.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("lastwriter-out"),
              show_default=True, help="Folder for certificate and failing programs.")  # fmt: skip
@click.option("--expect", type=click.Path(path_type=Path), help="File of expected failures.")
@_HANG
@_START
@_MEMORY
@_IN_PROCESS
def certify_command(
    candidate: str | None,
    model: str | None,
    seconds: float | None,
    programs: int | None,
    seed: int,
    jobs: int,
    out: Path,
    expect: Path | None,
    hang: float,
    start: float,
    memory: int,
    in_process: bool,
) -> int:
    """Certify CANDIDATE, or this machine's own kernel.

    Exit status: 0 every required rule passed, 1 a rule failed, 2 bad usage or the candidate can't
    be reached, 3 undecided.
    """
    if seconds is not None and programs is not None:
        raise UsageError("--seconds and --programs exclude each other")
    screen = Screen()
    spec = candidate or _default_candidate(screen)
    if jobs > 1 and reach_of(spec) is Reach.REMOTE:
        raise UsageError(f"{spec}: an agent serves one client at a time; leave out -j")
    with _open(spec, hang=hang, start=start, memory=memory, in_process=in_process) as runner:
        description = runner.description
    sync = Sync(model) if model else description.model
    expected: tuple[Expectation, ...] = ()
    if expect is not None:
        expected = tuple(load_expectations(expect, sync))
    _prepare(out)
    request = Request(
        spec=spec,
        description=description,
        model=sync,
        out=out,
        seed=seed,
        programs=programs or (None if seconds is not None else DEFAULT_PROGRAMS),
        seconds=seconds,
        jobs=jobs,
        limits=Limits(seconds=hang, memory=memory << 20, start=start),
        expected=expected,
        in_process=in_process,
    )
    return _certify(request, screen)


def _certify(request: Request, screen: Screen) -> int:
    screen.say(
        f"certifying {request.spec} as {request.model}: {request.budget}, seed {request.seed}"
    )
    certificate = follow(certify(request), request, screen)
    show_verdict(certificate, screen)
    path = request.out / "certificate.json"
    write_atomically(path, certificate.to_json())
    screen.say(f"certificate: {path}")
    if certificate.problem:
        raise UsageError(certificate.problem)
    if certificate.interrupted:
        return INTERRUPTED
    if certificate.surprises:
        return STATUS[Verdict.FAIL]
    return STATUS[certificate.verdict]


def _default_candidate(screen: Screen) -> str:
    kernel = next(each for each in known() if each.spec == "linux:process_vm")
    if kernel.available:
        return kernel.spec
    screen.say(f"linux:process_vm cannot run here: {kernel.reason}")
    return "reference:faulting"


def _prepare(out: Path) -> None:
    """Make sure of the output folder before anything runs."""
    probe = out / ".writable"
    try:
        out.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"\0" * 4096)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        problem = "it is no folder" if isinstance(error, FileExistsError) else error.strerror
        raise UsageError(f"--out {out}: {problem}") from None


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("candidate", required=False)
@click.option("--times", type=click.IntRange(min=1), default=1, show_default=True,
              help="Run it so often; it fails if one run fails.")  # fmt: skip
@_HANG
@_START
@_MEMORY
@_IN_PROCESS
def replay(
    file: Path,
    candidate: str | None,
    times: int,
    hang: float,
    start: float,
    memory: int,
    in_process: bool,
) -> int:
    """Run the program in FILE again; exit 1 if it fails (again)."""
    program = load_program(file)
    screen = Screen()
    spec = candidate or _default_candidate(screen)
    with _open(spec, hang=hang, start=start, memory=memory, in_process=in_process) as runner:
        _check_runnable(file, program, runner)
        for _ in range(times):
            trace = runner.run(program)
            violation = judge(trace).violation
            if violation is not None:
                _show(as_found(trace, violation), replay_command(file, spec), screen)
                return 1
    often = f", {times} times" if times > 1 else ""
    screen.say(f"PASS  {file}: {len(program)} operations on {spec}{often}")
    return 0


def _show(failure: Failure, command: str, screen: Screen) -> None:
    screen.print(render(explain(failure), command), crop=False)


def _check_runnable(file: Path, program: Program, runner: Worker | InProcess) -> None:
    problem = obstacle(program, runner.description)
    if problem is not None:
        raise UsageError(f"{file}: not for {runner.description.name}: {problem}")


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@_CANDIDATE
@click.option("--out", type=click.Path(path_type=Path), help="File for the result [stdout].")
@_HANG
@_START
@_MEMORY
@_IN_PROCESS
def shrink(
    file: Path,
    candidate: str,
    out: Path | None,
    hang: float,
    start: float,
    memory: int,
    in_process: bool,
) -> int:
    """Reduce the failing program in FILE; exit 1, or 0 if it does not fail."""
    program = load_program(file)
    errors = Screen(stderr=True)
    with _open(candidate, hang=hang, start=start, memory=memory, in_process=in_process) as runner:
        _check_runnable(file, program, runner)
        examiner = Examiner(runner)
        violation = examiner.examine(program)
        if violation is None:
            errors.say(f"{file} does not fail on {candidate}")
            return 0
        failure = examiner.reduce(program, violation)
    _show(failure, replay_command(out or file, candidate), errors)
    _give(dump(failure.program), out)
    return 1


def _give(text: str, out: Path | None) -> None:
    """To the file, if there is one; in any case somewhere."""
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        write_atomically(out, text)
    except OSError:
        click.echo(text, nl=False)
        raise


@commands.command()
@_CANDIDATE
@click.option("--listen", required=True, metavar="ADDRESS", help="tcp:HOST:PORT or unix:PATH.")
@click.option("--certificate", type=click.Path(path_type=Path), help="TLS: our certificate.")
@click.option("--key", type=click.Path(path_type=Path), help="TLS: its private key.")
@click.option("--authority", type=click.Path(path_type=Path), help="TLS: who signs the clients'.")
def agent(
    candidate: str,
    listen: str,
    certificate: Path | None,
    key: Path | None,
    authority: Path | None,
) -> None:
    """Serve CANDIDATE to whoever connects to ADDRESS.

    Loopback only, unless TLS with client certificates is set up.
    """
    from adapters.server import serve_at  # noqa: PLC0415 (needs ssl, which is slow to load)
    from adapters.tls import TlsFiles  # noqa: PLC0415

    files = (certificate, key, authority)
    if any(files) and not all(files):
        raise UsageError("TLS needs --certificate, --key and --authority")
    tls = TlsFiles(certificate, key, authority) if certificate and key and authority else None
    serve_at(candidate, listen, tls, click.echo)


@commands.command()
@click.argument("rule", required=False)
def rules(rule: str | None) -> None:
    """The rules of the contract, or one of them in full."""
    screen = Screen()
    if rule is None:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("rule", "checked by", "models", ""):
            table.add_column(column)
        for each in RULES.values():
            table.add_row(each.id, each.checked, _models(each), each.text)
        screen.print(table)
        return
    try:
        found = lookup(rule)
    except ValueError as error:
        raise UsageError(str(error)) from None
    screen.print(_in_full(found))


def _models(rule: Rule) -> str:
    return "all" if set(rule.models) == set(Sync) else ", ".join(rule.models)


def _in_full(rule: Rule) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for name, text in (
        (rule.id, rule.text),
        ("source", rule.source),
        ("models", _models(rule)),
        ("needs", ", ".join(rule.needs) or "nothing special"),
        ("checked by", rule.checked),
        ("how", rule.description),
        ("expected", rule.expectation),
        ("enough", f"exercised {rule.enough} times"),
    ):
        table.add_row(name, text)
    return table


if __name__ == "__main__":
    main()
