"""Probabilistic concurrency testing keeps its promise: a bug of depth d is met often enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations, product
from random import Random

import pytest

from reference.host.choosers import Pct
from reference.host.record import Record
from reference.host.tasks import Job, Point, Tasks

Body = Callable[["Stage"], None]


@dataclass
class Stage:
    """What the bodies of tasks play on."""

    tasks: Tasks
    said: str = ""

    def say(self, text: str) -> None:
        """Something happens; before it others may run."""
        self.tasks.point(text)
        self.said += text

    def wait(self, text: str) -> None:
        """Wait until something has happened."""
        self.tasks.wait_until(lambda: text in self.said, text)

    def spin(self, text: str) -> None:
        while text not in self.said:
            self.tasks.give_way(text)


class Given(Random):
    """Draws what it is told to."""

    def __init__(self, points: Sequence[int], priorities: Sequence[float]) -> None:
        super().__init__()
        self._points, self._priorities = iter(points), iter(priorities)

    def randint(self, a: int, b: int) -> int:
        return next(self._points)

    def random(self) -> float:
        return next(self._priorities)


class Counting(Pct):
    """Knows how many points there were."""

    points = 0

    def __call__(
        self, point: Point, where: str, default: int, runnable: Callable[[], list[int]]
    ) -> int:
        self.points += 1
        return super().__call__(point, where, default, runnable)


def play(bodies: Sequence[Body], chooser: Counting) -> str:
    """What happened, in order."""
    stage = Stage(Tasks(Record()))
    stage.tasks.choose = chooser
    for actor, body in enumerate(bodies):
        stage.tasks.add(actor, Job(actor, partial(body, stage), lambda: True))
    stage.tasks.run()
    return stage.said


def play_all(bodies: Sequence[Body], depth: int) -> tuple[Counter[str], int]:
    """How often each order comes up if everything is drawn once, and the most points of a run."""
    points, found = 0, Counter[str]()
    longest = 1
    while longest > points:
        points, found = longest, Counter()
        for priorities in permutations(range(len(bodies))):
            for changes in product(range(1, points + 1), repeat=depth - 1):
                chooser = Counting(Given(changes, priorities), depth, points)
                found[play(bodies, chooser)] += 1
                longest = max(longest, chooser.points)
    return found, points


def script(text: str) -> Body:
    """What an actor does: letters that it says, `?c` to wait for one, `!c` to wait for it awake."""

    def body(stage: Stage) -> None:
        for word in text.split():
            if word[0] == "?":
                stage.wait(word[1])
            elif word[0] == "!":
                stage.spin(word[1])
            else:
                stage.say(word)

    return body


@pytest.mark.parametrize(
    ("scripts", "order", "depth"),
    [
        pytest.param(("a", "b"), "ba", 1, id="who comes first"),
        pytest.param(("a A", "b"), "abA", 2, id="one is interrupted"),
        pytest.param(("a A", "?a b B", "c C"), "abcCAB", 3, id="the first to fall goes on first"),
        pytest.param(("a A", "?a b B", "c C"), "abcCBA", 3, id="the first to fall goes on last"),
        pytest.param(("b B", "x ?c a", "?x c"), "bxcaB", 2, id="who has fallen stays behind"),
        pytest.param(("b B", "x !c a", "!x c"), "bxcaB", 2, id="behind a busy wait as well"),
    ],
)
def test_an_order_comes_up_as_often_as_promised(
    scripts: tuple[str, ...], order: str, depth: int
) -> None:
    found, points = play_all([*map(script, scripts)], depth)
    assert found[order] / found.total() >= 1 / (len(scripts) * points ** (depth - 1))
