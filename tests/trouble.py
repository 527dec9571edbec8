"""Candidates that get into trouble in some of the programs that `certify` generates."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import misbehaving
from misbehaving import Misbehaving

from adapters.examples.tiny import Tiny
from reference.operations import Kind, Operation, encode_operations
from reference.outcomes import Outcome


class Sometimes(Misbehaving):
    """Does its worst when four pages or more are unmapped at once."""

    def run(self, operations: Sequence[Operation]) -> Any:
        outcomes = Tiny.run(self, operations)
        bad = any(each.kind == Kind.UNMAP and each.pages >= 4 for each in operations)
        return self.worst(outcomes) if bad else outcomes


class Crashes(Sometimes, misbehaving.Aborts):
    pass


class Hangs(Sometimes, misbehaving.Loops):
    pass


class Eats(Sometimes, misbehaving.EatsInC):
    pass


class Raises(Sometimes, misbehaving.Raises):
    pass


class AnswersGarbage(Sometimes, misbehaving.GivesStringAsData):
    pass


class Always(Misbehaving):
    def run(self, operations: Sequence[Operation]) -> Any:
        return self.worst([])


class AlwaysCrashes(Always, misbehaving.Exits):
    pass


class AlwaysHangs(Always, misbehaving.Loops):
    pass


class Vanishes(Sometimes):
    """It crashes, and cannot be started again."""

    def worst(self, outcomes: list[Outcome]) -> NoReturn:
        Path(__file__).unlink(missing_ok=True)
        os._exit(3)


class Logs(Tiny):
    """It writes down a digest of every program."""

    def run(self, operations: Sequence[Operation]) -> list[Outcome]:
        digest = hashlib.sha256(encode_operations(operations)).hexdigest()
        with Path(os.environ["LASTWRITER_TEST_LOG"]).open("a") as log:
            log.write(f"{digest}\n")
        return super().run(operations)
