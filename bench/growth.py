"""How the fleet does with more events, with a large table, with more workers, and after its loader stood still."""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import msgspec
import redis

from bench import fleet, floor, stage
from bench.ground import Ground, client, execute, part, reset, rows
from bench.latency import fed_fleet
from bench.processes import STOP_SECONDS, poll
from shared.streams.inspect import ledger

Case = TypeVar("Case")

EVENTS = (100_000, 1_000_000, 5_000_000)
TABLE_ROWS = (0, 1_000_000, 10_000_000)
#: Loaded into each of the tables.
TABLE_EVENTS = 500_000
TRANSFORMS = (1, 2, 4)
LIGHT_EVENTS, COSTLY_EVENTS = 1_000_000, 200_000
DRAIN_PER_SECOND = 10_000
STOPPED_SECONDS = 60.0
_DRAINED_SECONDS = 900


class Drain(msgspec.Struct, frozen=True):
    """A loader that stood still under a steady load: what was held when it came back, and how long that took."""

    per_second: int
    stopped_seconds: float
    waiting_events: int
    redis_bytes: int
    worker_bytes: dict[str, int]
    drain_seconds: float


class Growth(msgspec.Struct, frozen=True):
    """Events a second: by events of a run, by rows in the table before, and of transforms alone by their number."""

    by_events: dict[int, float]
    by_table_rows: dict[int, float]
    light_transforms: dict[int, float]
    costly_transforms: dict[int, float]
    drain: Drain


def measure(ground: Ground, rounds: int) -> Growth:
    """Everything of the above, medians of interleaved rounds where it is a rate; takes 20 to 40 minutes."""
    light, costly = part(ground, LIGHT_EVENTS), part(ground, COSTLY_EVENTS)
    return Growth(
        by_events=_medians("events", EVENTS, rounds, lambda events: _rate(part(ground, events))),
        by_table_rows=by_table_rows(ground, TABLE_ROWS, TABLE_EVENTS, rounds),
        light_transforms=_medians("transforms", TRANSFORMS, rounds, lambda n: stage.measure(light, n, stage.LIGHT)),
        costly_transforms=_medians("100 µs", TRANSFORMS, rounds, lambda n: stage.measure(costly, n, stage.COSTLY)),
        drain=drain(part(ground, LIGHT_EVENTS), DRAIN_PER_SECOND, STOPPED_SECONDS),
    )


def _medians(what: str, cases: Sequence[Case], rounds: int, measure: Callable[[Case], float]) -> dict[Case, float]:
    found: dict[Case, list[float]] = {case: [] for case in cases}
    for number in range(1, rounds + 1):
        for case, rates in found.items():
            rates.append(measure(case))
            print(f"growth {number}/{rounds}: {what} {case:,}: {rates[-1]:,.0f} events/s", file=sys.stderr)
    return {case: statistics.median(rates) for case, rates in found.items()}


def _rate(ground: Ground) -> float:
    reset(ground)
    seconds = fleet.measure(ground).seconds
    if rows(ground) != ground.events:
        raise RuntimeError(f"{ground.events:,} events, but {rows(ground):,} rows in the table")
    return ground.events / seconds


def by_table_rows(ground: Ground, sizes: Sequence[int], events: int, rounds: int) -> dict[int, float]:
    """Rates into tables that hold so many rows already; each is swapped in under the name of the table.

    Sizes are 0 or multiples of a million (or of all events of the ground, where those are fewer).
    """
    chunk = part(ground, min(ground.events, 1_000_000))
    for size in sizes[1:]:
        _make_table(chunk, size)
    numbers = itertools.count()

    def rate(size: int) -> float:
        reset(ground)
        loaded = _renamed(part(ground, events), f"again-{next(numbers)}.ndjson")
        if not size:
            return _rate(loaded)
        _rename(ground, ("clicks", "clicks_empty"), (f"clicks_{size}", "clicks"))
        before = rows(ground)
        seconds = fleet.measure(loaded).seconds
        assert rows(ground) == before + events
        _rename(ground, ("clicks", f"clicks_{size}"), ("clicks_empty", "clicks"))
        return events / seconds

    return _medians("rows in the table", sizes, rounds, rate)


def _make_table(chunk: Ground, size: int) -> None:
    """By COPY of one source after another; the ids of each rise, as those of files that were loaded before."""
    reset(chunk)
    for number in range(size // chunk.events):
        script = floor.copy_script(chunk.clicks, f"before-{number}")
        floor.copy(chunk, script)
        script.unlink()
    # No autovacuum of all this while something is measured.
    execute(chunk.database_url, "VACUUM (FREEZE, ANALYZE) clicks")
    _rename(chunk, ("clicks", f"clicks_{size}"))
    execute(chunk.database_url, f"CREATE TABLE clicks (LIKE clicks_{size} INCLUDING ALL)")


def _renamed(ground: Ground, name: str) -> Ground:
    """The same clicks as a file of another name, and so with other ids: a table that is kept has none of them."""
    clicks = ground.folder / name
    clicks.hardlink_to(ground.clicks)
    return replace(ground, clicks=clicks)


def _rename(ground: Ground, *names: tuple[str, str]) -> None:
    for before, after in names:
        execute(ground.database_url, f"ALTER TABLE {before} RENAME TO {after}")
    execute(ground.database_url, "CHECKPOINT")


def drain(ground: Ground, per_second: int, stopped_seconds: float) -> Drain:
    """Stop the loader under a steady load, start it again, and wait until it has caught up."""
    reset(ground)
    with fed_fleet(ground, fleet.worker_names(), per_second) as (found, load), client(ground) as streams:
        fleet.until_loaded(ground, per_second)
        found.processes["loader-1"].terminate()
        found.processes["loader-1"].wait(STOP_SECONDS)
        time.sleep(stopped_seconds)
        counters, memory = ledger(streams), _used_memory(ground)
        began = time.perf_counter()
        fleet.start(found, "loader-1")
        fleet.until_ready(found)

        def caught_up() -> bool:
            """As near to what was written as it is in a steady flow."""
            return load.written - ledger(streams).get("loaded", 0) <= per_second / 10

        poll(caught_up, _DRAINED_SECONDS, "the backlog drained")
        seconds, peaks = time.perf_counter() - began, fleet.peaks(found)
        fleet.until_loaded(ground, load.stop())
    waiting = counters["accepted"] - counters["loaded"]
    return Drain(per_second, stopped_seconds, waiting, memory, peaks, seconds)


def _used_memory(ground: Ground) -> int:
    with redis.Redis.from_url(ground.redis_url) as found:
        return int(found.info("memory")["used_memory"])
