"""Reduce a failing program to the few operations that matter.

Works on the list of operations, in three stages.  First whatever can simply be left out: all
behind the failure, what shares no page, file or process with it, then delta debugging.  Then, for
as long as that changes anything, the same story told more simply (`shorter`, `simpler`, `names`):
without children, second devices, moves and jobs, with simpler arguments and lower names.  Last
the same bug seen in another way (`witnesses`): pairs of changes that only together make the
program shorter.

A step is kept if the program still breaks the contract.  It may be another rule than before: how
a bug shows, and so which rule it is found to break, is clear only in the shortest program.  But a
crash does not turn into a wrong value or the reverse, and nothing turns into a failure that was
expected.
"""

from __future__ import annotations

from collections.abc import Callable

from reference.program import Program
from reference.trace import Violation

from .names import rename, restamp
from .search import Reproduce, Search, never
from .shorter import at_once, cut, delete, straighten, unite
from .simpler import set_up_first, simplify
from .witnesses import look_elsewhere

__all__ = ["Reduced", "Reproduce", "reduce"]

from .search import Reduced


def reduce(
    program: Program,
    violation: Violation,
    reproduce: Reproduce,
    *,
    excluded: frozenset[str] = frozenset(),
    limit: int = 2000,
    expired: Callable[[], bool] = never,
) -> Reduced:
    """Reduce a valid program that was seen to break a rule.

    `excluded` are rules that it must not come to break instead, `limit` bounds the runs of the
    candidate, and when `expired` says so the shortest program so far is given.  If the program does
    not fail again every time, each step is repeated and must fail twice, and the result is marked
    unstable.  So it is begun anew if the reduced one never fails again; if nothing does, it comes
    back as it was.
    """
    search = Search(reproduce, program, violation, limit, excluded, expired)
    if search.confirm():
        _reduce(search)
        if search.doubt(program, violation):
            _reduce(search)
            search.fall_back(program, violation)
    return search.result()


def _reduce(search: Search) -> None:
    cut(search)
    delete(search, len(search.operations) // 2)
    while True:
        _tell_simply(search)
        if search.exhausted or not look_elsewhere(search):
            break
    restamp(search)


_STEPS = (unite, straighten, at_once, simplify, delete, set_up_first, rename)


def _tell_simply(search: Search) -> None:
    before = None
    while search.operations != before and not search.exhausted:
        before = search.operations
        for step in _STEPS:
            step(search)
