"""Bytewax with what Bargeline does, by hand: 500 clicks in one entry of the stream, and COPY.

No documentation of Bytewax shows this. Duplicates are kept out by a temporary table, since COPY fails on them.
Run by ``python -m bytewax.run with_bytewax_batches:to_table`` or ``…:to_stream``.
"""

import itertools
import os
import sys
from pathlib import Path

import bytewax.operators as op
import psycopg
import redis
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import init_db_dir
from clicks import COLUMNS, Click, read, row, tidied
from pydantic import TypeAdapter
from with_bytewax import StreamSource

CLICKS = TypeAdapter(list[Click])
LINES = 500
ENTRIES = 4


class TablePartition(StatelessSinkPartition[list[Click]]):
    """Some entries in one transaction, by way of a temporary table."""

    def __init__(self) -> None:
        self._connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
        self._connection.execute("CREATE TEMPORARY TABLE staged (LIKE clicks) ON COMMIT DELETE ROWS")

    def write_batch(self, items: list[list[Click]]) -> None:
        """Copy, insert and commit."""
        with self._connection.transaction(), self._connection.cursor() as cursor:
            with cursor.copy(f"COPY staged ({COLUMNS}) FROM STDIN") as copy:
                for click in itertools.chain.from_iterable(items):
                    copy.write_row(row(click))
            cursor.execute("INSERT INTO clicks SELECT * FROM staged ON CONFLICT DO NOTHING")


class TableSink(DynamicSink[list[Click]]):
    """The table of clicks."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> TablePartition:  # noqa: ARG002
        """Connect."""
        return TablePartition()


class CleanPartition(StatelessSinkPartition[list[Click]]):
    """One entry for each that came, in one pipeline."""

    def __init__(self) -> None:
        self._client = redis.Redis.from_url(os.environ["REDIS_URL"])

    def write_batch(self, items: list[list[Click]]) -> None:
        """Add them."""
        with self._client.pipeline(transaction=False) as pipe:
            for clicks in items:
                pipe.xadd("bench:clean", {"data": CLICKS.dump_json(clicks)})
            pipe.execute()


class CleanSink(DynamicSink[list[Click]]):
    """The stream of clean clicks."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> CleanPartition:  # noqa: ARG002
        """Connect."""
        return CleanPartition()


def _flow(name: str, sink: DynamicSink[list[Click]]) -> Dataflow:
    flow = Dataflow(name)
    raw = op.input("read", flow, StreamSource(ENTRIES))
    batches = op.map("parse", raw, CLICKS.validate_json)
    op.output("write", op.map("tidy", batches, lambda clicks: [tidied(click) for click in clicks]), sink)
    return flow


to_table = _flow("to_table", TableSink())
to_stream = _flow("to_stream", CleanSink())

if __name__ == "__main__":
    _, path, events = sys.argv[1:]
    init_db_dir(Path(os.environ["BYTEWAX_RECOVERY_DIRECTORY"]), 1)
    clicks = read(path, int(events))
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        while batch := list(itertools.islice(clicks, LINES)):
            client.xadd("bench:raw", {"data": CLICKS.dump_json(batch)})
