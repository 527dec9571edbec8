"""Programs and headers that the virtual machine needs, and the packages that have them."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterable

from ..compiler import CompilerError, find_compiler

__all__ = ["QEMU", "install_command", "lacking", "unsuited"]

QEMU = "qemu-system-x86_64"
_TO_RUN = {QEMU: "qemu-system-x86"}
_TO_BUILD = {
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "ld": "binutils",
    "tar": "tar",
    "xz": "xz-utils",
    "cpio": "cpio",
}
_HEADERS = {"gelf.h": "libelf-dev"}
_COMPILER = ("gcc", "libc6-dev")
_SECONDS = 20


def lacking(*, to_build: bool) -> list[str]:
    """The Debian packages that are not here, to run the machine and, if asked, to build it."""
    programs = _TO_RUN | (_TO_BUILD if to_build else {})
    found = [package for program, package in programs.items() if not shutil.which(program)]
    if not to_build:
        return found
    try:
        compiler = find_compiler()
    except CompilerError:
        return [*found, *_COMPILER, *_HEADERS.values()]
    return [*found, *(name for file, name in _HEADERS.items() if not _has_header(compiler, file))]


def _has_header(compiler: list[str], name: str) -> bool:
    command = [*compiler, "-fsyntax-only", "-include", name, "-x", "c", "/dev/null"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def install_command(packages: Iterable[str]) -> str:
    """The command line that installs packages."""
    return f"apt-get install {' '.join(packages)}"


def unsuited() -> str | None:
    """Why the machine cannot be here, whatever is installed; None if it can."""
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        return None
    return f"the virtual machine is for x86-64 Linux, this is {platform.machine()}"
