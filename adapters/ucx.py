"""The registration cache of UCX as a candidate, compiled on the spot against what is installed.

Its source is `linux/ucx_rcache.c`, with what the mirrors of Linux share.  The executable is kept
in the user's cache folder, under the hash of all that it is made of.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .candidate import CandidateError
from .compiler import CompilerError, cache_folder, find_compiler, run_compiler
from .linux import Probe, probe_executable

__all__ = ["ENVIRONMENT", "NAMES", "executable", "probe"]

NAMES = ("rcache",)
ENVIRONMENT: Mapping[str, str] = {
    "UCX_HANDLE_ERRORS": "none",  # faults are the mirror's to handle
    "UCX_LOG_LEVEL": "fatal",
}
"""Environment variables that it runs with."""
INSTALL = "apt install libucx-dev"

_HERE = Path(__file__).parent
_LINUX = _HERE / "linux"
_SOURCES = ("ucx_rcache.c", "ring.c", "ring_keys.c", "ring_probe.c")
_OPTIONS = ("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra")
_LIBRARIES = ("-lucs", "-lucm", "-lpthread")


def executable(name: str) -> Path:
    """The executable of `ucx:NAME`, compiled if need be; `CandidateError` if it cannot be had."""
    if name not in NAMES:
        raise CandidateError(f"no mirror of UCX {name!r}; there is {', '.join(NAMES)}")
    try:
        command = [*find_compiler(), *_OPTIONS, f"-I{_HERE / 'include'}", f"-I{_LINUX}"]
        return _build(command)
    except CompilerError as error:
        reason = str(error)
        if "No such file or directory" in reason or "cannot find -luc" in reason:
            reason = f"UCX or its headers are not installed ({INSTALL})"
        raise CandidateError(f"ucx:{name}: {reason}") from None
    except OSError as error:
        raise CandidateError(f"ucx:{name} cannot be compiled: {error}") from None


def probe(name: str) -> Probe:
    """Ask it whether it can run here, which may compile it first.  Never raises."""
    return probe_executable(lambda: executable(name), ENVIRONMENT)


def _sources() -> list[Path]:
    shared = (path for path in _LINUX.glob("process*.c") if path.stem != "process_vm")
    return [_HERE / "agent" / "agent.c", *sorted(shared), *(_LINUX / name for name in _SOURCES)]


def _build(command: list[str]) -> Path:
    """Compile unless that was done; whoever else does at the same time makes the same file."""
    # What the preprocessor makes of it has all that it depends on, the version of UCX included.
    text = run_compiler([*command, "-E", *map(str, _sources())])
    name = hashlib.sha256(b"\0".join([*map(str.encode, command), text])).hexdigest()[:20]
    path = _folder() / f"rcache-{name}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder, path.name)
            run_compiler([*command, *map(str, _sources()), "-o", str(built), *_LIBRARIES])
            built.replace(path)
    return path


def _folder() -> Path:
    folder = cache_folder() / "ucx"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
