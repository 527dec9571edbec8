"""One pass over an event record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from reference.record import Entry
from reference.syncmodels import Sync

from .ageing import Ageing
from .brackets import Brackets
from .checker import Checker
from .collect import Collect
from .gpusvm import GpuSvm
from .intervals import Intervals
from .life import Life
from .migration import Migration
from .pins import Pins
from .progress import Progress
from .registrations import Registrations
from .sharing import Sharing
from .state import CHANGES, State
from .violation import Breach, Profile, Violation

__all__ = ["check"]

CHECKERS: tuple[type[Checker], ...] = (
    Intervals,
    GpuSvm,
    Migration,
    Collect,
    Brackets,
    Ageing,
    Sharing,
    Pins,
    Registrations,
    Life,
    Progress,
)
"""In the order in which they look at an entry: the first to object names the rule."""
_Look = Callable[[Checker, int, Entry], None]


def _all_looks() -> dict[int, tuple[tuple[int, _Look], ...]]:
    """By kind of entry who looks at it: the place in `CHECKERS` and the method."""
    looks: dict[int, tuple[tuple[int, _Look], ...]] = {}
    for place, kind in enumerate(CHECKERS):
        for what, name in kind.HANDLES.items():
            looks[int(what)] = (*looks.get(int(what), ()), (place, getattr(kind, name)))
    return looks


_Change = Callable[..., None]


def _all_interests() -> dict[int, tuple[tuple[tuple[int, _Look], ...], _Change | None]]:
    """By kind of entry who looks at it, and what it changes."""
    looks = _all_looks()
    return {what: (looks.get(what, ()), CHANGES.get(what)) for what in {*looks, *CHANGES}}


_INTERESTS = _all_interests()
_NOTHING: tuple[tuple[tuple[int, _Look], ...], _Change | None] = ((), None)


def check(
    record: Sequence[Entry], model: Sync, profile: Profile = Profile.TOLERANT
) -> tuple[Violation | None, Counter[str]]:
    """The first entry that breaks a rule, if any, and how often rules were put to the test.

    The counts are by rule, or by `RULE/EVENT/blockable|nonblock/STATE` where a range is what puts
    it to the test: once for each state that a page of the range was in.  `ValueError` for a
    record that no host can have written.
    """
    state, exercised = State(), Counter[str]()
    checkers = [kind(state, model, profile, exercised) for kind in CHECKERS]
    index, entry, interests = -1, None, _INTERESTS.get
    try:
        for index, entry in enumerate(record):
            actor, _, what, arguments = entry
            looks, change = interests(what, _NOTHING)
            for place, look in looks:
                look(checkers[place], index, entry)
            if change is not None:
                change(state, index, actor, *arguments)
    except Breach as breach:
        assert entry is not None
        return Violation(breach.rule, index, entry.operation, str(breach)), exercised
    except (TypeError, ValueError, LookupError) as error:
        raise ValueError(f"entry {index} of the event record makes no sense: {error}") from error
    return None, exercised
