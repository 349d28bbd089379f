"""What an event needs: memory of Redis while it waits, by stage and codec, and disk of PostgreSQL."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import redis

from bench.fleet import Fleet, fleet, patience, start, until_loaded
from bench.ground import PIPELINE, Ground, client, reset, value
from bench.processes import STOP_SECONDS, poll
from shared.streams.inspect import ledger
from shared.topology import Topology

#: The default, whatever it is, and what ingest can be set to.
CODECS = ("default", "json", "zstd")
_STILL_SECONDS = 0.5
_ROW_BYTES = "SELECT pg_total_relation_size('clicks')::float8 / count(*) FROM clicks"


class Sizes(msgspec.Struct, frozen=True):
    """Bytes an event: in Redis while it waits in raw, by codec; in clean, by default; in PostgreSQL with its index."""

    events: int
    raw_bytes: dict[str, float]
    clean_bytes: float
    table_bytes: float

    @property
    def default_bytes(self) -> float:
        """The more of both stages, as everything is set by default."""
        return max(self.raw_bytes["default"], self.clean_bytes)


def measure(ground: Ground) -> Sizes:
    """Let ingest fill the raw stream alone, as far as it will go; the default way then transform clean, and load it."""
    raw = {}
    for codec in CODECS[1:]:
        with _filled(ground, codec) as (_, events):
            raw[codec] = _stage_bytes(ground, "raw") / events
    with _filled(ground, CODECS[0]) as (found, events):
        raw[CODECS[0]] = _stage_bytes(ground, "raw") / events
        _end(found, "ingest-1")
        start(found, "transform-1")
        mapped = _until_still(ground, "mapped")
        clean = _stage_bytes(ground, "clean") / mapped
        start(found, "loader-1")
        until_loaded(ground, events)
        return Sizes(events, raw, clean, value(ground.database_url, _ROW_BYTES))


@contextmanager
def _filled(ground: Ground, codec: str) -> Iterator[tuple[Fleet, int]]:
    """A running ingest that has nothing more to do or is at the mark, and how many events it has accepted."""
    reset(ground)
    setting = {} if codec == "default" else {"INGEST_CODEC": codec}
    source = {"INGEST_PATH": str(ground.clicks), "INGEST_WATCH": "true", **setting}
    with fleet(ground, source, ["ingest-1"]) as found:
        yield found, _until_still(ground, "accepted")


def _end(fleet: Fleet, name: str) -> None:
    process = fleet.processes.pop(name)
    process.terminate()
    process.wait(STOP_SECONDS)


def _until_still(ground: Ground, counter: str) -> int:
    """Wait until a counter of the ledger has risen, and rises no more; returns it."""
    seen, since = 0, time.monotonic()

    def still() -> bool:
        nonlocal seen, since
        now = ledger(streams).get(counter, 0)
        if now != seen:
            seen, since = now, time.monotonic()
        return bool(seen) and time.monotonic() - since > _STILL_SECONDS

    with client(ground) as streams:
        poll(still, patience(ground.events), f"{counter} events at rest")
    return seen


def _stage_bytes(ground: Ground, stage: str) -> int:
    """Memory of a stage's stream and of the hash beside it, every entry looked at."""
    names = Topology(PIPELINE)
    with redis.Redis.from_url(ground.redis_url) as found:
        return sum(int(found.memory_usage(key, samples=0) or 0) for key in (names.stream(stage), names.open(stage)))
