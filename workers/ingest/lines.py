"""Lines into record batches: pure. A line that is no JSON object becomes a dead letter with its place."""

import codecs
import contextlib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec

from shared import events
from shared.attributes import Attributes
from shared.entries import Fields, dead_letter
from shared.errors import InvalidEvent
from shared.events import SourceIds
from shared.text import is_utf8
from workers.ingest.files import Checkpoint

#: What makes events of lines as usual in C; None where there was no C compiler.
envelopes: Callable[[bytes, list[int], int, int, bytes], bytes | None] | None = None
with contextlib.suppress(ImportError):
    from workers.ingest import _lines

    envelopes = _lines.envelopes

_decode_objects = msgspec.json.Decoder(dict[str, Any]).decode_lines
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Skipped(msgspec.Struct, gc=False):
    """A JSON object of which nothing is kept."""


# What skipping a value does not look at is checked apart: UTF-8, and numbers that are out of range. Those have an
# exponent of three digits or very many digits: digits become `0`, what may end a number becomes `,`.
_skip_objects = msgspec.json.Decoder(_Skipped).decode_lines
_NUMBERS = bytes.maketrans(b"123456789+E}] \t\r\n", b"0000000000e,,,,,,")
_EXPONENT = re.compile(rb"e000+,")
_MANY_DIGITS = b"0" * 200


class Line(NamedTuple):
    """One line of a source: its place, and its bytes without the line's end."""

    offset: int
    number: int
    content: bytes
    too_long: bool = False


@dataclass(frozen=True)
class Batch:
    """Lines that travel together, the bytes they were cut from, and where reading goes on after them."""

    parts: list[bytes]
    raw: bytes
    offset: int
    number: int
    line_bytes: int
    #: The first line, where its beginning was not kept.
    begun: Line | None = None

    @property
    def end_offset(self) -> int:
        """Where reading goes on."""
        return self.offset + len(self.raw)

    @property
    def end_line(self) -> int:
        """Number of the last line."""
        return self.number + len(self.parts) - 1

    @property
    def offsets(self) -> list[int]:
        """Where each part begins."""
        return list(accumulate([len(part) + 1 for part in self.parts[:-1]], initial=self.offset))

    @property
    def plain(self) -> bool:
        """Whether each part is a line as it stands, from brace to brace."""
        if not self.raw.startswith(b"{") or not self.raw.endswith((b"}\n", b"}")):
            return False
        # One search over all of them; a look at the ends of each took 0.2 µs a line.
        return self.raw.count(b"}\n{") == len(self.parts) - 1

    @property
    def whole(self) -> bool:
        """Whether each part is a whole line, and none is too long."""
        if self.begun is not None:
            return False
        return len(self.raw) <= self.line_bytes or max(map(len, self.parts)) <= self.line_bytes

    @property
    def lines(self) -> list[Line]:
        """The lines that are not blank, without white space around them."""
        numbered = enumerate(zip(self.offsets, self.parts, strict=True), self.number)
        found = [self._line(offset, number, part) for number, (offset, part) in numbered]
        if self.begun is not None:
            found[0] = self.begun
        return [line for line in found if line.content or line.too_long]

    def _line(self, offset: int, number: int, part: bytes) -> Line:
        if len(part) > self.line_bytes:
            return Line(offset, number, part[: self.line_bytes], too_long=True)
        return Line(offset, number, (part if offset else part.removeprefix(codecs.BOM_UTF8)).strip())


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
            yield self._batch([rest], rest)

    def _batches(self, parts: list[bytes]) -> Iterator[Batch]:
        begin = 0
        while begin < len(parts):
            chosen = parts[begin : begin + self._limits.events]
            fitting = bisect_right(list(accumulate(map(len, chosen))), self._limits.bytes)
            chosen = chosen[: max(fitting, 1)]
            begin += len(chosen)
            yield self._batch(chosen, b"\n".join(chosen) + b"\n")

    def _batch(self, parts: list[bytes], raw: bytes) -> Batch:
        batch = Batch(parts, raw, self.offset, self.line + 1, self._limits.line_bytes, self._skipping)
        self._skipping = None
        self.offset, self.line = batch.end_offset, batch.end_line
        return batch


class _Objects(NamedTuple):
    """The lines of a batch that are JSON objects, and their data where that is looked into."""

    offsets: Sequence[int]
    numbers: Sequence[int]
    contents: Sequence[bytes]
    data: Sequence[dict[str, Any]]


class EventMaker:
    """Makes events of the lines of one source; ``identity`` stands in their ids for its name."""

    def __init__(
        self,
        source: str,
        attributes: Attributes,
        consumer: str,
        identity: str | None = None,
        *,
        with_c: bool = True,
    ) -> None:
        self._source = source
        self._ids = SourceIds(source if identity is None else identity)
        self._attributes = attributes
        self._consumer = consumer
        self._source_json = msgspec.json.encode(source)
        self._with_c = with_c

    def make(self, batch: Batch, arrived: datetime) -> Made:
        """Events and dead letters of a batch; ``arrived`` is the time of events that name none."""
        if (body := self._all_by_c(batch, arrived)) is not None:
            return Made(len(batch.parts), body)
        made = Made(0, b"")
        objects = self._all_objects(batch) or self._objects(batch.lines, made)
        if self._attributes.constant:
            made.events, made.body = len(objects.contents), self._constant(objects, arrived)
        else:
            found = list(self._with_attributes(objects, arrived, made))
            made.events, made.body = len(found), events.encode_lines(found)
        return made

    def _all_by_c(self, batch: Batch, arrived: datetime) -> bytes | None:
        """Events of a batch of lines as usual; None, and Python has to look, where anything about them is not.

        0.6 µs a click with the hash of its id, by Python 1.9; is it JSON, and UTF-8, are asked of all at once.
        """
        if not self._with_c or envelopes is None or not self._attributes.constant or not batch.whole:
            return None
        ids = self._ids
        body = envelopes(batch.raw, ids.hashes(batch.parts), ids.source, batch.offset, self._shared(arrived))
        return body if body is not None and is_utf8(batch.raw) else None

    def _all_objects(self, batch: Batch) -> _Objects | None:
        """All lines at once, if nothing is wrong with any: with braces around each no object reaches over its end.

        Decoding them together takes a third of the time of one after another, skipping their values a third of that.
        """
        if not batch.whole:
            return None
        data = self._all_data(batch)
        if data is None:
            return None
        return _Objects(batch.offsets, range(batch.number, batch.end_line + 1), batch.parts, data)

    def _all_data(self, batch: Batch) -> Sequence[Any] | None:
        if not batch.plain:
            return None
        try:
            data: list[Any] = (_skipped if self._attributes.constant else _decode_objects)(batch.raw)
        except _UNDECODABLE:
            return None
        return data if len(data) == len(batch.parts) else None

    def _objects(self, lines: list[Line], made: Made) -> _Objects:
        """The lines that are objects, one by one; the others become dead letters."""
        found, data = [], []
        for line in lines:
            try:
                if line.too_long:
                    raise InvalidEvent(
                        f"the line is longer than {len(line.content)} bytes (INGEST_MAX_EVENT_BYTES)",
                        "too_long",
                    )
                data.append(_decode_object(line.content))
                found.append(line)
            except InvalidEvent as error:
                made.dead.append(self._dead(line, error))
            except _UNDECODABLE as error:
                made.dead.append(self._dead(line, InvalidEvent(f"no JSON object: {error}", "not_json")))
        return _Objects(
            [line.offset for line in found], [line.number for line in found], [line.content for line in found], data
        )

    def _constant(self, objects: _Objects, arrived: datetime) -> bytes:
        """Envelopes around the bytes as they came: type and time are the same for all of them."""
        # One template for all lines: 0.1 µs a line; one for each, joined: 0.6.
        template = b'{"id":"%b' + self._shared(arrived).replace(b"%", b"%%") + b"%b}\n"
        count = len(objects.contents)
        words = [b""] * (2 * count)
        words[::2] = self._ids.ids(objects.offsets, objects.contents)
        words[1::2] = objects.contents
        return template * count % tuple(words)

    def _shared(self, arrived: datetime) -> bytes:
        """What stands between the id and the data of each event."""
        kind = msgspec.json.encode(self._attributes.type({}))
        time = events.rfc3339(arrived).encode()
        return b'","type":%b,"source":%b,"time":"%b","data":' % (kind, self._source_json, time)

    def _with_attributes(self, objects: _Objects, arrived: datetime, made: Made) -> Iterator[events.AnyEvent]:
        attributes = self._attributes
        # All at once, also for those whose data name an id: a third less than one by one.
        places = self._ids.ids(objects.offsets, objects.contents)
        for place, offset, number, content, data in zip(places, *objects, strict=True):
            try:
                yield events.Event(
                    id=attributes.id(data) or place.decode(),
                    type=attributes.type(data),
                    source=self._source,
                    time=attributes.time(data) or arrived,
                    data=msgspec.Raw(content),
                    key=attributes.key(data),
                )
            except InvalidEvent as error:
                made.dead.append(self._dead(Line(offset, number, content), error))

    def _dead(self, line: Line, error: InvalidEvent) -> Fields:
        place = {"offset": line.offset, "line": line.number}
        origin = {"stream": None, "address": None, "source": self._source, "place": place}
        return dead_letter("ingest", error, raw=line.content, origin=origin, consumer=self._consumer)


def _skipped(lines: bytes) -> list[_Skipped]:
    """An item for each JSON object; raises what decoding them to dicts raises, for the same lines.

    0.6 µs a click; to dicts 1.0.
    """
    str(lines, "utf-8")
    numbers = lines.translate(_NUMBERS)
    if _MANY_DIGITS in numbers or _EXPONENT.search(numbers):
        _decode_objects(lines)
    return _skip_objects(lines)
