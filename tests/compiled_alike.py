"""What is compiled makes the same programs and gives the same verdicts as its source.

    python tests/compiled_alike.py FOLDER

is for where the compiled suite is installed; the source is that in FOLDER.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import islice
from types import BuiltinFunctionType

from adapters.worker import InProcess
from conformance.generate.choose import choose
from conformance.shards import plan_for, run_shard, shards
from reference.model import judge
from reference.program import Program

SPECS = ("reference:faulting", "reference:registration", "mutant:unmap-missed")
SHARDS = 10


def digest(spec: str) -> str:
    """Of the programs of some shards, and of what they come to."""
    seen = hashlib.blake2b(digest_size=16)
    with InProcess(spec) as candidate:

        def consume(program: Program, _: int) -> bool:
            verdict = judge(candidate.run(program))
            counts = sorted(verdict.exercised.items())
            seen.update(program.to_bytes() + repr((verdict.violation, counts)).encode())
            return True

        description = candidate.description
        for shard in islice(shards(description, 1), SHARDS):
            run_shard(plan_for(description, description.model, shard), shard, consume)
    return seen.hexdigest()


def report() -> str:
    compiled = isinstance(choose, BuiltinFunctionType) and isinstance(judge, BuiltinFunctionType)
    return "\n".join(["compiled" if compiled else "source", *map(digest, SPECS)])


def main(folder: str) -> None:
    environment = {**os.environ, "PYTHONPATH": folder}
    command = [sys.executable, __file__]
    source = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.split()
    here = report().split()
    assert (here[0], source[0]) == ("compiled", "source"), (here[0], source[0])
    assert here[1:] == source[1:], f"{here[1:]} where the source gives {source[1:]}"
    print(f"{', '.join(SPECS)}: {SHARDS} shards each, alike")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(sys.argv[1])
    else:
        print(report())
