"""The ground that all contenders stand on: the same servers, the same table, the same clicks."""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import redis

from bargeline.embedded import throwaway
from bench.processes import stopping
from shared.database import migrate
from shared.generate import write_clicks
from shared.pipeline import load_pipeline
from shared.streams import Client
from shared.topology import Topology

PIPELINE = "clickstream"
SEED = 2026
#: Only for measuring: what the server says of its statements, of the time of commits, and of its WAL's syncs.
_MEASURING = {
    "shared_preload_libraries": "pg_stat_statements",
    "track_commit_timestamp": "on",
    "track_wal_io_timing": "on",
}
_KEYS = ("{clickstream}:*", "bench:*")
_TABLES = "clicks, mobile_users_by_timezone, load_ledger, load_totals"


@dataclass(frozen=True)
class Ground:
    """Where a contender finds its servers and its clicks: a file of so many events."""

    redis_url: str
    database_url: str
    folder: Path
    clicks: Path
    events: int


@contextmanager
def ground(events: int) -> Iterator[Ground]:
    """Start throw-away servers with durable settings, and write the clicks; everything is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="bargeline-bench-"))
    try:
        clicks = folder / f"clicks-{events}.ndjson"
        write_clicks(clicks, SEED, events)
        valkey, redis_url = throwaway.start_valkey(
            folder / "valkey", "--appendonly", "yes", "--appendfsync", "everysec"
        )
        with stopping(valkey, throwaway.stop):
            postgres, database_url = throwaway.start_postgres(
                folder / "postgres", fsync="on", synchronous_commit="on", **_MEASURING
            )
            with stopping(postgres, throwaway.stop):
                migrate(database_url, load_pipeline(PIPELINE))
                execute(database_url, "CREATE EXTENSION pg_stat_statements")
                yield Ground(redis_url, database_url, folder, clicks, events)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def part(ground: Ground, events: int) -> Ground:
    """The same ground with a file of only the first events."""
    clicks = ground.folder / f"clicks-{events}.ndjson"
    if not clicks.exists():
        with ground.clicks.open("rb") as lines, clicks.open("wb") as out:
            out.writelines(itertools.islice(lines, events))
    return replace(ground, clicks=clicks, events=events)


def reset(ground: Ground) -> None:
    """Empty tables and streams, and let both servers write out what is left of the last run."""
    with redis.Redis.from_url(ground.redis_url) as client:
        for pattern in _KEYS:
            if keys := list(client.scan_iter(match=pattern, count=1_000)):
                client.delete(*keys)
    execute(ground.database_url, f"TRUNCATE {_TABLES}")
    execute(ground.database_url, "CHECKPOINT")


def rows(ground: Ground) -> int:
    """How many clicks the table holds."""
    return int(value(ground.database_url, "SELECT count(*) FROM clicks"))


def execute(database_url: str, statement: str) -> None:
    """Run one statement in a transaction of its own."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(statement)


def value(database_url: str, query: str) -> float:
    """The one number that a query gives."""
    with psycopg.connect(database_url) as connection:
        found = connection.execute(query).fetchone()
    assert found is not None
    return float(found[0])


@contextmanager
def client(ground: Ground) -> Iterator[Client]:
    """A client of the pipeline's keys."""
    found = Client(ground.redis_url, Topology(PIPELINE), "bench")
    try:
        yield found
    finally:
        found.close()


def server_versions(ground: Ground) -> dict[str, str]:
    """Names and versions of the servers."""
    with redis.Redis.from_url(ground.redis_url) as found:
        information = found.info("server")
    with psycopg.connect(ground.database_url) as connection:
        postgres = connection.info.parameter_status("server_version") or "unknown"
    # Valkey also reports the version of Redis that it is compatible with.
    name = "valkey" if "valkey_version" in information else "redis"
    return {name.title(): str(information[f"{name}_version"]), "PostgreSQL": postgres}
