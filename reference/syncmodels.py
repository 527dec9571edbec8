"""The three ways in which mirrors keep device and CPU coherent, as data."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["SYNC_MODELS", "Sync", "SyncModel"]


class Sync(enum.StrEnum):
    """Name of a synchronisation model."""

    FAULTING = "faulting"
    REFCOUNTING = "refcounting"
    REGISTRATION = "registration"


@dataclass(frozen=True)
class SyncModel:
    """What the contract asks of one synchronisation model."""

    name: Sync
    summary: str
    pins: bool
    """A registration holds its frames until it is dropped, whatever happens to the mapping."""
    waits: bool
    """A blockable invalidation waits for jobs in flight, so that no job meets a new mapping."""
    revalidates: bool
    """A whole buffer must be valid for an access through its key, not only the bytes accessed."""


SYNC_MODELS = {
    model.name: model
    for model in (
        SyncModel(
            Sync.FAULTING,
            "Translations are gone when an invalidation returns and the next access faults again.",
            pins=False,
            waits=False,
            revalidates=False,
        ),
        SyncModel(
            Sync.REFCOUNTING,
            "An invalidation waits until no buffer is in flight; the next submit revalidates.",
            pins=False,
            waits=True,
            revalidates=True,
        ),
        SyncModel(
            Sync.REGISTRATION,
            "Pages are pinned from register to unregister; changing the mapping in between is a "
            "bug of user space whose damage is bounded.",
            pins=True,
            waits=False,
            revalidates=False,
        ),
    )
}
