"""What of the protocol must have been put to the test, and what nothing here can test."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from reference.syncmodels import Sync

__all__ = ["CONDITIONS", "REQUIRED", "UNTESTED", "count", "missing", "out_of_reach", "required"]

_NOTIFIED = (
    "I12/UNMAP/blockable/present",
    "I12/UNMAP/blockable/shared",
    "I12/CLEAR/blockable/present",
    "I12/CLEAR/blockable/shared",
    "I12/CLEAR/blockable/huge",
    "I12/CLEAR/blockable/hole",
    "I12/MIGRATE/blockable/*",
    "I12/EXCLUSIVE/blockable/*",
    "I12/RELEASE/blockable/*",
    "E.PROTECTION_VMA/PROTECTION_VMA/blockable/present",
    "E.PROTECTION_PAGE/PROTECTION_PAGE/blockable/present",
    "E.SOFT_DIRTY/SOFT_DIRTY/blockable/*",
    "S2/UNMAP/blockable/*",
    "S2/CLEAR/blockable/*",
    "B6/*/nonblock/*",
    "S5",
    "L2",
    "W2/sent back",
)
REQUIRED: Mapping[Sync, tuple[str, ...]] = MappingProxyType(
    {
        Sync.FAULTING: (
            *_NOTIFIED,
            "I12/UNMAP/blockable/exclusive",
            "I12/UNMAP/blockable/device",
            "I12/CLEAR/blockable/exclusive",
            "I9",
            "G6",
            "X1",
            "W2/full device",
            "D1/unmap",
            "D1/partial unmap",
            "D1/device memory",
            "D1/sent back",
        ),
        Sync.REFCOUNTING: (*_NOTIFIED, "I9", "D2/UNMAP/blockable/*", "D2/CLEAR/blockable/*"),
        Sync.REGISTRATION: ("P2", "S4", "S5", "L2"),
    }
)
"""By sync model the cells that must be reached for a PASS of their rule; `*` stands for any."""

_STATE_NEEDS = {
    **dict.fromkeys(("device", "device memory", "full device"), "to_device"),
    "exclusive": "exclusive",
}
"""States of pages, and of the device, that come about by an operation of the driver only."""

CONDITIONS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            ("B2", "B4", "K1", "L1", "L4"), "no callback of a list notifier of the driver's ran"
        ),
        **dict.fromkeys(("B7", "B8"), "no list notifier of the driver's refused"),
        **dict.fromkeys(("L3", "S7"), "the driver was not told by both kinds of notifiers"),
        **dict.fromkeys(("B5", "B6"), "no interval callback of the driver's ran"),
        **dict.fromkeys(("H1", "H2"), "the driver did not call hmm_range_fault"),
        "H8": "hmm_range_fault met no area that it may not look into",
        "H9": "no walk of hmm_range_fault started over",
        "H10": "hmm_range_fault met no large page",
        **dict.fromkeys(
            ("I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I10", "I13", "I14", "I15", "I16"),
            "no interval subscription of the driver's came to it",
        ),
        **dict.fromkeys(
            ("E2", "G1", "G3", "G5", "G6", "G8", "G10"), "no migration of the driver's came to it"
        ),
        **dict.fromkeys(("B9", "B10", "B12"), "the driver refused no invalidation"),
        "E3": "no callback of the driver's ran",
        "P1": "the driver kept no pins of what was not registered",
        **dict.fromkeys(
            ("Y1", "Y2", "Y3"), "the driver was not asked about a page that its device had used"
        ),
        **dict.fromkeys(
            ("T1", "T2"), "no device that shares the process's page tables was told of a page"
        ),
        "S8": "the driver did not wait for memory",
        "H5": "the driver did not look pages up",
        "S3": "no end callback of the driver ran for pages that its device had reached",
        "I1": "no insertion of a subscription failed",
        "I11": "the driver does not call mmu_interval_check_retry",
        "H4": "hmm_range_fault was given no request that it is about",
        "H6": "the driver takes no snapshot",
        "H11": "the driver does not call hmm_range_fault_unlocked_timeout",
        "S4": "the driver holds no page longer than its translation",
        "S9": "no failure was injected into a callback of the driver",
        "I17": "the driver invalidates in one pass",
        "L5": "the driver does not call mmu_notifier_get",
        "L6": "the driver puts no notifier",
        "D1": "the driver does not use drm_gpusvm",
    }
)
"""Rules that concern a driver only if it does something, and what never happened if not."""

_OF_RANGES = frozenset(
    {
        *("E.UNMAP", "E.CLEAR", "E.PROTECTION_VMA", "E.PROTECTION_PAGE", "E.RELEASE"),
        *("E.SOFT_DIRTY", "E.MIGRATE", "E.EXCLUSIVE", "E1", "B1", "S1", "S2", "S5", "I12"),
    }
)
"""Rules about the callbacks for ranges, or that are put to the test by them."""

UNTESTED: Mapping[str, str] = MappingProxyType(
    {
        "T3": "a TLB that breaks it has kept an old page before, when it was told, which is T2",
        "T4": "it allows the kernel to wait, which the host does not; no driver can break it",
    }
)
"""Rules that are not checked yet, each with the reason."""


def count(exercised: Mapping[str, int], pattern: str) -> int:
    """How often the cells that a pattern stands for were reached."""
    wanted = pattern.split("/")
    return sum(number for cell, number in exercised.items() if _fits(cell.split("/"), wanted))


def _fits(cell: list[str], wanted: list[str]) -> bool:
    return len(cell) == len(wanted) and all(
        part in ("*", name) for name, part in zip(cell, wanted, strict=True)
    )


def out_of_reach(exercised: Mapping[str, int], rule: str) -> str:
    """Why a rule cannot have been put to the test by what a driver did; empty if it was or can."""
    if _is_reached(exercised, rule):
        return ""
    if rule in _OF_RANGES and _shares(exercised):
        return "the driver shares the process's page tables, and is not told of ranges"
    return CONDITIONS.get(rule) or UNTESTED.get(rule, "")


def _shares(exercised: Mapping[str, int]) -> bool:
    """Whether a driver has told TLBs of changes, and was told of no range."""
    return _is_reached(exercised, "T2") and not _is_reached(exercised, "S1")


def _is_reached(exercised: Mapping[str, int], rule: str) -> bool:
    return any(number and cell.split("/")[0] == rule for cell, number in exercised.items())


def required(
    exercised: Mapping[str, int], model: Sync, operations: Collection[str]
) -> dict[str, int]:
    """The cells that must be reached, of rules that concern the driver: how often each was.

    `operations` names those that the driver can do.
    """
    return {
        pattern: count(exercised, pattern)
        for pattern in REQUIRED[model]
        if _concerns(exercised, pattern.split("/")[0])
        and _within_reach(exercised, pattern, operations)
    }


def missing(exercised: Mapping[str, int], model: Sync, operations: Collection[str]) -> list[str]:
    """Those of the required cells that were never reached."""
    cells = required(exercised, model, operations)
    return [pattern for pattern, reached in cells.items() if not reached]


def _within_reach(exercised: Mapping[str, int], pattern: str, operations: Collection[str]) -> bool:
    """Whether a page can be in the state of a cell while this driver's device reaches it."""
    state = pattern.rsplit("/", maxsplit=1)[-1]
    if state in _STATE_NEEDS:
        return _STATE_NEEDS[state] in operations
    # Who pins what it maps has no page mapped that the process does not have, and decides by
    # itself whether to try again.
    return state not in {"hole", "sent back"} or exercised.get("H1", 0) > 0


def _concerns(exercised: Mapping[str, int], rule: str) -> bool:
    """Whether a rule that holds under a condition has come up at all."""
    if rule in _OF_RANGES and _shares(exercised):
        return False
    return rule not in CONDITIONS or _is_reached(exercised, rule)
