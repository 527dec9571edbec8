"""The programs of a run, in shards: each a function of the seed and its number alone.

Most shards are of fresh random programs, and some of Hypothesis' own generation, which varies what
it has seen; profiles alternate, and some have larger pages.  Since a shard does not depend on any
other, the programs are the same however many processes share the work.

For a candidate that takes schedules programs are short and pages few, and each program comes
under several schedules: interleavings, not histories, are what it is tried with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st

from reference.description import Description
from reference.geometry import Geometry
from reference.operations import Kind
from reference.program import Program
from reference.syncmodels import Sync

from .backend import NAME as BACKEND
from .backend import steady_choices
from .generate import PROFILES, Plan, Profile
from .generate.fresh import Grown, grown_from_seed, program_seed
from .generate.strategies import grown
from .scheduling import CHOICES, SCHEDULES, short_sweep, switch_choices, under_schedules

__all__ = ["PER_SHARD", "SCHEDULED_PER_SHARD", "Shard", "plan_for", "run_shard", "shards"]

PER_SHARD = 25
"""Programs in a shard."""
HUGE_PER_SHARD = 4
"""Programs in a shard of huge pages, whose sweeps read megabytes."""
SCHEDULED_PER_SHARD = 25 * SCHEDULES
"""Programs in a shard of scheduled ones, each with one schedule."""
_EVERY, _EVERY_SCHEDULED = 17, 2
"""One shard in so many is of Hypothesis' own generation, which takes five times as long to draw a
program; where each is run under many schedules that does not matter.  The first number is prime to
what profiles and page sizes go by, so that all of them meet both."""
_TOGETHER = 4
"""Operations to a choice of Hypothesis, where nothing is shrunk and many programs are run."""
_SHORT, _LONG = 12, 40
"""Operations of scheduled programs at most, in most shards and in some."""
_PAGES = (2, 3, 4, 2, 6)
"""Pages of scheduled programs, shard by shard: few, but at times more than a device can take."""
_SCENES = 208
"""In 256ths, the scheduled programs that begin with a meeting of two actors."""
_OFTENER = {Kind.INVALIDATE: 4, Kind.EXIT: 6, Kind.FORK: 2}
"""Kinds that say more about a protocol than about contents."""


@dataclass(frozen=True)
class Shard:
    """A share of the programs of a run."""

    index: int
    seed: int
    programs: int
    backend: str
    profile: str
    page_size: int

    def limited(self, programs: int) -> Shard:
        """The shard with at most so many programs."""
        return replace(self, programs=min(self.programs, programs))


def shards(
    description: Description, seed: int, profiles: tuple[str, ...] = PROFILES
) -> Iterator[Shard]:
    """Endless shards for a candidate."""
    index = 0
    every = _EVERY_SCHEDULED if description.schedules else _EVERY
    while True:
        page_size = _page_size(description, index)
        huge = page_size > 1 << 20
        yield Shard(
            index=index,
            seed=_derive(seed, index),
            programs=_per_shard(description, huge),
            backend=BACKEND if index % every else "hypothesis",
            # every other pair of shards is of the general profile
            profile=profiles[index // 4 % len(profiles)] if index % 4 >= 2 else profiles[0],
            page_size=page_size,
        )
        index += 1


def _per_shard(description: Description, huge: bool) -> int:
    if description.schedules:
        return SCHEDULED_PER_SHARD
    return HUGE_PER_SHARD if huge else PER_SHARD


def _page_size(description: Description, index: int) -> int:
    """The smallest page size for most shards, each of the others for one in sixteen."""
    sizes = sorted(description.page_sizes)
    turn, rest = divmod(index, 16)
    others = sizes[1:]
    if others and rest in {5, 13}:
        return others[(2 * turn + (rest == 13)) % len(others)]
    return sizes[0]


def _derive(seed: int, index: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def plan_for(description: Description, model: Sync, shard: Shard) -> Plan:
    """What a shard's programs look like."""
    if description.schedules:
        return _scheduled_plan(description, model, shard)
    pages = {4096: 16, 65536: 8}.get(shard.page_size, 2)
    geometry = description.limit(Geometry(page_size=shard.page_size, pages=pages))
    profile = Profile.for_candidate(description, geometry, model, shard.profile)
    return Plan(description, geometry, model, profile)


def _scheduled_plan(description: Description, model: Sync, shard: Shard) -> Plan:
    long = shard.index % 8 == 7
    limited = description.limit(Geometry(page_size=shard.page_size))
    geometry = limited._replace(
        pages=8 if long else _PAGES[shard.index % len(_PAGES)], processes=min(limited.processes, 2)
    )
    profile = Profile.for_candidate(description, geometry, model, shard.profile)
    weights = {kind: weight * _OFTENER.get(kind, 1) for kind, weight in profile.weights.items()}
    profile = replace(profile, weights=weights)
    return Plan(description, geometry, model, profile, _LONG if long else _SHORT, _SCENES)


def run_shard(plan: Plan, shard: Shard, consume: Callable[[Program, int], bool]) -> None:
    """Hand each program of the shard to `consume`, with its length without the closing sweep.

    `consume` says whether to go on.
    """
    going = True
    made = 0
    scheduled = plan.description.schedules

    def hand_over(found: Grown, choices: bytes) -> None:
        nonlocal going, made
        seed = program_seed(shard.seed, made) if scheduled else shard.seed
        seeded = found._replace(program=replace(found.program, seed=seed))
        for each in _variants(seeded, plan, choices):
            if going and made < shard.programs:
                made += 1
                going = consume(each, len(found.program))

    @hypothesis_seed(shard.seed)
    @settings(
        max_examples=-(-shard.programs // SCHEDULES) if scheduled else shard.programs,
        database=None,
        deadline=None,
        backend=shard.backend,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        grown(plan, 1 if scheduled else _TOGETHER),
        switch_choices() if scheduled else st.just(b""),
    )
    def generate(found: Grown, choices: bytes) -> None:
        if going and found.program.operations:
            hand_over(found, choices)

    # A fresh program needs no Hypothesis, which takes longer to draw it than a mirror to run it.
    # One that is run under many schedules does not matter so much.
    if shard.backend != BACKEND or scheduled:
        with steady_choices():
            generate()
    # Hypothesis may give empty programs, or fewer than asked for.
    while going and made < shard.programs:
        seed = program_seed(shard.seed, made)
        hand_over(grown_from_seed(plan, seed), Random(seed).randbytes(CHOICES))


def _variants(found: Grown, plan: Plan, choices: bytes) -> Iterator[Program]:
    """What is run of a program: itself and its sweep, or that under every schedule."""
    if not plan.description.schedules:
        yield found.swept()
        return
    yield from under_schedules(short_sweep(found), choices)
