"""Clean entries into rows: pure. Rows are ready-made lines of COPY's text format, or rows of its binary one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import msgspec

from shared.attributes import Attributes
from shared.database.load import DeadRow
from shared.entries import Entry, body_of, holds, lines_of, split_lines
from shared.errors import InvalidEvent
from shared.pipeline import PipelineFile, TableSection
from workers.loader import rollups
from workers.loader.clean import DECODE_ERRORS, CleanEvent, decode, decode_each
from workers.loader.columns import Column, column, copy_order, documents
from workers.loader.fields import Fields
from workers.loader.native import Native
from workers.loader.rollups import Counts, Rollup

#: The message of a dead row is kept in PostgreSQL, which takes no NUL.
_NUL = str.maketrans({"\0": "\\0"})


class Row(NamedTuple):
    """One row of one table: the place of its event in the entry, its line for COPY, the event and its decoded data."""

    place: int
    line: bytes
    event: CleanEvent
    data: Any


@dataclass
class Rows:
    """Rows of one table out of one entry: lists of one length, and the lines for COPY as one piece.

    Or rows for binary COPY, and of the lists nothing but the places. ``counts`` is what the rollups count of them, in
    the order of the router's; they are made at once, while the events are in the processor's cache.
    """

    places: list[int] = field(default_factory=list)
    events: list[CleanEvent] = field(default_factory=list)
    data: list[Any] = field(default_factory=list)
    copy: bytes = b""
    binary: bytes = b""
    counts: list[list[Counts]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Row]:
        # Within a cell a newline is written as an escape.
        lines = (line + b"\n" for line in self.copy.split(b"\n"))
        return map(Row, self.places, lines, self.events, self.data)

    def add(self, more: "Rows") -> None:
        """Add rows at the end."""
        self.places += more.places
        self.events += more.events
        self.data += more.data
        self.copy += more.copy
        self.counts += more.counts

    def without(self, place: int) -> "Rows":
        """All rows but that of one event; they are counted no more."""
        kept = [row for row in self if row.place != place]
        return Rows(
            [row.place for row in kept],
            [row.event for row in kept],
            [row.data for row in kept],
            b"".join(row.line for row in kept),
        )


@dataclass
class Prepared:
    """The events of an entry as they will be loaded: rows by table, unrouted ones, dead ones."""

    entry: Entry
    rows: dict[str, Rows] = field(default_factory=dict)
    unrouted: int = 0
    dead: list[DeadRow] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """A table and how its columns are filled; ``documents`` of them, the last, hold the whole data."""

    section: TableSection
    columns: tuple[Column, ...]
    documents: int

    def copy(self, events: Sequence[CleanEvent], data: Sequence[Any], *, plain: bool) -> bytes:
        """Lines of COPY, one for each event. Raises InvalidEvent, UnicodeError or RecursionError."""
        parts: list[Sequence[Any]] = []
        if self.columns:
            cells = [column(events, data, plain) for column in self.columns]
            parts.append("\n".join(map("\t".join, zip(*cells, strict=True))).encode().split(b"\n"))
        # They stay bytes: made into text and back like the other cells they took 0.6 µs a row more.
        parts += [documents(events, plain=plain)] * self.documents
        return b"\n".join(map(b"\t".join, zip(*parts, strict=True))) + b"\n"


class Router:
    """Finds the table of each event and makes its row."""

    def __init__(
        self,
        file: PipelineFile,
        types: Mapping[str, Mapping[str, str]],
        stream: str,
        attributes: Attributes,
        *,
        with_c: bool = True,
    ) -> None:
        self._unmatched = file.loader.unmatched
        self._stream = stream
        self._attributes = attributes
        sources = [source for section in file.table for source in section.columns.values() if source[0] != "$"]
        self._fields = Fields(sources + [path for section in file.rollup for path in rollups.paths(section)])
        self.rollups = [Rollup(section, self._fields) for section in sorted(file.rollup, key=lambda one: one.table)]
        self._tables = {section.name: self._table(section, types[section.name]) for section in file.table}
        self._name_of_type = {kind: section.name for section in file.table for kind in section.event_types}
        self._catch_all = self._name_of_type.pop("*", None)
        self._native = Native(file.table if with_c else (), types, self.rollups)

    @property
    def binary(self) -> frozenset[str]:
        """Names of the tables of which most rows are binary, if that is asked for."""
        return self._native.tables

    def _table(self, section: TableSection, types: Mapping[str, str]) -> Table:
        sources = section.columns
        own = [name for name in copy_order(section) if sources[name] != "$data"]
        columns = tuple(column(sources[name], types[name], self._fields) for name in own)
        return Table(section, columns, documents=len(sources) - len(own))

    def prepare(self, entry: Entry, *, binary: bool = False) -> Prepared:
        """Rows, unrouted events and dead ones of an entry; they add up to its events.

        With ``binary``, rows that are only passed on are for binary COPY where they can be.
        """
        try:
            body = body_of(entry, self._stream, self._attributes)
            if binary and (found := self._native.rows(body, entry.events)) is not None:
                rows = Rows(list(range(entry.events)), binary=found.rows, counts=[found.counts])
                return Prepared(entry, {found.table: rows})
            decoded = _decode(entry, body)
        except InvalidEvent as error:
            return self.unseen(entry, error)
        prepared = Prepared(entry)
        # What JSON writes without these needs no escape in COPY's format either: looked for once, not in each cell.
        plain = not (b"\\" in body or b"\t" in body or b"\r" in body)
        for name, (places, events) in self._by_table(prepared, decoded).items():
            self._add(prepared, self._tables[name], places, events, plain=plain)
        return prepared

    @staticmethod
    def unseen(entry: Entry, error: InvalidEvent) -> Prepared:
        """All events of an entry as dead ones, without a look at what they hold."""
        message = str(error).translate(_NUL)
        return Prepared(entry, dead=[DeadRow(place, error.reason, message) for place in range(entry.events)])

    def lines(self, entry: Entry) -> list[bytes]:
        """The events as they came; of an entry that cannot be taken apart the bytes stand for the first."""
        try:
            return lines_of(entry, self._stream, self._attributes)
        except InvalidEvent:
            return [entry.fields.get(b"d", b"")] + [b""] * (entry.events - 1)

    def _by_table(
        self, prepared: Prepared, decoded: Sequence[CleanEvent | InvalidEvent]
    ) -> dict[str, tuple[list[int], list[CleanEvent]]]:
        """Places and events by the name of their table; the others are unrouted or dead."""
        types = {event.type if isinstance(event, CleanEvent) else None for event in decoded}
        if len(types) == 1 and (only := self._name_of_type.get(types.pop() or "")) is not None:
            # Mostly so: 0.07 µs an event instead of 0.3.
            return {only: (list(range(len(decoded))), cast("list[CleanEvent]", decoded))}
        found: dict[str, tuple[list[int], list[CleanEvent]]] = {}
        for place, event in enumerate(decoded):
            if isinstance(event, InvalidEvent):
                _bury(prepared, place, event)
            elif (name := self._name_of_type.get(event.type, self._catch_all)) is not None:
                places, events = found.get(name) or found.setdefault(name, ([], []))
                places.append(place)
                events.append(event)
            elif self._unmatched == "filter":
                prepared.unrouted += 1
            else:
                _bury(prepared, place, InvalidEvent(f"no table takes events of type {event.type!r}", "no_table"))
        return found

    def _add(
        self, prepared: Prepared, table: Table, places: list[int], events: list[CleanEvent], *, plain: bool
    ) -> None:
        """Add rows of a table; when not all can be made, halve them until what cannot stands alone."""
        try:
            rows = self._rows(table, places, events, plain=plain)
        except (InvalidEvent, UnicodeError, RecursionError, msgspec.MsgspecError) as error:
            if len(places) == 1:
                _bury(prepared, places[0], _reason(error))
                return
            middle = len(places) // 2
            self._add(prepared, table, places[:middle], events[:middle], plain=plain)
            self._add(prepared, table, places[middle:], events[middle:], plain=plain)
        else:
            prepared.rows.setdefault(table.section.name, Rows()).add(rows)

    def _rows(self, table: Table, places: list[int], events: list[CleanEvent], *, plain: bool) -> Rows:
        data = self._fields.decode([event.data for event in events])
        copy = table.copy(events, data, plain=plain)
        counts = [rollup.count(events, data) for rollup in self.rollups]
        return Rows(places, events, data, copy, counts=[counts])


def _decode(entry: Entry, body: bytes) -> Sequence[CleanEvent | InvalidEvent]:
    try:
        decoded = decode(body)
        if len(decoded) == entry.events and holds(body, entry.events):
            return decoded
    except DECODE_ERRORS:
        pass  # One of them is broken: line by line it shows which.
    return decode_each(split_lines(body, entry.events))


def _bury(prepared: Prepared, index: int, error: InvalidEvent) -> None:
    prepared.dead.append(DeadRow(index, error.reason, str(error).translate(_NUL)))


def _reason(error: Exception) -> InvalidEvent:
    if isinstance(error, InvalidEvent):
        return error
    if isinstance(error, UnicodeEncodeError):
        return InvalidEvent(f"text that UTF-8 cannot hold: {error.reason}", "bad_row")
    if isinstance(error, RecursionError):
        return InvalidEvent("data is nested too deeply", "bad_row")
    return InvalidEvent(f"data is no JSON object: {error}", "malformed")
