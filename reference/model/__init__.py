"""The last-writer model: what the contract allows, as a program runs."""

from .judge import judge
from .lastwriter import LastWriter
from .timeline import Moment, timeline, writer_of

__all__ = ["LastWriter", "Moment", "judge", "timeline", "writer_of"]
