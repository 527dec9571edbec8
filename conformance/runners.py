"""What runs programs on the candidate that a spec names."""

from __future__ import annotations

from pathlib import Path

from adapters.journal import Journal
from adapters.tls import TlsFiles
from adapters.worker import InProcess, Limits, Worker
from reference.program import Program
from reference.trace import Trace

__all__ = ["open_runner"]


def open_runner(
    spec: str,
    limits: Limits,
    *,
    in_process: bool = False,
    journal: Path | None = None,
    tls: TlsFiles | None = None,
) -> Worker | InProcess:
    """The candidate, ready to run programs; `CandidateError` if it cannot be."""
    if not in_process:
        return Worker(spec, limits=limits, journal=journal, tls=tls)
    return InProcess(spec) if journal is None else _Recorded(spec, journal)


class _Recorded(InProcess):
    """Writes down each program before it is run: a crash takes this process with it."""

    def __init__(self, spec: str, journal: Path) -> None:
        super().__init__(spec)
        self._journal = Journal(journal)

    def run(self, program: Program) -> Trace:
        self._journal.write(program.to_bytes())
        return super().run(program)

    def close(self) -> None:
        self._journal.close()
