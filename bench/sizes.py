"""What events and processes need: memory of Redis for a backlog, disk of PostgreSQL, memory of each worker."""

from contextlib import AbstractContextManager, ExitStack
from functools import partial

import msgspec
import psutil
import psycopg
import redis

from bench.fleet import LOADED_SECONDS, READY_SECONDS, all_ready, worker_environment
from bench.ground import PIPELINE, Ground, reset, rows
from bench.processes import Process, poll, python
from shared.streams import Client
from shared.streams.inspect import ledger
from shared.topology import KINDS, Topology

CODECS = ("json", "zstd")


class Sizes(msgspec.Struct, frozen=True):
    """Bytes an event: in Redis while it waits, by codec, and in PostgreSQL with its index; memory by kind of worker."""

    events: int
    redis_bytes: dict[str, float]
    table_bytes: float
    worker_bytes: dict[str, int]


def measure(ground: Ground) -> Sizes:
    """Let ingest fill the stream alone, once for each codec; then let the others drain the last backlog."""
    redis_bytes, peaks = {}, dict[str, int]()
    for codec in CODECS:
        reset(ground)
        with ExitStack() as stack:
            before = _used_memory(ground)
            running = {"ingest": stack.enter_context(_worker(ground, "ingest", codec))}
            poll(partial(_has_accepted, ground), LOADED_SECONDS, "all events accepted")
            redis_bytes[codec] = (_used_memory(ground) - before) / ground.events
            if codec == CODECS[-1]:
                peaks = _drain(ground, stack, running)
    return Sizes(ground.events, redis_bytes, _table_bytes(ground) / ground.events, peaks)


def _drain(ground: Ground, stack: ExitStack, running: dict[str, Process]) -> dict[str, int]:
    """Start the other kinds and load everything; returns the most memory that each worker was seen with."""
    for kind in KINDS[1:]:
        running[kind] = stack.enter_context(_worker(ground, kind, CODECS[-1]))
    logs = {kind: ground.folder / f"sizes-{kind}.log" for kind in running}
    poll(lambda: all_ready(ground, running, logs), READY_SECONDS, "all workers ready")
    peaks = dict.fromkeys(running, 0)

    def loaded() -> bool:
        for kind, process in running.items():
            peaks[kind] = max(peaks[kind], psutil.Process(process.pid).memory_info().rss)
        return rows(ground) >= ground.events

    poll(loaded, LOADED_SECONDS, "all events loaded")
    return peaks


def _worker(ground: Ground, kind: str, codec: str) -> AbstractContextManager[Process]:
    source = {"INGEST_PATH": str(ground.clicks), "INGEST_WATCH": "true", "INGEST_CODEC": codec}
    environment = worker_environment(ground, f"sizes-{kind}", source)
    return python(f"workers.{kind}", environment=environment, log=ground.folder / f"sizes-{kind}.log")


def _has_accepted(ground: Ground) -> bool:
    client = Client(ground.redis_url, Topology(PIPELINE), "bench")
    try:
        return ledger(client).get("accepted", 0) >= ground.events
    finally:
        client.close()


def _used_memory(ground: Ground) -> int:
    with redis.Redis.from_url(ground.redis_url) as client:
        return int(client.info("memory")["used_memory"])


def _table_bytes(ground: Ground) -> int:
    with psycopg.connect(ground.database_url) as connection:
        found = connection.execute("SELECT pg_total_relation_size('clicks')").fetchone()
    assert found is not None
    return int(found[0])
