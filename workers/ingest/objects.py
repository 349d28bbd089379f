"""Events of what sources give one by one: dicts, JSON text, events; and batches of them. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from shared import events
from shared.attributes import Attributes
from shared.entries import Fields, dead_letter
from shared.errors import InvalidEvent
from shared.events import AnyEvent, Event

_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
#: What msgspec raises for what it cannot write, or read.
_UNENCODABLE = (TypeError, ValueError, RecursionError, OverflowError)
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

#: The line of an event (without its newline), or the fields of its dead letter.
Made = bytes | Fields


@dataclass
class Batch:
    """Lines and dead letters that travel together; ``items`` is how many of what was given they are."""

    items: int = 0
    lines: list[bytes] = field(default_factory=list)
    dead: list[Fields] = field(default_factory=list)
    size: int = 0

    @property
    def body(self) -> bytes:
        """The events as NDJSON."""
        return b"".join(line + b"\n" for line in self.lines)

    def add(self, made: Made) -> None:
        """Add a line or a dead letter."""
        self.items += 1
        if isinstance(made, bytes):
            self.lines.append(made)
            self.size += len(made) + 1
        else:
            self.dead.append(made)


def batches(all_made: Iterable[Made], most_events: int, most_bytes: int) -> Iterator[Batch]:
    """Batches of at most so many events and dead letters, and so many bytes of events unless one is larger."""
    batch = Batch()
    for made in all_made:
        more = len(made) + 1 if isinstance(made, bytes) else 0
        if batch.items == most_events or (batch.lines and batch.size + more > most_bytes):
            yield batch
            batch = Batch()
        batch.add(made)
    if batch.items:
        yield batch


class ObjectMaker:
    """Makes events of one source; ``most_bytes`` is the size of data above which it is a dead letter."""

    def __init__(self, source: str, attributes: Attributes, namespace: str, consumer: str, most_bytes: int) -> None:
        self.source = source
        self._attributes = attributes
        self._namespace = namespace
        self._consumer = consumer
        self._most_bytes = most_bytes

    def from_text(self, text: bytes, event_id: str, place: Any) -> Made:
        """The event of a JSON object; ``event_id`` counts where the data name none, ``place`` is for a dead letter."""
        content = text.strip()
        try:
            return self._from_json(content, event_id)
        except InvalidEvent as error:
            return self.dead(content, place, error)
        except _UNDECODABLE as error:
            return self.dead(content, place, InvalidEvent(f"no JSON object: {error}", "not_json"))

    def from_message(self, message: bytes, event_id: str, place: Any) -> Made:
        """The event of a JSON object; of any other text, whose data are ``{"text": …}``."""
        try:
            return self._from_json(message.strip(), event_id)
        except InvalidEvent as error:
            return self.dead(message, place, error)
        except _UNDECODABLE:
            try:
                data = {"text": message.decode()}
            except UnicodeDecodeError as error:
                return self.dead(message, place, InvalidEvent(f"no UTF-8 text: {error}", "not_text"))
            return self.from_dict(data, encoded(data), event_id, place)

    def from_dict(self, data: dict[str, Any], content: bytes, event_id: str, place: Any) -> Made:
        """The event of a dict that was encoded to ``content``."""
        try:
            self._check_size(content)
            return self._line(data, content, event_id)
        except InvalidEvent as error:
            return self.dead(content, place, error)

    def from_event(self, given: AnyEvent, content: bytes, event_id: str, place: Any) -> Made:
        """The line of an event whose data were encoded; an id that is no UUID is hashed, empty names are filled in."""
        try:
            self._check_size(content)
            if not content.startswith(b"{"):
                raise InvalidEvent("data of the event is no object", "invalid")
            line = events.encode(
                Event(
                    id=events.id_from_value(self._namespace, given.id) if given.id else event_id,
                    type=given.type,
                    source=given.source or self.source,
                    time=events.in_utc(given.time),
                    data=msgspec.Raw(content),
                    key=given.key,
                )
            )
            events.decode_raw(line)
            return line
        except InvalidEvent as error:
            return self.dead(content, place, error)
        except (msgspec.MsgspecError, *_UNENCODABLE) as error:
            return self.dead(content, place, InvalidEvent(f"no event: {error}", "invalid"))

    def _from_json(self, content: bytes, event_id: str) -> bytes:
        self._check_size(content)
        data = _decode_object(content)
        # An event is one line; outside of texts JSON allows newlines as white space.
        return self._line(data, msgspec.json.format(content, indent=-1) if b"\n" in content else content, event_id)

    def _line(self, data: dict[str, Any], content: bytes, event_id: str) -> bytes:
        attributes = self._attributes
        event = Event(
            id=attributes.id(data) or event_id,
            type=attributes.type(data),
            source=self.source,
            time=attributes.time(data) or events.now(),
            data=msgspec.Raw(content),
            key=attributes.key(data),
        )
        return events.encode(event)

    def _check_size(self, content: bytes) -> None:
        if len(content) > self._most_bytes:
            raise InvalidEvent(f"longer than {self._most_bytes} bytes (INGEST_MAX_EVENT_BYTES)", "too_long")

    def dead(self, content: bytes, place: Any, error: InvalidEvent) -> Fields:
        """The dead letter of what no event can be made of."""
        origin = {"stream": None, "address": None, "source": self.source, "place": place}
        return dead_letter("ingest", error, raw=content[: self._most_bytes], origin=origin, consumer=self._consumer)


def encoded(data: Any) -> bytes:
    """Data as one line of JSON. Raises InvalidEvent."""
    try:
        return events.encode(data)
    except _UNENCODABLE as error:
        raise InvalidEvent(f"cannot be written as JSON: {error}", "unencodable") from None
