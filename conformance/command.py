"""The `lastwriter` command: a thin shell over the library."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click
from rich.console import Console
from rich.table import Table

from adapters.candidate import CandidateError
from adapters.registry import known
from adapters.worker import Limits, Worker
from reference.model import judge
from reference.program import Program
from reference.rules import RULES, Rule, lookup
from reference.syncmodels import Sync
from reference.text import dump
from reference.trace import Trace, Violation

from .certify import Request, certify
from .display import follow, replay_command, show_verdict
from .examine import Examiner, Failure
from .expect import Expectation, ExpectError, load_expectations
from .explain import explain, render
from .store import LoadError, load_program, runnable, write_atomically
from .verdicts import Verdict

__all__ = ["main"]

DEFAULT_PROGRAMS = 2000
"""Programs of a run that is given neither a number of them nor a time."""
STATUS = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.UNKNOWN: 3}
INTERRUPTED = 130


class UsageError(click.ClickException):
    """Bad usage, or a candidate that cannot be reached: one line, exit status 2."""

    exit_code = 2

    def show(self, file: object = None) -> None:
        click.echo(f"lastwriter: {self.message}", err=True)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command; exits with its status."""
    try:
        status = commands.main(arguments, prog_name="lastwriter", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (CandidateError, LoadError, ExpectError) as error:
        click.echo(f"lastwriter: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"lastwriter: {where}{error.strerror or error}", err=True)
        sys.exit(2)
    sys.exit(status or 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lastwriter")
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
    Console().print(table, highlight=False)


@commands.command("certify")
@click.argument("candidate", required=False)
@click.option(
    "--model",
    type=click.Choice([sync.value for sync in Sync]),
    help="Sync model [default: the candidate's].",
)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Run for so long.")
@click.option("--programs", type=click.IntRange(min=1), help="Run so many programs [2000].")
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), help="Seed [random, and printed].")
@click.option("-j", "--jobs", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Processes that share the work.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("lastwriter-out"),
              show_default=True, help="Folder for the certificate and failing programs.")  # fmt: skip
@click.option("--expect", type=click.Path(path_type=Path), help="File of expected failures.")
@_HANG
@_MEMORY
def certify_command(
    candidate: str | None,
    model: str | None,
    seconds: float | None,
    programs: int | None,
    seed: int | None,
    jobs: int,
    out: Path,
    expect: Path | None,
    hang: float,
    memory: int,
) -> int:
    """Certify CANDIDATE, or this machine's own kernel.

    Exit status: 0 every required rule passed, 1 a rule failed, 2 bad usage or the candidate can't
    be reached, 3 undecided.
    """
    if seconds is not None and programs is not None:
        raise UsageError("--seconds and --programs exclude each other")
    console = Console()
    spec = candidate or _default_candidate(console)
    limits = Limits(seconds=hang, memory=memory << 20)
    with Worker(spec, limits=limits) as worker:
        description = worker.description
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
        seed=secrets.randbits(32) if seed is None else seed,
        programs=programs or (None if seconds is not None else DEFAULT_PROGRAMS),
        seconds=seconds,
        jobs=jobs,
        limits=limits,
        expected=expected,
    )
    return _certify(request, console)


def _certify(request: Request, console: Console) -> int:
    certificate = follow(certify(request), request, console)
    show_verdict(certificate, console)
    path = request.out / "certificate.json"
    write_atomically(path, certificate.to_json())
    console.print(f"certificate: {path}", highlight=False)
    if certificate.interrupted:
        return INTERRUPTED
    if certificate.surprises:
        return STATUS[Verdict.FAIL]
    return STATUS[certificate.verdict]


def _default_candidate(console: Console) -> str:
    kernel = next(each for each in known() if each.spec == "linux:process_vm")
    if kernel.available:
        return kernel.spec
    console.print(f"linux:process_vm cannot run here: {kernel.reason}", highlight=False)
    return "reference:faulting"


def _prepare(out: Path) -> None:
    """Make sure of the output folder before anything runs."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}") from None


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("candidate", required=False)
@click.option("--times", type=click.IntRange(min=1), default=1, show_default=True,
              help="Run it so often; it fails if one run fails.")  # fmt: skip
@_HANG
@_MEMORY
def replay(file: Path, candidate: str | None, times: int, hang: float, memory: int) -> int:
    """Run the program in FILE again; exit 1 if it fails (again)."""
    program = load_program(file)
    console = Console()
    spec = candidate or _default_candidate(console)
    with Worker(spec, limits=Limits(seconds=hang, memory=memory << 20)) as worker:
        _check_runnable(file, program, worker)
        for _ in range(times):
            trace = worker.run(program)
            violation = judge(trace).violation
            if violation is not None:
                _show(_as_found(trace, violation), replay_command(file, spec), console)
                return 1
    console.print(f"PASS  {file}: {len(program)} operations on {spec}, {times} times")
    return 0


def _as_found(trace: Trace, violation: Violation) -> Failure:
    return Failure(trace.program, violation, trace, trace.program, runs=0, unstable=False)


def _show(failure: Failure, command: str, console: Console) -> None:
    console.print(render(explain(failure), command), highlight=False, crop=False)


def _check_runnable(file: Path, program: Program, worker: Worker) -> None:
    if not runnable(program, worker.description, program.model):
        name = worker.description.name
        raise UsageError(f"{file}: {name} lacks operations or the geometry that it needs")


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@_CANDIDATE
@click.option("--out", type=click.Path(path_type=Path), help="File for the result [stdout].")
@_HANG
@_MEMORY
def shrink(file: Path, candidate: str, out: Path | None, hang: float, memory: int) -> int:
    """Reduce the failing program in FILE; exit 1, or 0 if it does not fail."""
    program = load_program(file)
    errors = Console(stderr=True)
    with Worker(candidate, limits=Limits(seconds=hang, memory=memory << 20)) as worker:
        _check_runnable(file, program, worker)
        examiner = Examiner(worker)
        violation = examiner.examine(program)
        if violation is None:
            errors.print(f"{file} does not fail on {candidate}", highlight=False)
            return 0
        failure = examiner.reduce(program, violation)
    _show(failure, replay_command(out or file, candidate), errors)
    if out is None:
        click.echo(dump(failure.program), nl=False)
    else:
        write_atomically(out, dump(failure.program))
    return 1


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
    console = Console()
    if rule is None:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("rule", "checked by", "models", ""):
            table.add_column(column)
        for each in RULES.values():
            table.add_row(each.id, each.checked, _models(each), each.text)
        console.print(table, highlight=False)
        return
    try:
        found = lookup(rule)
    except ValueError as error:
        raise UsageError(str(error)) from None
    console.print(_in_full(found), highlight=False)


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
