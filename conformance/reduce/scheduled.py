"""Reduce a failing program together with its schedule: fewest operations, then fewest switches.

First the switches that do not matter go, then the operations.  The schedule names operations by
number, so it is fitted to every program that is tried.  Where nothing more can be left out like
that, all schedules with one switch are looked through for each program that is one operation
shorter.  So an operation that only made room for a switch goes too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import islice

from conformance.explore.schedules import Explored, explore
from reference.operations import Kind, Operation
from reference.program import Program
from reference.schedule import DEVICE, ENGINE, PLAIN, Offer, Schedule, Switch, actor_of
from reference.trace import Violation
from reference.validity import repair

from . import Reduced, reduce
from .search import alike, never
from .shorter import immediate

__all__ = ["Attempt", "fitted", "reduce_scheduled"]

Operations = tuple[Operation, ...]
_SHORT = 10
"""Operations of a program whose schedules are looked through."""
_LOOKED_THROUGH = 200
"""Schedules of one program that are tried; few short programs have more with one switch."""
_A_FEW = range(2, 6)
"""So many switches are left out one by one when an operation goes."""
_RUNS = 1_500
"""Runs that looking through schedules may take, and then again looking for fewer switches."""


@dataclass(frozen=True)
class Attempt:
    """What came of one run."""

    violation: Violation | None
    begun: int
    """The highest number of an operation that had begun when the rule was broken."""
    offers: Sequence[Offer] = ()
    order: Sequence[int] = ()
    """Numbers of the operations in the order in which they began."""


Run = Callable[[Program], Attempt]
"""Run a program under its schedule, and judge it."""


def reduce_scheduled(
    program: Program,
    violation: Violation,
    run: Run,
    *,
    excluded: frozenset[str] = frozenset(),
    limit: int = 2000,
    expired: Callable[[], bool] = never,
) -> Reduced:
    """As `reduce`, for a program whose schedule is the one that it failed under."""
    search = _Schedules(program, violation, run, excluded, expired)
    search.put_in_order()
    search.drop_switches()
    search.try_one_switch()
    unstable = False
    going = True
    while going and limit > 0 and not unstable:
        reduced = reduce(
            search.best,
            search.shown(search.violation, search.best),
            search.reproduce,
            excluded=excluded,
            limit=limit,
            expired=expired,
        )
        limit -= reduced.runs
        unstable = reduced.unstable
        search.settle(reduced.program)
        search.put_in_order()
        search.drop_switches()
        going = search.leave_one_out() or search.find_fewer_switches()
    return Reduced(search.best, search.violation, search.runs, unstable)


class _Schedules:
    """The shortest program so far, with a schedule under which it fails."""

    def __init__(
        self,
        program: Program,
        violation: Violation,
        run: Run,
        excluded: frozenset[str],
        expired: Callable[[], bool],
    ) -> None:
        self._run = run
        self._excluded = excluded
        self._expired = expired
        self._known: dict[Operations, tuple[Schedule, Violation]] = {}
        self.best = program
        self.violation = violation
        self.runs = 0

    def _attempt(self, program: Program) -> Attempt:
        self.runs += 1
        return self._run(program)

    def _over(self, end: int) -> bool:
        """Whether no time is left, or so many runs have been done."""
        return self.runs >= end or self._expired()

    # For `reduce`

    def reproduce(self, program: Program) -> Violation | None:
        """Run a program under the best schedule so far, as far as that fits it."""
        for schedule in self._likely(program):
            tried = replace(program, schedule=schedule)
            attempt = self._attempt(tried)
            if attempt.violation is not None:
                return self._keep(tried, attempt.violation, attempt.begun)
        return None

    def _likely(self, program: Program) -> Iterator[Schedule]:
        own = fitted(self.best, program.operations)
        yield own
        if own.switches:
            yield replace(own, switches=())
        # A switch goes with the operation that it let run.
        for switch in own.switches if len(own.switches) in _A_FEW else ():
            yield replace(own, switches=tuple(each for each in own.switches if each != switch))
        if own.injections:
            yield replace(own, injections=())

    def _keep(self, program: Program, violation: Violation, begun: int) -> Violation:
        self._known[program.operations] = program.schedule, violation
        if alike(violation.rule, self.violation.rule, self._excluded):
            # What follows the last operation that had begun will be cut off by who asked.
            self._take(program.with_operations(program.operations[: begun + 1]), violation)
        return replace(violation, index=begun)

    def _take(self, program: Program, violation: Violation) -> None:
        self._known[program.operations] = program.schedule, violation
        self.best, self.violation = program, violation

    def shown(self, violation: Violation, program: Program) -> Violation:
        """A violation as `reduce` is told of it: everything that had begun is needed."""
        return replace(violation, index=len(program) - 1)

    def settle(self, program: Program) -> None:
        """This is the shortest program."""
        known = self._known.get(program.operations)
        if known is not None:
            self._take(replace(program, schedule=known[0]), known[1])

    # Fewer operations under another schedule

    def put_in_order(self) -> None:
        """Have operations stand in the order in which they began, which then takes no switches."""
        if not self.best.schedule.switches:
            return
        order = self._attempt(self.best).order
        # Whatever never began is not needed.
        operations = tuple(self.best.operations[number] for number in order)
        if tuple(repair(operations, self.best.geometry)) == operations:
            places = {number: place for place, number in enumerate(order)}
            switches = tuple(
                switch._replace(operation=places[switch.operation])
                for switch in self.best.schedule.switches
                if switch.operation in places
            )
            self._try(self.best.with_operations(operations), switches=switches)

    def try_one_switch(self) -> None:
        """Where many switches matter, see whether another one alone is enough."""
        if len(self.best.schedule.switches) > 1:
            self._fails_with(self.best, 1, _RUNS, self.runs + _RUNS)

    def leave_one_out(self) -> bool:
        """Find a program with an operation less that fails under some schedule with one switch."""
        operations = self.best.operations
        if len(operations) > _SHORT:
            return False
        end = self.runs + _RUNS
        for told in _told_shorter(operations):
            shorter = tuple(repair(told, self.best.geometry))
            if shorter and len(shorter) < len(operations):
                program = self.best.with_operations(shorter)
                if self._fails_with(program, 1, _LOOKED_THROUGH, end):
                    return True
        return False

    def _explored(
        self, program: Program, switches: int, most: int, end: int
    ) -> Iterator[tuple[Program, Attempt]]:
        """Up to so many runs with up to so many switches, those with fewer first."""
        bare = replace(program, schedule=replace(self.best.schedule, switches=()))
        schedules = explore(bare, self._attempt, switches, Explored(), prune=False)
        for found in islice(schedules, most):
            yield found
            if self._over(end):
                return

    # Fewer switches

    def drop_switches(self) -> None:
        """Leave out switches and failures, many at once and then one by one."""
        if self.best.schedule.switches and not self._try(self.best, switches=()):
            self._drop(len(self.best.schedule.switches) // 2)
        for injection in self.best.schedule.injections:
            rest = tuple(each for each in self.best.schedule.injections if each != injection)
            self._try(self.best, injections=rest)

    def _drop(self, size: int) -> None:
        """Leave out so many switches in a row, then fewer, for as long as it goes on failing."""
        while size:
            at = len(self.best.schedule.switches)
            while at > 0 and not self._expired():
                switches = self.best.schedule.switches
                start = max(at - size, 0)
                self._try(self.best, switches=switches[:start] + switches[at:])
                at = start
            size //= 2

    def _try(self, program: Program, **changes: object) -> bool:
        """Take over a program with this or that changed in its schedule, if it fails so."""
        schedule = replace(program.schedule, **changes)  # type: ignore[arg-type]
        tried = replace(program, schedule=schedule)
        attempt = self._attempt(tried)
        broken = attempt.violation
        if broken is None or broken.rule != self.violation.rule:
            return False
        self._keep(tried, broken, attempt.begun)
        return True

    def find_fewer_switches(self) -> bool:
        """Find the order and schedule with the fewest switches in which the operations fail.

        Whether there are fewer than there were.
        """
        before, end = len(self.best.schedule.switches), self.runs + _RUNS
        while self.best.schedule.switches and not self._over(end) and self._find_fewer(end):
            pass
        return len(self.best.schedule.switches) < before

    def _find_fewer(self, end: int) -> bool:
        """A schedule with fewer switches, of these operations or of them in another order."""
        fewer = len(self.best.schedule.switches) - 1
        for program in (self.best, *_reordered(self.best)):
            if self._fails_with(program, min(fewer, 1), _LOOKED_THROUGH, end):
                return True
            if self._over(end):
                break
        return fewer > 1 and self._fails_with(self.best, 2, _RUNS, self.runs + _RUNS)

    def _fails_with(self, program: Program, switches: int, most: int, end: int) -> bool:
        for each, attempt in self._explored(program, switches, most, end):
            broken = attempt.violation
            if broken is not None and broken.rule == self.violation.rule:
                self._keep(each, broken, attempt.begun)
                return True
        return False


def _told_shorter(operations: Operations) -> Iterator[Operations]:
    """Without the engine, which does a job's accesses as somebody else; without an operation."""
    for device, job in sorted({(each.device, each.job) for each in operations if each.job}):
        yield tuple(immediate(operations, (device, job), Kind.SUBMIT))
    for number in reversed(range(len(operations))):
        yield operations[:number] + operations[number + 1 :]


def _reordered(program: Program) -> Iterator[Program]:
    """The program with one operation moved before one of another actor, wherever that can be."""
    operations = program.operations
    for later in range(1, len(operations)):
        for earlier in range(later):
            between = operations[earlier:later]
            if all(actor_of(each) != actor_of(operations[later]) for each in between):
                moved = (
                    *operations[:earlier],
                    operations[later],
                    *between,
                    *operations[later + 1 :],
                )
                if tuple(repair(moved, program.geometry)) == moved:
                    yield replace(program, operations=moved)


def fitted(program: Program, operations: Operations) -> Schedule:
    """The schedule of a program with the numbers that its operations have among others.

    An operation is known again by kind and actor; a switch at one that is gone goes too.
    """
    schedule, old = program.schedule, program.operations
    if old == operations or schedule == PLAIN:
        return schedule
    numbers = _numbers(old, operations)
    actors = {
        actor_of(old[number]): actor_of(operations[place]) for number, place in numbers.items()
    }
    switches = tuple(
        Switch(
            _renamed(switch.actor, actors),
            numbers[switch.operation],
            switch.point,
            _renamed(switch.to, actors),
        )
        for switch in schedule.switches
        if switch.operation in numbers
    )
    return replace(schedule, switches=switches)


def _renamed(actor: int, actors: dict[int, int]) -> int:
    """An actor under its new name; an engine goes by the name of its device."""
    if actor >= ENGINE:
        return actors.get(actor - ENGINE + DEVICE, actor - ENGINE + DEVICE) - DEVICE + ENGINE
    return actors.get(actor, actor)


def _numbers(old: Operations, new: Operations) -> dict[int, int]:
    """Where operations went, by their old numbers."""
    if [each.kind for each in old] == [each.kind for each in new]:
        return dict(enumerate(range(len(old))))
    matcher = SequenceMatcher(None, _names(old), _names(new), autojunk=False)
    return {
        block.a + offset: block.b + offset
        for block in matcher.get_matching_blocks()
        for offset in range(block.size)
    }


def _names(operations: Operations) -> list[tuple[int, int, int, int]]:
    return [(each.kind, actor_of(each), each.page, each.job) for each in operations]
