"""The kernel's source: which tarball it is, and its unpacking."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..candidate import CandidateError
from .places import DONE, digest, root
from .run import run_logged
from .tools import lacking

__all__ = ["PACKAGE", "Source", "find_source", "needed", "unpack"]

PACKAGE = "linux-source-6.12"
"""The oldest Debian package that will do; newer ones are taken where they are installed."""
_FOLDER = Path("/usr/src")
_OLDEST = (6, 12)
_UNUSED = (
    "drivers/gpu",
    "drivers/media",
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/scsi",
    "drivers/staging",
    "sound",
    "tools/testing",
    "tools/perf",
)
"""Folders whose C files no kernel of ours needs: half of the source."""
_COMPRESSED = {".xz": ["--xz"], ".gz": ["--gzip"], ".bz2": ["--bzip2"], ".zst": ["--zstd"]}


@dataclass(frozen=True)
class Source:
    """A tarball of a kernel's source."""

    path: Path
    version: str

    @property
    def name(self) -> str:
        """What identifies it: changes when the file does."""
        state = self.path.stat()
        return digest(self.version, str(state.st_size), str(state.st_mtime_ns))

    @property
    def folder(self) -> Path:
        """Where it is unpacked."""
        return root() / "sources" / self.name

    @property
    def tree(self) -> Path:
        return self.folder / "linux"


def find_source(given: Path | None = None) -> Source:
    """The newest source that is installed, or the one that is given; `CandidateError`."""
    if given is not None:
        if not given.is_file():
            raise CandidateError(f"--source {given}: no such file")
        return Source(given.resolve(), _version(given))
    found = {
        version: path
        for path in _FOLDER.glob("linux-source-*.tar.xz")
        if (version := _numbers(path.name)) >= _OLDEST
    }
    if not found:
        raise CandidateError(f"no kernel source in {_FOLDER}: apt-get install {PACKAGE}")
    path = found[max(found)]
    return Source(path, _version(path))


def needed() -> list[str]:
    """The Debian packages that are not here and that a build needs."""
    packages = lacking(to_build=True)
    try:
        find_source()
    except CandidateError:
        packages.append(PACKAGE)
    return packages


def _numbers(name: str) -> tuple[int, ...]:
    found = re.search(r"\d+(?:\.\d+)+", name)
    return tuple(map(int, found[0].split("."))) if found else ()


def _version(path: Path) -> str:
    """The version of the Debian package that a tarball belongs to, or what its name says."""
    package = path.name.removesuffix(".tar.xz")
    query = ["dpkg-query", "--show", "--showformat=${Version}", package]
    if path.parent == _FOLDER and shutil.which(query[0]):
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0 and done.stdout:
            return done.stdout
    return ".".join(map(str, _numbers(path.name))) or path.name


def unpack(source: Source, log: Path, lock: int, report: Callable[[float], None]) -> Path:
    """The source's tree, unpacked unless it is already; `report` is told what part is done."""
    if (source.folder / DONE).exists():
        return source.tree
    shutil.rmtree(source.folder, ignore_errors=True)
    source.tree.mkdir(parents=True)
    size = source.path.stat().st_size
    with source.path.open("rb") as tarball:
        # Whoever reads from an inherited file moves our place in it, too.
        def watch() -> None:
            report(os.lseek(tarball.fileno(), 0, os.SEEK_CUR) / size)

        command = ["tar", "--extract", "--file=-", "--strip-components=1"]
        command += [f"--directory={source.tree}", *_COMPRESSED.get(source.path.suffix, [])]
        command += [f"--exclude=*/{folder}/*.[chS]" for folder in _UNUSED]
        what = "unpack the source"
        run_logged(what, command, log, watch, stdin=tarball.fileno(), keep=(lock,))
    (source.folder / DONE).touch()
    return source.tree
