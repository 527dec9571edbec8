"""`python -m benchmarks [NAME…]`: tables of throughput and latency; asserts nothing.

`python -m benchmarks mirrors SPEC…` is about these candidates alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from adapters.candidate import CandidateError

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
    specs = [each for each in arguments if ":" in each]
    names = [each for each in arguments if ":" not in each]
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    if specs:
        if names != ["mirrors"]:
            sys.exit(f"{specs[0]}: candidates are for mirrors alone")
        try:
            mirrors.main(*specs)
        except CandidateError as error:
            sys.exit(str(error))
        return
    for name in names or BENCHMARKS:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
