"""`python -m adapters.vm` prints the Debian packages that are needed to build and not here."""

from __future__ import annotations

import sys

from .source import needed

if __name__ == "__main__":
    sys.stdout.write("".join(f"{package}\n" for package in needed()))
