"""The ground that all contenders stand on: the same servers, the same table, the same clicks."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis

from bargeline.embedded import throwaway
from bench.processes import stopping
from shared.database import migrate
from shared.generate import write_clicks
from shared.pipeline import load_pipeline

PIPELINE = "clickstream"
SEED = 2026
_KEYS = ("{clickstream}:*", "bench:*")
_TABLES = "clicks, mobile_users_by_timezone, load_ledger, load_totals"


@dataclass(frozen=True)
class Ground:
    """Where a contender finds its servers and its clicks."""

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
        clicks = folder / "clicks.ndjson"
        write_clicks(clicks, SEED, events)
        valkey, redis_url = throwaway.start_valkey(
            folder / "valkey", "--appendonly", "yes", "--appendfsync", "everysec"
        )
        with stopping(valkey, throwaway.stop):
            postgres, database_url = throwaway.start_postgres(folder / "postgres", fsync="on", synchronous_commit="on")
            with stopping(postgres, throwaway.stop):
                migrate(database_url, load_pipeline(PIPELINE))
                yield Ground(redis_url, database_url, folder, clicks, events)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reset(ground: Ground) -> None:
    """Empty tables and streams, and let both servers write out what is left of the last run."""
    with redis.Redis.from_url(ground.redis_url) as client:
        for pattern in _KEYS:
            if keys := list(client.scan_iter(match=pattern, count=1_000)):
                client.delete(*keys)
    with psycopg.connect(ground.database_url, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {_TABLES}")
        connection.execute("CHECKPOINT")


def rows(ground: Ground) -> int:
    """How many clicks the table holds."""
    with psycopg.connect(ground.database_url) as connection:
        found = connection.execute("SELECT count(*) FROM clicks").fetchone()
    assert found is not None
    return int(found[0])


def server_versions(ground: Ground) -> dict[str, str]:
    """Names and versions of the servers."""
    with redis.Redis.from_url(ground.redis_url) as client:
        information = client.info("server")
    with psycopg.connect(ground.database_url) as connection:
        postgres = connection.info.parameter_status("server_version") or "unknown"
    # Valkey also reports the version of Redis that it is compatible with.
    name = "valkey" if "valkey_version" in information else "redis"
    return {name.title(): str(information[f"{name}_version"]), "PostgreSQL": postgres}
