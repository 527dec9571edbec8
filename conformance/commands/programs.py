"""`lastwriter replay`, `shrink` and `sweep`: what is done with the program in a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from adapters.tls import TlsFiles
from reference.program import Program
from reference.text import dump

from ..display import replay_command
from ..examine import Examiner, Failure, as_found, profile_of
from ..explain import explain, render
from ..options import Means, profile_option, reaching
from ..problems import UsageError
from ..screen import Screen
from ..store import Store, load_program, obstacle, write_atomically
from ..sweeping import Swept, sweep_failures, table_of
from .shared import CANDIDATE, OUT, default_candidate, prepare

__all__ = ["replay", "shrink", "sweep_command"]


@click.command()
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
    spec = candidate or default_candidate(screen)
    with means.open(spec) as runner:
        reading = profile_of(profile, runner.description, "--profile")
        problem = obstacle(program, runner.description)
        if problem is not None:
            raise UsageError(f"{file}: not for {runner.description.name}: {problem}")
        yield _AtHand(program, spec, Examiner(runner, profile=reading), means.tls)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@CANDIDATE
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


@click.command("sweep")
@click.argument("file", type=click.Path(path_type=Path))
@CANDIDATE
@OUT
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
        prepare(out)
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
        screen.say(
            "the program fails as it is; a failure shows only what it does before that", "yellow"
        )


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
