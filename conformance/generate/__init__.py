"""Programs that are likely to find bugs: strategies, a state machine, and plain random ones."""

from .closing import with_sweep
from .fresh import random_program, random_programs
from .measure import length_distribution, near_copies
from .plan import Plan
from .profile import PROFILES, Profile
from .strategies import programs

__all__ = [
    "PROFILES",
    "Plan",
    "Profile",
    "length_distribution",
    "near_copies",
    "programs",
    "random_program",
    "random_programs",
    "with_sweep",
]
