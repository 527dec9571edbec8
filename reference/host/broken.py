"""A rule that is broken on the spot: the run cannot go on."""

from __future__ import annotations

__all__ = ["Broken"]


class Broken(Exception):
    """Raised where it happens; `rule` is the id, the message says in one line what was done."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule
