"""What is shown of a run: the progress of a run, its failures, and the verdict rule by rule."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from rich.console import RenderableType
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from adapters.tls import TlsFiles
from reference.protocol import Profile
from reference.rules import RULES
from reference.text import dump

from .certificate import Certificate, Searched
from .certify import Event, Finished, Found, Progress, Request
from .explain import explain, render
from .explore.bounds import Bound
from .pct import PctPromise
from .screen import Screen
from .verdicts import RuleResult, Verdict

__all__ = ["follow", "replay_command", "show_verdict"]

_STYLES = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.UNKNOWN: "yellow",
    Verdict.UNIMPLEMENTED: "dim",
}
_SENTENCES = {
    Verdict.PASS: "every required rule passed",
    Verdict.FAIL: "a rule failed",
    Verdict.UNKNOWN: "undecided: not every required rule was exercised enough",
}

_EVERY = 300
"""Seconds between lines that say how far a run is, where there is no terminal to show it."""


def replay_command(
    path: Path, spec: str, tls: TlsFiles | None = None, profile: Profile = Profile.TOLERANT
) -> str:
    """The command line that runs a failing program again."""
    words = ["lastwriter", "replay", str(path), spec]
    if profile is not Profile.TOLERANT:
        words += ["--profile", profile]
    if tls is not None:
        words += ["--certificate", str(tls.certificate), "--key", str(tls.key)]
        words += ["--authority", str(tls.authority)]
    return shlex.join(words)


def follow(events: Iterable[Event], request: Request, screen: Screen) -> Certificate:
    """Show a run as it goes; its certificate."""
    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[counts]}", markup=False),
        TimeElapsedColumn(),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
    )
    certificate: Certificate | None = None
    told = 0.0
    with bar:
        task = bar.add_task(
            f"certifying {request.spec}",
            total=request.seconds if request.programs is None else request.programs,
            counts="",
        )
        for event in events:
            match event:
                case Progress():
                    _advance(bar, task, event, request)
                    if bar.disable and event.seconds - told >= _EVERY:
                        told = event.seconds
                        screen.say(f"after {told / 60:.0f} minutes: {_counts(event)}", "dim")
                case Found():
                    _show_found(event, request, screen)
                case Finished():
                    certificate = event.certificate
    assert certificate is not None, "a run ends with a certificate"
    return certificate


def _show_found(found: Found, request: Request, screen: Screen) -> None:
    screen.print()
    again = replay_command(found.path, request.spec, request.tls, request.profile)
    screen.print(render(explain(found.failure), again), crop=False)
    rule = found.failure.violation.rule
    for each in request.expected:
        if each.covers(rule, found.failure.needs):
            screen.say(f"     expected: {each.reason} ({each.link})", "yellow")
    if found.problem:
        screen.say(f"     not saved: {found.problem}; the program is", "bold red")
        for line in dump(found.failure.program).splitlines():
            screen.say(line)


def _advance(bar: Bar, task: TaskID, progress: Progress, request: Request) -> None:
    done = progress.seconds if request.programs is None else progress.programs
    bar.update(task, completed=done, counts=_counts(progress))


def _counts(progress: Progress) -> str:
    failing = f", {progress.failing} failing" if progress.failing else ""
    return f"{progress.programs:,} programs, {progress.operations:,} operations{failing}"


def show_verdict(certificate: Certificate, screen: Screen) -> None:
    """The verdict on every rule that could be tested, and why the others could not."""
    tested = [rule for rule in certificate.rules if rule.verdict is not Verdict.UNIMPLEMENTED]
    screen.print()
    screen.print(_rules_table(tested))
    screen.print()
    for line in _left_out(certificate.rules):
        screen.print(Text(line, "dim"))
    for part in _coverage(certificate):
        screen.print()
        screen.print(part)
    screen.print()
    screen.print(_summary(certificate))


def _coverage(certificate: Certificate) -> Iterable[RenderableType]:
    """What was searched exhaustively, and what chance would have missed."""
    if certificate.exhaustive:
        lines = [
            "exhaustive search; operations are counted beside those that set a program up and the "
            "reads that close it, and no failures are injected:",
            *map(_searched, certificate.exhaustive),
        ]
        yield Text("\n".join(lines))
    if certificate.pct:
        yield _pct_table(certificate.pct)
        yield Text(_PCT_MEANS, "dim")


def _searched(searched: Searched) -> str:
    bound = Bound(searched.operations, searched.switches)
    runs = f"{searched.runs:,} run{'s' if searched.runs != 1 else ''}"
    if searched.complete:
        return f"  complete: all {searched.total:,} {bound.programs}, {bound.schedules}: {runs}"
    failed = f"; {searched.failed:,} were left when they had failed" if searched.failed else ""
    done = f"{searched.programs:,} of {searched.total:,} {bound.programs}"
    return f"  not complete: {done}, {bound.schedules}: {runs}{failed}"


_PCT_MEANS = (
    "PCT draws d - 1 points of change from the first k points of a program of n actors; longer "
    "runs had more points. If a program has a bug of depth d there, one run of it meets the bug "
    "with a probability of at least 1/(n k^(d-1)). If every program had one, no run would meet "
    "its own with the probability on the right at most; a bug that few programs have is missed "
    "far more often."
)


def _pct_table(promises: Iterable[PctPromise]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("PCT depth d", "runs", "actors n", "points k", "longer", "one meets", "all miss"):
        table.add_column(name, justify="right")
    for each in promises:
        table.add_row(
            str(each.depth), f"{each.runs:,}", str(each.actors), str(each.points),
            f"{each.longer:,}", f">= {each.met:.3g}", f"<= {each.missed:.7g}",
        )  # fmt: skip
    return table


def _rules_table(rules: Iterable[RuleResult]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("rule")
    table.add_column("verdict")
    table.add_column("exercised", justify="right")
    table.add_column("")
    for result in rules:
        title = RULES[result.rule].title
        note = f"{title} ({result.reason})" if result.reason else title
        verdict = Text(result.verdict, _STYLES[result.verdict])
        table.add_row(result.rule, verdict, f"{result.exercised:,}", note)
    return table


def _left_out(rules: Iterable[RuleResult]) -> Iterable[str]:
    reasons: dict[str, list[str]] = defaultdict(list)
    for result in rules:
        if result.verdict is Verdict.UNIMPLEMENTED:
            reasons[result.reason].append(result.rule)
    for reason, names in reasons.items():
        yield f"UNIMPLEMENTED, {reason}: {' '.join(names)}"


def _summary(certificate: Certificate) -> Text:
    candidate = certificate.candidate
    counts = (
        f"{certificate.programs:,} programs (mean {certificate.lengths.mean} operations, longest "
        f"{certificate.lengths.longest}), {certificate.operations:,} operations, "
        f"{certificate.sweep_reads:,} reads in closing sweeps, "
        f"{certificate.seconds:.1f} s, seed {certificate.seed}"
    )
    version = f" ({candidate.version})" if candidate.version else ""
    strict = ", strict profile" if certificate.profile is Profile.STRICT else ""
    text = Text.assemble(
        (f"{certificate.verdict}", _STYLES[certificate.verdict]),
        f"  {candidate.name}{version} as {certificate.model}{strict}: "
        f"{_SENTENCES[certificate.verdict]}\n",
        counts,
    )
    if certificate.problem:
        text.append("\nended early: this is what was found until then", "yellow")
    elif certificate.interrupted:
        text.append("\ninterrupted: this is what was found until then", "yellow")
    for line in certificate.surprises:
        text.append(f"\n{line}", "bold red")
    return text
