"""Takes down the event record of a run."""

from __future__ import annotations

from reference.record import Entry, What

__all__ = ["Entry", "Record", "What"]

_new = tuple.__new__


class Record:
    """Entries in order.  `actor` and `operation` are those of the task that runs."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.actor = 0
        self.operation = 0

    def __call__(self, what: What, *arguments: int | str) -> None:
        # Entry(...) is a function in Python around this, and thousands of them are made a second.
        self.entries.append(_new(Entry, (self.actor, self.operation, what, arguments)))

    def __len__(self) -> int:
        return len(self.entries)
