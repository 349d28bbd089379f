"""What the PostgreSQL server is, keeps and allows: facts for `bargeline doctor`."""

from collections.abc import Iterator
from typing import Any

import msgspec

from shared.database.connection import Connection
from shared.database.load import quoted
from shared.database.migrate import APPLIED, core_migrations, digest_of
from shared.pipeline import Pipeline

FACTS = """
SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), current_user::text,
       current_database()::text, pg_is_in_recovery(), current_setting('fsync'), current_setting('full_page_writes'),
       current_setting('synchronous_commit'), current_setting('default_transaction_read_only')
"""
CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"
TABLE_RIGHT = "SELECT has_table_privilege(to_regclass(%(table)s), %(right)s)"
COLUMN_RIGHT = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass(%(table)s) AND attname = ANY (%(columns)s)
  AND NOT has_column_privilege(attrelid, attnum, %(right)s)
"""
TEMPORARY_RIGHT = "SELECT has_database_privilege(current_database(), 'TEMPORARY')"
ROW_SECURITY = "SELECT row_security_active(to_regclass(%(table)s))"
EXISTS = "SELECT to_regclass(%(table)s) IS NOT NULL"

#: The core's own tables, and what the workers do with them (shared/database/load.py, epochs.py).
CORE_TABLES = {
    "load_ledger": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "load_totals": ("SELECT", "INSERT", "UPDATE"),
    "epochs": ("SELECT", "INSERT", "UPDATE"),
    "bargeline_migrations": ("SELECT",),
}


class DatabaseFacts(msgspec.Struct, frozen=True):
    """The server and this role's session."""

    version: int
    encoding: str
    user: str
    database: str
    in_recovery: bool
    fsync: str
    full_page_writes: str
    synchronous_commit: str
    read_only: str


class Migrations(msgspec.Struct, frozen=True):
    """Files of migrations against what was applied, as ``component/name``."""

    applied: int
    missing: list[str]
    changed: list[str]


def read_facts(connection: Connection) -> DatabaseFacts:
    """Ask the server about itself."""
    rows: list[Any] = connection.execute(FACTS).fetchall()
    return DatabaseFacts(*rows[0])


def read_clock(connection: Connection) -> float:
    """Seconds since 1970 by the server's clock."""
    rows: list[Any] = connection.execute(CLOCK).fetchall()
    return float(rows[0][0])


def missing_rights(connection: Connection, pipeline: Pipeline, *, reader: bool) -> list[str]:
    """What this role may not do: for the workers' work, or only for looking (``reader``)."""
    missing = []
    if not reader:
        if not _ask(connection, TEMPORARY_RIGHT):
            missing.append("TEMPORARY on the database")
        missing += [
            f"row-level security filters {table} for this role, and COPY refuses that"
            for table in pipeline.file.tables
            if _ask(connection, EXISTS, table=quoted(connection, table))
            and _ask(connection, ROW_SECURITY, table=quoted(connection, table))
        ]
    for table, right, columns in _needs(pipeline, reader=reader):
        name = quoted(connection, table)
        if not _ask(connection, EXISTS, table=name) or _ask(connection, TABLE_RIGHT, table=name, right=right):
            continue
        if columns and right != "SELECT":
            arguments = {"table": name, "columns": list(columns), "right": right}
            without: list[Any] = connection.execute(COLUMN_RIGHT, arguments).fetchall()
            missing += [f"{right} on column {row[0]} of {table}" for row in without]
        else:
            missing.append(f"{right} on {table}")
    return missing


def _needs(pipeline: Pipeline, *, reader: bool) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for table, rights in CORE_TABLES.items():
        yield from ((table, right, ()) for right in rights if not reader or right == "SELECT")
    if reader:
        return
    for target in pipeline.file.table:
        # CREATE TEMPORARY TABLE … LIKE reads the whole table's definition.
        yield target.name, "SELECT", ()
        yield target.name, "INSERT", tuple(target.columns)
        if target.mode == "upsert":
            yield target.name, "UPDATE", tuple(name for name in target.columns if name not in target.key)
    for rollup in pipeline.file.rollup:
        yield rollup.table, "SELECT", ()
        yield rollup.table, "INSERT", rollup.columns
        yield rollup.table, "UPDATE", rollup.columns[1 + len(rollup.by) :]


def migrations(connection: Connection, pipeline: Pipeline) -> Migrations:
    """Compare the files of the core and of the pipeline with what the database says was applied."""
    known: dict[tuple[str, str], str] = {}
    if _ask(connection, EXISTS, table="bargeline_migrations"):
        rows: list[Any] = connection.execute(APPLIED).fetchall()
        known = {(row[0], row[1]): row[2] for row in rows}
    missing, changed, applied = [], [], 0
    for component, folder in (("core", core_migrations()), (pipeline.name, pipeline.migrations)):
        for path in sorted(folder.glob("*.sql")):
            digest = known.get((component, path.name))
            if digest is None:
                missing.append(f"{component}/{path.name}")
            elif digest != digest_of(path.read_text()):
                changed.append(f"{component}/{path.name}")
            else:
                applied += 1
    return Migrations(applied, missing, changed)


def _ask(connection: Connection, statement: str, **arguments: Any) -> bool:
    rows: list[Any] = connection.execute(statement.encode(), arguments).fetchall()
    return bool(rows[0][0])
