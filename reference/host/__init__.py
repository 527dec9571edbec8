"""The host: a kernel's memory management, simulated, for drivers to plug into."""

from .run import Run, run_program

__all__ = ["Run", "run_program"]
