"""Running programs on a candidate that may crash, hang, eat memory or answer garbage."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, cast

from reference.description import Description
from reference.operations import OPERATION
from reference.outcomes import Outcome
from reference.program import HEADER_SIZE, Program
from reference.trace import Breakdown, Cause, Trace

from .candidate import Candidate, CandidateError, GarbageError, Scheduled
from .client import RemoteCandidate
from .holder import Holder
from .journal import Journal
from .process import Child
from .python import check_outcomes, describe, located
from .registry import Reach, executable_of, open_candidate, reach_of
from .tls import TLS_IS_FOR, TlsFiles
from .wire import (
    ClosedError,
    ComplaintError,
    CrashedError,
    DeadlineError,
    HeavyError,
    RefusedError,
    Stream,
    WireError,
)

__all__ = ["ChildLink", "InProcess", "Limits", "Runner", "Worker"]

_DEATH_SECONDS = 2.0
_WEIGHING_SECONDS = 0.5
"""A candidate whose programs are all short is weighed between them, this far apart."""


@dataclass(frozen=True)
class Limits:
    """What a candidate may use."""

    seconds: float = 10.0
    """For one program, from its reset to its last outcome."""
    memory: int = 4 << 30
    """Bytes that a worker process and its children may hold; remote agents see to their own."""
    start: float = 30.0
    """Seconds until a candidate has described itself."""


class Runner(Protocol):
    """What runs programs: a `Worker` or `InProcess`."""

    @property
    def description(self) -> Description: ...

    def run(self, program: Program) -> Trace: ...

    def begin(self, program: Program) -> None:
        """Have a program run, without waiting for it."""

    def finish(self) -> Trace:
        """What comes of the program that was begun; nothing else is run meanwhile."""

    def close(self) -> None: ...


_CAUSES: dict[type[WireError], Cause] = {
    ClosedError: Cause.CRASH,
    ComplaintError: Cause.KERNEL,
    CrashedError: Cause.CRASH,
    HeavyError: Cause.MEMORY,
    RefusedError: Cause.REFUSED,
}


class _Link:
    """The conversation with a candidate, up to its first breakdown."""

    client: RemoteCandidate
    description: Description

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def begin(self) -> None:
        """Be ready for another program; raises what `explain` explains, as all that follows."""
        self.allow()

    def allow(self) -> None:
        """From now on the candidate may take as long as a program may."""
        self.client.deadline = time.monotonic() + self.limits.seconds

    def settle(self) -> None:
        """Once a program is answered."""

    def explain(self, error: WireError) -> Breakdown:
        """What an error in `run` says about the candidate."""
        text = str(error)
        if isinstance(error, DeadlineError):
            return Breakdown(Cause.HANG, f"no answer within {self.limits.seconds:g} s")
        causes = (cause for kind, cause in _CAUSES.items() if isinstance(error, kind))
        return Breakdown(next(causes, Cause.GARBAGE), text)

    def end(self) -> None:
        """Break off."""
        self.client.stream.close()

    def close(self) -> None:
        """Part in peace."""
        self.client.close()


class _RemoteLink(_Link):
    """To an agent that is running somewhere already."""

    def __init__(self, spec: str, limits: Limits, tls: TlsFiles | None) -> None:
        super().__init__(limits)
        self.client = RemoteCandidate.connect(spec, tls=tls, seconds=limits.start)
        self.client.deadline = time.monotonic() + limits.start
        try:
            self.description = self.client.describe()
        except BaseException:
            self.end()
            raise


class ChildLink(_Link):
    """To an agent in a process of our own; `CandidateError` if it cannot be started.

    `attend` is called now and then while it is waited for; what that raises ends the wait.
    """

    def __init__(
        self, spec: str, limits: Limits, attend: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(limits)
        self._attend = attend
        self._holder = _hold(spec, limits)
        self._child = self._holder.child
        self._died = False
        self._weighed = time.monotonic()
        self._programs = 0
        stream = Stream.of_socket(self._child.socket)
        stream.idle = self._look
        try:
            self._greet(spec, stream, time.monotonic() + limits.start)
        except BaseException:
            self._holder.end()
            raise

    def _greet(self, spec: str, stream: Stream, deadline: float) -> None:
        try:
            self.client = RemoteCandidate(stream, deadline=deadline)
            self.description = self._holder.amend(self.client.describe())
        except RefusedError as error:
            raise CandidateError(str(error)) from None
        except DeadlineError:
            problem = f"did not describe itself within {self.limits.start:g} s"
            raise CandidateError(f"{spec}: {problem}") from None
        except WireError as error:
            lines = self.explain(error).message.splitlines()
            text = ": ".join([lines[0], *lines[-1:]] if len(lines) > 1 else lines)
            raise CandidateError(f"{spec}: broke down at its start: {text}") from None

    def begin(self) -> None:
        super().begin()
        death = self._child.death()
        if death is not None:
            raise ClosedError(f"{death}, after it had answered the program before this one")
        self._holder.begin()
        self._programs += 1

    def settle(self) -> None:
        """Once a program is answered: `ComplaintError`, and `HeavyError` if it holds too much.

        It is not weighed if it was only just now.
        """
        self._holder.settle()
        if time.monotonic() - self._weighed > _WEIGHING_SECONDS:
            self._weigh()

    def _look(self) -> None:
        """Look after the child while waiting for it."""
        self._attend()
        self._holder.look()
        self._weigh()
        # Its socket may be held open by children of its own.  What it wrote before it died has
        # been read by the second look.
        if self._died:
            raise ClosedError("died")
        self._died = self._child.death() is not None

    def _weigh(self) -> None:
        self._weighed = time.monotonic()
        used = self._child.memory()
        if used > self.limits.memory:
            raise HeavyError(
                f"holds {used >> 20} MiB, more than {self.limits.memory >> 20} MiB, "
                f"in program {self._programs} since its start"
            )

    def explain(self, error: WireError) -> Breakdown:
        breakdown = super().explain(error)
        if isinstance(error, ClosedError):
            death = self._child.death(_DEATH_SECONDS) or "closed its connection and lives on"
            breakdown = Breakdown(Cause.CRASH, str(error) if death in str(error) else death)
        return Breakdown(breakdown.cause, self._holder.tell(breakdown.message))

    def end(self) -> None:
        self._holder.end()

    def close(self) -> None:
        super().close()
        # A candidate that ends by itself can clean up, and so can what it is instrumented with.
        self._child.death(self._holder.parting)
        self._holder.end()


def _hold(spec: str, limits: Limits) -> Holder:
    """Start what holds a candidate; `CandidateError` if that is not possible."""
    if reach_of(spec) is Reach.MACHINE:
        from .vm.holder import MachineHolder  # noqa: PLC0415 (only for those who ask for one)

        return MachineHolder(spec, limits.start)
    if reach_of(spec) is Reach.EXECUTABLE:
        from .linux.holder import LinuxHolder  # noqa: PLC0415 (only for those who ask for one)

        return LinuxHolder(lambda more: _start(spec, more))
    return Holder(_start(spec))


def _start(spec: str, more: Mapping[str, str] = {}) -> Child:
    environment = {**os.environ, **more}
    if reach_of(spec) is Reach.EXECUTABLE:
        path, needed = executable_of(spec)
        return Child(lambda file: [str(path), "--fd", str(file)], {**environment, **needed})
    # What can be imported here can be imported there.
    environment["PYTHONPATH"] = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
    python = [sys.executable, "-P", "-m", "adapters.server"]
    return Child(lambda file: [*python, "--fd", str(file), "--", spec], environment)


class _Begun:
    """A program that the candidate runs, and what there is of its outcomes."""

    def __init__(self, link: _Link, program: Program) -> None:
        self.link = link
        self._program = program
        self._play: Callable[[], Trace] | None = None
        self._outcomes: Iterator[list[Outcome]] = iter(())
        self._breakdown: Breakdown | None = None

    def send(self, packed: bytes) -> None:
        """Begin; a breakdown is kept for `receive` to tell."""
        link, program = self.link, self._program
        try:
            link.begin()
            if link.description.schedules:
                self._play = link.client.begin_scheduled(program)
            else:
                records = packed[HEADER_SIZE : HEADER_SIZE + len(program) * OPERATION.size]
                self._outcomes = link.client.begin(program.geometry, program.operations, records)
        except WireError as error:
            self._breakdown = link.explain(error)

    def receive(self) -> Trace:
        """Wait for the candidate, for as long as a program may take."""
        outcomes: list[Outcome] = []
        if self._breakdown is not None:
            return Trace(self._program, (), self._breakdown)
        self.link.allow()
        try:
            if self._play is not None:
                trace = self._play()
            else:
                for batch in self._outcomes:
                    outcomes += batch
                trace = Trace(self._program, tuple(outcomes))
            self.link.settle()
        except WireError as error:
            return Trace(self._program, tuple(outcomes), self.link.explain(error))
        return trace


class Worker:
    """Runs programs on a candidate in a process of its own, or at its agent.

    The process is replaced after every breakdown, when the next program comes, and a machine when
    it is not trusted any more, too.  `journal` is a file that holds the packed program that was
    given to the candidate last; see `Journal`.  Raises `CandidateError` if the candidate cannot be
    started (again) or reached.
    """

    def __init__(
        self,
        spec: str,
        *,
        limits: Limits = Limits(),
        journal: Path | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        if tls is not None and reach_of(spec) is not Reach.REMOTE:
            raise CandidateError(f"{spec}: {TLS_IS_FOR}")
        self.spec = spec
        self.limits = limits
        self._tls = tls
        self._link: _Link | None = None
        """To a candidate that does nothing just now."""
        self._begun: _Begun | None = None
        self._journal = Journal(journal) if journal else None
        try:
            link = self._connect()
        except BaseException:
            self._close_journal()
            raise
        self.description = link.description
        self._link = link

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, program: Program) -> Trace:
        """Run a program; whatever the candidate does is in the trace."""
        self.begin(program)
        return self.finish()

    def begin(self, program: Program) -> None:
        assert self._begun is None, "one program at a time"
        packed = program.to_bytes()
        link = self._link or self._connect()
        link.limits = self.limits
        self._link, begun = None, _Begun(link, program)
        try:
            if self._journal is not None:
                self._journal.write(packed)
            begun.send(packed)
        except BaseException:
            link.end()
            raise
        self._begun = begun

    def finish(self) -> Trace:
        begun = self._begun
        assert begun is not None, "a program was begun"
        self._begun = None
        try:
            trace = begun.receive()
            if trace.breakdown is None:
                self._link = begun.link
        finally:
            if self._link is None:
                begun.link.end()
        return trace

    def distrust(self) -> bool:
        """The last program failed: whether the next one might meet what was harmed by it.

        In a machine a driver that goes wrong may have written to any memory, and its files are
        kept open from one program to the next.  It is replaced.
        """
        harmed = reach_of(self.spec) is Reach.MACHINE
        if harmed and self._link is not None:
            self._link.end()
            self._link = None
        return harmed

    def close(self) -> None:
        """End the process, or leave the agent."""
        if self._begun is not None:
            self._begun.link.end()
        link, self._link, self._begun = self._link, None, None
        if link is not None:
            link.close()
        self._close_journal()

    def _connect(self) -> ChildLink | _RemoteLink:
        if reach_of(self.spec) is Reach.REMOTE:
            return _RemoteLink(self.spec, self.limits, self._tls)
        return ChildLink(self.spec, self.limits)

    def _close_journal(self) -> None:
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()


class InProcess:
    """Runs programs on a candidate in this process: fast, for candidates that are trusted.

    An exception is a breakdown; a crash or a hang is one of this process.
    """

    def __init__(self, spec: str) -> None:
        if reach_of(spec) is not Reach.HERE:
            raise CandidateError(f"{spec}: cannot be loaded into this process")
        self.spec = spec
        candidate = open_candidate(spec)
        self.description = describe(candidate, spec)
        self._stepped = cast("Candidate", candidate)
        self._scheduled = cast("Scheduled", candidate)

        self._begun: Program | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, program: Program) -> None:
        """Nothing runs beside what is done here."""
        self._begun = program

    def finish(self) -> Trace:
        program, self._begun = self._begun, None
        assert program is not None, "a program was begun"
        return self.run(program)

    def run(self, program: Program) -> Trace:
        """Run a program; an exception or a wrong answer is a breakdown in the trace."""
        cause, doing = Cause.REFUSED, "reset"
        try:
            if self.description.schedules:
                doing = "run"
                return self._scheduled.run_scheduled(program)
            self._stepped.reset(program.geometry)
            doing = "run"
            answer: object = self._stepped.run(program.operations)
            return Trace(program, tuple(check_outcomes(program.operations, answer)))
        except GarbageError as error:
            cause, text = Cause.GARBAGE, str(error)
        except CandidateError as error:
            text = str(error)
        except (Exception, SystemExit) as error:
            text = f"{doing} raised {located(error)}"
        return Trace(program, (), Breakdown(cause, text))

    def close(self) -> None:
        """Nothing to end; for symmetry with `Worker`."""
