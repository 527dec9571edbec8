"""`python -m adapters.vm` prints the Debian packages that are needed to build and not here.

Its exit status is 3, and what it prints is the reason, where no package would help.
"""

from __future__ import annotations

import sys

from .source import needed
from .tools import unsuited

__all__ = ["main"]

_UNSUITED = 3


def main() -> int:
    """What the module does as a program; its exit status."""
    problem = unsuited()
    sys.stdout.writelines(f"{line}\n" for line in ([problem] if problem else needed()))
    return _UNSUITED if problem else 0


if __name__ == "__main__":
    sys.exit(main())
