"""Building the kernel of the virtual machine: one step after another, told as they go."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ..candidate import CandidateError
from .places import DONE, FORMAT, Kernel, Record, digest, fragment, locked, remove, root
from .run import BuildError, run_logged
from .source import Source, find_source, needed, unpack
from .tools import install_command, lacking, unsuited

__all__ = ["Progress", "Report", "build", "unmet"]

_MADE = re.compile(rb"^  [A-Z\[]", re.MULTILINE)
_FILES = 1750
"""Lines that the compilation of a lean kernel prints, roughly."""

_OPTION = re.compile(r"^CONFIG_.*|^# CONFIG_\w+ is not set", re.MULTILINE)
_NAMED = 5
"""Options that an error names."""


@dataclass(frozen=True)
class Progress:
    """How far a build is."""

    step: str
    done: float
    """What part of the step, 0 to 1."""


Report = Callable[[Progress], None]


def build(
    flavour: str, report: Report = lambda _: None, *, source: Path | None = None, jobs: int = 0
) -> Kernel:
    """The kernel of a flavour, built unless it is there; `CandidateError`, `BuildError`.

    `jobs` are the processes that compile, by default one for each CPU.
    """
    _check_tools(source)
    found = find_source(source)
    place = _place(found, flavour)
    if (place / DONE).exists() and (root() / flavour).resolve() == place.resolve():
        return Kernel(place)
    with locked() as lock:
        work = _Build(found, flavour, place, jobs or os.cpu_count() or 1, lock, report)
        kernel = work.kernel()
        _switch(flavour, kernel)
        _remove_unused()
    return kernel


def _check_tools(given: Path | None) -> None:
    problem = unsuited()
    if problem:
        raise CandidateError(problem)
    packages = lacking(to_build=True) if given else needed()
    if packages:
        raise CandidateError(f"needs {', '.join(packages)}: {install_command(packages)}")


def _place(source: Source, flavour: str) -> Path:
    """Where the kernel with these inputs is, once it is built."""
    key = digest(str(FORMAT), source.name, flavour, fragment(flavour))
    return root() / "kernels" / f"{flavour}-{key}"


@dataclass
class _Build:
    source: Source
    flavour: str
    folder: Path
    jobs: int
    lock: int
    report: Report

    @property
    def options(self) -> str:
        return fragment(self.flavour)

    @property
    def log(self) -> Path:
        return self.folder / "build.log"

    def kernel(self) -> Kernel:
        """The kernel with these inputs, made if it is not there whole."""
        if (self.folder / DONE).exists():
            return Kernel(self.folder)
        if self.folder.exists() and not remove(self.folder):
            raise CandidateError(f"{self.folder}: in use")
        (self.folder / "build").mkdir(parents=True)
        (self.folder / "in-use").touch()
        start = time.monotonic()
        self._make_all()
        record = Record(
            flavour=self.flavour,
            version=self.source.version,
            source=str(self.source.path),
            options=digest(self.options),
            built=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - start, 1),
        )
        part = self.folder / "done.part"
        part.write_bytes(msgspec.json.encode(record))
        part.rename(self.folder / DONE)
        return Kernel(self.folder)

    def _make_all(self) -> None:
        unpack(self.source, self.log, self.lock, lambda part: self._tell("unpack the source", part))
        self._tell("configure", 0)
        self._configure()
        self._compile()

    def _configure(self) -> None:
        config, wanted = self.folder / "build" / ".config", self.folder / "options.config"
        wanted.write_text(self.options, "utf-8")
        self._make("configure", ["tinyconfig"])
        script = str(self.source.tree / "scripts" / "kconfig" / "merge_config.sh")
        folder = str(config.parent)
        command = ["sh", script, "-m", "-O", folder, str(config), str(wanted)]
        run_logged("configure", command, self.log, keep=(self.lock,))
        self._make("configure", ["olddefconfig"])
        dropped = unmet(self.options, config.read_text("utf-8"))
        if dropped:
            some = ", ".join(dropped[:_NAMED]) + ", and more" * (len(dropped) > _NAMED)
            raise BuildError(f"{self.source.path.name} does not do {some}; log: {self.log}")

    def _compile(self) -> None:
        begin = self.log.stat().st_size
        reader = _Lines(self.log, begin)
        self._make(
            "compile the kernel",
            [f"-j{self.jobs}", "vmlinux", "modules"],
            lambda: self._tell("compile the kernel", min(0.99, reader.count() / _FILES)),
        )

    def _make(
        self, what: str, targets: Sequence[str], watch: Callable[[], None] = lambda: None
    ) -> None:
        command = ["make", "-C", str(self.source.tree), f"O={self.folder / 'build'}", *targets]
        run_logged(what, command, self.log, watch, keep=(self.lock,))

    def _tell(self, step: str, done: float) -> None:
        self.report(Progress(step, done))


class _Lines:
    """Counts the lines that make adds to a log, each for something that it has made."""

    def __init__(self, log: Path, begin: int) -> None:
        self._file = log
        self._at = begin
        self._count = 0

    def count(self) -> int:
        with self._file.open("rb") as file:
            file.seek(self._at)
            new = file.read()
        self._at += len(new)
        self._count += len(_MADE.findall(new))
        return self._count


def unmet(wanted: str, config: str) -> list[str]:
    """The options that were asked for and that the configuration does not have.

    `olddefconfig` drops what depends on something that is off, and says nothing.
    """
    have = set(config.splitlines())
    return [line for line in _OPTION.findall(wanted) if line not in have]


def _switch(flavour: str, kernel: Kernel) -> None:
    """Make a kernel the one in use for its flavour."""
    link, part = root() / flavour, root() / f"{flavour}.part"
    part.unlink(missing_ok=True)
    part.symlink_to(kernel.folder.relative_to(root()))
    part.rename(link)


def _remove_unused() -> None:
    """Remove the kernels that no flavour uses any more, and the sources that no kernel does."""
    flavours = {path.resolve() for path in root().iterdir() if path.is_symlink()}
    trees = set()
    for folder in list(root().glob("kernels/*")):
        if folder.resolve() in flavours or not remove(folder):
            trees.add((folder / "build" / "source").resolve())
    for folder in list(root().glob("sources/*")):
        if not any(tree.is_relative_to(folder.resolve()) for tree in trees):
            remove(folder)
