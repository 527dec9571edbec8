"""Running programs on a candidate that may crash, hang, eat memory or answer garbage."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self, cast

from reference.description import Description
from reference.operations import OPERATION
from reference.outcomes import Outcome
from reference.program import HEADER_SIZE, Program
from reference.trace import Breakdown, Cause, Trace

from .candidate import Candidate, CandidateError, GarbageError, Scheduled
from .journal import Journal
from .links import ChildLink, Limits, Link, RemoteLink, holders_of
from .python import check_outcomes, describe, located
from .registry import Reach, open_candidate, reach_of
from .tls import TLS_IS_FOR, TlsFiles
from .wire import WireError

__all__ = ["InProcess", "Limits", "Runner", "Worker"]

_LIMITS = Limits()
_DEPTH = 2
"""Programs of which a candidate has one to go on with while another is received and judged."""
_AHEAD = 64 << 10
"""Bytes of a program that a socket takes while nobody reads it, with room to spare."""


class Runner(Protocol):
    """What runs programs: a `Worker` or `InProcess`."""

    @property
    def description(self) -> Description: ...

    def run(self, program: Program) -> Trace: ...

    @property
    def depth(self) -> int:
        """Programs that may be begun before the first of them is finished."""

    @property
    def pending(self) -> int:
        """Programs that were begun and are still to be finished."""

    def begin(self, program: Program) -> None:
        """Have a program run, without waiting for it, after those that were begun before.

        If this raises, none is pending any more.
        """

    def finish(self) -> Trace:
        """What comes of the first program that was begun; if this raises, of none any more."""

    def close(self) -> None: ...


class _Begun:
    """A program that was given to a worker, and what there is of its outcomes."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.packed = program.to_bytes()
        self.link: Link | None = None
        """Where it was sent; None if that is still to be done."""
        self.whole = False
        """All of it was sent, and it is short: another one can be sent behind it."""
        self._play: Callable[[], Trace] | None = None
        self._outcomes: Iterator[list[Outcome]] = iter(())
        self._breakdown: Breakdown | None = None

    def send(self, link: Link) -> None:
        """Have a candidate that does nothing begin; a breakdown is kept for `receive` to tell."""
        try:
            self._send(link, alone=True)
        except WireError as error:
            self.link, self._breakdown = link, link.explain(error)

    def send_behind(self, before: _Begun | None) -> bool:
        """Have a candidate begin once it has done what it does, if that lets it read this.

        If that breaks down it is not said that it was by this one: it is left to be sent.
        """
        if before is None or before.link is None:
            return False
        if before.whole and len(self.packed) <= _AHEAD:
            with suppress(WireError):
                self._send(before.link, alone=False)
        return self.link is not None

    def _send(self, link: Link, *, alone: bool) -> None:
        program = self.program
        link.begin(alone=alone)
        if link.description.schedules:
            self._play = link.client.begin_scheduled(program)
        else:
            records = self.packed[HEADER_SIZE : HEADER_SIZE + len(program) * OPERATION.size]
            begun = link.client.begin(program.geometry, program.operations, records)
            self._outcomes, whole = begun
            self.whole = whole and len(self.packed) <= _AHEAD
        self.link = link

    def receive(self) -> Trace:
        """Wait for the candidate, for as long as a program may take."""
        link, outcomes = self.link, list[Outcome]()
        assert link is not None, "it was sent"
        if self._breakdown is not None:
            return self._trace(link, [], self._breakdown)
        link.allow()
        try:
            if self._play is not None:
                trace = self._play()
            else:
                for batch in self._outcomes:
                    outcomes += batch
                trace = self._trace(link, outcomes)
            link.settle()
        except WireError as error:
            return self._trace(link, outcomes, link.explain(error))
        return trace

    def _trace(
        self, link: Link, outcomes: list[Outcome], breakdown: Breakdown | None = None
    ) -> Trace:
        atomicity = link.description.atomicity
        return Trace(self.program, tuple(outcomes), breakdown, atomicity=atomicity)


class Worker:
    """Runs programs on a candidate in a process of its own, or at its agent.

    The process is replaced after every breakdown, when the next program comes, and a machine when
    it is not trusted any more, too.  `journal` is a file that holds the packed programs that were
    given to the candidate last; see `Journal`.  Raises `CandidateError` if the candidate cannot be
    started (again) or reached.
    """

    def __init__(
        self,
        spec: str,
        *,
        limits: Limits = _LIMITS,
        journal: Path | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        reach = reach_of(spec)
        if tls is not None and reach is not Reach.REMOTE:
            raise CandidateError(f"{spec}: {TLS_IS_FOR}")
        self.spec = spec
        self.limits = limits
        self._tls = tls
        self._holders = None if reach is Reach.REMOTE else holders_of(spec)
        self._link: Link | None = None
        self._begun: deque[_Begun] = deque()
        self._journal = Journal(journal) if journal else None
        try:
            link = self._connect()
        except BaseException:
            self._close_holders()
            self._close_journal()
            raise
        self.description = link.description
        self._link = link
        # Agents of others may want to be asked for one at a time; under a schedule the suite is
        # what takes long.
        patient = reach is Reach.REMOTE or link.description.schedules
        self._depth = 1 if patient else _DEPTH

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def depth(self) -> int:
        """Programs that may be begun before the first of them is finished."""
        return self._depth

    @property
    def pending(self) -> int:
        """Programs that were begun and are still to be finished."""
        return len(self._begun)

    def run(self, program: Program) -> Trace:
        """Run a program; whatever the candidate does is in the trace."""
        assert not self._begun, "finish those that were begun"
        self.begin(program)
        return self.finish()

    def begin(self, program: Program) -> None:
        """Have a program run after those that were begun before; `finish` tells what comes of it.

        The candidate is sent it at once, so that it need not wait for the suite, unless what comes
        before it might keep it from reading that.  If this raises, none is pending any more.
        """
        assert len(self._begun) < self.depth, "finish another one first"
        begun = _Begun(program)
        if self._journal is not None:
            self._journal.write(*(each.packed for each in self._begun), begun.packed)
        self._begun.append(begun)
        self._carry_on()

    def finish(self) -> Trace:
        """What comes of the first program that was begun; if this raises, of none any more."""
        assert self._begun, "a program was begun"
        self._carry_on()
        begun = self._begun.popleft()
        try:
            trace = begun.receive()
            if trace.breakdown is not None:
                self._replace()
        except BaseException:
            self._break_off()
            raise
        return trace

    def _carry_on(self) -> None:
        """Send what was begun and not sent yet, up to what the candidate might not read now."""
        before: _Begun | None = None
        try:
            for each in self._begun:
                if each.link is None and before is None:
                    each.send(self._linked())
                elif each.link is None and not each.send_behind(before):
                    return
                before = each
        except BaseException:
            self._break_off()
            raise

    def _linked(self) -> Link:
        """To a candidate that does nothing."""
        self._link = self._link or self._connect()
        self._link.limits = self.limits
        return self._link

    def _replace(self) -> None:
        """Have a new candidate run what this one did not come to."""
        link, self._link = self._link, None
        for number, each in enumerate(self._begun):
            if each.link is not None:
                self._begun[number] = _Begun(each.program)
        if link is not None:
            link.end()

    def _break_off(self) -> None:
        """Whatever was begun: nobody will ask for it."""
        link, self._link = self._link, None
        self._begun.clear()
        if link is not None:
            link.end()

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
        if self._begun:
            self._break_off()
        link, self._link = self._link, None
        if link is not None:
            link.close()
        self._close_holders()
        self._close_journal()

    def _connect(self) -> ChildLink | RemoteLink:
        if self._holders is None:
            return RemoteLink(self.spec, self.limits, self._tls)
        return ChildLink(self.spec, self.limits, self._holders)

    def _close_holders(self) -> None:
        if self._holders is not None:
            self._holders.close()

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

    @property
    def depth(self) -> int:
        """One: nothing runs beside what is done here."""
        return 1

    @property
    def pending(self) -> int:
        """Programs that were begun and are still to be finished."""
        return int(self._begun is not None)

    def begin(self, program: Program) -> None:
        """It is run when it is finished."""
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
            outcomes = tuple(check_outcomes(program.operations, answer))
            return Trace(program, outcomes, atomicity=self.description.atomicity)
        except GarbageError as error:
            cause, text = Cause.GARBAGE, str(error)
        except CandidateError as error:
            text = str(error)
        except (Exception, SystemExit) as error:
            text = f"{doing} raised {located(error)}"
        return Trace(program, (), Breakdown(cause, text))

    def close(self) -> None:
        """Nothing to end; for symmetry with `Worker`."""
