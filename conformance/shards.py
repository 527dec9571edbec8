"""The programs of a run, in shards: each a function of the seed and its number alone.

Shards alternate between Hypothesis' own generation, which varies what it has seen, and fresh
random programs, and between profiles; some have larger pages.  Since a shard does not depend on
any other, the programs are the same however many processes share the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed

from reference.description import Description
from reference.geometry import Geometry
from reference.program import Program
from reference.syncmodels import Sync

from .backend import NAME as BACKEND
from .backend import steady_choices
from .generate import PROFILES, Plan, Profile, programs, random_program, with_sweep

__all__ = ["PER_SHARD", "Shard", "plan_for", "run_shard", "shards"]

PER_SHARD = 25
"""Programs in a shard."""
HUGE_PER_SHARD = 4
"""Programs in a shard of huge pages, whose sweeps read megabytes."""


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
    while True:
        page_size = _page_size(description, index)
        huge = page_size > 1 << 20
        yield Shard(
            index=index,
            seed=_derive(seed, index),
            programs=HUGE_PER_SHARD if huge else PER_SHARD,
            backend=BACKEND if index % 2 else "hypothesis",
            # every other pair of shards is of the general profile
            profile=profiles[index // 4 % len(profiles)] if index % 4 >= 2 else profiles[0],
            page_size=page_size,
        )
        index += 1


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
    pages = {4096: 16, 65536: 8}.get(shard.page_size, 2)
    geometry = description.limit(Geometry(page_size=shard.page_size, pages=pages))
    profile = Profile.for_candidate(description, geometry, model, shard.profile)
    return Plan(description, geometry, model, profile)


def run_shard(plan: Plan, shard: Shard, consume: Callable[[Program, int], bool]) -> None:
    """Hand each program of the shard to `consume`, with its length without the closing sweep.

    `consume` says whether to go on.
    """
    going = True
    made = 0

    def hand_over(program: Program) -> None:
        nonlocal going, made
        made += 1
        seeded = replace(program, seed=shard.seed)
        going = consume(with_sweep(seeded, plan), len(seeded))

    @hypothesis_seed(shard.seed)
    @settings(
        max_examples=shard.programs,
        database=None,
        deadline=None,
        backend=shard.backend,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(programs(plan))
    def generate(program: Program) -> None:
        if going and program.operations:
            hand_over(program)

    with steady_choices():
        generate()
    # Hypothesis may give empty programs, or fewer than asked for.
    while going and made < shard.programs:
        hand_over(random_program(plan, shard.seed, made))
