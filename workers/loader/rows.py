"""Clean entries into rows: pure. Rows are ready-made lines of COPY's text format."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from shared.attributes import Attributes
from shared.database.load import Claim, DeadRow
from shared.entries import Entry, body_of
from shared.errors import InvalidEvent
from shared.pipeline import PipelineFile, TableSection
from workers.loader import rollups
from workers.loader.clean import DECODE_ERRORS, CleanEvent, decode, decode_each
from workers.loader.columns import Column, column
from workers.loader.fields import Fields
from workers.loader.rollups import Rollup

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
    """Rows of one table out of one entry: lists of one length, and the lines for COPY as one piece."""

    places: list[int] = field(default_factory=list)
    events: list[CleanEvent] = field(default_factory=list)
    data: list[Any] = field(default_factory=list)
    copy: bytes = b""

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Row]:
        # Within a cell a newline is written as an escape.
        lines = (line + b"\n" for line in self.copy.split(b"\n"))
        return map(Row, self.places, lines, self.events, self.data)

    def add(self, places: Sequence[int], events: Sequence[CleanEvent], data: Sequence[Any], copy: bytes) -> None:
        """Add rows at the end."""
        self.places += places
        self.events += events
        self.data += data
        self.copy += copy

    def without(self, place: int) -> "Rows":
        """All rows but that of one event."""
        kept = [row for row in self if row.place != place]
        rows = Rows()
        rows.add(
            [row.place for row in kept],
            [row.event for row in kept],
            [row.data for row in kept],
            b"".join(row.line for row in kept),
        )
        return rows


@dataclass
class Prepared:
    """An entry as it will be loaded; a broken one holds only dead events."""

    entry: Entry
    claim: Claim
    body: bytes
    broken: bool = False
    rows: dict[str, Rows] = field(default_factory=dict)
    dead: list[DeadRow] = field(default_factory=list)

    @property
    def lines(self) -> list[bytes]:
        """The events as they came; of a broken entry the bytes stand for the first."""
        if self.broken:
            return [self.body] + [b""] * (self.entry.events - 1)
        return self.body.removesuffix(b"\n").split(b"\n")


@dataclass(frozen=True)
class Table:
    """A table and how its columns are filled."""

    section: TableSection
    columns: tuple[Column, ...]

    def copy(self, events: Sequence[CleanEvent], data: Sequence[Any], plain: bool) -> bytes:
        """Lines of COPY, one for each event. Raises InvalidEvent, UnicodeError or RecursionError."""
        cells = [column(events, data, plain) for column in self.columns]
        return ("\n".join(map("\t".join, zip(*cells, strict=True))) + "\n").encode()


def _claim(entry: Entry) -> Claim:
    digest = hashlib.blake2b(entry.fields.get(b"d") or repr(entry.fields).encode(), digest_size=16).digest()
    return Claim(entry.id, digest, entry.events, loaded=0, unrouted=0)


def _all_dead(entry: Entry, body: bytes, error: InvalidEvent, *, broken: bool) -> Prepared:
    claim = _claim(entry)
    claim.dead = [DeadRow(index, error.reason, str(error).translate(_NUL)) for index in range(entry.events)]
    return Prepared(entry, claim, body, broken, dead=list(claim.dead))


class Router:
    """Finds the table of each event and makes its row."""

    def __init__(
        self, file: PipelineFile, types: Mapping[str, Mapping[str, str]], stream: str, attributes: Attributes
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

    def _table(self, section: TableSection, types: Mapping[str, str]) -> Table:
        cells = (column(source, types[name], self._fields) for name, source in section.columns.items())
        return Table(section, tuple(cells))

    def prepare(self, entry: Entry) -> Prepared:
        """Rows, unrouted events and dead ones of an entry; they add up to its events."""
        try:
            body = body_of(entry, self._stream, self._attributes)
        except InvalidEvent as error:
            return _all_dead(entry, entry.fields.get(b"d", b""), error, broken=True)
        prepared = Prepared(entry, _claim(entry), body)
        # What JSON writes without these needs no escape in COPY's format either: looked for once, not in each cell.
        plain = not (b"\\" in body or b"\t" in body or b"\r" in body)
        for name, places in self._by_table(prepared, _decode(prepared)).items():
            self._add(prepared, self._tables[name], places, plain=plain)
        prepared.claim.loaded = sum(map(len, prepared.rows.values()))
        prepared.claim.dead = prepared.dead
        return prepared

    def unseen(self, entry: Entry, error: InvalidEvent) -> Prepared:
        """All events of an entry as dead ones, without a look at what they hold."""
        try:
            body = body_of(entry, self._stream, self._attributes)
        except InvalidEvent:
            return _all_dead(entry, entry.fields.get(b"d", b""), error, broken=True)
        return _all_dead(entry, body, error, broken=False)

    def _by_table(
        self, prepared: Prepared, decoded: Sequence[CleanEvent | InvalidEvent]
    ) -> dict[str, list[tuple[int, CleanEvent]]]:
        """Events with their places by the name of their table; the others are unrouted or dead."""
        found: dict[str, list[tuple[int, CleanEvent]]] = {}
        for index, event in enumerate(decoded):
            if isinstance(event, InvalidEvent):
                _bury(prepared, index, event)
            elif (name := self._name_of_type.get(event.type, self._catch_all)) is not None:
                found.setdefault(name, []).append((index, event))
            elif self._unmatched == "filter":
                prepared.claim.unrouted += 1
            else:
                _bury(prepared, index, InvalidEvent(f"no table takes events of type {event.type!r}", "no_table"))
        return found

    def _add(self, prepared: Prepared, table: Table, places: list[tuple[int, CleanEvent]], *, plain: bool) -> None:
        """Add rows of a table; when not all can be made, halve them until what cannot stands alone."""
        events = [event for _, event in places]
        try:
            data = self._fields.decode([event.data for event in events])
            copy = table.copy(events, data, plain)
            for rollup in self.rollups:
                rollup.check(events, data)
        except (InvalidEvent, UnicodeError, RecursionError, msgspec.MsgspecError) as error:
            if len(places) == 1:
                _bury(prepared, places[0][0], _reason(error))
                return
            middle = len(places) // 2
            self._add(prepared, table, places[:middle], plain=plain)
            self._add(prepared, table, places[middle:], plain=plain)
            return
        rows = prepared.rows.setdefault(table.section.name, Rows())
        rows.add([index for index, _ in places], events, data, copy)


def _decode(prepared: Prepared) -> Sequence[CleanEvent | InvalidEvent]:
    try:
        decoded = decode(prepared.body)
        if len(decoded) == prepared.entry.events:
            return decoded
    except DECODE_ERRORS:
        pass  # One of them is broken: the loop finds which.
    return decode_each(prepared.lines)


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
