"""Conversations with candidates: with a child process of ours, or with an agent somewhere else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reference.description import Description
from reference.trace import Breakdown, Cause

from .candidate import CandidateError
from .client import RemoteCandidate
from .holder import Holder, Holders, Unprepared
from .process import Child
from .registry import Reach, executable_of, reach_of
from .tls import TlsFiles
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

__all__ = ["ChildLink", "Limits", "Link", "RemoteLink", "holders_of"]

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


_CAUSES: dict[type[WireError], Cause] = {
    ClosedError: Cause.CRASH,
    ComplaintError: Cause.KERNEL,
    CrashedError: Cause.CRASH,
    HeavyError: Cause.MEMORY,
    RefusedError: Cause.REFUSED,
}


class Link:
    """The conversation with a candidate, up to its first breakdown."""

    client: RemoteCandidate
    description: Description

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def begin(self, *, alone: bool = True) -> None:
        """Be ready for another program; raises what `explain` explains, as all that follows.

        Without `alone`, the one before it is not answered yet.
        """
        if alone:
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


class RemoteLink(Link):
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


class ChildLink(Link):
    """To an agent in a process of our own; `CandidateError` if it cannot be started.

    `holders` are those of the spec, if another link is to follow this one or has gone before.
    `attend` is called now and then while it is waited for; what that raises ends the wait.
    """

    def __init__(
        self,
        spec: str,
        limits: Limits,
        holders: Holders | None = None,
        attend: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(limits)
        self._attend = attend
        self._holder = (holders or holders_of(spec)).start(limits.start)
        self._child = self._holder.child
        self._died = False
        self._weighed = time.monotonic()
        self._program = 1
        """The number of the one that is to be answered next."""
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

    def begin(self, *, alone: bool = True) -> None:
        super().begin(alone=alone)
        death = self._child.death() if alone else None
        if death is not None:
            raise ClosedError(f"{death}, after it had answered the program before this one")
        self._holder.begin(alone=alone)

    def settle(self) -> None:
        """Once a program is answered: `ComplaintError`, and `HeavyError` if it holds too much.

        It is not weighed if it was only just now.
        """
        self._holder.settle(self._program)
        if time.monotonic() - self._weighed > _WEIGHING_SECONDS:
            self._weigh()
            self._child.output.trim()
        self._program += 1

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
                f"in program {self._program} since its start"
            )

    def explain(self, error: WireError) -> Breakdown:
        breakdown = super().explain(error)
        if isinstance(error, ClosedError):
            death = self._child.death(_DEATH_SECONDS) or "closed its connection and lives on"
            breakdown = Breakdown(Cause.CRASH, str(error) if death in str(error) else death)
        return Breakdown(breakdown.cause, self._holder.tell(breakdown.message, self._program))

    def end(self) -> None:
        self._holder.end()

    def close(self) -> None:
        super().close()
        # A candidate that ends by itself can clean up, and so can what it is instrumented with.
        self._child.death(self._holder.parting)
        self._holder.end()


def holders_of(spec: str) -> Holders:
    """What starts what holds a candidate."""
    if reach_of(spec) is Reach.MACHINE:
        from .vm.holder import Machines  # noqa: PLC0415 (only for those who ask for one)

        return Machines(spec)
    if reach_of(spec) is Reach.EXECUTABLE:
        from .linux.holder import LinuxHolder  # noqa: PLC0415 (only for those who ask for one)

        return Unprepared(lambda: LinuxHolder(lambda more: _start(spec, more)))
    return Unprepared(lambda: Holder(_start(spec)))


def _start(spec: str, more: Mapping[str, str] = {}) -> Child:
    environment = {**os.environ, **more}
    if reach_of(spec) is Reach.EXECUTABLE:
        path, needed = executable_of(spec)
        return Child(lambda file: [str(path), "--fd", str(file)], {**environment, **needed})
    # What can be imported here can be imported there.
    environment["PYTHONPATH"] = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
    python = [sys.executable, "-P", "-m", "adapters.server"]
    return Child(lambda file: [*python, "--fd", str(file), "--", spec], environment)
