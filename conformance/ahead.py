"""The candidate at work on the next program while one is judged, and another is generated.

What the suite takes for its own work is lost only where the candidate is the quicker of the two.
"""

from __future__ import annotations

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
    """One program ahead: each comes back when the next one is given.

    Between a program and the next nothing else may be run, unless `hold` has waited for it.
    """

    def __init__(self, examiner: Examiner) -> None:
        self._examiner = examiner
        self._length: int | None = None
        """Of the program that runs."""
        self._held: Ran | None = None

    def exchange(self, program: Program, length: int) -> Ran | None:
        """Begin with a program; the one before it, if there is one."""
        before = self.last()
        try:
            self._examiner.begin(program)
        except BaseException:
            # It has run, whatever keeps others from it.
            self._held = before
            raise
        self._length = length
        return before

    def last(self, *, interruptible: bool = True) -> Ran | None:
        """The last program, of which nothing was told yet, if there is one."""
        self.hold(interruptible=interruptible)
        held, self._held = self._held, None
        return held

    def hold(self, *, interruptible: bool = True) -> None:
        """Wait for the program that runs, and keep what comes of it.

        After an interruption that was asked for before the wait began, it can be waited for still.
        """
        if self._length is None:
            return
        with self._examiner.interruption if interruptible else nullcontext():
            length, self._length = self._length, None
            self._held = Ran(self._examiner.runner.finish(), length)

    def again(self) -> None:
        """Run what is held once more: it was not to be trusted."""
        held, self._held = self._held, None
        if held is not None:
            self._examiner.begin(held.trace.program)
            self._length = held.length
