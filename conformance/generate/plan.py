"""What programs are generated for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from reference.description import Description
from reference.geometry import Geometry
from reference.operations import DEVICE_KINDS, Kind
from reference.syncmodels import Sync

from .profile import Profile

__all__ = ["Plan"]

_CONDITIONAL = (DEVICE_KINDS - {Kind.INVALIDATE}) | {Kind.FORK, Kind.EXIT}
"""Kinds that are not always possible: they need a device, a key, a job or another process."""


@dataclass(frozen=True)
class Plan:
    """A candidate's description with how its programs are to look.

    `geometry` is already limited to what the candidate has.  `ValueError` if the profile holds
    no kind that is possible at every point of a program.
    """

    description: Description
    geometry: Geometry
    model: Sync
    profile: Profile
    max_operations: int = 100
    scenes: int = 0
    """In 256ths, the programs that begin with a scene; see `scenes`."""
    tables: dict[int, tuple[Kind, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Memo of `choose.table`."""

    def __post_init__(self) -> None:
        if not set(self.profile.weights) - _CONDITIONAL:
            raise ValueError(
                f"{self.description.name}: no operation that is possible in every program, "
                "such as read, write or map"
            )
        if self.max_operations < 1:
            raise ValueError(f"max_operations: {self.max_operations} is not 1 or more")

    @cached_property
    def kinds(self) -> frozenset[Kind]:
        """What the candidate can do in this geometry."""
        return self.description.kinds(self.geometry.page_size)

    @staticmethod
    def for_candidate(
        description: Description,
        geometry: Geometry | None = None,
        profile: str = "all",
        max_operations: int = 100,
    ) -> Plan:
        """The plan for a candidate under its own sync model, with the named profile."""
        limited = description.limit(geometry or Geometry(page_size=description.page_sizes[0]))
        chosen = Profile.for_candidate(description, limited, description.model, profile)
        return Plan(description, limited, description.model, chosen, max_operations)
