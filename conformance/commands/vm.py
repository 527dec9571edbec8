"""`lastwriter vm`: the virtual machine for `linux:hmm`, made, looked at and removed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from adapters.vm.build import Progress, Report, build
from adapters.vm.places import NotBuiltError, clean, current, root, size_of
from adapters.vm.spec import FLAVOURS
from adapters.vm.start import boot_once

from ..screen import Screen

__all__ = ["vm"]

_flavour = click.option(
    "--flavour", type=click.Choice(FLAVOURS), default=FLAVOURS[0], show_default=True,
    help="debug: with lockdep, KASAN and the kernel's other checks of itself.",
)  # fmt: skip


@click.group()
def vm() -> None:
    """The virtual machine that linux:hmm runs in."""


@vm.command("build")
@_flavour
@click.option(
    "--source", type=click.Path(path_type=Path), metavar="FILE",
    help="Tarball of a kernel's source.  [default: the newest package that is installed]",
)  # fmt: skip
@click.option("-j", "--jobs", type=click.IntRange(min=1), metavar="N",
              help="Processes that compile.  [default: one for each CPU]")  # fmt: skip
def build_command(flavour: str, source: Path | None, jobs: int | None) -> None:
    """Build the kernel and the agent, unless they are there, and boot them once."""
    screen = Screen()
    start = time.monotonic()
    with _reported(screen, flavour) as report:
        kernel = build(flavour, report, source=source, jobs=jobs or 0)
        report(Progress("boot it once", 0))
        boot_once(kernel)
    record = kernel.record
    screen.say(f"{record.version}, {flavour}: ready after {time.monotonic() - start:.0f} s")
    screen.say(f"kept in {kernel.folder}")


@contextmanager
def _reported(screen: Screen, flavour: str) -> Iterator[Report]:
    """A bar for each step on a terminal, and a line for each elsewhere."""
    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=screen,
        disable=not screen.is_terminal,
    )
    step = ""
    with bar:
        task = bar.add_task(f"{flavour} machine", total=1.0)

        def report(progress: Progress) -> None:
            nonlocal step, task
            if progress.step != step:
                if step:
                    bar.update(task, completed=1.0)
                    task = bar.add_task(progress.step, total=1.0)
                step = progress.step
                bar.update(task, description=step)
                if not screen.is_terminal:
                    screen.say(f"{step} ...")
            bar.update(task, completed=progress.done)

        yield report
        bar.update(task, completed=1.0)


@vm.command()
def status() -> None:
    """What is built, and where."""
    screen = Screen()
    for flavour in FLAVOURS:
        screen.say(_state(flavour))
    screen.say(f"all of it is in {root()}")


def _state(flavour: str) -> str:
    try:
        kernel = current(flavour)
    except NotBuiltError as error:
        return str(error)
    record, size = kernel.record, size_of(kernel.folder) >> 20
    return (
        f"the {flavour} machine: {record.version}, built {record.built} in {record.seconds:.0f} s, "
        f"{size} MiB in {kernel.folder}"
    )


@vm.command("clean")
def clean_command() -> None:
    """Remove all that was built for virtual machines."""
    clean()
    Screen().say(f"removed what was in {root()}")
