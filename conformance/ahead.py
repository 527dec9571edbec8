"""The candidate at work on the next programs while one is judged, and another is generated.

What the suite takes for its own work is lost only where the candidate is the quicker of the two.
"""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass

from reference.program import Program
from reference.trace import Trace

from .examine import Examiner

__all__ = ["Ahead", "Ran"]


@dataclass(frozen=True)
class Ran:
    """A program that was run and not looked at yet; `length` without its closing sweep."""

    trace: Trace
    length: int


class Ahead:
    """As many programs ahead as the runner takes: each comes back when later ones are given.

    Between a program and the next nothing else may be run, unless `hold` has waited for them.
    """

    def __init__(self, examiner: Examiner) -> None:
        self._examiner = examiner
        self._lengths: deque[int] = deque()
        """Of the programs that run."""
        self._held: deque[Ran] = deque()

    def exchange(self, program: Program, length: int) -> Ran | None:
        """Begin with a program; the first of those before it, if it is done or must be."""
        if len(self._lengths) == self._examiner.runner.depth:
            self._wait()
        before = self._held.popleft() if self._held else None
        try:
            self._begin(program, length)
        except BaseException:
            # It has run, whatever keeps others from it.
            if before is not None:
                self._held.appendleft(before)
            raise
        return before

    def last(self, *, interruptible: bool = True) -> Ran | None:
        """The first of those programs of which nothing was told yet, if there is one."""
        if not self._held and self._lengths:
            self._wait(interruptible=interruptible)
        return self._held.popleft() if self._held else None

    def hold(self) -> None:
        """Wait for the programs that run, and keep what comes of them."""
        while self._lengths:
            self._wait()

    def _wait(self, *, interruptible: bool = True) -> None:
        """Wait for a program.

        After an interruption that was asked for before the wait began, it can be waited for still.
        """
        with self._examiner.interruption if interruptible else nullcontext():
            lengths, self._lengths = self._lengths, deque()
            trace = self._examiner.runner.finish()
            self._lengths = lengths
            self._held.append(Ran(trace, lengths.popleft()))

    def again(self) -> None:
        """Run what is held once more: it was not to be trusted."""
        held, self._held = self._held, deque()
        for ran in held:
            self._begin(ran.trace.program, ran.length)

    def _begin(self, program: Program, length: int) -> None:
        try:
            self._examiner.begin(program)
        except BaseException:
            # An interruption may come before the runner was asked for anything.
            if not self._examiner.runner.pending:
                self._lengths.clear()
            raise
        self._lengths.append(length)
