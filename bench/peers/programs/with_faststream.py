"""FastStream: a subscriber that takes a stream in batches, and a pipeline for what it publishes.

Run by ``faststream run with_faststream:to_table`` or ``…:to_stream``.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from clicks import INSERT, Click, read, row, tidied
from faststream import Context, ContextRepo, FastStream
from faststream.redis import RedisBroker, StreamSub
from faststream.redis.annotations import Pipeline

RAW = StreamSub("bench:raw", group="clicks", consumer="one", batch=True, max_records=500, last_id="0")


@asynccontextmanager
async def connected(context: ContextRepo) -> AsyncIterator[None]:
    """One connection for the life of the application."""
    async with await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"]) as connection:
        context.set_global("connection", connection)
        yield


table_broker = RedisBroker(os.environ["REDIS_URL"])
to_table = FastStream(table_broker, lifespan=connected)

stream_broker = RedisBroker(os.environ["REDIS_URL"])
to_stream = FastStream(stream_broker)


@table_broker.subscriber(stream=RAW)
async def load(clicks: list[Click], connection: psycopg.AsyncConnection = Context()) -> None:  # noqa: B008
    """Insert a batch in one transaction."""
    async with connection.transaction(), connection.cursor() as cursor:
        await cursor.executemany(INSERT, [row(tidied(click)) for click in clicks])


@stream_broker.subscriber(stream=RAW)
async def pass_on(clicks: list[Click], pipe: Pipeline) -> None:
    """Publish a batch in one pipeline."""
    for click in clicks:
        await stream_broker.publish(tidied(click), stream="bench:clean", pipeline=pipe)
    await pipe.execute()


async def _feed(path: str, events: int) -> None:
    broker = RedisBroker(os.environ["REDIS_URL"])
    async with broker, (await broker.connect()).pipeline() as pipe:
        for click in read(path, events):
            await broker.publish(click, stream="bench:raw", pipeline=pipe)
        await pipe.execute()


if __name__ == "__main__":
    _, path, events = sys.argv[1:]
    asyncio.run(_feed(path, int(events)))
