"""What user code imports: the code of a pipeline, and programs that emit events."""

from typing import TYPE_CHECKING

from shared.errors import (
    BackpressureError,
    BargelineError,
    ConfigurationError,
    InvalidEvent,
    NotAccepted,
    TransientError,
)
from shared.events import Event
from shared.text import without_nul

if TYPE_CHECKING:
    from shared.producing import Producer
    from shared.producing_asyncio import AsyncProducer
else:

    def __getattr__(name):
        # They bring redis, pydantic and more, which a transform that imports Event should not have to wait for.
        if name == "Producer":
            from shared.producing import Producer

            return Producer
        if name == "AsyncProducer":
            from shared.producing_asyncio import AsyncProducer

            return AsyncProducer
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AsyncProducer",
    "BackpressureError",
    "BargelineError",
    "ConfigurationError",
    "Event",
    "InvalidEvent",
    "NotAccepted",
    "Producer",
    "TransientError",
    "without_nul",
]
