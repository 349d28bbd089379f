"""Statements of the loader: the load ledger, COPY direct and staged, rollups, pruning."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from psycopg import sql

from shared.database.connection import Connection

#: First in every transaction: a row that is not returned stands there already, so its entry is known.
CLAIM = """
INSERT INTO load_ledger (stream, entry_ms, entry_seq, digest, events, loaded, duplicates, unrouted)
SELECT %(stream)s, ms, seq, decode(hash, 'hex'), events, events, 0, 0
FROM jsonb_to_recordset(%(claims)s::jsonb) AS new(ms bigint, seq bigint, hash text, events bigint)
ORDER BY ms, seq
ON CONFLICT DO NOTHING
RETURNING entry_ms, entry_seq
"""

#: Figures of an entry that was committed before: by a process that crashed, a zombie, or a faster loader.
RECALL = """
SELECT entry_ms, entry_seq, loaded, duplicates, unrouted, dead
FROM load_ledger
JOIN jsonb_to_recordset(%(claims)s::jsonb) AS asked(ms bigint, seq bigint, hash text)
  ON stream = %(stream)s AND entry_ms = ms AND entry_seq = seq AND digest = decode(hash, 'hex')
"""

#: The same for an entry whose body is gone, when only its id is known.
RECALL_ID = """
SELECT loaded, duplicates, unrouted, dead FROM load_ledger
WHERE stream = %(stream)s AND entry_ms = %(ms)s AND entry_seq = %(seq)s
"""

#: What became of entries of which not every event is a row.
CORRECT = """
UPDATE load_ledger
SET loaded = new.loaded, duplicates = new.duplicates, unrouted = new.unrouted, dead = new.dead
FROM jsonb_to_recordset(%(claims)s::jsonb)
     AS new(ms bigint, seq bigint, hash text, loaded bigint, duplicates bigint, unrouted bigint, dead jsonb)
WHERE stream = %(stream)s AND entry_ms = ms AND entry_seq = seq AND digest = decode(hash, 'hex')
"""

#: What the pruned rows counted is kept, so that the total stays provable.
PRUNE = """
WITH pruned AS (
    DELETE FROM load_ledger
    WHERE stream = %(stream)s AND (entry_ms, entry_seq) < (%(ms)s, %(seq)s)
    RETURNING loaded
)
INSERT INTO load_totals (stream, entries, loaded)
SELECT %(stream)s, count(*), coalesce(sum(loaded), 0) FROM pruned
HAVING count(*) > 0
ON CONFLICT (stream) DO UPDATE
SET entries = load_totals.entries + EXCLUDED.entries, loaded = load_totals.loaded + EXCLUDED.loaded
RETURNING 1
"""

#: Rows that were ever loaded from a stream, by every epoch.
TOTAL_LOADED = """
SELECT coalesce((SELECT sum(loaded) FROM load_ledger WHERE stream = %(stream)s), 0)
     + coalesce((SELECT loaded FROM load_totals WHERE stream = %(stream)s), 0)
"""

COLUMNS = """
SELECT attname, format_type(atttypid, -1)
FROM pg_attribute
WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped
"""

#: Constraints that ON CONFLICT can use: unique, valid, neither partial nor deferrable.
UNIQUE_COLUMNS = """
SELECT array_agg(attname::text)
FROM pg_index
JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
WHERE indrelid = to_regclass(%(table)s) AND indisunique AND indimmediate AND indisvalid AND indpred IS NULL
GROUP BY indexrelid
"""


class DeadRow(msgspec.Struct, frozen=True):
    """A row of an entry that PostgreSQL refused: index of its event, SQLSTATE or reason, message."""

    index: int
    reason: str
    message: str


@dataclass
class Claim:
    """An entry about to be loaded; until more is known every event of it is a new row."""

    entry_id: str
    digest: bytes
    events: int
    loaded: int
    duplicates: int = 0
    unrouted: int = 0
    dead: Sequence[DeadRow] = ()

    @property
    def key(self) -> tuple[int, int]:
        """Entry id as two numbers."""
        return entry_key(self.entry_id)


@dataclass(frozen=True)
class Recorded:
    """Figures of a committed entry."""

    loaded: int
    duplicates: int
    unrouted: int
    dead: list[DeadRow]


def entry_key(entry_id: str) -> tuple[int, int]:
    """Entry id as two numbers."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def claim(connection: Connection, stream: str, claims: Sequence[Claim]) -> set[tuple[int, int]]:
    """Insert the ledger rows; returns the keys of the entries that are new."""
    rows: list[Any] = connection.execute(CLAIM, asked(stream, claims)).fetchall()
    return {(row[0], row[1]) for row in rows}


def recall(connection: Connection, stream: str, claims: Sequence[Claim]) -> dict[tuple[int, int], Recorded]:
    """Recorded figures of entries that are known."""
    rows: list[Any] = connection.execute(RECALL, asked(stream, claims)).fetchall()
    return {(row[0], row[1]): _recorded(row[2:]) for row in rows}


def recall_id(connection: Connection, stream: str, entry_id: str) -> Recorded | None:
    """Recorded figures of an entry whose body is gone, or None."""
    ms, seq = entry_key(entry_id)
    rows: list[Any] = connection.execute(RECALL_ID, {"stream": stream, "ms": ms, "seq": seq}).fetchall()
    return _recorded(rows[0]) if rows else None


def _recorded(row: Sequence[Any]) -> Recorded:
    return Recorded(int(row[0]), int(row[1]), int(row[2]), msgspec.convert(row[3], list[DeadRow]))


def correct(connection: Connection, stream: str, claims: Sequence[Claim]) -> None:
    """Write what became of entries of which not every event is a row."""
    connection.execute(CORRECT, asked(stream, claims))


def asked(stream: str, claims: Sequence[Claim]) -> dict[str, str]:
    """Claims as parameters.

    As JSON: arrays, which psycopg writes item by item, took as long as the rest of a small transaction.
    """
    rows = [
        {
            "ms": one.key[0],
            "seq": one.key[1],
            "hash": one.digest.hex(),
            "events": one.events,
            "loaded": one.loaded,
            "duplicates": one.duplicates,
            "unrouted": one.unrouted,
            "dead": one.dead,
        }
        for one in claims
    ]
    return {"stream": stream, "claims": msgspec.json.encode(rows).decode()}


@contextmanager
def copying(
    connection: Connection, table: str, columns: Sequence[str], *, binary: bool = False
) -> Iterator[Callable[[bytes], None]]:
    """COPY into a table: what is yielded takes ready-made lines of the text format, or rows of the binary one.

    139 k rows/s against 57 k with write_row. In pieces: of a large one libpq moves what the socket does not take yet,
    again and again.
    """
    with connection.cursor().copy(_copy_statement(table, tuple(columns), binary)) as copy:
        if binary:
            copy.write(_BINARY_BEGIN)
        yield copy.write
        if binary:
            copy.write(_BINARY_END)


#: Signature, flags, length of the header's extension; and after the last row.
_BINARY_BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_BINARY_END = b"\xff\xff"


@cache
def _copy_statement(table: str, columns: tuple[str, ...], binary: bool) -> bytes:
    form = sql.SQL(" (FORMAT binary)" if binary else "")
    return sql.SQL("COPY {} ({}) FROM STDIN{}").format(identifier(table), listed(columns), form).as_bytes()


def copy_staged(
    connection: Connection, table: str, columns: Sequence[str], id_column: str | None, rows: Iterable[bytes]
) -> set[str] | None:
    """COPY into a temporary table, then insert what is new.

    Returns the ids of the rows really inserted; None where the table has no id column (all were).
    """
    make_stage(connection, table)
    stage, target = identifier(stage_of(table)), identifier(table)
    with connection.cursor().copy(sql.SQL("COPY {} ({}) FROM STDIN").format(stage, listed(columns))) as copy:
        copy.write(b"".join(rows))
    insert = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}").format(target, listed(columns), listed(columns), stage)
    if id_column is None:
        connection.execute(insert)
        return None
    # In the order of the ids, so that two loaders with the same rows cannot deadlock.
    insert += sql.SQL(" ORDER BY {0} ON CONFLICT DO NOTHING RETURNING {0}::text").format(sql.Identifier(id_column))
    inserted: list[Any] = connection.execute(insert).fetchall()
    return {row[0] for row in inserted}


def stage_of(table: str) -> str:
    """Name of a table's temporary one. Not its own name: `a.b` and `a_b`, or two long names, would share one."""
    return f"stage_{hashlib.blake2b(table.encode(), digest_size=12).hexdigest()}"


def make_stage(connection: Connection, table: str, more: sql.Composable | None = None) -> None:
    """An empty temporary table like another, with ``more`` columns."""
    stage = identifier(stage_of(table))
    connection.execute(
        sql.SQL("CREATE TEMPORARY TABLE IF NOT EXISTS {} (LIKE {} INCLUDING DEFAULTS{}) ON COMMIT DELETE ROWS").format(
            stage, identifier(table), more or sql.SQL("")
        )
    )
    connection.execute(sql.SQL("TRUNCATE {}").format(stage))


def prune(connection: Connection, stream: str, oldest_deliverable: str) -> None:
    """Drop ledger rows of entries that Redis can no longer deliver, keeping their totals."""
    ms, seq = entry_key(oldest_deliverable)
    connection.execute(PRUNE, {"stream": stream, "ms": ms, "seq": seq})


def total_loaded(connection: Connection, stream: str) -> int:
    """Events ever loaded from a stream, by every epoch."""
    rows: list[Any] = connection.execute(TOTAL_LOADED, {"stream": stream}).fetchall()
    return int(rows[0][0])


def column_types(connection: Connection, table: str) -> dict[str, str]:
    """Column → type of a table; empty where there is no such table."""
    rows: list[Any] = connection.execute(COLUMNS, {"table": quoted(connection, table)}).fetchall()
    return {row[0]: row[1] for row in rows}


def unique_columns(connection: Connection, table: str) -> list[frozenset[str]]:
    """Column sets that ON CONFLICT can use."""
    rows: list[Any] = connection.execute(UNIQUE_COLUMNS, {"table": quoted(connection, table)}).fetchall()
    return [frozenset(row[0]) for row in rows]


def identifier(table: str) -> sql.Identifier:
    """A table's name, quoted; ``schema.table`` names a schema."""
    return sql.Identifier(*table.split("."))


def quoted(connection: Connection, table: str) -> str:
    """A table's name as to_regclass reads it."""
    return identifier(table).as_string(connection)


def listed(names: Iterable[str]) -> sql.Composed:
    """Names, quoted, with commas between them."""
    return sql.SQL(", ").join(map(sql.Identifier, names))


def doubled(name: str) -> str:
    """A name or type for a statement with parameters: there a % begins a placeholder, in a quoted name too."""
    return name.replace("%", "%%")
