"""Compiling a driver on the spot, once for each version of its source."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from adapters.candidate import CandidateError
from adapters.compiler import CompilerError, cache_folder, find_compiler, run_compiler

__all__ = ["INCLUDE", "OPTIONS", "compile_driver"]

INCLUDE = Path(__file__).parent.parent / "include"
OPTIONS = ("-std=gnu11", "-O1", "-g", "-fPIC", "-shared", f"-I{INCLUDE}")


def compile_driver(path: Path) -> Path:
    """The shared library of a source file; `CandidateError` with the first complaint."""
    try:
        command = [*find_compiler(), *OPTIONS]
        # What the preprocessor makes of it has all that the library depends on.
        text = run_compiler([*command, "-E", str(path)])
        name = hashlib.sha256(b"\0".join([*map(str.encode, command), text])).hexdigest()[:20]
        return _build(command, path, _folder() / f"{path.stem}-{name}.so")
    except CompilerError as error:
        raise CandidateError(f"{path}: {error}") from None
    except OSError as error:
        raise CandidateError(f"{path}: cannot be compiled: {error}") from None


def _folder() -> Path:
    """Where compiled drivers are kept: the cache if there can be one, else a folder of our own."""
    try:
        folder = cache_folder() / "drivers"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return Path(tempfile.mkdtemp(prefix="lastwriter-"))
    return folder


def _build(command: list[str], source: Path, library: Path) -> Path:
    """Compile unless that was done; whoever else does at the same time makes the same file."""
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder, library.name)
            run_compiler([*command, str(source), "-o", str(built)])
            built.replace(library)
    return library
