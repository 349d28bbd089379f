"""Recovery: kill -9 of a worker under a steady load, which is started again at once, as its supervisor would.

Told by the rows themselves: when they were accepted (``occurred_at``), and when they were committed.
"""

import time
from datetime import UTC, datetime

import msgspec
import psycopg

from bench.fleet import start, until_loaded, until_ready, worker_names
from bench.ground import Ground
from bench.latency import fed_fleet

EVENTS_PER_SECOND = 2_000
#: Kind of the victim, and how many of it there are.
CASES = (("transform", 1), ("transform", 2), ("loader", 1), ("loader", 2))
_FLOW_SECONDS = 2

_COMMITS = """
SELECT min(pg_xact_commit_timestamp(xmin)) FILTER (WHERE occurred_at > %(at)s),
       max(pg_xact_commit_timestamp(xmin)) FILTER (WHERE occurred_at <= %(at)s)
FROM clicks
"""


class Recovery(msgspec.Struct, frozen=True):
    """Seconds from kill -9 to the commit of the first event accepted after it, and of the last accepted before it."""

    kind: str
    workers: int
    next_seconds: float
    held_seconds: float


def measure(ground: Ground, kind: str, workers: int) -> Recovery:
    """Kill one of so many workers of a kind while events flow."""
    names = worker_names(**{kind: workers})
    with fed_fleet(ground, names, EVENTS_PER_SECOND) as (found, load):
        time.sleep(_FLOW_SECONDS)
        victim = f"{kind}-1"
        at = datetime.now(UTC)
        found.processes[victim].kill()
        found.processes[victim].wait()
        start(found, victim)
        until_ready(found)
        time.sleep(_FLOW_SECONDS)
        until_loaded(ground, load.stop())
    with psycopg.connect(ground.database_url) as connection:
        row = connection.execute(_COMMITS, {"at": at}).fetchone()
    assert row is not None
    first_after, last_before = row
    return Recovery(kind, workers, (first_after - at).total_seconds(), max((last_before - at).total_seconds(), 0.0))
