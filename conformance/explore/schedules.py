"""All schedules of a program with at most so many switches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from reference.program import Program
from reference.schedule import Offer, Schedule, Switch

__all__ = ["Explored", "Offering", "explore"]


class Offering(Protocol):
    """What came of a run, with what else could have been chosen in it."""

    @property
    def offers(self) -> Sequence[Offer]: ...


Result = TypeVar("Result", bound=Offering)


@dataclass
class Explored:
    """What an exploration has covered so far."""

    runs: int = 0
    pruned: int = 0
    """Runs that met a state again, so that what follows it was known."""
    complete: bool = False
    """Every schedule with at most so many switches has been run, or is like one that has."""
    seen: dict[int, int] = field(default_factory=dict)
    """States, each with the number of switches that were still to be had when it was met."""


def explore(
    program: Program,
    run: Callable[[Program], Result],
    switches: int,
    covered: Explored,
    *,
    prune: bool = True,
) -> Iterator[tuple[Program, Result]]:
    """Run a program under every schedule with at most so many switches.

    Shorter schedules come first, so that the first failure is one with the fewest switches.  To
    know a state again takes ten times as long as to run on from it: `prune` is for those who want
    to come to the end of it.
    """
    level: list[tuple[Switch, ...]] = [()]
    # What comes behind the only switch of a run is not compared with anything.
    blind = int(switches == 1 or not prune)
    for used in range(switches + 1):
        last = used == switches
        below: list[tuple[Switch, ...]] = []
        for prefix in level:
            schedule = Schedule(
                prefix,
                "follow" if last else "explore",
                depth=0 if last else blind,
                injections=program.schedule.injections,
            )
            result = run(replace(program, schedule=schedule))
            covered.runs += 1
            yield replace(program, schedule=replace(schedule, strategy="follow", depth=0)), result
            if not last:
                found = _new(result.offers, switches - used, covered)
                below += [(*prefix, switch) for switch in found]
        level = below
    covered.complete = True


def _new(offers: Sequence[Offer], left: int, covered: Explored) -> Iterator[Switch]:
    """The switches that lead to something that is not known yet."""
    for offer in offers:
        if offer.state and covered.seen.get(offer.state, 0) >= left:
            # It was met before with as many switches to be had: so was all that comes after it.
            covered.pruned += 1
            return
        covered.seen[offer.state] = left
        for actor in offer.to:
            yield Switch(offer.actor, offer.operation, offer.point, actor)
