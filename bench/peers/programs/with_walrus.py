"""Walrus: a consumer group, read in batches by a loop of one's own.

Run by ``python with_walrus.py to_table`` or ``… to_stream``.
"""

import os
import sys
from collections.abc import Callable

import psycopg
from clicks import INSERT, Click, read, row, tidied
from walrus import Database

BATCH = 500

database = Database.from_url(os.environ["REDIS_URL"])


def to_table() -> None:
    """Insert each batch in one transaction."""
    connection = psycopg.connect(os.environ["DATABASE_URL"])

    def load(clicks: list[Click]) -> None:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(INSERT, [row(click) for click in clicks])

    consume(load)


def to_stream() -> None:
    """Add each batch in one pipeline."""

    def pass_on(clicks: list[Click]) -> None:
        with database.pipeline(transaction=False) as pipe:
            for click in clicks:
                pipe.xadd("bench:clean", {"data": click.model_dump_json()})
            pipe.execute()

    consume(pass_on)


def consume(handle: Callable[[list[Click]], None]) -> None:
    """Read, handle and acknowledge, for ever."""
    group = database.consumer_group("clicks", "bench:raw", consumer="one")
    group.create()
    group.set_id("0")
    while True:
        for key, entries in group.read(count=BATCH, block=1_000):
            handle([tidied(Click.model_validate_json(fields[b"data"])) for _, fields in entries])
            database.xack(key, group.name, *(entry_id for entry_id, _ in entries))


def feed(path: str, events: int) -> None:
    """Add the first clicks of a file."""
    with database.pipeline(transaction=False) as pipe:
        for click in read(path, events):
            pipe.xadd("bench:raw", {"data": click.model_dump_json()})
        pipe.execute()


if __name__ == "__main__":
    job, *feeding = sys.argv[1:]
    if feeding:
        feed(feeding[0], int(feeding[1]))
    else:
        {"to_table": to_table, "to_stream": to_stream}[job]()
