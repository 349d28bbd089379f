"""Where the attributes of an event come from, by the pipeline's ``[ingest]`` section."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from shared import events
from shared.pipeline import IngestSection, ValuePath

V = TypeVar("V")


class Attributes:
    """Reads type, time, id and key out of an event's data."""

    def __init__(self, section: IngestSection, pipeline_name: str) -> None:
        self._section = section
        self._namespace = pipeline_name
        #: Whether data has to be looked into at all: type is then the same for every event.
        self.constant = isinstance(section.type, str) and not (section.time or section.id or section.key)

    def type(self, data: dict[str, Any]) -> str:
        """Type of the event: the constant, or the text at the path, or its default."""
        if isinstance(self._section.type, str):
            return self._section.type
        found = self._text(self._section.type, data)
        return found or "event"

    def time(self, data: dict[str, Any]) -> datetime | None:
        """Time of the event, or None where none is given. Raises InvalidEvent for what is no time."""
        return self._read(self._section.time, data, events.parse_time)

    def id(self, data: dict[str, Any]) -> str | None:
        """Id of the event, or None where the place in the source makes it."""
        return self._read(self._section.id, data, lambda value: events.id_from_value(self._namespace, value))

    def key(self, data: dict[str, Any]) -> str | None:
        """Key of the event, or None."""
        return self._text(self._section.key, data)

    def _text(self, path: ValuePath | None, data: dict[str, Any]) -> str | None:
        return self._read(path, data, str)

    @staticmethod
    def _read(path: ValuePath | None, data: dict[str, Any], convert: Callable[[Any], V]) -> V | None:
        if path is None:
            return None
        value = events.find(data, path.path)
        if value is None:
            value = path.default
        return None if value is None else convert(value)
