"""What holds a candidate for a worker: a child process, and all that belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from reference.description import Description

from .process import Child

__all__ = ["Holder", "Holders", "Unprepared"]


class Holder:
    """A child that speaks the wire protocol on its socket."""

    parting = 1.0
    """Seconds that it may take to end by itself."""

    def __init__(self, child: Child) -> None:
        self.child = child

    def amend(self, description: Description) -> Description:
        """What the candidate says of itself, with what only its holder knows."""
        return description

    def begin(self, *, alone: bool) -> None:
        """Another program is sent; what is printed belongs to it from now on if it is `alone`."""
        if alone:
            self.child.output.clear()

    def look(self) -> None:
        """Look after it; called now and then while it is waited for."""
        self.child.output.trim()

    def settle(self, program: int) -> None:
        """Once a program is answered: `ComplaintError` if anything but its answers went wrong.

        Programs are numbered as they were sent, from 1.
        """

    def tell(self, problem: str, program: int) -> str:
        """What is said of a program's breakdown, with what was printed last below it."""
        output = self.child.output.tail()
        return f"{problem}\nlast output:\n{output}" if output else problem

    def end(self) -> None:
        """Kill the child with its whole group, and free what belonged to it."""
        self.child.end()


class Holders(Protocol):
    """What starts the holders of a candidate, one after another."""

    def start(self, seconds: float) -> Holder:
        """The next one, within some seconds; `CandidateError` if it cannot be started."""

    def close(self) -> None:
        """No more are wanted; those that were started end by themselves."""


class Unprepared:
    """Starts each holder when it is wanted."""

    def __init__(self, start: Callable[[], Holder]) -> None:
        self._start = start

    def start(self, seconds: float) -> Holder:
        return self._start()

    def close(self) -> None:
        """Nothing to end."""
