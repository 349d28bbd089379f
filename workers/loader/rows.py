"""Clean entries into rows: pure. Each row is a ready-made line of COPY's text format."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any

import msgspec

from shared import events
from shared.attributes import Attributes
from shared.database.load import Claim, DeadRow
from shared.entries import Entry, lines_of
from shared.errors import InvalidEvent
from shared.events import AnyEvent
from shared.pipeline import PipelineFile, TableSection
from workers.loader import rollups

_decode_data = msgspec.json.Decoder(dict[str, Any]).decode
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_SPECIAL = re.compile(r"[\\\t\n\r]")
#: The message of a dead row is kept in PostgreSQL, which takes no NUL.
_NUL = str.maketrans({"\0": "\\0"})
Cell = Callable[[AnyEvent, str], str]


@dataclass(frozen=True)
class Row:
    """One row of one table: the event's place in its entry, its line for COPY, and the event itself."""

    index: int
    line: bytes
    event: AnyEvent


@dataclass
class Prepared:
    """An entry as it will be loaded."""

    entry: Entry
    claim: Claim
    lines: list[bytes]
    rows: dict[str, list[Row]] = field(default_factory=dict)
    dead: list[DeadRow] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """A table and how an event becomes its row."""

    section: TableSection
    cells: tuple[Cell, ...]

    def line(self, event: AnyEvent, data: str) -> bytes:
        """The row of an event; ``data`` is the JSON text of its data. Raises InvalidEvent."""
        return ("\t".join([cell(event, data) for cell in self.cells]) + "\n").encode()


def _claim(entry: Entry) -> Claim:
    digest = hashlib.blake2b(entry.fields.get(b"d") or repr(entry.fields).encode(), digest_size=16).digest()
    return Claim(entry.id, digest, entry.events, loaded=0, unrouted=0)


def _raw_lines(entry: Entry) -> list[bytes]:
    """The bytes as they came stand for the first event."""
    return [entry.fields.get(b"d", b"")] + [b""] * (entry.events - 1)


def _all_dead(entry: Entry, lines: list[bytes], error: InvalidEvent) -> Prepared:
    dead = [DeadRow(index, error.reason, str(error)) for index in range(entry.events)]
    return Prepared(entry, _claim(entry), lines, dead=dead)


class Router:
    """Finds the table of each event and makes its row."""

    def __init__(
        self, file: PipelineFile, types: Mapping[str, Mapping[str, str]], stream: str, attributes: Attributes
    ) -> None:
        self._unmatched = file.loader.unmatched
        self._stream = stream
        self._attributes = attributes
        self._rollups = file.rollup
        self._tables: dict[str, Table] = {}
        for section in file.table:
            cells = tuple(_cell(source, types[section.name][column]) for column, source in section.columns.items())
            for event_type in section.event_types:
                self._tables[event_type] = Table(section, cells)

    def prepare(self, entry: Entry) -> Prepared:
        """Rows, unrouted events and dead ones of an entry; they add up to its events."""
        try:
            lines = lines_of(entry, self._stream, self._attributes)
        except InvalidEvent as error:
            return _all_dead(entry, _raw_lines(entry), error)
        prepared = Prepared(entry, _claim(entry), lines)
        for index, event in enumerate(_decode(lines)):
            self._route(prepared, index, event)
        prepared.claim.loaded = sum(map(len, prepared.rows.values()))
        prepared.claim.dead = prepared.dead
        return prepared

    def unseen(self, entry: Entry, error: InvalidEvent) -> Prepared:
        """All events of an entry as dead ones, without a look at what they hold."""
        try:
            lines = lines_of(entry, self._stream, self._attributes)
        except InvalidEvent:
            lines = _raw_lines(entry)
        return _all_dead(entry, lines, error)

    def _route(self, prepared: Prepared, index: int, event: AnyEvent | InvalidEvent) -> None:
        try:
            if isinstance(event, InvalidEvent):
                raise event
            table = self._tables.get(event.type) or self._tables.get("*")
            if table is None:
                if self._unmatched == "filter":
                    prepared.claim.unrouted += 1
                    return
                raise InvalidEvent(f"no table takes events of type {event.type!r}", "no_table")
            row = _row(table, index, event)
            rollups.check(self._rollups, event)
            prepared.rows.setdefault(table.section.name, []).append(row)
        except InvalidEvent as error:
            prepared.dead.append(DeadRow(index, error.reason, str(error).translate(_NUL)))


def _decode(lines: Sequence[bytes]) -> list[AnyEvent | InvalidEvent]:
    try:
        decoded = events.decode_raw_lines(b"\n".join(lines))
        if len(decoded) == len(lines):
            return list(decoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # One of them is broken: the loop below finds which.
    found: list[AnyEvent | InvalidEvent] = []
    for line in lines:
        try:
            found.append(events.decode_raw(line))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            found.append(InvalidEvent(f"no event: {error}", "malformed"))
    return found


def _row(table: Table, index: int, event: AnyEvent) -> Row:
    raw: msgspec.Raw = event.data
    try:
        text = bytes(raw).decode()
        event.data = _decode_data(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEvent(f"data is no JSON object: {error}", "malformed") from None
    if event.time.tzinfo is None:
        event.time = event.time.replace(tzinfo=UTC)
    try:
        return Row(index, table.line(event, text), event)
    except UnicodeEncodeError as error:
        raise InvalidEvent(f"text that UTF-8 cannot hold: {error.reason}", "bad_row") from None
    except RecursionError:
        # Writing a value takes a little more depth than reading it did.
        raise InvalidEvent("data is nested too deeply", "bad_row") from None


def _cell(source: str, column_type: str) -> Cell:
    """How to fill a column: from an attribute of the event, or a path into its data."""
    attributes: dict[str, Cell] = {
        "$id": lambda event, _: copy_text(event.id),
        "$type": lambda event, _: copy_text(event.type),
        "$source": lambda event, _: copy_text(event.source),
        "$time": lambda event, _: _iso(event.time),
        "$key": lambda event, _: copy_text(event.key),
        "$data": lambda _, data: _json_text(data),
    }
    if source in attributes:
        return attributes[source]
    if column_type.startswith("timestamp") or column_type == "date":
        return lambda event, _: _time_text(source, events.find(event.data, source), column_type)
    if column_type in ("json", "jsonb"):
        return lambda event, _: _json_value(events.find(event.data, source))
    if "." in source or source.startswith("/"):
        return lambda event, _: copy_text(events.find(event.data, source))
    return lambda event, _: copy_text(event.data.get(source))


def _json_text(data: str) -> str:
    """Between its values JSON text may hold tabs and carriage returns as white space; a search for each is cheap."""
    text = data.replace("\\", "\\\\")
    return text.replace("\t", "\\t").replace("\r", "\\r") if "\t" in data or "\r" in data else text


@lru_cache(maxsize=256)
def _iso(moment: datetime) -> str:
    """Events that were read together share their time, and writing it took 13 % of the loader."""
    return moment.isoformat()


def _time_text(path: str, value: Any, column_type: str) -> str:
    """PostgreSQL takes `now` and `infinity` for timestamps; an event must not."""
    if value is None:
        return "\\N"
    try:
        if column_type == "date" and isinstance(value, str) and len(value) == 10:
            return date.fromisoformat(value).isoformat()
        moment: datetime = events.parse_time(value)
    except (InvalidEvent, ValueError) as error:
        raise InvalidEvent(f"{path}: {error}", "bad_row") from None
    return moment.isoformat()


def copy_text(value: Any) -> str:
    """A value in COPY's text format."""
    if value is None:
        return "\\N"
    if isinstance(value, str):
        return value.translate(_ESCAPES) if _SPECIAL.search(value) else value
    if isinstance(value, bool):
        # Understood by a boolean column, and what a text column should hold.
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return _json_value(value)


def _json_value(value: Any) -> str:
    """A value as JSON in COPY's text format; one that is absent or null is NULL."""
    return "\\N" if value is None else _json_text(msgspec.json.encode(value).decode())
