"""Reduce a failing program together with its schedule: fewest operations, then fewest switches.

The schedule names operations by number, so it is fitted to every program that is tried; where
that fails no more, and the program is short, other schedules with few switches are looked
through.  So an operation that only made room for a switch goes too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import islice

from conformance.explore.schedules import Explored, explore
from reference.operations import Operation
from reference.program import Program
from reference.schedule import DEVICE, ENGINE, PLAIN, Offer, Schedule, Switch, actor_of
from reference.trace import Violation
from reference.validity import repair

from . import Reduced, reduce

__all__ = ["Attempt", "fitted", "reduce_scheduled"]

Operations = tuple[Operation, ...]
_SHORT = 10
"""Operations of a program whose schedules are looked through."""
_LOOKED_THROUGH = 100
"""Schedules of one program that are tried."""
_RUNS = 6_000
"""Runs that a reduction may take with all its schedules."""


@dataclass(frozen=True)
class Attempt:
    """What came of one run."""

    violation: Violation | None
    begun: int
    """The highest number of an operation that had begun when the rule was broken."""
    offers: Sequence[Offer] = ()


Run = Callable[[Program], Attempt]
"""Run a program under its schedule, and judge it."""


def reduce_scheduled(
    program: Program,
    violation: Violation,
    run: Run,
    *,
    excluded: frozenset[str] = frozenset(),
    limit: int = 2000,
) -> Reduced:
    """As `reduce`, for a program whose schedule is the one that it failed under."""
    search = _Schedules(program, violation, run, excluded)
    reduced = reduce(
        program, search.shown(violation, program), search.reproduce, excluded=excluded, limit=limit
    )
    search.settle(reduced.program)
    found, broken = search.fewest_switches()
    return replace(reduced, program=found, violation=broken, runs=search.runs)


class _Schedules:
    """The schedule under which the shortest program so far fails."""

    def __init__(
        self, program: Program, violation: Violation, run: Run, excluded: frozenset[str]
    ) -> None:
        self._run = run
        self._rule = violation.rule
        self._excluded = excluded
        self._known: dict[Operations, tuple[Schedule, Violation]] = {}
        self.best = program
        self.violation = violation
        self.runs = 0

    def reproduce(self, program: Program) -> Violation | None:
        """Run a program under its own best schedule, and under others while it does not fail."""
        for schedule in self._likely(program):
            attempt = self._attempt(replace(program, schedule=schedule))
            if attempt.violation is not None:
                return self._keep(replace(program, schedule=schedule), attempt)
        return self._look_through(program)

    def _likely(self, program: Program) -> Iterator[Schedule]:
        own = fitted(self.best, program.operations)
        yield own
        if own.switches:
            yield replace(own, switches=())
        if own.injections:
            yield replace(own, injections=())

    def _attempt(self, program: Program) -> Attempt:
        self.runs += 1
        return self._run(program)

    def _keep(self, program: Program, attempt: Attempt) -> Violation | None:
        violation = attempt.violation
        assert violation is not None
        self._known[program.operations] = program.schedule, violation
        shown = replace(violation, index=attempt.begun)
        if self._alike(violation):
            # What follows the last operation that had begun will be cut off by who asked.
            self.best = replace(program, operations=program.operations[: attempt.begun + 1])
            self._known[self.best.operations] = program.schedule, violation
            self.violation = violation
        return shown

    def _alike(self, violation: Violation) -> bool:
        return violation.rule == self._rule or violation.rule not in self._excluded

    def _look_through(self, program: Program) -> Violation | None:
        if len(program) > _SHORT or self.runs > _RUNS:
            return None
        for each, attempt in self._explored(program, 1, _LOOKED_THROUGH):
            if attempt.violation is not None and attempt.violation.rule == self._rule:
                return self._keep(each, attempt)
        return None

    def _explored(
        self, program: Program, switches: int, most: int
    ) -> Iterator[tuple[Program, Attempt]]:
        """Up to so many runs with up to so many switches, those with fewer first."""
        bare = replace(program, schedule=replace(self.best.schedule, switches=()))
        return islice(explore(bare, self._attempt, switches, Explored()), most)

    def shown(self, violation: Violation, program: Program) -> Violation:
        """A violation as `reduce` is told of it: everything that had begun is needed."""
        return replace(violation, index=len(program) - 1)

    def settle(self, program: Program) -> None:
        """This is the shortest program."""
        known = self._known.get(program.operations)
        if known is not None:
            self.best = replace(program, schedule=known[0])
            self.violation = known[1]

    def fewest_switches(self) -> tuple[Program, Violation]:
        """The order and schedule with the fewest switches in which the operations fail."""
        self._drop_switches()
        while self.best.schedule.switches and self._find_fewer():
            pass
        return self.best, self.violation

    def _find_fewer(self) -> bool:
        """A schedule with fewer switches, of these operations or of them in another order."""
        fewer = len(self.best.schedule.switches) - 1
        for program in (self.best, *_reordered(self.best)):
            for each, attempt in self._explored(program, fewer, _RUNS // 4):
                broken = attempt.violation
                if broken is not None and broken.rule == self.violation.rule:
                    self.best, self.violation = each, broken
                    return True
        return False

    def _drop_switches(self) -> None:
        """Leave out switches and failures one by one, for as long as it goes on failing."""
        for switch in self.best.schedule.switches:
            kept = tuple(each for each in self.best.schedule.switches if each != switch)
            self._try_schedule(replace(self.best.schedule, switches=kept))
        for injection in self.best.schedule.injections:
            left = tuple(each for each in self.best.schedule.injections if each != injection)
            self._try_schedule(replace(self.best.schedule, injections=left))

    def _try_schedule(self, schedule: Schedule) -> None:
        tried = replace(self.best, schedule=schedule)
        broken = self._attempt(tried).violation
        if broken is not None and broken.rule == self.violation.rule:
            self.best, self.violation = tried, broken


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
