"""Bytewax: a source and sinks of one's own, as its guide to custom connectors builds them, and op.map between.

Run by ``python -m bytewax.run with_bytewax:to_table`` or ``…:to_stream``, with recovery as for production.
"""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bytewax.operators as op
import psycopg
import redis
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import init_db_dir
from clicks import INSERT, Click, read, row, tidied

BATCH = 500


class StreamPartition(StatefulSourcePartition[bytes, str]):
    """A Redis stream, resumed behind the entry read last."""

    def __init__(self, stream: str, count: int, last_id: str | None) -> None:
        self._client = redis.Redis.from_url(os.environ["REDIS_URL"])
        self._stream, self._count, self._last_id = stream, count, last_id or "0"
        self._awake: datetime | None = None

    def next_batch(self) -> list[bytes]:
        """Read without waiting."""
        found = self._client.xread({self._stream: self._last_id}, count=self._count)
        if not found:
            self._awake = datetime.now(UTC) + timedelta(milliseconds=50)
            return []
        self._awake = None
        entries = found[0][1]
        self._last_id = entries[-1][0].decode()
        return [fields[b"data"] for _, fields in entries]

    def next_awake(self) -> datetime | None:
        """At once, unless the stream was empty."""
        return self._awake

    def snapshot(self) -> str:
        """Where to go on after a restart."""
        return self._last_id


class StreamSource(FixedPartitionedSource[bytes, str]):
    """One partition: the stream of raw clicks, so many entries at a time."""

    def __init__(self, count: int) -> None:
        self._count = count

    def list_parts(self) -> list[str]:
        """The stream's key."""
        return ["bench:raw"]

    def build_part(self, step_id: str, for_part: str, resume_state: str | None) -> StreamPartition:  # noqa: ARG002
        """Open it."""
        return StreamPartition(for_part, self._count, resume_state)


class TablePartition(StatelessSinkPartition[Click]):
    """Rows of a batch in one transaction."""

    def __init__(self) -> None:
        self._connection = psycopg.connect(os.environ["DATABASE_URL"])

    def write_batch(self, items: list[Click]) -> None:
        """Insert and commit."""
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(INSERT, [row(click) for click in items])


class TableSink(DynamicSink[Click]):
    """The table of clicks."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> TablePartition:  # noqa: ARG002
        """Connect."""
        return TablePartition()


class CleanPartition(StatelessSinkPartition[Click]):
    """Entries of a batch in one pipeline."""

    def __init__(self) -> None:
        self._client = redis.Redis.from_url(os.environ["REDIS_URL"])

    def write_batch(self, items: list[Click]) -> None:
        """Add them."""
        with self._client.pipeline(transaction=False) as pipe:
            for click in items:
                pipe.xadd("bench:clean", {"data": click.model_dump_json()})
            pipe.execute()


class CleanSink(DynamicSink[Click]):
    """The stream of clean clicks."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> CleanPartition:  # noqa: ARG002
        """Connect."""
        return CleanPartition()


def _flow(name: str, sink: DynamicSink[Click]) -> Dataflow:
    flow = Dataflow(name)
    raw = op.input("read", flow, StreamSource(BATCH))
    clicks = op.map("parse", raw, Click.model_validate_json)
    op.output("write", op.map("tidy", clicks, tidied), sink)
    return flow


to_table = _flow("to_table", TableSink())
to_stream = _flow("to_stream", CleanSink())

if __name__ == "__main__":
    _, path, events = sys.argv[1:]
    init_db_dir(Path(os.environ["BYTEWAX_RECOVERY_DIRECTORY"]), 1)
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client, client.pipeline(transaction=False) as pipe:
        for click in read(path, int(events)):
            pipe.xadd("bench:raw", {"data": click.model_dump_json()})
        pipe.execute()
