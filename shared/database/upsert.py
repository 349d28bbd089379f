"""One row for each key, where the newest event wins."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from psycopg import sql

from shared.database.connection import Connection
from shared.database.load import copying, identifier, listed, make_stage, stage_of

#: The place of a line among those that are copied together; no column of anybody's is called so.
_PLACE = "bargeline_place"


@dataclass(frozen=True)
class UpsertTable:
    """A table, its columns in the order of the lines, and those of the key, the time, and the id if there is one."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    time: str
    id: str | None


def upsert(connection: Connection, table: UpsertTable, lines: Sequence[bytes]) -> set[int]:
    """Insert rows, or update those that are older; returns the places of the lines that are in the table now.

    At equal times the higher id wins; without a column for it what is there stays.
    """
    make_stage(connection, table.name, sql.SQL(", {} integer").format(sql.Identifier(_PLACE)))
    with copying(connection, stage_of(table.name), (_PLACE, *table.columns)) as write:
        write(b"".join(b"%d\t%b" % item for item in enumerate(lines)))
    rows: list[Any] = connection.execute(_statement(table)).fetchall()
    return {row[0] for row in rows}


@cache
def _statement(table: UpsertTable) -> bytes:
    key = listed(table.key)
    order = [sql.Identifier(name) for name in (table.time, table.id) if name is not None]
    return (
        sql.SQL(
            # PostgreSQL refuses to update a row twice in one statement: of one key only the newest goes in. In the
            # order of the keys, so that two loaders with the same keys cannot deadlock.
            "WITH newest AS (SELECT DISTINCT ON ({key}) * FROM {stage} ORDER BY {key}, {newest_first}, {place}), "
            "written AS (INSERT INTO {table} AS present ({columns}) SELECT {columns} FROM newest ORDER BY {key} "
            "ON CONFLICT ({key}) DO UPDATE SET {assignments} WHERE ({excluded}) > ({present}) RETURNING {written}) "
            "SELECT {place} FROM newest JOIN written USING ({key})"
        )
        .format(
            key=key,
            stage=identifier(stage_of(table.name)),
            newest_first=sql.SQL(", ").join(sql.SQL("{} DESC").format(name) for name in order),
            place=sql.Identifier(_PLACE),
            table=identifier(table.name),
            columns=listed(table.columns),
            assignments=sql.SQL(", ").join(
                sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name))
                for name in table.columns
                if name not in table.key
            ),
            excluded=sql.SQL(", ").join(sql.SQL("EXCLUDED.{}").format(name) for name in order),
            present=sql.SQL(", ").join(sql.SQL("present.{}").format(name) for name in order),
            written=sql.SQL(", ").join(sql.SQL("present.{}").format(sql.Identifier(name)) for name in table.key),
        )
        .as_bytes()
    )
