"""What a pipeline's own code imports."""

from shared.errors import InvalidEvent
from shared.events import Event
from shared.text import without_nul

__all__ = ["Event", "InvalidEvent", "without_nul"]
