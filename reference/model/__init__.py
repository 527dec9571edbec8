"""The last-writer model: what the contract allows, as a program runs."""

from .judge import judge
from .lastwriter import LastWriter
from .order import InOrder
from .timeline import Moment, timeline, writer_of

__all__ = ["InOrder", "LastWriter", "Moment", "judge", "timeline", "writer_of"]
