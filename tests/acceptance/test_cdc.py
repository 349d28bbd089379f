"""A database written to by pgbench, carried by a whole fleet through kills of either side, row for row."""

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis

from bargeline.embedded import throwaway
from shared.database import migrate
from shared.errors import BargelineError
from shared.pipeline import load_pipeline
from tests import workers
from tests.changes import SourceDatabase, rebuilt
from tests.wait import until
from tests.workers import Worker

ACCOUNTS = 3_000
TABLES = ("pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history")
#: The statements of pgbench's own script, and rows that come and go.
SCRIPT = f"""
\\set aid random(1, {ACCOUNTS})
\\set gone random(1, {ACCOUNTS})
\\set tid random(1, 10)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = 1;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, 1, :aid, :delta, CURRENT_TIMESTAMP);
DELETE FROM pgbench_accounts WHERE aid = :gone;
INSERT INTO pgbench_accounts VALUES (:aid, 1, :delta, '') ON CONFLICT DO NOTHING;
END;
"""
PIPELINE = """
[pipeline]
name = "{name}"

[[table]]
name = "changes"
event_types = [{types}]
mode = "insert"

[table.columns]
event_id = "$id"
event_type = "$type"
event_key = "$key"
lsn = "lsn"
index = "index"
data = "$data"
"""
MIGRATION = """
CREATE TABLE changes (
    event_id uuid PRIMARY KEY, event_type text NOT NULL, event_key text, lsn pg_lsn NOT NULL, index int NOT NULL,
    data jsonb NOT NULL
);
"""


class Ground:
    """A fleet between a source database that pgbench writes to and a table; whatever can be killed is."""

    def __init__(self, folder: Path, database_url: str, name: str) -> None:
        self._folder = folder
        self._valkey, redis_url = throwaway.start_valkey(folder / "valkey")
        self._source, source_url = self._start_source()
        self.given: dict[str, Any] = {
            "redis_url": redis_url,
            "database_url": database_url,
            "pipeline_folder": _pipeline(folder / "p", name),
            "INGEST_SOURCE": "cdc",
            "INGEST_CDC_URL": source_url,
        }
        self._keys = f"{{{name}}}:"
        self._names = f"bargeline_{name.replace('-', '_')}"
        self.ingest: Worker | None = None

    def source(self) -> SourceDatabase:
        return SourceDatabase(self.given["INGEST_CDC_URL"], self._names)

    def accepted(self) -> int:
        with redis.Redis.from_url(self.given["redis_url"]) as client:
            found: Any = client.hget(f"{self._keys}ledger", "accepted")
        return int(found or 0)

    def unsettled(self) -> int:
        """Entries that were not loaded yet."""
        with redis.Redis.from_url(self.given["redis_url"]) as client:
            found: list[Any] = [client.hlen(f"{self._keys}open:{stage}") for stage in ("raw", "clean")]
        return sum(found)

    def pgbench(self, *arguments: object) -> subprocess.Popen[bytes]:
        tool = Path(psutil.Process(self._source.pid).exe()).with_name("pgbench")
        command = [str(tool), "-n", *map(str, arguments), self.given["INGEST_CDC_URL"]]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill_ingest(self) -> None:
        if self.ingest is not None:
            self.ingest.kill()
            self.ingest.wait()
        self.ingest = workers.start("ingest", **self.given, CONSUMER_NAME="ingest")

    def kill_valkey(self) -> None:
        self._valkey.kill()
        self._valkey.wait()
        self._valkey, _ = throwaway.start_valkey(self._folder / "valkey")

    def kill_source(self) -> None:
        self._source.kill()
        self._source.wait()

        def started() -> bool:
            try:
                self._source, _ = self._start_source()
            except BargelineError:
                return False  # Not all of its processes have ended yet.
            return True

        until(started, what="the source to start again")

    def _start_source(self) -> tuple[subprocess.Popen[bytes], str]:
        return throwaway.start_postgres(self._folder / "source", wal_level="logical", fsync="off")

    def stop(self) -> None:
        if self.ingest is not None:
            workers.end(self.ingest)
        throwaway.stop(self._source)
        throwaway.stop(self._valkey)


@contextmanager
def _grounded(folder: Path, database_url: str, name: str) -> Iterator[Ground]:
    made = Ground(folder, database_url, name)
    try:
        yield made
    except BaseException as error:
        if made.ingest is not None:
            error.add_note(f"--- log of {made.ingest}:\n{made.ingest.log_text()[-4_000:]}")
        raise
    finally:
        made.stop()


def _pipeline(folder: Path, name: str) -> Path:
    types = [f"{table}.{verb}" for table in TABLES for verb in ("created", "updated", "deleted", "truncated")]
    (folder / "migrations").mkdir(parents=True)
    (folder / "pipeline.toml").write_text(PIPELINE.format(name=name, types=", ".join(f'"{one}"' for one in types)))
    (folder / "migrations" / "0001_changes.sql").write_text(MIGRATION)
    return folder


def _loaded(database_url: str) -> list[dict[str, Any]]:
    """The events in the table: what was there at the beginning, then in the order of the source's transactions."""
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT event_id::text, event_type, event_key, data FROM changes ORDER BY lsn, index"
        ).fetchall()
    return [{"id": row[0], "type": row[1], "key": row[2], "data": row[3]} for row in rows]


def _has_loaded_the_last(database_url: str) -> bool:
    with psycopg.connect(database_url) as connection:
        return connection.execute("SELECT FROM changes WHERE event_key = '-1'").fetchone() is not None


@pytest.mark.acceptance
def test_pgbench_through_kills_of_either_side(tmp_path: Path, empty_database_url: str, pipeline_name: str) -> None:
    with _grounded(tmp_path, empty_database_url, pipeline_name) as ground:
        events = _carried(ground, tmp_path, empty_database_url)
    assert sum(one["type"] == "pgbench_accounts.deleted" for one in events) > 100
    assert len({one["id"] for one in events}) == len(events)


def _carried(ground: Ground, tmp_path: Path, empty_database_url: str) -> list[dict[str, Any]]:
    migrate(empty_database_url, load_pipeline(str(ground.given["pipeline_folder"])))
    # Its tables and keys; of its 100,000 accounts a part will do.
    assert ground.pgbench("-i", "-I", "dtp").wait() == 0
    with closing(ground.source()) as source:
        source.run(f"""
            INSERT INTO pgbench_branches VALUES (1, 0);
            INSERT INTO pgbench_tellers SELECT g, 1, 0 FROM generate_series(1, 10) g;
            INSERT INTO pgbench_accounts SELECT g, 1, 0, '' FROM generate_series(1, {ACCOUNTS}) g;
            INSERT INTO pgbench_history SELECT 1, 1, g, 0, now() FROM generate_series(1, 500) g;
        """)
    assert workers.bargeline("cdc", "create", *TABLES, **ground.given).code == 0
    script = tmp_path / "script.sql"
    script.write_text(SCRIPT)
    with workers.running("transform", "loader", "janitor", **ground.given):
        ground.kill_ingest()
        writing = ground.pgbench("-c", 4, "-t", 1_000_000, "-f", script)
        for strike in (ground.kill_ingest, ground.kill_valkey, ground.kill_source, ground.kill_ingest):
            before = ground.accepted()
            until(lambda before=before: ground.accepted() > before + 600, 60, "events to flow")  # type: ignore[misc]
            assert strike is ground.kill_source or writing.poll() is None
            strike()
            if writing.poll() is not None:
                writing = ground.pgbench("-c", 4, "-t", 1_000_000, "-f", script)
        writing.terminate()
        writing.wait()
        with closing(ground.source()) as source:
            clients = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'"
            until(lambda: source.value(clients) == 0, what="pgbench's last transactions to end")
            source.run("INSERT INTO pgbench_accounts VALUES (-1, 1, 0, '')")
            until(lambda: _has_loaded_the_last(empty_database_url) and ground.unsettled() == 0, 60, "every change")
            events = _loaded(empty_database_url)
            for table in TABLES:
                assert rebuilt(events, table) == source.table(table), table
        until(lambda: workers.bargeline("reconcile", **ground.given).code == 0, 60, "the books to balance")
    return events
