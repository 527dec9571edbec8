"""The host: a kernel's memory management, simulated, for drivers to plug into."""

from .run import HOSTED, Run, run_program

__all__ = ["HOSTED", "Run", "run_program"]
