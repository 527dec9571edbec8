"""The protocol rules, checked from the event record of a run.

Contents can't show whether a driver kept to the protocol of notifiers, lookups and migration;
what it did, and when, can.  Nothing here knows the host: a record is plain data.
"""

from .check import check
from .coverage import CONDITIONS, UNTESTED, missing, out_of_reach, required
from .violation import Profile, Violation

__all__ = [
    "CONDITIONS",
    "UNTESTED",
    "Profile",
    "Violation",
    "check",
    "missing",
    "out_of_reach",
    "required",
]
