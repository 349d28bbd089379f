"""Celery: tasks collected by celery-batches, which the documentation of Celery names for that.

Run by ``celery --app with_celery worker``.
"""

import os
import sys
from functools import cache

import psycopg
from celery import Celery
from celery_batches import Batches, SimpleRequest
from clicks import INSERT, Click, read, row, tidied

BATCH = 100

app = Celery("clicks", broker=os.environ["REDIS_URL"])
app.conf.broker_transport_options = {"global_keyprefix": "bench:celery:"}
app.conf.worker_prefetch_multiplier = 10 * BATCH  # has to exceed the batch
app.conf.task_ignore_result = True
app.conf.task_routes = {"clean": {"queue": "clean"}}


@cache
def connection() -> psycopg.Connection:
    """The connection of a worker process."""
    return psycopg.connect(os.environ["DATABASE_URL"])


def clicks_of(requests: list[SimpleRequest]) -> list[Click]:
    """The argument of each request."""
    return [tidied(Click.model_validate(request.args[0])) for request in requests]


@app.task(name="to_table", base=Batches, flush_every=BATCH, flush_interval=1)
def to_table(requests: list[SimpleRequest]) -> None:
    """Insert a batch in one transaction."""
    with connection().transaction(), connection().cursor() as cursor:
        cursor.executemany(INSERT, [row(click) for click in clicks_of(requests)])


@app.task(name="to_stream", base=Batches, flush_every=BATCH, flush_interval=1)
def to_stream(requests: list[SimpleRequest]) -> None:
    """Pass a batch on to the next stage, one task a click."""
    for click in clicks_of(requests):
        clean.delay(click.model_dump())


@app.task(name="clean")
def clean(click: dict[str, str | bool]) -> None:
    """The next stage: another worker's."""


if __name__ == "__main__":
    job, path, events = sys.argv[1:]
    task = {"to_table": to_table, "to_stream": to_stream}[job]
    for click in read(path, int(events)):
        task.delay(click.model_dump())
