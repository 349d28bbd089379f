"""Events out of what a program has: dicts, models, dataclasses, events. Pure."""

# ruff: noqa: A001, A002 - the attributes of an event are called so
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from uuid import UUID

import msgspec

from shared import events
from shared.attributes import Attributes
from shared.errors import InvalidEvent
from shared.events import Event
from shared.pipeline import Pipeline

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import BaseModel

#: What can be emitted: ``msgspec.Struct`` covers ``Event``.
Emittable: TypeAlias = "Mapping[str, object] | BaseModel | DataclassInstance | msgspec.Struct"
#: Aware or in UTC; ISO 8601; seconds or milliseconds since 1970.
Time: TypeAlias = datetime | str | int | float
Id: TypeAlias = str | int | UUID

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class Prepared(NamedTuple):
    """An event that can be sent: its id, and its line of NDJSON."""

    id: str
    line: bytes


class Preparer:
    """Makes events by the ``[ingest]`` section of a pipeline.

    ``source`` is theirs unless they name one; longer ones than ``most_bytes`` are invalid.
    """

    def __init__(self, pipeline: Pipeline, source: str, most_bytes: int) -> None:
        self._attributes = Attributes(pipeline.file.ingest, pipeline.name)
        self._namespace = pipeline.name
        self._source = source
        self._most_bytes = most_bytes

    def many(
        self,
        given: Iterable[object],
        *,
        type: str | None = None,
        time: Time | None = None,
        key: str | None = None,
    ) -> list[Prepared]:
        """Events in their order. Raises InvalidEvent with the index of the first that is wrong."""
        found = []
        for index, one in enumerate(given):
            try:
                found.append(self.one(one, type=type, time=time, key=key))
            except InvalidEvent as error:
                raise InvalidEvent(f"event {index}: {error}", error.reason, index) from None
        return found

    def one(
        self,
        given: object,
        *,
        type: str | None = None,
        time: Time | None = None,
        key: str | None = None,
        id: Id | None = None,
    ) -> Prepared:
        """One event; what an argument names comes before what the event or the pipeline's file says.

        Raises InvalidEvent.
        """
        event = given if isinstance(given, Event) else None
        content = _json(event.data if event else given)
        data = json_object(content)
        if len(content) > self._most_bytes:
            raise InvalidEvent(f"longer than {self._most_bytes:,} bytes (INGEST_MAX_EVENT_BYTES)", "too_long")
        attributes = self._attributes
        if event:
            type = event.type if type is None else type
            time = event.time if time is None else time
            key = event.key if key is None else key
            id = event.id if id is None else id
        made = Event(
            id=attributes.id(data) or events.uuid7() if id is None else self._id(id),
            type=attributes.type(data) if type is None else type,
            source=event.source if event else self._source,
            time=attributes.time(data) or events.now() if time is None else _utc(time),
            data=msgspec.Raw(content),
            key=attributes.key(data) if key is None else key,
        )
        return Prepared(made.id, _line(made))

    def _id(self, value: Id) -> str:
        try:
            return events.id_from_value(self._namespace, str(value) if isinstance(value, UUID) else value)
        except (TypeError, ValueError) as error:
            raise InvalidEvent(f"{value!r} is no id: {error}", "bad_attribute") from None


def _json(value: object) -> bytes:
    """Data as JSON on one line. Raises InvalidEvent."""
    try:
        content: bytes = _encode(value)
        # Only ready-made JSON can hold one: within text it is escaped.
        return msgspec.json.format(content, indent=-1) if b"\n" in content else content
    except (*_UNREADABLE, TypeError, ValueError, OverflowError) as error:
        raise InvalidEvent(f"{type(value).__name__} cannot be written as JSON: {error}", "not_json") from None


def json_object(content: bytes) -> dict[str, Any]:
    """The data as readers will see them: what can be written is not always an object, or can be read."""
    try:
        return _decode_object(content)
    except _UNREADABLE as error:
        raise InvalidEvent(f"no JSON object: {error}", "not_json") from None


def _line(event: events.AnyEvent) -> bytes:
    """An event as a line, read once: what an attribute is shows only then. Raises InvalidEvent."""
    try:
        line = events.encode(event)
        events.decode_raw(line)
    except (*_UNREADABLE, TypeError, ValueError) as error:
        raise InvalidEvent(f"an attribute is wrong: {error}", "bad_attribute") from None
    return line + b"\n"


def _plain(value: object) -> object:
    """What msgspec does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    # By its method, so that programs without such models need not import pydantic.
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json", by_alias=True)
    raise TypeError(f"nothing is known of objects of type {type(value).__name__}")


_encode = msgspec.json.Encoder(decimal_format="number", enc_hook=_plain).encode


def _utc(time: Time) -> datetime:
    try:
        return events.in_utc(time)
    except OverflowError as error:
        raise InvalidEvent(f"{time!r} is no time: {error}", "bad_time") from None
