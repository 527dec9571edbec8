"""What drivers answer, looked at before it is believed."""

from __future__ import annotations

from .broken import Broken

__all__ = ["errno_of"]

_MAX_ERRNO = 4095


def errno_of(answer: object) -> int:
    """The errno of a driver's answer, which is 0 or a negative errno; `Broken` if it is neither."""
    if not isinstance(answer, int) or not -_MAX_ERRNO <= answer <= 0:
        raise Broken("R4", f"the driver answered {answer!r}, which is neither 0 nor -errno")
    return -answer
