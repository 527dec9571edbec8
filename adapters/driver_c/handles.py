"""What drivers in C hold of the host's: numbers that lead to objects, and to nothing if wrong."""

from __future__ import annotations

from itertools import count
from typing import TypeVar

from reference.host.broken import Broken

__all__ = ["Handles"]

T = TypeVar("T")
_FIRST = 0x4C57_0000_0001
"""Numbers that nothing else is likely to be; as addresses they lead nowhere."""


class Handles:
    """The handles of one run.  0, NULL in C, is that of None."""

    def __init__(self) -> None:
        self._numbers = count(_FIRST)
        self._objects: dict[int, object] = {}
        self._known: dict[int, int] = {}
        """Handles that an object keeps, by its identity."""

    def new(self, thing: object) -> int:
        """One more handle for an object."""
        number = next(self._numbers)
        self._objects[number] = thing
        return number

    def of(self, thing: object | None) -> int:
        """The handle of an object, the same every time."""
        if thing is None:
            return 0
        number = self._known.get(id(thing))
        if number is None:
            number = self._known[id(thing)] = self.new(thing)
        return number

    def find(self, number: int | None, kind: type[T], service: str) -> T:
        """The object; `Broken` if the handle is none of this kind."""
        thing = self._objects.get(number or 0)
        if thing is None or not isinstance(thing, kind):
            shown = f"{number:#x}" if number else "NULL"
            raise Broken("W6", f"{service} of {shown}, which is no {kind.__name__}")
        return thing

    def drop(self, number: int) -> None:
        self._objects.pop(number, None)
