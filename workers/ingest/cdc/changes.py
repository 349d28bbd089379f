"""Changes of rows as events: pure.

type    <table>.created | updated | deleted | truncated, with the schema before it where that is not public
key     the primary key as text; a JSON array of texts where it has several columns
time    when the transaction committed
data    schema, table, lsn (of the commit), index (within the transaction), xid, and as far as there are
        new (the row), old (its former key, or the whole former row), unchanged (columns left out of new)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import msgspec

from shared.database.replication import Change, lsn_text
from shared.events import AnyEvent, Event, SourceIds
from workers.ingest.cdc.pgoutput import Begin, Delete, Insert, Left, Relation, Row, Truncate, Update
from workers.ingest.cdc.values import Convert, converter

#: Ids have so many bits for a place in the WAL, 256 TiB of it.
_POSITIONS = 1 << 48
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

RowChange: TypeAlias = Insert | Update | Delete | Truncate
_VERBS: Mapping[type, str] = {Insert: "created", Update: "updated", Delete: "deleted", Truncate: "truncated"}


@dataclass
class Transaction:
    """A transaction in hand: what its events share, and how many of them there were.

    Rows that one WAL record holds (COPY) share its LSN. Each takes more than one byte there, so that LSN + count is a
    place of its own, which never reaches the next record.
    """

    begin: Begin
    index: int = 0
    _lsn: int = -1
    _repeats: int = 0

    def __post_init__(self) -> None:
        self.text = lsn_text(self.begin.lsn)
        self.time = _EPOCH + timedelta(microseconds=self.begin.time)

    def next_place(self, lsn: int) -> int:
        """Count an event whose record is at ``lsn``; returns its place."""
        self.index += 1
        self._repeats = self._repeats + 1 if lsn == self._lsn else 0
        self._lsn = lsn
        return (lsn + self._repeats) % _POSITIONS


class Table:
    """What a table looks like, made ready for many rows."""

    def __init__(self, relation: Relation, key: Sequence[str]) -> None:
        self.key = key
        self.name = readable_name(relation.schema, relation.name)
        self.types = {kind: f"{self.name}.{verb}" for kind, verb in _VERBS.items()}
        self.schema, self.table = relation.schema, relation.name
        self._identity = {column.name for column in relation.columns if column.identity}
        self._columns = tuple(columns_of((column.name, column.type_oid) for column in relation.columns))

    def rows(self, change: RowChange) -> dict[str, Any]:
        """The rows of a change: ``new``, ``old`` and ``unchanged``, those of them that there are."""
        if isinstance(change, Insert):
            return {"new": row_values(self._columns, change.new)}
        if isinstance(change, Truncate):
            return {}
        old = row_values(self._columns, change.old)
        if change.old_kind == "K":
            # Columns outside the key are sent as null there.
            old = {name: value for name, value in old.items() if name in self._identity}
        found = {"old": old} if old else {}
        return found if isinstance(change, Delete) else {**self._updated(change.new, old), **found}

    def _updated(self, row: Row, old: Mapping[str, Any]) -> dict[str, Any]:
        new = row_values(self._columns, row)
        if len(new) == len(row):
            return {"new": new}
        left = [name for (name, _), value in zip(self._columns, row, strict=True) if value is Left.UNCHANGED]
        # With the whole old row at hand nothing is missing.
        new |= {name: old[name] for name in left if name in old}
        unknown = [name for name in left if name not in old]
        return {"new": new, "unchanged": unknown} if unknown else {"new": new}


@dataclass
class Changes:
    """Makes events of the changes of one source; ``find_key`` looks up a table's key where messages do not tell."""

    source: str
    find_key: Callable[[int], Sequence[str]]
    _tables: dict[int, Table] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ids = SourceIds(self.source)

    def learn(self, relation: Relation) -> None:
        """Note what a table looks like from here on."""
        identity = [one.name for one in relation.columns if one.identity]
        # The default identity is the primary key; of another one only the catalog knows what the key is.
        key = identity if relation.identity == "d" else self.find_key(relation.oid) or identity
        self._tables[relation.oid] = Table(relation, key)

    def events(self, transaction: Transaction, change: RowChange, message: Change) -> Iterator[tuple[str, AnyEvent]]:
        """The next events of a transaction, each with its table's name."""
        for oid in change.relations if isinstance(change, Truncate) else (change.relation,):
            table = self._tables[oid]
            rows = table.rows(change)
            event = Event(
                # Tables that are truncated at once share their bytes, but not their place.
                id=self._ids.id(transaction.next_place(message.lsn), message.payload),
                type=table.types[type(change)],
                source=self.source,
                time=transaction.time,
                data={
                    "schema": table.schema,
                    "table": table.table,
                    "lsn": transaction.text,
                    "index": transaction.index - 1,
                    "xid": transaction.begin.xid,
                    **rows,
                },
                key=key_text(table.key, rows.get("new"), rows.get("old")),
            )
            yield table.name, event


def count_events(change: RowChange) -> int:
    """How many events a change makes."""
    return len(change.relations) if isinstance(change, Truncate) else 1


def readable_name(schema: str, table: str) -> str:
    """A table's name, with the schema before it where that is not public: what the types of its events begin with."""
    return table if schema == "public" else f"{schema}.{table}"


def columns_of(columns: Iterable[tuple[str, int]]) -> Iterator[tuple[str, Convert | None]]:
    """Names of columns with what makes JSON of their values; ``columns`` are names and OIDs of types."""
    return ((name, converter(type_oid)) for name, type_oid in columns)


def row_values(columns: Sequence[tuple[str, Convert | None]], row: Sequence[str | Left | None]) -> dict[str, Any]:
    """The values of a row by column, without those that were left out."""
    return {
        name: value if convert is None or value is None else convert(value)
        for (name, convert), value in zip(columns, row, strict=False)
        if value is not Left.UNCHANGED
    }


def key_text(columns: Sequence[str], *rows: Mapping[str, Any] | None) -> str | None:
    """The key of a row as text, of the first of these rows that has it."""
    found = [next((row[name] for row in rows if row and name in row), None) for name in columns]
    if not found or None in found:
        return None
    texts = [value if isinstance(value, str) else msgspec.json.encode(value).decode() for value in found]
    return texts[0] if len(texts) == 1 else msgspec.json.encode(texts).decode()
