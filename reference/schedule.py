"""Who runs when: plain data, part of a program for a driver on the host.

Without switches operations run one after another in program order.  Actors are numbered: those
of processes as the processes, the others from `DEVICE`, `KERNEL` and `ENGINE` on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .geometry import LIMITS
from .operations import CPU_ACCESSES, DEVICE_KINDS, EVENTS, Kind, Operation

__all__ = [
    "ACTORS",
    "DEVICE",
    "ENGINE",
    "KERNEL",
    "PLAIN",
    "SITES",
    "STRATEGIES",
    "WAITING",
    "Injection",
    "Offer",
    "Schedule",
    "Switch",
    "actor_name",
    "actor_number",
    "actor_of",
    "pct_points",
]

DEVICE = 8
"""Actor of device 0: what its driver does in system calls and fault handlers."""
KERNEL = 16
"""Actor of reclaim, migration and other threads of the kernel."""
ENGINE = 24
"""Actor of the engine of device 0, which does the accesses of submitted jobs."""
SITES = ("allocation", "copy", "wait", "trylock", "insert")
"""Where a failure may be injected."""
WAITING = "waiting for "
"""Begins the name of a protocol point at which an actor is left because it has to wait."""
STRATEGIES = ("follow", "random", "pct", "explore", "windows")


class Switch(NamedTuple):
    """At a point of an actor's operation, let another actor run."""

    actor: int
    operation: int
    point: int
    to: int


class Offer(NamedTuple):
    """A point at which somebody else could have run on."""

    actor: int
    operation: int
    point: int
    to: tuple[int, ...]
    """The actors that could."""
    state: int
    """Number of the state there; 0 if states cannot be told apart."""


class Injection(NamedTuple):
    """A failure: the `number`-th (from 1) time that the host asks at a site."""

    site: str
    number: int


@dataclass(frozen=True)
class Schedule:
    """How to choose at protocol points.

    `follow` makes the switches and no others.  `random` switches at one in `depth` points;
    `windows` does so at points between which something may become out of date, as between lookup
    and commit or between start and end of an invalidation, and rarely elsewhere.
    `pct` runs by random priorities with `depth` - 1 points of change among the first
    `pct_points` (Burckhardt et al., ASPLOS 2010).  `explore` follows the switches too, and tells
    which others could be made after the last of them.
    """

    switches: tuple[Switch, ...] = ()
    strategy: str = "follow"
    seed: int = 0
    depth: int = 0
    injections: tuple[Injection, ...] = ()


PLAIN = Schedule()
"""One operation after another."""
_FIRST_POINTS, _POINTS_EACH = 16, 8
"""What `pct_points` are made of: operations have some 5 points, few programs more than 8 each."""
_BY_KERNEL = EVENTS | {Kind.INVALIDATE}
_ON_DEVICE = DEVICE_KINDS - {Kind.INVALIDATE}


def actor_of(operation: Operation) -> int:
    """Who does an operation."""
    if operation.kind in _BY_KERNEL:
        return KERNEL
    if operation.kind in CPU_ACCESSES:
        return operation.process
    return DEVICE + operation.device if operation.kind in _ON_DEVICE else operation.process


ACTORS = {
    **{f"p{number}": number for number in range(LIMITS["processes"][1])},
    **{f"d{number}": DEVICE + number for number in range(LIMITS["devices"][1])},
    "k": KERNEL,
    **{f"e{number}": ENGINE + number for number in range(LIMITS["devices"][1])},
}
"""Numbers of all actors, by name."""
_NAMES = {number: name for name, number in ACTORS.items()}


def pct_points(operations: int) -> int:
    """The first so many protocol points of a program, among which `pct` draws points of change."""
    return _FIRST_POINTS + _POINTS_EACH * operations


def actor_name(actor: int) -> str:
    """`p0`, `d0`, `k` or `e0`; `ValueError` for a number that no actor has."""
    if actor not in _NAMES:
        raise ValueError(f"no actor has number {actor}")
    return _NAMES[actor]


def actor_number(name: str) -> int:
    """The reverse of `actor_name`; `ValueError` for any other text."""
    if name not in ACTORS:
        raise ValueError(f"{name!r} is no actor: one is {', '.join(ACTORS)}")
    return ACTORS[name]
