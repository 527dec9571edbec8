"""Everything that the model knows at one point of a program."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from ..geometry import Geometry
from ..operations import Operation
from ..syncmodels import SYNC_MODELS, Sync
from .history import History
from .memory import UNMAPPED, AddressSpace, File, Mapping, Slot
from .page import Page
from .pending import Exposure, Pending
from .values import Change

__all__ = ["Broken", "Job", "Part", "Place", "Problem", "Registration", "State"]


class Problem(enum.Enum):
    """What kind of wrong an outcome is.  Which rule that breaks depends on the history."""

    VALUE = "wrong value"
    NO_FAULT = "access that must fault"
    FAULT = "access that must succeed"
    CALL = "memory management call"
    REFUSED = "refused invalidation"
    ANSWER = "malformed answer"
    SEEN = "what the device sees"


class Broken(Exception):
    """An outcome that the contract does not allow."""

    def __init__(
        self,
        problem: Problem,
        message: str,
        *,
        page: int = 0,
        word: int = 0,
        value: int = 0,
        rule: str = "",
    ) -> None:
        super().__init__(message)
        self.problem = problem
        self.rule = rule
        """Of what a device sees: the rule that it breaks."""
        self.page = page
        self.word = word
        self.value = value


@dataclass
class Registration:
    """A registered range, and the pages that were there when it was registered."""

    first: int
    rights: int
    pinned: list[tuple[Page, ...]]

    @property
    def pages(self) -> range:
        return range(self.first, self.first + len(self.pinned))

    def covers(self, first: int, last: int) -> bool:
        return self.first <= first and last < self.first + len(self.pinned)


Place = tuple[int, int]
"""A word of an address space: page slot and word in it."""


@dataclass(slots=True)
class Part:
    """What an access of a job reaches at one page."""

    access: int
    """The access, by its place in the job."""
    page: int
    before: int
    """Words of the access that come before it."""
    places: list[Place]
    found: list[Page] | None = None
    """The contents that were there when it was last visited."""


@dataclass(slots=True)
class Job:
    """The accesses of a job, and from submit to wait the words that they touch."""

    device: int
    accesses: list[Operation]
    parts: list[list[Part]] = field(default_factory=list)
    """By access: what it reaches, page by page."""
    at: dict[int, list[Part]] = field(default_factory=dict)
    """By page: what the accesses reach there."""
    changes: dict[Place, list[Change]] = field(default_factory=dict)
    """By word: what the accesses make of it, in order."""
    exposures: dict[Place, Exposure] = field(default_factory=dict)
    reached: list[set[int]] = field(default_factory=list)
    """By access: the pages that it was allowed to reach at some moment in flight."""
    must: list[bool] = field(default_factory=list)
    """By access: it was allowed at every moment in flight."""
    slots: dict[int, Slot] = field(default_factory=dict)
    """The slots of its addresses when they were last looked at."""
    through: set[int] = field(default_factory=set)
    """Those of them that had a private file page without a copy of its own."""
    copied: dict[Mapping, Page] = field(default_factory=dict)
    """What private file pages held in their file when the job may have copied them."""
    complete: bool = False
    """An invalidation has waited for it: whatever it does is done."""
    unmapped: set[int] = field(default_factory=set)
    """Pages that went away by an unmap that has waited for it (C3)."""


class State:
    """Address spaces, files, devices and jobs."""

    def __init__(self, geometry: Geometry, sync: Sync, *, tears: bool = False) -> None:
        self.geometry = geometry
        self.tears = tears
        """A word that jobs in flight access may come out as a mixture of what it held."""
        self.sync = SYNC_MODELS[sync]
        self.keyed = self.sync.pins or self.sync.revalidates
        """Every access of a device goes through a registration."""
        self.spaces: list[AddressSpace | None] = [None] * geometry.processes
        self.spaces[0] = AddressSpace([UNMAPPED] * geometry.pages)
        self.files = [File(geometry.pages, geometry.page_size) for _ in range(geometry.files)]
        self.attached: dict[int, int] = {}
        self.registrations: dict[tuple[int, int], Registration] = {}
        self.queued: dict[tuple[int, int], Job] = {}
        self.in_flight: dict[tuple[int, int], Job] = {}
        self.pending: dict[Page, dict[int, Pending]] = {}
        """Words that jobs in flight may reach, by page and word."""
        self.history = History(geometry)
        self.areas = 0
        self.excused = False
        """The operation that is judged may fail, because it met a failure that was injected."""

    def next_area(self) -> int:
        """A number for an area that did not exist before."""
        self.areas += 1
        return self.areas

    def space(self, process: int) -> AddressSpace | None:
        return self.spaces[process]

    def mirrored(self, device: int) -> AddressSpace | None:
        """The address space that a device mirrors; None if its process is gone."""
        process = self.attached.get(device)
        return None if process is None else self.spaces[process]
