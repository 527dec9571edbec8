"""The border between Python and C, which no exception may cross.

What a service raises is kept until the driver has returned to Python, and raised there.  Until
then its services answer at once, without effect.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenlet import GreenletExit, getcurrent

from reference.host.broken import Broken

from .layouts import ABI_VERSION, PROTOTYPES, SERVICES, KernelStruct
from .services import Services

if TYPE_CHECKING:
    from .driver import CDriver

__all__ = ["CALLS", "LAST_CALLS", "MOST_LEFT", "Gate", "Visit"]

CALLS = 100_000
"""Calls of services in one visit, after which it counts as one that makes no progress."""
LAST_CALLS = 1_000
"""Calls of services after an error, after which the driver is not waited for any longer."""
MOST_LEFT = 64
"""Stacks that can be left behind before the process is ended."""

_left: list[object] = []
"""Stacks that never return.  To forget one would be to unwind it, which cannot be done."""


class Visit:
    """Python's call of a callback, from its begin to its end; they nest, and tasks interleave."""

    __slots__ = ("calls", "driver", "error")

    def __init__(self, driver: CDriver) -> None:
        self.driver = driver
        self.calls = 0
        self.error: BaseException | None = None


class Gate:
    """What C calls, and which visit it calls from."""

    def __init__(self) -> None:
        self.visit: Visit | None = None
        """The one that last called a service or was begun: C runs on behalf of this one."""
        self.visits = 0
        """How many there are now, in a run that is not over."""
        self._services = Services()
        functions = [PROTOTYPES[name](self._service(name)) for name in SERVICES]
        self.table = KernelStruct(ABI_VERSION, ctypes.sizeof(KernelStruct), 0, *functions)

    def enter(self, driver: CDriver, function: Callable[..., Any], *arguments: int) -> Any:
        """Call a function of C; raises what a service that it called has raised."""
        visit = self.visit = Visit(driver)
        self.visits += 1
        answer = function(*arguments)
        self.visits -= 1
        if visit.error is not None:
            raise visit.error
        return answer

    def _service(self, name: str) -> Callable[..., Any]:
        body, over = getattr(self._services, name), SERVICES[name].over

        def service(*arguments: Any) -> Any:
            visit = self.visit
            if visit is None:
                return over
            visit.calls += 1
            if visit.error is not None:
                return self._refuse(visit, over)
            try:
                if visit.calls > CALLS:
                    raise Broken("W2", f"no end after {CALLS} calls of services, the last {name}")
                return body(visit.driver, *arguments)
            except BaseException as error:  # there is no way through C
                visit.error, visit.calls = error, 0
                return over
            finally:
                # Others may have run meanwhile, from visits of their own.
                self.visit = visit

        return service

    def _refuse(self, visit: Visit, over: int) -> int:
        if visit.calls > LAST_CALLS:
            _leave_behind(visit)
        return over


def _leave_behind(visit: Visit) -> None:
    """Never return to a driver that does not end, although everything it calls tells it so."""
    stack, tasks = getcurrent(), visit.driver.device.host.tasks
    if stack.parent is None or len(_left) == MOST_LEFT:
        print("a driver in C does not return after the end of its run", file=sys.stderr)
        sys.stderr.flush()
        os._exit(os.EX_SOFTWARE)
    _left.append(stack)
    if not tasks.over and tasks.broken is None:
        error = visit.error
        if not isinstance(error, Broken):
            error = Broken("W2", f"the driver does not return after {error!r}")
        tasks.broken = error
    while True:
        try:
            stack.parent.switch()
        except GreenletExit:
            continue
