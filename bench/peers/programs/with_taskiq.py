"""Taskiq: async tasks over a Redis stream, many at a time.

Run by ``taskiq worker with_taskiq:broker``.
"""

import asyncio
import os
import sys
from typing import Annotated

from clicks import INSERT, Click, read, row, tidied
from psycopg_pool import AsyncConnectionPool
from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(os.environ["REDIS_URL"], queue_name="bench:taskiq")


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def startup(state: TaskiqState) -> None:
    """Connections for all tasks of the worker."""
    state.pool = AsyncConnectionPool(os.environ["DATABASE_URL"], min_size=10, open=False)
    await state.pool.open(wait=True)


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def shutdown(state: TaskiqState) -> None:
    """Close them."""
    await state.pool.close()


@broker.task(task_name="to_table")
async def to_table(click: Click, context: Annotated[Context, TaskiqDepends()]) -> None:
    """Insert one click."""
    async with context.state.pool.connection() as connection:
        await connection.execute(INSERT, row(tidied(click)))


@broker.task(task_name="to_stream")
async def to_stream(click: Click) -> None:
    """Pass one click on to the next stage."""
    await clean.kiq(tidied(click))


@broker.task(task_name="clean", queue_name="bench:clean")
async def clean(click: Click) -> None:
    """The next stage: another worker's."""


async def _feed(job: str, path: str, events: int) -> None:
    await broker.startup()
    task = {"to_table": to_table, "to_stream": to_stream}[job]
    for click in read(path, events):
        await task.kiq(click)
    await broker.shutdown()


if __name__ == "__main__":
    job, path, events = sys.argv[1:]
    asyncio.run(_feed(job, path, int(events)))
