"""Programs that are likely to find bugs: strategies, a state machine, and plain random ones."""

from .closing import with_sweep
from .measure import length_distribution, near_copies
from .plan import Plan
from .profile import PROFILES, Profile
from .strategies import programs, random_program, random_programs

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
