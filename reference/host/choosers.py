"""Ways to choose who runs at a protocol point."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from reference.schedule import Offer, Schedule, pct_points

from .digest import Opaque, digest
from .host import Host
from .tasks import Chooser, Point

__all__ = ["Explore", "Follow", "Pct", "RandomWalk", "Windows", "chooser"]

WINDOWS = frozenset(
    {
        *("hmm_range_fault", "mmu_interval_read_begin", "mmu_interval_read_retry", "inserted"),
        *("make_device_exclusive_range", "pin_user_pages", "migrate_vma_setup", "copy_page"),
        *("callback: invalidate", "callback: invalidate_range_start", "callback returned"),
        *("page table change", "callback: migrate_to_ram", "device access in flight"),
    }
)
"""Points inside of what must not be overtaken, or must find out that it was."""
_LOCKING = ("mutex_lock(", "spin_lock(")
"""How the names of points begin at which a lock is about to be taken."""


def chooser(schedule: Schedule, host: Host, operations: int) -> Chooser:
    """What makes a schedule's choices in one run of a program of so many operations."""
    if schedule.strategy == "explore":
        return Explore(schedule, host)
    if schedule.strategy == "random":
        return RandomWalk(schedule.seed, schedule.depth)
    if schedule.strategy == "windows":
        return Windows(schedule.seed, schedule.depth)
    if schedule.strategy == "pct":
        return Pct(Random(schedule.seed), schedule.depth, pct_points(operations))
    return Follow(schedule)


class Follow:
    """Makes the switches that a schedule names, and otherwise lets run who runs."""

    def __init__(self, schedule: Schedule) -> None:
        self._to = {tuple(switch[:3]): switch.to for switch in schedule.switches}

    def __call__(
        self, point: Point, where: str, default: int, runnable: Callable[[], list[int]]
    ) -> int:
        return self._to.get(point, default) if self._to else default


class Explore:
    """Follows a schedule, and notes what else could be chosen behind its last switch.

    With a `depth` it does not look at the states there, which takes most of the time of a run.
    """

    def __init__(self, schedule: Schedule, host: Host) -> None:
        self._to = {tuple(switch[:3]): switch.to for switch in schedule.switches}
        self._host = host
        self._opaque = schedule.depth > 0
        self._met: set[int] = set()
        self._circling = False
        """A state has come again, and so will all that has come since."""
        self.offers: list[Offer] = []

    def __call__(
        self, point: Point, where: str, default: int, runnable: Callable[[], list[int]]
    ) -> int:
        if self._to:
            return self._to.pop(point, default)
        if self._circling:
            return default
        others = tuple(actor for actor in runnable() if actor != default)
        if others:
            state = self._state()
            self._circling = state in self._met
            if state:
                self._met.add(state)
            self.offers.append(Offer(*point, others, state))
        return default

    def _state(self) -> int:
        if not self._opaque:
            try:
                return digest(self._host)
            except Opaque:
                self._opaque = True
        return 0


class RandomWalk:
    """Switches to somebody at one in `interval` points."""

    def __init__(self, seed: int, interval: int) -> None:
        self._random = Random(seed)
        self._chance = 1 / max(interval, 1)

    def __call__(
        self, point: Point, where: str, default: int, runnable: Callable[[], list[int]]
    ) -> int:
        if self._random.random() >= self._chance:
            return default
        return self._random.choice(runnable() or [default])


class Windows:
    """Switches to somebody at one in `interval` points in windows, and at few of the others."""

    ELSEWHERE = 8
    """How much rarer switches are at other points."""

    def __init__(self, seed: int, interval: int) -> None:
        self._random = Random(seed)
        self._chance = 1 / max(interval, 1)

    def __call__(
        self, point: Point, where: str, default: int, runnable: Callable[[], list[int]]
    ) -> int:
        drawn = self._random.random()
        if drawn >= self._chance:
            return default
        inside = where in WINDOWS or where.startswith(_LOCKING)
        if not inside and drawn * self.ELSEWHERE >= self._chance:
            return default
        others = [actor for actor in runnable() if actor != default]
        return self._random.choice(others) if others else default


class Pct:
    """Probabilistic concurrency testing: priorities, and `depth` - 1 points of change.

    At such a point who runs falls behind everybody else, and behind or before those who have
    fallen at others: which of them is drawn too, by drawing each change and the rank that goes
    with it independently of the rest.  So a bug of depth d in a program of n actors, whose d - 1
    points are among the first k, is met with a probability of at least 1 / (n * k ** (d - 1)).
    """

    def __init__(self, random: Random, depth: int, points: int) -> None:
        self._random = random
        # Initial priorities are above 0.
        self._changes = {self._random.randint(1, points): rank for rank in range(1 - depth, 0)}
        self._priorities: dict[int, float] = {}
        self._step = 0

    def __call__(
        self, point: Point, where: str, default: int, runnable: Callable[[], list[int]]
    ) -> int:
        self._step += 1
        actors = runnable()
        for actor in (point.actor, *actors):
            if actor not in self._priorities:
                self._priorities[actor] = self._random.random()
        if self._step in self._changes:
            self._priorities[point.actor] = self._changes[self._step]
        return max(actors, key=self._priorities.__getitem__, default=default)
