"""The C compiler, where there is one, and where its results are kept."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

__all__ = ["CompilerError", "cache_folder", "find_compiler", "run_compiler"]

_SECONDS = 120


class CompilerError(Exception):
    """Why something cannot be compiled, in one line."""


def cache_folder() -> Path:
    """Where compiled modules are kept: `lastwriter` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lastwriter"


def find_compiler() -> list[str]:
    """The first words of its command line: that of `CC`, of Python, or one on the PATH."""
    for candidate in (os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang"):
        words = shlex.split(candidate or "")
        if words and shutil.which(words[0]):
            return words
    raise CompilerError("no C compiler on the PATH")


def run_compiler(command: list[str]) -> bytes:
    """What it prints; `CompilerError` with its first complaint if it fails."""
    try:
        result = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise CompilerError(f"{command[0]} took over {_SECONDS} s") from None
    if result.returncode:
        complaints = result.stderr.decode("utf-8", "replace").splitlines()
        errors = [line for line in complaints if "error" in line]
        detail = errors[0] if errors else f"exit status {result.returncode}"
        raise CompilerError(f"{command[0]} fails: {detail}")
    return result.stdout
