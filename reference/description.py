"""What a candidate says of itself."""

from __future__ import annotations

import msgspec

from .geometry import LIMITS, Geometry
from .operations import WORD, Kind
from .syncmodels import Sync

__all__ = ["Description"]


class Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A candidate's sync model and capabilities.

    A capability is an operation: a candidate lists those it can do, and is never sent another.
    """

    name: str
    version: str = ""
    """What was tested, as exactly as the candidate can say: a version, a kernel release."""
    model: Sync = Sync.FAULTING
    keyed: bool = False
    """Device accesses go through registrations: every one carries a key."""
    operations: frozenset[str]
    """Names of the operations that it can do, as in a program's text."""
    page_sizes: tuple[int, ...] = (4096,)
    only_at: dict[str, tuple[int, ...]] = {}
    """Operations that it can do only at some page sizes, and at which (bytes)."""
    processes: int = 1
    devices: int = 1
    files: int = 0
    keys: int = 0
    jobs: int = 0
    write_unit: int = WORD
    """Bytes: the writes of jobs begin and end at multiples of this, and so do the device's other
    writes while a job is in flight.  More than a word if the device can only write more at once:
    of a smaller write it would have to write back what it has read around it."""
    atomicity: int = WORD
    """Bytes: what a job reads or writes as one while somebody else does.  1 if the words of a job
    are copied byte by byte, so that one which is written meanwhile may come out as a mixture."""
    schedules: bool = False
    """It runs programs under a schedule: a driver on the host."""
    left_out: dict[str, str] = {}
    """Operations that it cannot do here, and why."""
    notes: tuple[str, ...] = ()

    def check(self) -> None:
        """`ValueError`, naming the field, unless the description makes sense."""
        known = {kind.name.lower() for kind in Kind}
        for field in ("operations", "only_at", "left_out"):
            unknown = set(getattr(self, field)) - known
            if unknown:
                raise ValueError(f"{field}: no such operation: {', '.join(sorted(unknown))}")
        if not self.page_sizes:
            raise ValueError("page_sizes: empty")
        if self.keyed and not self.keys:
            raise ValueError("keyed: needs at least one key")
        if self.write_unit < WORD or any(size % self.write_unit for size in self.page_sizes):
            raise ValueError(f"write_unit: {self.write_unit} is no part of a page slot")
        if self.atomicity not in {1, WORD}:
            raise ValueError(f"atomicity: {self.atomicity} is neither 1 nor {WORD}")
        for page_size in self.page_sizes:
            self.limit(Geometry(page_size=page_size)).check()

    def kinds(self, page_size: int) -> frozenset[Kind]:
        """The operations that it can do at this page size."""
        return frozenset(
            kind
            for kind in Kind
            if (name := kind.name.lower()) in self.operations
            and page_size in self.only_at.get(name, (page_size,))
        )

    def limit(self, geometry: Geometry) -> Geometry:
        """The geometry with no more of anything than the candidate has."""
        return geometry._replace(
            **{name: getattr(self, name) for name in LIMITS if name != "pages"}
        )
