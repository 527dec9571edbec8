"""The certificate: what was tested, how, and what came of it, as a JSON file."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import statistics
import sys
from collections import Counter
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path

import msgspec

from reference.description import Description
from reference.protocol import Profile
from reference.syncmodels import Sync

from .exhaustive import Tally
from .expect import Expectation
from .explore.programs import PAGES
from .pct import PctPromise
from .verdicts import RuleResult, Verdict

__all__ = [
    "Certificate",
    "FailureRecord",
    "Identity",
    "Lengths",
    "Searched",
    "identify",
    "lengths_of",
]

FORMAT = 1


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which candidate it was, as exactly as can be said."""

    spec: str
    name: str
    version: str
    file_hash: str = ""
    """SHA-256 of the candidate's file, where it is one."""


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """How long the programs were, in operations, without the closing sweeps."""

    mean: float
    median: float
    longest: int
    by_tens: dict[str, int]
    """Programs of 1 to 10 operations, 11 to 20, and so on."""


class FailureRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One failing program."""

    rule: str
    message: str
    file: str
    operations: int
    found_with: int
    """Operations of the program before it was reduced."""
    unstable: bool


class Searched(msgspec.Struct, frozen=True, kw_only=True):
    """How far the exhaustive search is with one of its bounds."""

    operations: int
    """Of each program, beside those that set it up and the reads that close it."""
    pages: int
    switches: int
    """Of each schedule, at most."""
    complete: bool
    """Every program of the bound was run under every schedule of it."""
    programs: int
    """Programs that were run under every schedule."""
    total: int
    """Programs of the bound."""
    failed: int
    """Programs that were left when they had failed."""
    runs: int
    pruned: int
    """Runs that were not followed further, since they had come to a state that was known."""

    @classmethod
    def of(cls, tally: Tally) -> Searched:
        """A tally as plain data."""
        covered = tally.covered
        return cls(
            operations=tally.bound.operations,
            pages=PAGES,
            switches=tally.bound.switches,
            complete=tally.complete,
            programs=covered.programs,
            total=tally.total,
            failed=covered.failed,
            runs=covered.runs,
            pruned=covered.pruned,
        )


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    format: int = FORMAT
    lastwriter: str
    candidate: Identity
    model: Sync
    profile: Profile | None
    """How the rules of the protocol were read; None for a candidate that shows no protocol."""
    verdict: Verdict
    surprises: list[str]
    """Expected failures that did not fail."""
    interrupted: bool
    problem: str
    """Why the run could not go on to its end, if it could not."""
    rules: list[RuleResult]
    failures: list[FailureRecord]
    failing_programs: int
    expected: list[Expectation]
    programs: int
    operations: int
    sweep_reads: int
    lengths: Lengths
    exhaustive: list[Searched]
    """The bounds that were begun, in their order; nothing for a candidate without schedules."""
    pct: list[PctPromise]
    """What runs under random priorities promise; likewise."""
    seed: int
    budget: str
    jobs: int
    in_process: bool
    """The candidate ran in the suite's own process."""
    started: str
    """UTC, ISO 8601."""
    seconds: float
    versions: dict[str, str]
    capabilities: Description

    def to_json(self) -> str:
        return (
            msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2).decode() + "\n"
        )


def identify(spec: str, description: Description) -> Identity:
    """The candidate's identity; its file is hashed if the spec names one, or a module in one."""
    path = _file_of(spec)
    digest = ""
    with suppress(OSError):  # it may have been removed since it was loaded
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path else ""
    return Identity(spec=spec, name=description.name, version=description.version, file_hash=digest)


def _file_of(spec: str) -> Path | None:
    """The file that holds the candidate's code, if it is known which."""
    if spec.endswith(".so") and not spec.startswith("unix:"):
        return Path(spec)
    place = spec.rpartition(":")[0]
    if place.endswith(".py"):
        return Path(place)
    if place.partition(":")[0] in _NO_MODULES:
        return None
    found, places = None, None
    names = place.split(".")
    for count in range(1, len(names) + 1):
        # Unlike importlib.util.find_spec this does not run the packages around it.
        found = PathFinder.find_spec(".".join(names[:count]), places)
        if found is None:
            return None
        places = found.submodule_search_locations
    return Path(found.origin) if found and found.origin and found.has_location else None


_NO_MODULES = {"reference", "mutant", "linux", "tcp", "unix"}
"""What stands before the colon in specs of other kinds."""


def lengths_of(counts: Counter[int]) -> Lengths:
    """The distribution of program lengths."""
    if not counts:
        return Lengths(mean=0, median=0, longest=0, by_tens={})
    tens: Counter[int] = Counter()
    for length, count in counts.items():
        tens[(length - 1) // 10] += count
    return Lengths(
        mean=round(statistics.fmean(counts, counts.values()), 1),
        median=statistics.median(counts.elements()),
        longest=max(counts),
        by_tens={f"{10 * ten + 1}-{10 * ten + 10}": tens[ten] for ten in sorted(tens)},
    )


def versions() -> dict[str, str]:
    """What the suite ran on."""
    return {
        "python": platform.python_version(),
        "kernel": " ".join(os.uname()[i] for i in (0, 2, 4)),
        "hypothesis": importlib.metadata.version("hypothesis"),
        "byteorder": sys.byteorder,
    }
