"""The naive loop, as guides to Redis streams show it: one event at a time, one hop.

The producer adds every event with a round trip of its own. The consumer reads ten, checks each with
pydantic, inserts it, commits, and acknowledges it.
"""

import itertools
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psycopg
import pydantic
import redis

from bench.ground import Ground
from bench.processes import Measured, finish, go, prepared, python, stopwatch, wait_ready

STREAM = "bench:naive"
GROUP = "loader"
READ_COUNT = 10

_INSERT = """
INSERT INTO clicks (event_id, occurred_at, click_id, os_name, os_timezone, device_type, device_is_mobile,
                    user_domain_id, payload)
VALUES (%(event_id)s, %(occurred_at)s, %(click_id)s, %(os_name)s, %(os_timezone)s, %(device_type)s,
        %(device_is_mobile)s, %(user_domain_id)s, %(payload)s)
"""


class Click(pydantic.BaseModel):
    """One click."""

    click_id: str
    os: str
    os_name: str
    os_timezone: str
    device_type: str
    device_is_mobile: bool
    user_custom_id: str
    user_domain_id: str


def measure(ground: Ground) -> Measured:
    """Seconds from the first XADD to the last acknowledgement."""
    logs = {role: ground.folder / f"naive-{role}.log" for role in ("consume", "produce")}
    shared = (ground.redis_url, str(ground.events))
    with (
        python("bench.naive", "consume", *shared, ground.database_url, log=logs["consume"]) as consumer,
        python("bench.naive", "produce", *shared, str(ground.clicks), log=logs["produce"]) as producer,
    ):
        wait_ready(consumer, logs["consume"])
        wait_ready(producer, logs["produce"])
        measured = stopwatch()
        go(consumer)
        go(producer)
        finish(producer, logs["produce"])
        finish(consumer, logs["consume"])
        return measured()


def produce(redis_url: str, events: int, clicks: Path) -> None:
    """Add the first events of the file."""
    with redis.Redis.from_url(redis_url) as client, clicks.open("rb") as lines:
        client.ping()
        prepared()
        for line in itertools.islice(lines, events):
            client.xadd(STREAM, {"data": line})


def consume(redis_url: str, events: int, database_url: str) -> None:
    """Load so many events, one by one."""
    with redis.Redis.from_url(redis_url) as client, psycopg.connect(database_url) as connection:
        client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        prepared()
        loaded = 0
        while loaded < events:
            for _, entries in client.xreadgroup(GROUP, "naive-1", {STREAM: ">"}, count=READ_COUNT, block=1_000):
                for entry_id, fields in entries:
                    _load(connection, fields[b"data"])
                    client.xack(STREAM, GROUP, entry_id)
                loaded += len(entries)


def _load(connection: psycopg.Connection, data: bytes) -> None:
    click = Click.model_validate_json(data)
    row = {"event_id": uuid4(), "occurred_at": datetime.now(UTC), "payload": data.decode(), **click.model_dump()}
    connection.execute(_INSERT, row)
    connection.commit()


if __name__ == "__main__":
    role, url, count, place = sys.argv[1:]
    if role == "produce":
        produce(url, int(count), Path(place))
    else:
        consume(url, int(count), place)
