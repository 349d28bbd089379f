"""Whether the tables of a database can take the rows of a pipeline: for the loader's start, and for doctor."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shared.database import load as statements
from shared.database.connection import Connection, translated
from shared.errors import ConfigurationError
from shared.pipeline import Pipeline, RollupSection, TableSection

#: What the loader's own statements do not ask: whether it is a table at all, and survives a crash.
RELATION = "SELECT relkind::text, relpersistence::text FROM pg_class WHERE oid = to_regclass(%(table)s)"

#: Columns that a row must have a value for and that PostgreSQL cannot fill, and those that nobody may write.
OBLIGATIONS = """
SELECT attname, attnotnull AND NOT atthasdef AND attidentity = '', attgenerated <> ''
FROM pg_attribute
WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped
"""

#: Columns that may hold NULL.
NULLABLE = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped AND NOT attnotnull
"""

_TEXTS = ("text", "character varying", "bpchar", "citext", "name")
_TIMES = ("timestamp with time zone", "timestamp without time zone", "date")
#: Attribute → types of a column that can take every value of it. `$id` may be no uuid where `[ingest] id` is set.
_TYPES_OF_ATTRIBUTE = {
    "$id": ("uuid", *_TEXTS),
    "$type": _TEXTS,
    "$source": _TEXTS,
    "$time": (*_TIMES, *_TEXTS),
    "$data": ("jsonb", "json", *_TEXTS),
}
_NUMBERS = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
#: A type that is none of these may be anybody's domain or extension, of which nothing can be told.
_KNOWN = (*_TEXTS, *_TIMES, *_NUMBERS, "uuid", "jsonb", "json", "boolean", "bytea", "interval", "inet")
#: A loader that finds one of these cannot load at all; the others make it dead-letter rows, or are a risk.
FATAL = ("table_missing", "column_missing", "unique_missing", "key_nullable", "rollup_key_missing")
_TABLE_KINDS = ("r", "p", "f")


@dataclass(frozen=True)
class Problem:
    """What is wrong with a table: a stable code, a sentence, what follows from it, what to do, and in which columns."""

    code: str
    table: str
    what: str
    why: str
    fix: str
    columns: tuple[str, ...] = ()


def check_tables(url: str, connection: Connection, pipeline: Pipeline) -> dict[str, dict[str, str]]:
    """Column types by table; raises ConfigurationError that names what is missing and how to get it."""
    with translated(url):
        fatal = [one for one in problems(connection, pipeline) if one.code in FATAL]
        if fatal:
            raise ConfigurationError(" ".join(f"{one.what} {one.fix}" for one in fatal))
        return {name: statements.column_types(connection, name) for name in pipeline.file.tables}


def problems(connection: Connection, pipeline: Pipeline) -> list[Problem]:
    """Everything that keeps the tables of a pipeline from taking its rows, as far as it can be told without rows."""
    found: list[Problem] = []
    for table in pipeline.file.table:
        found += _of_table(connection, table)
    for rollup in pipeline.file.rollup:
        found += _of_rollup(connection, rollup)
    return found


def _of_table(connection: Connection, table: TableSection) -> Iterator[Problem]:
    types = statements.column_types(connection, table.name)
    yield from _relation(connection, table.name, types)
    if not types:
        return
    missing = _missing_columns(table.name, types, tuple(table.columns))
    yield from missing
    if table.mode == "insert" and not missing:
        unique = statements.unique_columns(connection, table.name)
        if not any(table.id_column in columns for columns in unique):
            yield Problem(
                "unique_missing",
                table.name,
                f"Table {table.name!r} has no unique constraint on {table.id_column!r} that ON CONFLICT can use "
                '(neither partial nor deferrable), which mode "insert" needs.',
                "Without it an event that is delivered twice becomes two rows; the loader refuses to start.",
                'Add one, or use mode "append".',
                (table.id_column or "",),
            )
    if table.mode == "upsert" and not missing:
        yield from _upsert_key(connection, table)
    yield from _obligations(connection, table.name, tuple(table.columns))
    for column, source in table.columns.items():
        fitting = _TYPES_OF_ATTRIBUTE.get(source)
        if fitting and column in types:
            yield from _wrong_type(table.name, column, types[column], f"holds {source}", fitting)


def _upsert_key(connection: Connection, table: TableSection) -> Iterator[Problem]:
    if frozenset(table.key) not in statements.unique_columns(connection, table.name):
        yield Problem(
            "unique_missing",
            table.name,
            f"Table {table.name!r} has no primary key or unique constraint on exactly ({', '.join(table.key)}), "
            'which mode "upsert" needs.',
            "Without it nothing tells which row an event replaces; the loader refuses to start.",
            "Add one in a migration, neither partial nor deferrable.",
        )
    rows: list[Any] = connection.execute(NULLABLE, {"table": statements.quoted(connection, table.name)}).fetchall()
    for column in sorted({row[0] for row in rows} & {*table.key}):
        yield Problem(
            "key_nullable",
            table.name,
            f"Column {column!r} of table {table.name!r} is part of the key and may be NULL.",
            "NULL is equal to nothing, so events without it would each become a row; the loader refuses to start.",
            f"ALTER TABLE {statements.quoted(connection, table.name)} ALTER COLUMN {column} SET NOT NULL;",
            (column,),
        )


def _of_rollup(connection: Connection, rollup: RollupSection) -> Iterator[Problem]:
    name, key = rollup.table, ("window_start", *rollup.by)
    types = statements.column_types(connection, name)
    yield from _relation(connection, name, types)
    if not types:
        return
    missing = _missing_columns(name, types, rollup.columns)
    yield from missing
    if not missing and frozenset(key) not in statements.unique_columns(connection, name):
        yield Problem(
            "rollup_key_missing",
            name,
            f"Rollup table {name!r} needs a primary key or unique constraint on exactly ({', '.join(key)}).",
            "The loader adds to a window's row by that key; without it it refuses to start.",
            "Add one in a migration, neither partial nor deferrable.",
        )
    yield from _obligations(connection, name, rollup.columns)
    roles: dict[str, tuple[str, tuple[str, ...]]] = {"window_start": ("is the start of a window", _TIMES[:2])}
    roles |= dict.fromkeys(rollup.columns[len(key) :], ("is an aggregate", _NUMBERS))
    for column, (role, fitting) in roles.items():
        if column in types:
            yield from _wrong_type(name, column, types[column], role, fitting)


def _relation(connection: Connection, table: str, types: dict[str, str]) -> Iterator[Problem]:
    rows: list[Any] = connection.execute(RELATION, {"table": statements.quoted(connection, table)}).fetchall()
    if not types or not rows:
        yield Problem(
            "table_missing",
            table,
            f"The database has no table {table!r}.",
            "The loader refuses to start.",
            "Run `bargeline migrate`, or add a migration that creates it.",
        )
        return
    kind, persistence = rows[0]
    if kind not in _TABLE_KINDS:
        yield Problem(
            "not_a_table",
            table,
            f"{table!r} is no table but a view or the like.",
            "COPY cannot write into it.",
            "Name a table in the pipeline file.",
        )
    if persistence == "u":
        yield Problem(
            "table_unlogged",
            table,
            f"Table {table!r} is UNLOGGED.",
            "PostgreSQL empties it after a crash, while the load ledger still says that its rows were loaded.",
            f"ALTER TABLE {statements.quoted(connection, table)} SET LOGGED;",
        )


def _missing_columns(table: str, types: dict[str, str], needed: tuple[str, ...]) -> list[Problem]:
    missing = [column for column in needed if column not in types]
    if not missing:
        return []
    return [
        Problem(
            "column_missing",
            table,
            f"Table {table!r} has no column {', '.join(map(repr, missing))}; it has {', '.join(types)}.",
            "The loader refuses to start.",
            "Correct the pipeline file, or add a migration.",
            tuple(missing),
        )
    ]


def _obligations(connection: Connection, table: str, written: tuple[str, ...]) -> Iterator[Problem]:
    rows: list[Any] = connection.execute(OBLIGATIONS, {"table": statements.quoted(connection, table)}).fetchall()
    for column, must_be_given, generated in rows:
        if must_be_given and not generated and column not in written:
            yield Problem(
                "column_unfilled",
                table,
                f"Column {column!r} of table {table!r} is NOT NULL, has no default, and the pipeline does not fill it.",
                "PostgreSQL refuses every row, and every event becomes a dead letter.",
                "Fill it in the pipeline file, or give it a default in a migration.",
            )
        if generated and column in written:
            yield Problem(
                "column_generated",
                table,
                f"Column {column!r} of table {table!r} is generated by PostgreSQL, and the pipeline fills it.",
                "PostgreSQL refuses to have it written.",
                "Leave it out of the pipeline file.",
                (column,),
            )


def _wrong_type(table: str, column: str, found: str, role: str, fitting: tuple[str, ...]) -> Iterator[Problem]:
    if found in fitting or found not in _KNOWN:
        return
    yield Problem(
        "column_type",
        table,
        f"Column {column!r} of table {table!r} {role}, but its type is {found}.",
        "PostgreSQL refuses the rows, and their events become dead letters.",
        f"Make it {', '.join(fitting[:-1])} or {fitting[-1]} in a migration.",
        (column,),
    )
