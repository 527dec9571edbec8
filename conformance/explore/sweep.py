"""Every single failure that a run can meet, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import Protocol, TypeVar

from reference.program import Program
from reference.schedule import SITES, Injection

__all__ = ["Asking", "sweep"]


class Asking(Protocol):
    """What came of a run, with how often each site was asked whether it fails."""

    @property
    def asked(self) -> Mapping[str, int]: ...


Result = TypeVar("Result", bound=Asking)


def sweep(
    program: Program, run: Callable[[Program], Result], sites: tuple[str, ...] = SITES
) -> Iterator[tuple[Program, Result]]:
    """Run a program without a failure, then with each that its sites could have had.

    The sweep goes on until a run does not come to its failure any more.
    """
    schedule = replace(program.schedule, injections=())
    whole = replace(program, schedule=schedule)
    yield whole, run(whole)
    for site in sites:
        for number in count(1):
            injected = replace(schedule, injections=(Injection(site, number),))
            failing = replace(program, schedule=injected)
            answer = run(failing)
            if answer.asked.get(site, 0) < number:
                break
            yield failing, answer
