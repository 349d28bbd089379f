"""Adding to the windows of a rollup: one statement for all of them, whatever is kept of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import msgspec
from psycopg import sql

from shared.database.connection import Connection
from shared.database.load import doubled, identifier, listed

Combine = Literal["add", "least", "greatest"]
_COMBINED = {
    "add": "old.{0} + EXCLUDED.{0}",
    # Of a value and NULL both take the value.
    "least": "LEAST(old.{0}, EXCLUDED.{0})",
    "greatest": "GREATEST(old.{0}, EXCLUDED.{0})",
}


class State(NamedTuple):
    """A column that is kept of a window, its type, and how what is new combines with what is there."""

    column: str
    type: str
    combine: Combine


class Average(NamedTuple):
    """A column that is made of two others: a sum and a count of the same window."""

    column: str
    total: str
    events: str


@dataclass(frozen=True)
class RollupTable:
    """A rollup's table: the columns of its key with their types, what is kept, and the averages made of that."""

    name: str
    key: tuple[tuple[str, str], ...]
    states: tuple[State, ...]
    averages: tuple[Average, ...] = ()


def add_to_rollup(connection: Connection, table: RollupTable, rows: Sequence[Sequence[Any]]) -> None:
    """Add deltas: rows of a value for each column of the key, then for each state.

    They are sorted by key: unsorted upserts of several loaders deadlock (56 times in 180 transactions). One statement
    for all of them: an INSERT for each took 35 µs a row.
    """
    connection.execute(_statement(table), {"rows": values(rows)})


def values(rows: Sequence[Sequence[Any]]) -> str:
    """Rows of deltas as the parameter of ``insert``."""
    return msgspec.json.encode([{f"part_{place}": part for place, part in enumerate(row)} for row in rows]).decode()


@cache
def _statement(table: RollupTable) -> bytes:
    return insert(table, sql.Placeholder("rows"), sql.SQL("")).as_bytes()


def insert(table: RollupTable, rows: sql.Placeholder, where: sql.SQL) -> sql.Composed:
    """The statement that adds ``rows`` of deltas, with a condition on them."""
    columns = (*table.key, *((state.column, state.type) for state in table.states))
    parts = {name: f"part_{place}" for place, (name, _) in enumerate(columns)}
    kinds = [doubled(kind) for _, kind in columns]
    # Key columns as they are; a delta may be a fraction for an integer column, which rounds it.
    read = [kind if place < len(table.key) else "numeric" for place, kind in enumerate(kinds)]
    return sql.SQL(
        "INSERT INTO {} AS old ({}) SELECT {} FROM jsonb_to_recordset({}::jsonb) AS new({}){} "
        "ON CONFLICT ({}) DO UPDATE SET {}"
    ).format(
        identifier(doubled(table.name)),
        listed(map(doubled, (*parts, *(average.column for average in table.averages)))),
        sql.SQL(", ").join(
            [sql.SQL(f"{part}::{kind}") for part, kind in zip(parts.values(), kinds, strict=True)]
            + [sql.SQL(f"{parts[one.total]} / nullif({parts[one.events]}, 0)") for one in table.averages]
        ),
        rows,
        sql.SQL(", ").join(sql.SQL(f"{part} {kind}") for part, kind in zip(parts.values(), read, strict=True)),
        where,
        listed(doubled(name) for name, _ in table.key),
        sql.SQL(", ").join([*map(_combined, table.states), *map(_average, table.averages)]),
    )


def _combined(state: State) -> sql.Composed:
    return sql.SQL("{0} = " + _COMBINED[state.combine]).format(sql.Identifier(doubled(state.column)))


def _average(average: Average) -> sql.Composed:
    return sql.SQL("{0} = (old.{1} + EXCLUDED.{1})::numeric / nullif(old.{2} + EXCLUDED.{2}, 0)").format(
        *(sql.Identifier(doubled(name)) for name in average)
    )
