"""The real mirrors that a Linux machine offers, each an executable that speaks the wire protocol.

They are built from the C files beside this one when the package is installed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reference.description import Description

from ..candidate import CandidateError
from ..wire import decode_description, printable

__all__ = ["CONTROLS", "NAMES", "Probe", "executable", "probe", "probe_executable"]

NAMES = ("process_vm", "io_uring", "kvm", "vmsplice", "proc_mem", "userfaultfd", "userfaultfd_copy")
CONTROLS = {"vmsplice": "C1", "proc_mem": "H3"}
"""Those that are no correct mirrors of their sync model, with the rule that each must fail."""
FOLDER = Path(__file__).parent
PROBE_SECONDS = 20.0


@dataclass(frozen=True)
class Probe:
    """Whether a mirror can run on this machine."""

    available: bool
    reason: str = ""
    """Why not, in one line, if not."""
    description: Description | None = None
    """What it says of itself, if it can run."""


def executable(name: str) -> Path:
    """The executable of `linux:name`; `CandidateError` if it is unknown or was not built."""
    if name not in NAMES:
        raise CandidateError(f"no Linux mirror {name!r}; there are {', '.join(NAMES)}")
    path = FOLDER / f"{name}_agent"
    if not path.exists():
        raise CandidateError(
            f"linux:{name} was not built: `pip install .` builds it, with a C compiler, on Linux"
        )
    return path


def probe(name: str) -> Probe:
    """Ask a mirror whether it can run here; runs it for a moment.  Never raises."""
    return probe_executable(lambda: executable(name))


def probe_executable(find: Callable[[], Path], environment: Mapping[str, str] = {}) -> Probe:
    """Ask whatever executable is found, run with more environment variables.  Never raises."""
    try:
        done = subprocess.run(
            [find(), "--probe"],
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
            env={**os.environ, **environment},
        )
    except CandidateError as error:
        return Probe(available=False, reason=str(error))
    except subprocess.TimeoutExpired:
        return Probe(available=False, reason=f"no answer within {PROBE_SECONDS:g} seconds")
    except OSError as error:
        return Probe(available=False, reason=f"cannot be run: {error.strerror}")
    return _judge(done)


def _judge(done: subprocess.CompletedProcess[bytes]) -> Probe:
    if done.returncode == 0:
        try:
            return Probe(available=True, description=decode_description(done.stdout))
        except CandidateError as error:
            return Probe(available=False, reason=str(error))
    lines = printable(done.stderr.decode(errors="replace")).strip().splitlines()
    last = lines[-1] if lines else f"ended with {done.returncode} and no word"
    return Probe(available=False, reason=last.removeprefix("unavailable: "))
