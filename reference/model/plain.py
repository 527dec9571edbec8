"""Kinds, rights and statuses as plain numbers: arithmetic with enumerations is slow."""

from __future__ import annotations

from typing import Final

from ..operations import Flag, Kind
from ..outcomes import Status

__all__ = [
    "ADD",
    "ATTACH",
    "CAS",
    "CPU_KIND",
    "ERROR",
    "FAULT",
    "NEED",
    "OK",
    "READ",
    "READ_WRITE",
    "SKIPPED",
    "UNSUPPORTED",
    "WRITE",
]

OK: Final = int(Status.OK)
FAULT: Final = int(Status.FAULT)
ERROR: Final = int(Status.ERROR)
SKIPPED: Final = int(Status.SKIPPED)
UNSUPPORTED: Final = int(Status.UNSUPPORTED)

READ_WRITE: Final = int(Flag.READ | Flag.WRITE)

READ: Final = int(Kind.READ)
WRITE: Final = int(Kind.WRITE)
ADD: Final = int(Kind.ADD)
CAS: Final = int(Kind.CAS)
CPU_KIND: Final = {READ: READ, WRITE: WRITE, ADD: ADD, CAS: CAS} | {
    int(Kind.DREAD): READ,
    int(Kind.DWRITE): WRITE,
    int(Kind.DADD): ADD,
    int(Kind.DCAS): CAS,
}
"""READ, WRITE, ADD or CAS for every access, whoever does it."""
NEED: Final = {
    kind: int(Flag.READ) if cpu_kind == READ else READ_WRITE for kind, cpu_kind in CPU_KIND.items()
}
"""The rights that each access needs."""
ATTACH: Final = int(Kind.ATTACH)
"""The first kind of a device."""
