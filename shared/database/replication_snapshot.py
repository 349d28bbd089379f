"""Tables of a source database as they were at one place in its WAL."""

from collections.abc import Generator
from typing import NamedTuple

from shared.database.connection import Connection, connect
from shared.database.replication import SESSION, VARIABLE, lsn_number, quoted_name
from shared.database.replication_slots import PublishedTable

#: A row as text: where it is (ctid, tableoid), then its columns.
TextRow = tuple[str | None, ...]


class Exported(NamedTuple):
    """A snapshot of the database: exactly what committed before ``lsn`` can be seen in it."""

    lsn: int
    name: str


def connect_exporter(url: str, name: str) -> Connection:
    """A connection that can export a snapshot. Raises like ``connect``."""
    # Where transactions of minutes follow one another a limit would never let it get through.
    return connect(url, name, VARIABLE, {**SESSION, "lock_timeout": "0"}, replication="database")


def export_snapshot(exporter: Connection) -> Exported:
    """A snapshot that other connections can take up while this one is open, and the place in the WAL where it is.

    It comes from a temporary slot, which waits for the transactions that are open.
    """
    # The long form of PostgreSQL 14 is still understood by later ones.
    command = f"CREATE_REPLICATION_SLOT {_temporary(exporter)} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT"
    _, lsn, snapshot, _ = exporter.execute(command.encode()).fetchall()[0]
    return Exported(lsn_number(str(lsn)), str(snapshot))


def _temporary(connection: Connection) -> str:
    return f"bargeline_snapshot_{connection.info.backend_pid}"


def begin_reading(connection: Connection, snapshot: str) -> None:
    """Begin a transaction that sees an exported snapshot."""
    connection.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())


def read_rows(connection: Connection, table: PublishedTable) -> Generator[TextRow, None, None]:
    """The rows of a table that are published, in the order in which they lie; each is fetched when it is asked for."""
    columns = ", ".join(["ctid", "tableoid", *map(quoted_name, table.columns)])
    # A table that others inherit from is published without them; a partitioned one is its partitions.
    only = "" if table.kind == "p" else "ONLY "
    where = f" WHERE {table.row_filter}" if table.row_filter else ""
    statement = f"COPY (SELECT {columns} FROM {only}{table.full_name}{where}) TO STDOUT"  # noqa: S608 -- quoted names
    with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        yield from copy.rows()
