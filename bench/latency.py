"""Latency at a steady rate, event by event: from accepted to committed.

Clicks have no time of their own, so a row's ``occurred_at`` is the moment in which ingest had read its line, just
before it adds the batch to Redis. ``pg_xact_commit_timestamp(xmin)`` is the moment in which PostgreSQL wrote the row's
commit, just before it syncs the log. What such a sync took on average meanwhile (pg_stat_io) is therefore added.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
import psycopg

from bench.fleet import Fleet, fleet, until_loaded, worker_names
from bench.ground import Ground, execute, value
from bench.load import Load

RATES = (100, 2_000, 20_000)
SECONDS = 10.0
_WARM_UP_SECONDS = 2.0
#: Short, so that few lines arrive together; ingest takes what is there.
_PAUSE_SECONDS = 0.001

_MILLISECONDS = """
SELECT 1000 * extract(epoch FROM pg_xact_commit_timestamp(xmin) - occurred_at)::float8 AS ms
FROM clicks
WHERE occurred_at >= (SELECT min(occurred_at) FROM clicks) + make_interval(secs => %s)
ORDER BY ms
"""
_SYNC_MILLISECONDS = "SELECT sum(fsync_time) / nullif(sum(fsyncs), 0) FROM pg_stat_io WHERE object = 'wal'"


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds from accepted to committed at a steady rate; each figure has ``sync_ms`` in it."""

    per_second: int
    reached_per_second: float
    events: int
    sync_ms: float
    p50_ms: float
    p99_ms: float
    p999_ms: float


def measure(ground: Ground, per_second: int, seconds: float = SECONDS) -> Latency:
    """Feed one worker of each kind for some seconds; the first two are not counted."""
    with fed_fleet(ground, worker_names(), per_second) as (_, load):
        execute(ground.database_url, "SELECT pg_stat_reset_shared('io')")
        began = time.perf_counter()
        time.sleep(_WARM_UP_SECONDS + seconds)
        written = load.stop()
        elapsed = time.perf_counter() - began
        until_loaded(ground, written)
        time.sleep(1)  # a backend reports its statistics at most once a second
    sync_ms = value(ground.database_url, _SYNC_MILLISECONDS)
    with psycopg.connect(ground.database_url) as connection:
        times = [float(row[0]) + sync_ms for row in connection.execute(_MILLISECONDS, [_WARM_UP_SECONDS])]
    p50, p99, p999 = (percentile(times, share) for share in (0.5, 0.99, 0.999))
    return Latency(per_second, written / elapsed, len(times), sync_ms, p50, p99, p999)


def medians(found: Sequence[Latency]) -> list[Latency]:
    """Of each rate the measurement in the middle by p50; of two, the slower.

    Within minutes a sync of the log may take three times as long, and all else with it.
    """
    by_rate: dict[int, list[Latency]] = {}
    for one in sorted(found, key=lambda one: (one.per_second, one.p50_ms)):
        by_rate.setdefault(one.per_second, []).append(one)
    return [some[len(some) // 2] for some in by_rate.values()]


@contextmanager
def fed_fleet(ground: Ground, names: Sequence[str], per_second: int) -> Iterator[tuple[Fleet, Load]]:
    """A fleet whose one ingest reads a steady load from its standard input."""
    with fleet(ground, {"INGEST_SOURCE": "stdin"}, names) as found:
        pipe = found.processes["ingest-1"].stdin
        assert pipe is not None

        def write(lines: bytes) -> None:
            # Unbuffered on our side: nothing waits here for more.
            pipe.write(lines)
            pipe.flush()

        load = Load(ground.clicks, per_second, _PAUSE_SECONDS, write)
        load.start()
        try:
            yield found, load
        finally:
            load.end()


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed: one of them, by nearest rank."""
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]
