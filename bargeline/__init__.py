"""What a pipeline's own code imports."""

from shared.errors import InvalidEvent
from shared.events import Event

__all__ = ["Event", "InvalidEvent"]
