"""Lines into record batches: pure. A line that is no JSON object becomes a dead letter with its place."""

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from shared import events
from shared.attributes import Attributes
from shared.entries import Fields, dead_letter
from shared.errors import InvalidEvent
from shared.events import SourceIds
from workers.ingest.files import Checkpoint

_decode_objects = msgspec.json.Decoder(dict[str, Any]).decode_lines
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True)
class Line:
    """One line of a source: its place, and its bytes without the line's end."""

    offset: int
    number: int
    content: bytes
    too_long: bool = False


@dataclass(frozen=True)
class Batch:
    """Lines that travel together, the bytes they were cut from, and where reading goes on after them."""

    lines: list[Line]
    raw: bytes
    end_offset: int
    end_line: int


@dataclass
class Made:
    """What a batch of lines became."""

    events: int
    body: bytes
    dead: list[Fields] = field(default_factory=list)


@dataclass(frozen=True)
class Limits:
    """Most events and bytes of a batch, and most bytes of a line."""

    events: int
    bytes: int
    line_bytes: int


class LineSplitter:
    """Cuts blocks of bytes into batches of whole lines and keeps the rest for the next block."""

    def __init__(self, start: Checkpoint, limits: Limits, on_drop: Callable[[bytes], None]) -> None:
        self.offset = start.offset
        self.line = start.lines
        self._limits = limits
        self._on_drop = on_drop
        self._rest = b""
        self._skipping: Line | None = None

    @property
    def has_rest(self) -> bool:
        """Whether a line has begun whose end was not seen yet."""
        return bool(self._rest) or self._skipping is not None

    def feed(self, block: bytes) -> Iterator[Batch]:
        """Batches of the lines that are complete with this block."""
        parts = (self._rest + block).split(b"\n")
        self._rest = parts.pop()
        yield from self._batches(parts)
        if len(self._rest) > self._limits.line_bytes:
            # Keep what a dead letter shows, drop the rest of the line as it comes.
            if self._skipping is None:
                self._skipping = Line(self.offset, self.line + 1, self._rest[: self._limits.line_bytes], too_long=True)
            self.offset += len(self._rest)
            self._on_drop(self._rest)
            self._rest = b""

    def finish(self) -> Iterator[Batch]:
        """The last line of a source that does not end in a newline."""
        if self.has_rest:
            rest, self._rest = self._rest, b""
            yield from self._batches([rest], newline=b"")

    def _batches(self, parts: list[bytes], newline: bytes = b"\n") -> Iterator[Batch]:
        lines: list[Line] = []
        begun = size = 0
        for index, part in enumerate(parts):
            if index > begun and (index - begun == self._limits.events or size + len(part) > self._limits.bytes):
                yield self._batch(lines, parts[begun:index], newline)
                lines, begun, size = [], index, 0
            line = self._next(part)
            self.offset += len(part) + len(newline)
            self.line += 1
            size += len(part)
            if line.content or line.too_long:
                lines.append(line)
        if parts:
            yield self._batch(lines, parts[begun:], newline)

    def _batch(self, lines: list[Line], parts: list[bytes], newline: bytes) -> Batch:
        return Batch(lines, newline.join(parts) + newline, self.offset, self.line)

    def _next(self, part: bytes) -> Line:
        if self._skipping is not None:
            line, self._skipping = self._skipping, None
            return line
        if len(part) > self._limits.line_bytes:
            return Line(self.offset, self.line + 1, part[: self._limits.line_bytes], too_long=True)
        if self.offset == 0:
            part = part.removeprefix(codecs.BOM_UTF8)
        return Line(self.offset, self.line + 1, part.strip())


class EventMaker:
    """Makes events of the lines of one source; ``identity`` stands in their ids for its name."""

    def __init__(self, source: str, attributes: Attributes, consumer: str, identity: str | None = None) -> None:
        self._source = source
        self._ids = SourceIds(source if identity is None else identity)
        self._attributes = attributes
        self._consumer = consumer
        self._source_json = msgspec.json.encode(source)

    def make(self, batch: Batch, arrived: datetime) -> Made:
        """Events and dead letters of a batch; ``arrived`` is the time of events that name none."""
        made = Made(0, b"")
        objects = self._objects(batch.lines, made)
        if self._attributes.constant:
            made.body = self._constant(objects, arrived)
            made.events = len(objects)
            return made
        made.body = b"".join(self._with_attributes(line, data, arrived, made) for line, data in objects)
        made.events = made.body.count(b"\n")
        return made

    def _objects(self, lines: list[Line], made: Made) -> list[tuple[Line, dict[str, Any]]]:
        """The lines that are JSON objects; decoding all at once is 3 times faster than one after another.

        Each line has to begin and end with a brace: then no object can reach over a line's end.
        """
        if all(line.content[:1] == b"{" and line.content[-1:] == b"}" and not line.too_long for line in lines):
            try:
                decoded = _decode_objects(b"\n".join([line.content for line in lines]))
                if len(decoded) == len(lines):
                    return list(zip(lines, decoded, strict=True))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                pass  # One of them is broken: the loop below finds which.
        found = []
        for line in lines:
            try:
                if line.too_long:
                    raise InvalidEvent(
                        f"the line is longer than {len(line.content)} bytes (INGEST_MAX_EVENT_BYTES)",
                        "too_long",
                    )
                found.append((line, _decode_object(line.content)))
            except InvalidEvent as error:
                made.dead.append(self._dead(line, error))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                made.dead.append(self._dead(line, InvalidEvent(f"no JSON object: {error}", "not_json")))
        return found

    def _constant(self, objects: list[tuple[Line, dict[str, Any]]], arrived: datetime) -> bytes:
        """Envelopes around the bytes as they came: type and time are the same for all of them."""
        kind = msgspec.json.encode(self._attributes.type({}))
        head = b'","type":%s,"source":%s,"time":"%s","data":' % (
            kind,
            self._source_json,
            events.rfc3339(arrived).encode(),
        )
        make_id = self._ids.id
        return b"".join(
            [
                b'{"id":"%s%s%s}\n' % (make_id(line.offset, line.content).encode(), head, line.content)
                for line, _ in objects
            ]
        )

    def _with_attributes(self, line: Line, data: dict[str, Any], arrived: datetime, made: Made) -> bytes:
        attributes = self._attributes
        try:
            event = events.Event(
                id=attributes.id(data) or self._ids.id(line.offset, line.content),
                type=attributes.type(data),
                source=self._source,
                time=attributes.time(data) or arrived,
                data=msgspec.Raw(line.content),
                key=attributes.key(data),
            )
            return events.encode(event) + b"\n"
        except InvalidEvent as error:
            made.dead.append(self._dead(line, error))
            return b""

    def _dead(self, line: Line, error: InvalidEvent) -> Fields:
        place = {"offset": line.offset, "line": line.number}
        origin = {"stream": None, "address": None, "source": self._source, "place": place}
        return dead_letter("ingest", error, raw=line.content, origin=origin, consumer=self._consumer)
