"""How often each kind of operation is generated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from reference.description import Description
from reference.geometry import Geometry
from reference.operations import ATOMICS, DEVICE_ACCESSES, DEVICE_KINDS, EVENTS, Kind
from reference.syncmodels import SYNC_MODELS, Sync

__all__ = ["GROUPS", "PROFILES", "SIMPLE_FIRST", "Profile"]

BASE: Mapping[Kind, int] = {
    Kind.READ: 12,
    Kind.WRITE: 14,
    Kind.MAP: 10,
    Kind.UNMAP: 4,
    Kind.ATTACH: 4,
    Kind.DREAD: 14,
    Kind.DWRITE: 12,
    Kind.PROTECT: 4,
    Kind.DISCARD: 4,
    Kind.FORK: 2,
    Kind.REGISTER: 2,
    Kind.FAULT: 5,
    Kind.ADD: 3,
    Kind.CAS: 4,
    Kind.DADD: 4,
    Kind.DCAS: 4,
    Kind.REMAP: 4,
    Kind.FREE: 2,
    Kind.PUNCH: 2,
    Kind.TRUNCATE: 2,
    Kind.MIGRATE: 3,
    Kind.RECLAIM: 4,
    Kind.COLLAPSE: 3,
    Kind.SPLIT: 1,
    Kind.MERGE: 2,
    Kind.TO_DEVICE: 6,
    Kind.TO_SYSTEM: 2,
    Kind.EXCLUSIVE: 3,
    Kind.INVALIDATE: 2,
    Kind.SNAPSHOT: 5,
    Kind.SUBMIT: 16,
    Kind.WAIT: 14,
    Kind.UNREGISTER: 2,
    Kind.DETACH: 2,
    Kind.EXIT: 1,
}
"""Weights that suit a mirror that can do everything."""

SIMPLE_FIRST = tuple(BASE)
"""Every kind, the simplest to understand in a failing program first."""

GROUPS: Mapping[str, frozenset[Kind]] = {
    "contents": frozenset({Kind.READ, Kind.WRITE, Kind.DREAD, Kind.DWRITE, Kind.DISCARD}),
    "mapping": frozenset({Kind.MAP, Kind.UNMAP, Kind.REMAP, Kind.DISCARD, Kind.PUNCH, Kind.FREE}),
    "rights": frozenset({Kind.PROTECT, Kind.FAULT, Kind.SNAPSHOT}),
    "files": frozenset({Kind.TRUNCATE, Kind.PUNCH, Kind.RECLAIM}),
    "fork": frozenset({Kind.FORK, Kind.EXIT, Kind.ATTACH, Kind.DETACH}),
    "migration": frozenset(
        {Kind.MIGRATE, Kind.TO_DEVICE, Kind.TO_SYSTEM, Kind.EXCLUSIVE, Kind.RECLAIM}
    ),
    "jobs": frozenset({Kind.SUBMIT, Kind.WAIT, Kind.INVALIDATE}),
    "registration": frozenset({Kind.REGISTER, Kind.UNREGISTER, Kind.DETACH}),
    "atomics": ATOMICS | {Kind.EXCLUSIVE},
    "events": EVENTS | {Kind.INVALIDATE},
}
"""What each profile other than `all` emphasises."""

PROFILES = ("all", *GROUPS)
EMPHASIS = 5
"""How much more often a profile's own kinds come."""


@dataclass(frozen=True)
class Profile:
    """Weights of the kinds, and shares (in 256ths) of the variants that are no kind of their own.

    A kind that is not in `weights` is never generated.
    """

    name: str
    weights: Mapping[Kind, int]
    queued: int = 48
    """Share of the device accesses that start a job instead of being done at once."""
    files: int = 72
    """Share of the mappings that are of a file."""
    shared: int = 80
    """Share of the mappings that are shared."""

    @staticmethod
    def named(name: str) -> Profile:
        """The profile of this name, for a mirror that can do everything.

        `ValueError` for a name that is not in `PROFILES`.
        """
        if name not in PROFILES:
            raise ValueError(f"no profile {name!r}; there are {', '.join(PROFILES)}")
        group = GROUPS.get(name, frozenset())
        profile = Profile(
            name,
            {kind: weight * (EMPHASIS if kind in group else 1) for kind, weight in BASE.items()},
        )
        if name == "files":
            return replace(profile, files=200)
        if name == "fork":
            return replace(profile, shared=112)
        return replace(profile, queued=144) if name == "jobs" else profile

    @staticmethod
    def for_candidate(
        description: Description, geometry: Geometry, model: Sync, name: str = "all"
    ) -> Profile:
        """The profile of this name with only what the candidate can do in this geometry."""
        profile = Profile.named(name)
        kinds = _usable(description, geometry)
        weights = {kind: weight for kind, weight in profile.weights.items() if kind in kinds}
        if description.keyed and Kind.REGISTER in weights:
            weights[Kind.REGISTER] *= 3
        if SYNC_MODELS[model].waits and Kind.INVALIDATE in weights:
            weights[Kind.INVALIDATE] *= 2
        return replace(
            profile,
            weights=weights,
            queued=profile.queued if Kind.SUBMIT in weights else 0,
            files=profile.files if geometry.files else 0,
        )


def _usable(description: Description, geometry: Geometry) -> frozenset[Kind]:
    """The candidate's kinds without those that lack what they work on."""
    kinds = set(description.kinds(geometry.page_size))
    if geometry.devices == 0 or Kind.ATTACH not in kinds:
        kinds -= DEVICE_KINDS - {Kind.INVALIDATE}
    if geometry.processes == 1 or Kind.FORK not in kinds:
        kinds -= {Kind.FORK, Kind.EXIT}
    if geometry.files == 0:
        kinds -= {Kind.TRUNCATE}
    if geometry.keys == 0 or Kind.REGISTER not in kinds:
        kinds -= {Kind.REGISTER, Kind.UNREGISTER}
        if description.keyed:
            kinds -= DEVICE_ACCESSES
    # A job that is submitted and never waited for shows nothing.
    jobs = {Kind.SUBMIT, Kind.WAIT}
    if geometry.jobs == 0 or not jobs <= kinds or not DEVICE_ACCESSES & kinds:
        kinds -= jobs
    return frozenset(kinds)
