"""Wall and CPU time of a piece of work, the best of several times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Spent", "best_of"]


@dataclass(frozen=True)
class Spent:
    """Seconds that it took, and seconds that this process was computing meanwhile."""

    wall: float
    cpu: float


def best_of(repeats: int, work: Callable[[], object]) -> Spent:
    """The least wall time and the least CPU time, each of its own: noise only ever adds."""
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Spent(min(walls), min(cpus))
