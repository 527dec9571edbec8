"""`python -m benchmarks [NAME…]`: tables of throughput and latency; asserts nothing.

`python -m benchmarks mirrors SPEC…` is about these candidates alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from . import cmirror, generation, host, judging, killing, mirrors, reduction

BENCHMARKS: Mapping[str, Callable[[], None]] = {
    "generation": generation.main,
    "judging": judging.main,
    "cmirror": cmirror.main,
    "host": host.main,
    "mirrors": mirrors.main,
    "reduction": reduction.main,
    "killing": killing.main,
}


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["mirrors"] and len(arguments) > 1:
        mirrors.main(*arguments[1:])
    else:
        run(arguments)


def run(names: list[str]) -> None:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
