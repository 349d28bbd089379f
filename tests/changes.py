"""What the tests of changes share: a source database, and tables rebuilt from the events of their changes."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from click.testing import CliRunner, Result

from bargeline.cli import root
from bargeline.embedded import throwaway
from shared.database.replication_slots import connect_source, create_publication, create_slot
from shared.entries import Entry
from tests import workers
from tests.integration.stored import Stored
from tests.wait import until
from tests.workers import Worker

#: After so long without an answer the source server gives up a reader.
SILENCE_SECONDS = 2
#: A row as it is compared: name and text of each column, by name.
Row = tuple[tuple[str, str | None], ...]


class SourceDatabase:
    """A database of a server that decodes changes, with the slot and publication of one pipeline."""

    def __init__(self, url: str, names: str) -> None:
        self.url = url
        self.names = names
        self.connection = psycopg.connect(url, autocommit=True)

    def run(self, statements: str) -> None:
        self.connection.execute(statements.encode())

    def value(self, query: str) -> Any:
        return self.rows(query)[0][0]

    def rows(self, query: str) -> list[Any]:
        return self.connection.execute(query.encode()).fetchall()

    def slot(self, column: str) -> Any:
        return self.value(f"SELECT {column} FROM pg_replication_slots WHERE slot_name = '{self.names}'")

    def table(self, name: str) -> Counter[Row]:
        """The rows of a table as they are now."""
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {name} LIMIT 0".encode())
            columns = [column.name for column in cursor.description or ()]
            # As the server writes values: a cast to text would cut the blanks off char(n).
            with cursor.copy(f"COPY (SELECT * FROM {name}) TO STDOUT".encode()) as copy:
                return Counter(tuple(sorted(zip(columns, row, strict=True))) for row in copy.rows())

    def close(self) -> None:
        self.connection.close()


@contextmanager
def source_server(directory: Path, **settings: str) -> Iterator[str]:
    """URL of a PostgreSQL that decodes changes."""
    given = {"wal_level": "logical", "fsync": "off", "max_replication_slots": "40", "max_wal_senders": "40", **settings}
    process, url = throwaway.start_postgres(directory, **given)
    try:
        yield url
    finally:
        throwaway.stop(process)


@contextmanager
def source_database(server_url: str, name: str) -> Iterator[SourceDatabase]:
    """A database of its own; whatever slot is left in it goes with it."""
    database = name.replace("-", "_")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database}".encode())
        made = SourceDatabase(urlsplit(server_url)._replace(path=f"/{database}").geturl(), f"bargeline_{database}")
        try:
            yield made
        finally:
            made.close()
            for slot, pid in connection.execute(
                "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s", (database,)
            ).fetchall():
                connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
                connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
            connection.execute(f"DROP DATABASE {database} WITH (FORCE)".encode())


def rebuilt(events: Iterable[dict[str, Any]], table: str) -> Counter[Row]:
    """The rows of a table after the events of its changes, one after another; a repeated id counts once."""
    rows: dict[object, Row] = {}
    seen = set()
    for event in events:
        prefix, _, verb = event["type"].rpartition(".")
        if prefix != table or event["id"] in seen:
            continue
        seen.add(event["id"])
        apply(rows, verb, event)
    return Counter(rows.values())


def apply(rows: dict[object, Row], verb: str, event: dict[str, Any]) -> None:
    """Do to rows, by key, what was done at the source; rows without a key are only ever added."""
    data = event["data"]
    if verb == "truncated":
        rows.clear()
        return
    if verb == "deleted":
        rows.pop(event["key"], None)
        return
    key = event.get("key") or event["id"]
    # Where the key changed the old one says which row it was.
    former = rows.pop(_former(key, data), ())
    kept = {name: value for name, value in former if name in data.get("unchanged", ())}
    new = {name: _text(value) for name, value in data["new"].items()}
    rows[key] = tuple(sorted({**kept, **new}.items()))


def _former(key: str, data: dict[str, Any]) -> str:
    old = data.get("old")
    if old is None or len(old) > 1:
        return key
    return str(next(iter(old.values())))


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


class Cdc:
    """A pipeline that reads a source: its command, and its ingest workers."""

    def __init__(self, folder: Path, redis_url: str, source: SourceDatabase) -> None:
        self.folder = folder
        self._redis_url = redis_url
        self._source = source
        self.started: list[Worker] = []

    def command(self, *arguments: str) -> Result:
        """Run a command in this process, which takes a tenth of the time."""
        given = {"INGEST_CDC_URL": self._source.url, "PIPELINE": str(self.folder), "REDIS_URL": self._redis_url}
        return CliRunner().invoke(root, arguments, env={**given, "DATABASE_URL": self._source.url})

    def create(self, *tables: str) -> None:
        """What `bargeline cdc create` does, in this process."""
        with closing(connect_source(self._source.url, "test")) as connection:
            create_publication(connection, self._source.names, tables)
            create_slot(connection, self._source.names)

    def start(self, **env: Any) -> Worker:
        given = {"INGEST_SOURCE": "cdc", "INGEST_CDC_URL": self._source.url, "SAMPLE_SECONDS": 0.2, **env}
        self.started.append(workers.start("ingest", self._redis_url, "", self.folder, **given))
        return self.started[-1]


def is_reading(worker: Worker) -> bool:
    assert worker.alive, worker.log_text()
    return any(record["event"] == "reading changes" for record in worker.records(action="source"))


def make_items(source: SourceDatabase, count: int) -> None:
    source.run(f"""
        CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL);
        INSERT INTO items SELECT g, 0 FROM generate_series(1, {count}) g
    """)


def catch_up(source: SourceDatabase, stored: Stored) -> None:
    """Wait until the last change of items is there; then the table rebuilt from the events is the table."""
    source.run("INSERT INTO items VALUES (-1, 0)")

    def last_is_there() -> bool:
        newest = [
            Entry(entry_id.decode(), fields) for entry_id, fields in stored.client.xrevrange(stored.key("raw"), count=1)
        ]
        return any(event["data"].get("new", {}).get("id") == -1 for event in stored.decoded(newest))

    until(last_is_there, 60, "the last change")
    assert rebuilt(stored.events(), "items") == source.table("items")
