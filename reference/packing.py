"""The packed form of a schedule: a header, its switches, its failures."""

from __future__ import annotations

import struct
from typing import Annotated, NamedTuple

from .schedule import PLAIN, SITES, STRATEGIES, Injection, Schedule, Switch, actor_name
from .schema import U8, U16, U32, U64, layout_of

__all__ = ["FAILURE", "SCHEDULE", "SWITCH", "pack_schedule", "unpack_schedule"]


class _Header(NamedTuple):
    seed: Annotated[int, U64, "seed of the strategy"]
    switches: Annotated[int, U32, "number of switches"]
    failures: Annotated[int, U32, "number of failures"]
    depth: Annotated[int, U16, "depth of the strategy"]
    strategy: Annotated[
        int, U8, ", ".join(f"{number} `{name}`" for number, name in enumerate(STRATEGIES))
    ]
    reserved: Annotated[int, U8, "zero"]
    reserved_too: Annotated[int, U32, "zero"]


class _Switch(NamedTuple):
    operation: Annotated[int, U32, "number of the operation, from 0"]
    point: Annotated[int, U32, "number of the point in it, from 1"]
    actor: Annotated[int, U8, "who does the operation, see Actor"]
    to: Annotated[int, U8, "who runs on, see Actor"]
    reserved: Annotated[int, U16, "zero"]


class _Failure(NamedTuple):
    number: Annotated[int, U32, "which time that the site is asked, from 1"]
    site: Annotated[int, U8, ", ".join(f"{number} `{name}`" for number, name in enumerate(SITES))]
    reserved: Annotated[int, U8, "zero"]
    reserved_too: Annotated[int, U16, "zero"]


SCHEDULE = layout_of(_Header)
SWITCH = layout_of(_Switch)
FAILURE = layout_of(_Failure)


def pack_schedule(schedule: Schedule) -> bytes:
    """Nothing for the plain schedule; `ValueError` for numbers that have no room."""
    if schedule == PLAIN:
        return b""
    switches, failures = schedule.switches, schedule.injections
    strategy = STRATEGIES.index(schedule.strategy)
    try:
        return b"".join(
            (
                SCHEDULE.format.pack(
                    schedule.seed, len(switches), len(failures), schedule.depth, strategy, 0, 0
                ),
                *(SWITCH.format.pack(each[1], each[2], each[0], each[3], 0) for each in switches),
                *(FAILURE.format.pack(n, SITES.index(site), 0, 0) for site, n in failures),
            )
        )
    except struct.error as error:
        raise ValueError(f"a schedule that cannot be packed: {error}") from None


def unpack_schedule(data: bytes) -> Schedule:
    """The reverse of `pack_schedule`; `ValueError` says what is wrong with the data."""
    if not data:
        return PLAIN
    if len(data) < SCHEDULE.size:
        raise ValueError(f"a packed schedule has {SCHEDULE.size} bytes or more, got {len(data)}")
    header = _Header._make(SCHEDULE.format.unpack_from(data))
    middle = SCHEDULE.size + header.switches * SWITCH.size
    if len(data) != middle + header.failures * FAILURE.size:
        counts = f"{header.switches} switches and {header.failures} failures"
        raise ValueError(f"{counts} do not fill a schedule of {len(data)} bytes")
    if header.strategy >= len(STRATEGIES):
        raise ValueError(f"unknown strategy {header.strategy}")
    if header.reserved or header.reserved_too:
        raise ValueError("a reserved byte of the schedule is not zero")
    schedule = Schedule(
        tuple(map(_switch, SWITCH.format.iter_unpack(data[SCHEDULE.size : middle]))),
        STRATEGIES[header.strategy],
        header.seed,
        header.depth,
        tuple(map(_failure, FAILURE.format.iter_unpack(data[middle:]))),
    )
    if schedule == PLAIN:
        raise ValueError("the plain schedule is packed as nothing")
    return schedule


def _switch(fields: tuple[int, ...]) -> Switch:
    record = _Switch._make(fields)
    if record.reserved:
        raise ValueError("a reserved byte of a switch is not zero")
    for actor in (record.actor, record.to):
        actor_name(actor)  # a number that nobody has is refused
    return Switch(record.actor, record.operation, record.point, record.to)


def _failure(fields: tuple[int, ...]) -> Injection:
    record = _Failure._make(fields)
    if record.reserved or record.reserved_too:
        raise ValueError("a reserved byte of a failure is not zero")
    if record.site >= len(SITES):
        raise ValueError(f"unknown site {record.site}")
    return Injection(SITES[record.site], record.number)
