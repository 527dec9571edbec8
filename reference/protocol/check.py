"""One pass over an event record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from reference.record import Entry
from reference.syncmodels import Sync

from .brackets import Brackets
from .checker import Checker
from .collect import Collect
from .intervals import Intervals
from .life import Life
from .migration import Migration
from .pins import Pins
from .state import State
from .violation import Breach, Profile, Violation

__all__ = ["check"]

CHECKERS: tuple[type[Checker], ...] = (Intervals, Migration, Collect, Brackets, Pins, Life)
"""In the order in which they look at an entry: the first to object names the rule."""
_Look = Callable[[int, Entry], None]


def check(
    record: Sequence[Entry], model: Sync, profile: Profile = Profile.TOLERANT
) -> tuple[Violation | None, Counter[str]]:
    """The first entry that breaks a rule, if any, and how often rules were put to the test.

    The counts are by rule, or by `RULE/EVENT/blockable|nonblock/STATE` where a range is what puts
    it to the test: once for each state that a page of the range was in.  `ValueError` for a
    record that no host can have written.
    """
    state, exercised = State(), Counter[str]()
    looks = _looks(state, model, profile, exercised)
    for index, entry in enumerate(record):
        try:
            for look in looks.get(entry.what, ()):
                look(index, entry)
            state.apply(index, entry)
        except Breach as breach:
            return Violation(breach.rule, index, entry.operation, str(breach)), exercised
        except (TypeError, ValueError, LookupError) as error:
            raise ValueError(
                f"entry {index} of the event record makes no sense: {error}"
            ) from error
    return None, exercised


def _looks(
    state: State, model: Sync, profile: Profile, exercised: Counter[str]
) -> dict[int, list[_Look]]:
    """Who looks at which kind of entry."""
    looks: dict[int, list[_Look]] = {}
    for kind in CHECKERS:
        checker = kind(state, model, profile, exercised)
        for what, name in kind.HANDLES.items():
            looks.setdefault(int(what), []).append(getattr(checker, name))
    return looks
