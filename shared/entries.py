"""Entries: record batches, foreign entries and dead letters, as fields of stream entries."""

import hashlib
import re
import traceback
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import msgspec

from shared import events
from shared.attributes import Attributes
from shared.codec import compress, decompress
from shared.errors import InvalidEvent

VERSION = 1
#: A reader accepts its own version and the one before, and these codecs; the same as in lua/prelude.lua.
READABLE = (b"1",)
CODECS = (b"json", b"zstd")
MOST_EVENTS = 500
MOST_BYTES = 262_144
_FOREIGN_NAMES = {b"event_id", b"event_type", b"timestamp", b"payload"}
_TRACEBACK_LINES = 12
_WHOLE = re.compile(rb"[1-9][0-9]{0,4}")
_NUMBER = re.compile(rb"[0-9]{1,15}")


class Entry(msgspec.Struct, frozen=True, dict=True):
    """A stream entry as it was read; ``deliveries`` counts this one.

    What it is asked again and again is found out once: of a small step that was a tenth.
    """

    id: str
    fields: dict[bytes, bytes]
    deliveries: int = 1
    reclaimed: bool = False

    @cached_property
    def _shaped(self) -> bool:
        version, count = self.fields.get(b"v", b""), self.fields.get(b"n", b"")
        return bool(_WHOLE.fullmatch(version) and _WHOLE.fullmatch(count) and b"d" in self.fields)

    @cached_property
    def _known(self) -> bool:
        """Of what has the shape of a batch: whether this program knows its version, codec and size."""
        known = self.fields[b"v"] in READABLE and self.fields.get(b"c", b"json") in CODECS
        return known and int(self.fields[b"n"]) <= MOST_EVENTS

    @property
    def unreadable(self) -> bool:
        """Whether it has the shape of a batch, but a version, codec or size that this program does not know.

        If it is in `open` a newer program of ours wrote it; else it is foreign.
        """
        return self._shaped and not self._known

    @cached_property
    def foreign(self) -> bool:
        """Whether somebody else added it with plain XADD; it may have fields named like some of ours."""
        return not (self._shaped and self._known)

    @property
    def text(self) -> bool:
        """Whether values may be text that stands for something else: fields of a stream have no other type."""
        return self.foreign or self.fields.get(b"x") == b"1"

    @cached_property
    def events(self) -> int:
        """Number of events that it says it holds."""
        return 1 if self.foreign else int(self.fields[b"n"])

    @property
    def attempt(self) -> int:
        """Attempt number of a retried event, 0 for the first."""
        return 0 if self.foreign else _number(self.fields.get(b"a"), 0)

    @property
    def history(self) -> list[dict[str, Any]]:
        """Earlier attempts of a retried event, with times and errors."""
        try:
            return msgspec.json.decode(b"[]" if self.foreign else self.fields[b"h"], type=list[dict[str, Any]])
        except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return []

    @property
    def accepted_ms(self) -> int:
        """When its oldest event was first accepted, in milliseconds since 1970."""
        added = int(self.id.partition("-")[0])
        return added if self.foreign else _number(self.fields.get(b"t"), added)


def _number(text: bytes | None, otherwise: int) -> int:
    """A field that somebody else may have written."""
    return int(text) if text is not None and _NUMBER.fullmatch(text) else otherwise


Fields = list[Any]


def batch_fields(lines: bytes, count: int, accepted_ms: int, codec: str = "json", *, text: bool = False) -> Fields:
    """Fields of a record batch of NDJSON lines (each ends in a newline); ``text``: as ``Entry.text``."""
    fields: Fields = ["v", VERSION, "n", count, "c", codec, "d", compress(lines, codec), "t", accepted_ms]
    return [*fields, "x", 1] if text else fields


def pieces(
    lines: Iterable[bytes], most_events: int = MOST_EVENTS, most_bytes: int = MOST_BYTES
) -> Iterator[list[bytes]]:
    """Lines in as few pieces as fit, each for one entry; a line that is larger than that goes alone."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and (len(piece) == most_events or size + len(line) > most_bytes):
            yield piece
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield piece


def lines_of(entry: Entry, stream: str, attributes: Attributes) -> list[bytes]:
    """The events of an entry, each a line of JSON without its newline.

    Raises InvalidEvent when nothing can be made of the entry.
    """
    return split_lines(body_of(entry, stream, attributes), entry.events)


def body_of(entry: Entry, stream: str, attributes: Attributes) -> bytes:
    """The events of an entry as NDJSON; whether they are as many as it says shows when they are decoded.

    Raises InvalidEvent when nothing can be made of the entry.
    """
    if entry.foreign:
        return events.encode(foreign_event(entry, stream, attributes))
    return decompress(entry.fields.get(b"d", b""), entry.fields.get(b"c", b"json"))


def holds(body: bytes, count: int) -> bool:
    """Whether NDJSON has so many lines; as many objects may have more, where one reaches over the end of its line."""
    return body.count(b"\n") + (not body.endswith(b"\n")) == count


def split_lines(body: bytes, count: int) -> list[bytes]:
    """Lines of NDJSON without their newlines. Raises InvalidEvent when they are not as many as they should be."""
    # Not splitlines(): a carriage return is allowed as white space within JSON.
    lines = body.removesuffix(b"\n").split(b"\n")
    if len(lines) != count:
        raise InvalidEvent(f"the entry says n={count} and holds {len(lines)} lines", "malformed")
    return lines


def foreign_event(entry: Entry, stream: str, attributes: Attributes) -> events.AnyEvent:
    """The one event of a foreign entry.

    Fields ``event_id, event_type, timestamp, payload`` if they are there, else all fields become data,
    as text (the model coerces them). Raises InvalidEvent.
    """
    content = wire(entry.fields)
    source = f"redis:{stream}"
    if b"payload" in entry.fields and entry.fields.keys() <= _FOREIGN_NAMES:
        data = _json_object(entry.fields[b"payload"])
        named = _text({name: value for name, value in entry.fields.items() if name != b"payload"})
    else:
        data, named = _text(entry.fields), {}
    arrived = events.parse_time(int(entry.id.partition("-")[0]))
    return events.Event(
        id=(
            events.id_from_value(source, named["event_id"])
            if named.get("event_id")
            else attributes.id(data) or events.foreign_id(stream, entry.id, content)
        ),
        type=named.get("event_type") or attributes.type(data),
        source=source,
        time=_foreign_time(named["timestamp"]) if named.get("timestamp") else attributes.time(data) or arrived,
        data=data,
        key=attributes.key(data),
    )


def _foreign_time(text: str) -> Any:
    return events.parse_time(float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else text)


def _json_object(payload: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEvent(f"payload is no JSON object: {error}", "not_json") from None


def _text(fields: dict[bytes, bytes]) -> dict[str, str]:
    try:
        return {name.decode(): value.decode() for name, value in fields.items()}
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"a field is no UTF-8 text: {error}", "not_text") from None


def wire(fields: dict[bytes, bytes]) -> bytes:
    """Fields of an entry as Redis' protocol writes them: any bytes, unambiguous."""
    return b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for item in fields.items() for part in item)


def dead_letter(
    stage: str,
    error: BaseException,
    *,
    event: bytes | None = None,
    raw: bytes | None = None,
    origin: dict[str, Any],
    consumer: str,
    history: Sequence[dict[str, Any]] = (),
    reason: str | None = None,
) -> Fields:
    """Fields of a dead letter: the event as JSON, or the bytes as they came.

    ``origin`` says where it was: stream, address, source, place.
    """
    reason = reason or (error.reason if isinstance(error, InvalidEvent) else "error")
    described = describe(error)
    fields: Fields = ["stage", stage, "reason", reason, "error", msgspec.json.encode(described)]
    fields += ["event", event] if event is not None else ["bytes", raw if raw is not None else b""]
    fields += ["origin", msgspec.json.encode(origin), "history", msgspec.json.encode(list(history))]
    fields += ["consumer", consumer, "failed_at", events.rfc3339(events.now())]
    return [*fields, "fingerprint", fingerprint(stage, reason, described)]


def describe(error: BaseException) -> dict[str, str]:
    """Class, message and short traceback of an error, safe to store as UTF-8."""
    frames = traceback.format_tb(error.__traceback__)[-_TRACEBACK_LINES:] if not isinstance(error, InvalidEvent) else []
    text = {
        "class": type(error).__name__,
        "message": str(error)[:2_000],
        "traceback": "".join(frames)[-4_000:],
    }
    return {name: value.encode(errors="replace").decode() for name, value in text.items()}


def fingerprint(stage: str, reason: str, described: dict[str, str]) -> str:
    """Equal for failures of one kind: numbers and quoted values in the message do not count."""
    shape = re.sub(r"'[^']*'|\"[^\"]*\"|[0-9]+", "_", described["message"])
    return hashlib.blake2b(f"{stage}\0{reason}\0{described['class']}\0{shape}".encode(), digest_size=8).hexdigest()
