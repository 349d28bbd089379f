"""Emitting events from a program."""

# ruff: noqa: A002 - the attributes of an event are called so
import os
from collections.abc import Iterable
from types import TracebackType
from typing import Literal, Self

from shared.pipeline import load_pipeline
from shared.producing_events import Emittable, Id, Preparer, Time
from shared.producing_link import Link, open_link
from shared.settings import load_producer_settings

OnFull = Literal["raise", "wait"]


class Producer:
    """Emits events into a pipeline; they are in Redis when a call returns.

    ``redis_url`` and ``pipeline`` (name or folder) come from the environment where they are not given. A call tries
    again while Redis is away, and with ``on_full="wait"`` while the pipeline is full, for ``timeout_seconds`` (None:
    for ever), and then raises NotAccepted or BackpressureError. ``source`` is that of events that name none.

    Nothing is connected before the first call. Threads may share a producer, each uses a connection of its own; after a
    fork the child gets its own as well. Raises ConfigurationError.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        pipeline: str | os.PathLike[str] | None = None,
        *,
        on_full: OnFull = "raise",
        timeout_seconds: float | None = 10,
        source: str = "producer",
    ) -> None:
        self._preparer, self._link = prepare(redis_url, pipeline, on_full, timeout_seconds, source)

    def emit(
        self,
        event: Emittable,
        *,
        type: str | None = None,
        time: Time | None = None,
        key: str | None = None,
        id: Id | None = None,
    ) -> str:
        """Emit one event; returns its id.

        Arguments come before the event's own attributes, those before the pipeline's ``[ingest]`` section. A UUID is
        an id as it is, of anything else one is made. Raises InvalidEvent, NotAccepted, BackpressureError, and
        ConfigurationError where Redis refuses the user.
        """
        require_open(self._link)
        made = self._preparer.one(event, type=type, time=time, key=key, id=id)
        self._link.send([made.line], self._link.deadline())
        return made.id

    def emit_many(
        self,
        events: Iterable[Emittable],
        *,
        type: str | None = None,
        time: Time | None = None,
        key: str | None = None,
    ) -> list[str]:
        """Emit events in as few entries as they fit in (500 events, 256 KiB each); returns their ids.

        If one is invalid none is sent. An entry is accepted whole or not at all; if only the first ones of several
        were, the error's ``accepted`` says how many events those are. Raises like ``emit``.
        """
        require_open(self._link)
        made = self._preparer.many(events, type=type, time=time, key=key)
        self._link.send([one.line for one in made], self._link.deadline())
        return [one.id for one in made]

    def close(self) -> None:
        """Close the connections; calls of other threads that wait end with NotAccepted."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def prepare(
    redis_url: str | None,
    pipeline: str | os.PathLike[str] | None,
    on_full: OnFull,
    timeout_seconds: float | None,
    source: str,
) -> tuple[Preparer, Link]:
    """What a producer consists of. Raises ConfigurationError."""
    if on_full not in ("raise", "wait"):
        raise ValueError(f"on_full={on_full!r}: it has to be 'raise' or 'wait'")
    settings = load_producer_settings()
    found = load_pipeline(os.fspath(pipeline) if pipeline is not None else settings.pipeline)
    link = open_link(settings, redis_url, found, wait=on_full == "wait", timeout_seconds=timeout_seconds)
    return Preparer(found, source, settings.ingest_max_event_bytes), link


def require_open(link: Link) -> None:
    """Raise RuntimeError if the producer was closed."""
    if link.closing.is_set():
        raise RuntimeError("this producer is closed")
