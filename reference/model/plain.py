"""Kinds, rights and statuses as plain numbers: arithmetic with enumerations is slow."""

from __future__ import annotations

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

OK, FAULT, ERROR, SKIPPED, UNSUPPORTED = map(int, Status)

READ_WRITE = int(Flag.READ | Flag.WRITE)

READ, WRITE, ADD, CAS = map(int, (Kind.READ, Kind.WRITE, Kind.ADD, Kind.CAS))
CPU_KIND = {READ: READ, WRITE: WRITE, ADD: ADD, CAS: CAS} | {
    int(Kind.DREAD): READ,
    int(Kind.DWRITE): WRITE,
    int(Kind.DADD): ADD,
    int(Kind.DCAS): CAS,
}
"""READ, WRITE, ADD or CAS for every access, whoever does it."""
NEED = {
    kind: int(Flag.READ) if cpu_kind == READ else READ_WRITE for kind, cpu_kind in CPU_KIND.items()
}
"""The rights that each access needs."""
ATTACH = int(Kind.ATTACH)
"""The first kind of a device."""
