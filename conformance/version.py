"""The version of the suite."""

from __future__ import annotations

import importlib.metadata

__all__ = ["own_version"]


def own_version() -> str:
    """As installed; it may run from a checkout that is not."""
    try:
        return importlib.metadata.version("lastwriter")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
