"""A loader in the middle of a transaction: it waits for a lock that the test holds."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.wait import until

WAITING = """
SELECT count(*) > 0 FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name LIKE '%% ' || %s
"""


@contextmanager
def waiting(database_url: str, pipeline: str) -> Iterator[None]:
    """Lock the table of clicks; inside, a worker of this pipeline waits for it, its transaction begun."""
    with psycopg.connect(database_url) as locking, psycopg.connect(database_url, autocommit=True) as looking:
        locking.execute("LOCK TABLE clicks IN SHARE MODE")
        until(lambda: looking.execute(WAITING, [pipeline]).fetchone() == (True,), what="a loader to wait")
        yield
