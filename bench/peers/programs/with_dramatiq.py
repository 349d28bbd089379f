"""Dramatiq: actors in eight threads of a worker process.

Run by ``dramatiq with_dramatiq``.
"""

import os
import sys
from functools import cache
from typing import Any

import dramatiq
from clicks import INSERT, Click, read, row, tidied
from dramatiq.brokers.redis import RedisBroker
from psycopg_pool import ConnectionPool

dramatiq.set_broker(RedisBroker(url=os.environ["REDIS_URL"], namespace="bench:dramatiq"))


@cache
def pool() -> ConnectionPool:
    """Connections for the threads of a worker process."""
    return ConnectionPool(os.environ["DATABASE_URL"], min_size=8, open=True)


@dramatiq.actor
def to_table(click: dict[str, Any]) -> None:
    """Insert one click."""
    with pool().connection() as connection:
        connection.execute(INSERT, row(tidied(Click.model_validate(click))))


@dramatiq.actor
def to_stream(click: dict[str, Any]) -> None:
    """Pass one click on to the next stage."""
    clean.send(tidied(Click.model_validate(click)).model_dump())


@dramatiq.actor(queue_name="clean")
def clean(click: dict[str, Any]) -> None:
    """The next stage: another worker's."""


if __name__ == "__main__":
    job, path, events = sys.argv[1:]
    actor = {"to_table": to_table, "to_stream": to_stream}[job]
    for click in read(path, int(events)):
        actor.send(click.model_dump())
