"""What the machine boots into: a mirror's agent as /init, and the modules that it needs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from ..candidate import CandidateError
from ..compiler import CompilerError, find_compiler
from .mirrors import DEFAULT, MIRRORS
from .places import Kernel, digest, remove_older
from .run import run_logged

__all__ = ["initramfs", "place", "sources"]

_OPTIONS = ("-static", "-std=gnu11", "-O2", "-Wall", "-Wextra")


def sources(mirror: str = DEFAULT) -> list[Path]:
    """The C files of the agent that runs in the machine, as one of `MIRRORS`."""
    package = Path(str(resources.files("adapters")))
    shared = sorted(package.glob("linux/process*.c"))
    own = [package / "linux" / f"{name}.c" for name in ("guest", *MIRRORS[mirror].files)]
    agent = package / "agent" / "agent.c"
    return [agent, *(path for path in shared if path.stem != "process_vm"), *own]


def _inputs(mirror: str) -> Iterator[bytes]:
    package = Path(str(resources.files("adapters")))
    headers = [*sorted(package.glob("linux/*.h")), package / "include" / "lastwriter.h"]
    for path in [*sources(mirror), *headers]:
        yield path.read_bytes()


def place(kernel: Kernel, mirror: str = DEFAULT) -> Path:
    """Where a mirror's archive is, once it is made: its name changes with the agent."""
    key = digest(*_inputs(mirror), *_OPTIONS, *MIRRORS[mirror].modules)
    return kernel.folder / "initramfs" / f"{mirror}-{key}.cpio"


def initramfs(kernel: Kernel, mirror: str = DEFAULT) -> Path:
    """The archive that a kernel boots into, made unless it is there; `CandidateError`."""
    path = place(kernel, mirror)
    if path.exists():
        return path
    path.parent.mkdir(exist_ok=True)
    with kernel.changed() as lock:
        if not path.exists():  # somebody else may have made it while we waited
            _make(kernel, mirror, path, lock)
    return path


def _make(kernel: Kernel, mirror: str, path: Path, lock: int) -> None:
    tree, log = path.with_suffix(".tree"), path.with_suffix(".log")
    shutil.rmtree(tree, ignore_errors=True)
    log.unlink(missing_ok=True)
    modules = tree / "lib" / "modules"
    modules.mkdir(parents=True)
    for name in MIRRORS[mirror].modules:
        shutil.copy(kernel.build / name, modules)
    _compile(sources(mirror), tree / "init", log, lock)
    part = path.with_suffix(".part")
    script = 'cd "$1" && find . | cpio --create --format=newc --owner=0:0 >"$2"'
    command = ["sh", "-c", script, "sh", str(tree), str(part)]
    run_logged("pack the initramfs", command, log, keep=(lock,))
    part.rename(path)
    shutil.rmtree(tree)
    remove_older(path.parent, path, f"{mirror}-*")


def _compile(files: list[Path], target: Path, log: Path, lock: int) -> None:
    try:
        compiler = find_compiler()
    except CompilerError as error:
        raise CandidateError(str(error)) from None
    package = Path(str(resources.files("adapters")))
    folders = [f"-I{package / 'include'}", f"-I{package / 'linux'}"]
    command = [*compiler, *_OPTIONS, *folders, *map(str, files), "-o", str(target)]
    run_logged("compile the agent", command, log, keep=(lock,))
