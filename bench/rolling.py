"""A rolling restart under a steady load: every worker in turn, by SIGTERM, and how long nothing was loaded.

What is lost or loaded twice on the way would show in the table, which must hold exactly the lines that were written.
"""

import time
from contextlib import ExitStack
from datetime import UTC, datetime

import msgspec
import psycopg

from bench.fleet import fleet, start, until_loaded, until_ready, worker_names
from bench.ground import Ground, rows
from bench.load import Load
from bench.processes import STOP_SECONDS, Process

EVENTS_PER_SECOND = 2_000
_PAUSE_SECONDS = 0.01
#: Before the first restart and after the last, to see the flow itself.
_CALM_SECONDS = 1

_LONGEST_PAUSE = """
SELECT extract(epoch FROM max(pause))::float8
FROM (SELECT committed, committed - lag(committed) OVER (ORDER BY committed) AS pause
      FROM (SELECT DISTINCT pg_xact_commit_timestamp(xmin) AS committed FROM clicks) AS commits) AS pauses
WHERE committed BETWEEN %s AND %s
"""


class Rolling(msgspec.Struct, frozen=True):
    """One rolling restart of so many workers a kind (one janitor); the longest time between two commits of rows."""

    workers: int
    restarts: int
    events: int
    calm_pause_seconds: float
    longest_pause_seconds: float


def measure(ground: Ground, workers: int) -> Rolling:
    """Restart each of ``workers`` of a kind, one after the other, while events flow from a growing log."""
    log = ground.folder / "rolling.log"
    log.unlink(missing_ok=True)
    log.touch()
    names = worker_names(ingest=workers, transform=workers, loader=workers)
    source = {"INGEST_PATH": str(log), "INGEST_FOLLOW": "true", "INGEST_WATCH_SECONDS": "0.02"}
    with ExitStack() as stack:
        found = stack.enter_context(fleet(ground, source, names))
        file = stack.enter_context(log.open("ab", buffering=0))
        load = Load(ground.clicks, EVENTS_PER_SECOND, _PAUSE_SECONDS, file.write)
        load.start()
        stack.callback(load.stop)
        until_loaded(ground, 1)
        marks = [datetime.now(UTC)]
        time.sleep(_CALM_SECONDS)
        marks.append(datetime.now(UTC))
        for name in names:
            _end(found.processes[name])
            start(found, name)
            until_ready(found)
        time.sleep(_CALM_SECONDS)
        marks.append(datetime.now(UTC))
        written = load.stop()
        until_loaded(ground, written)
    if rows(ground) != written:
        raise RuntimeError(f"rolling restart: {written:,} events, but {rows(ground):,} rows in the table")
    calm, longest = (_longest_pause(ground, *marks[index : index + 2]) for index in (0, 1))
    return Rolling(workers, len(names), written, calm, longest)


def _longest_pause(ground: Ground, since: datetime, until: datetime) -> float:
    with psycopg.connect(ground.database_url) as connection:
        found = connection.execute(_LONGEST_PAUSE, [since, until]).fetchone()
    assert found is not None
    return float(found[0])


def _end(process: Process) -> None:
    process.terminate()
    code = process.wait(STOP_SECONDS)
    if code != 0:
        raise RuntimeError(f"a worker that was asked to stop ended with {code}")
