"""The `lastwriter` command: a thin shell over the library."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click
from rich.table import Table
from rich.text import Text

from adapters.candidate import CandidateError
from adapters.listener import serve_at
from adapters.registry import Reach, known, reach_of
from adapters.tls import TlsFiles
from reference.program import Program
from reference.rules import RULES, Rule, lookup
from reference.syncmodels import Sync
from reference.text import dump

from .certificate import own_version
from .certify import Request, certify
from .display import Screen, abandon_stdout, follow, replay_command, show_verdict
from .examine import Examiner, Failure, as_found, profile_of
from .expect import Expectation, ExpectError, load_expectations
from .explain import explain, render
from .mutation import ALL, HEADINGS, Score, score
from .options import Means, UsageError, memory_option, profile_option, reaching, tls_options
from .store import LoadError, Store, load_program, obstacle, write_atomically
from .sweeping import Swept, sweep_failures, table_of
from .verdicts import Verdict
from .vm_command import vm

__all__ = ["main"]

DEFAULT_PROGRAMS = 2000
"""Programs of a run that is given neither a number of them nor a time."""
STATUS = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.UNKNOWN: 3}
INTERRUPTED = 130


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
        abandon_stdout()
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


commands.add_command(vm)
_CANDIDATE = click.argument("candidate")
_OUT = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("lastwriter-out"), show_default=True,
    help="Folder for certificate and failing programs.",
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
        ("driver:path/to/file.py:Class", "a driver in Python, on the host (docs/host.md)"),
        ("driver:path/to/driver.c, .so", "a driver in C, on the host"),
        ("linux:hmm,driver=test_hmm.c", "a changed driver in the machine (docs/linux-hmm.md)"),
        ("tcp:HOST:PORT, unix:PATH", "an agent (docs/wire.md)"),
    ):
        table.add_row(form, "", meaning)
    Screen().print(table)


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
@_OUT
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
    spec = candidate or _default_candidate(screen)
    if jobs > 1 and reach_of(spec) is Reach.REMOTE:
        raise UsageError(f"{spec}: an agent serves one client at a time; leave out -j")
    with means.open(spec) as runner:
        description = runner.description
    reading = profile_of(profile, description, "--profile")
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
        limits=means.limits,
        expected=expected,
        in_process=means.in_process,
        tls=means.tls,
        profile=reading,
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
    if screen.trouble and not isinstance(screen.trouble, BrokenPipeError):
        raise screen.trouble
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
@profile_option
@reaching
def replay(
    file: Path,
    candidate: str | None,
    times: int,
    profile: str | None,
    means: Means,
) -> int:
    """Run the program in FILE again; exit 1 if it fails (again)."""
    screen = Screen()
    with _at_hand(file, candidate, means, profile, screen) as at_hand:
        for _ in range(times):
            violation = at_hand.examiner.examine(at_hand.program)
            if violation is not None:
                failure = as_found(at_hand.examiner.trace, violation)
                at_hand.show(failure, file, screen)
                return 1
    often = f", {times} times" if times > 1 else ""
    screen.say(f"PASS  {file}: {len(at_hand.program)} operations on {at_hand.spec}{often}")
    return 0


@dataclass(frozen=True)
class _AtHand:
    """A program from a file, and a candidate that can run it."""

    program: Program
    spec: str
    examiner: Examiner
    tls: TlsFiles | None

    def show(self, failure: Failure, file: Path, screen: Screen) -> None:
        """The report of a failure whose program is in a file."""
        again = replay_command(file, self.spec, self.tls, self.examiner.profile)
        screen.print(render(explain(failure), again), crop=False)


@contextmanager
def _at_hand(
    file: Path, candidate: str | None, means: Means, profile: str | None, screen: Screen
) -> Iterator[_AtHand]:
    program = load_program(file)
    spec = candidate or _default_candidate(screen)
    with means.open(spec) as runner:
        reading = profile_of(profile, runner.description, "--profile")
        problem = obstacle(program, runner.description)
        if problem is not None:
            raise UsageError(f"{file}: not for {runner.description.name}: {problem}")
        yield _AtHand(program, spec, Examiner(runner, profile=reading), means.tls)


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@_CANDIDATE
@click.option("--out", type=click.Path(path_type=Path), help="File for the result [stdout].")
@profile_option
@reaching
def shrink(
    file: Path,
    candidate: str,
    out: Path | None,
    profile: str | None,
    means: Means,
) -> int:
    """Reduce the failing program in FILE; exit 1, or 0 if it does not fail."""
    errors = Screen(stderr=True)
    with _at_hand(file, candidate, means, profile, errors) as at_hand:
        violation = at_hand.examiner.examine(at_hand.program)
        if violation is None:
            errors.say(f"{file} does not fail on {candidate}")
            return 0
        failure = at_hand.examiner.reduce(at_hand.program, violation)
    at_hand.show(failure, out or file, errors)
    _give(dump(failure.program), out)
    return 1


@commands.command("sweep")
@click.argument("file", type=click.Path(path_type=Path))
@_CANDIDATE
@_OUT
@profile_option
@reaching
def sweep_command(file: Path, candidate: str, out: Path, profile: str | None, means: Means) -> int:
    """Run the program in FILE on a driver with every single failure that it can meet.

    The first allocation fails, then the second, and so on for allocations, copies, waits and
    attempts to take a lock. The operation in which a failure is met may fail, cleanly. Exit 1 if a
    rule is broken; the programs that break it are reduced and kept.
    """
    screen = Screen()
    with _at_hand(file, candidate, means, profile, screen) as at_hand:
        if not at_hand.examiner.runner.description.schedules:
            raise UsageError(f"{candidate}: failures can be injected only into drivers on the host")
        _prepare(out)
        swept = [*_swept(at_hand, out, screen)]
    _tell_swept(swept, screen)
    return int(any(each.rule for each in swept))


def _swept(at_hand: _AtHand, out: Path, screen: Screen) -> Iterator[Swept]:
    """Runs with failures; what they break is kept and shown."""
    examiner, program = at_hand.examiner, at_hand.program
    store = Store(out / "failures", at_hand.spec, program.model, profile=examiner.profile)
    shown: set[Path] = set()
    with screen.status("") as status:
        for each in sweep_failures(program, examiner):
            status.update(f"{each.site} {each.number}")
            if each.failure is not None:
                path = store.add(each.failure)
                if path not in shown:
                    at_hand.show(each.failure, path, screen)
                    screen.print()
                shown.add(path)
            yield each


def _tell_swept(swept: list[Swept], screen: Screen) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("failing", "n-th", ""):
        table.add_column(name)
    for site, numbers, rule in table_of(swept):
        verdict = Text(f"FAIL {rule}", "bold red") if rule else Text("PASS", "green")
        table.add_row(site, numbers, verdict)
    screen.print(table)
    injected = [each for each in swept if each.site]
    broken = sum(bool(each.rule) for each in injected)
    screen.say(f"{len(injected)} failures injected one by one, {broken} of them broke a rule")
    if swept[0].rule:
        screen.say("the program fails as it is; what comes behind that was not tried", "yellow")


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
@memory_option
@tls_options
def agent(candidate: str, listen: str, memory: int, tls: TlsFiles | None) -> None:
    """Serve CANDIDATE to whoever connects to ADDRESS, one client after another.

    Each client gets a new process of the candidate. Loopback only, unless TLS with client
    certificates is set up.
    """
    serve_at(candidate, listen, tls, memory << 20, click.echo)


_IN_THE_PAGE = frozenset({"what goes wrong", "seen in"})
"""Columns of the table of mutants that are too wide for a terminal."""


@commands.command()
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    metavar="S",
    help="Time for each mutant.  [default: the programs that certify runs]",
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.argument("mutant", nargs=-1, metavar="[ID]...")
@click.pass_context
def mutants(
    context: click.Context, seconds: float | None, seed: int, mutant: tuple[str, ...]
) -> None:
    """Score the suite: does it find planted bugs, by which rule, and how short?

    Exit status 1 if one of them survives.
    """
    unknown = [name for name in mutant if name not in ALL]
    if unknown:
        near = difflib.get_close_matches(unknown[0], ALL, n=3)
        raise UsageError(f"no mutant {unknown[0]!r}{'; near: ' if near else ''}{', '.join(near)}")
    screen = Screen()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown = [place for place, name in enumerate(HEADINGS) if name not in _IN_THE_PAGE]
    for place in shown:
        table.add_column(HEADINGS[place])
    scores: list[Score] = []
    with screen.status("") as status:
        for name in mutant or ALL:
            status.update(f"{name} ({len(scores) + 1} of {len(mutant or ALL)})")
            scores.append(score(ALL[name], seed, seconds=seconds))
            cells = scores[-1].cells()
            table.add_row(*[cells[place] for place in shown])
    screen.print(table)
    killed = sum(each.best is not None for each in scores)
    screen.print(f"{killed} of {len(scores)} killed")
    context.exit(0 if killed == len(scores) else 1)


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
