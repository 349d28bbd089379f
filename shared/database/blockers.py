"""Transactions that wait for a process that no longer runs: who blocks whom, and ending the blocker."""

from typing import Any

from shared.database.connection import Connection

#: Backends of this role in whose way others stand in line. A frozen process in mid-COPY holds its locks for ever:
#: no time-out of the server ends it, since the server waits for its client.
BLOCKERS = """
SELECT DISTINCT blocker.pid, blocker.application_name
FROM pg_stat_activity AS waiting
CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS blocking (pid)
JOIN pg_stat_activity AS blocker ON blocker.pid = blocking.pid
WHERE waiting.wait_event_type = 'Lock' AND waiting.datname = current_database()
  AND blocker.usename = current_user
"""


def blockers(connection: Connection) -> list[tuple[int, str]]:
    """Process id and application name of backends that block others."""
    rows: list[Any] = connection.execute(BLOCKERS).fetchall()
    return [(row[0], row[1]) for row in rows]


def terminate(connection: Connection, pid: int) -> bool:
    """End a backend; its transaction is rolled back. False if it is gone."""
    rows: list[Any] = connection.execute("SELECT pg_terminate_backend(%s)", [pid]).fetchall()
    return bool(rows[0][0])
