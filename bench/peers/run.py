"""One run: events are put into Redis, then one worker process is started and its results are counted.

The clock runs from the first results that are seen to the last, and only what came in between counts: neither
the time of putting in nor that of starting is in a figure.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL
from typing import NamedTuple

import psycopg
import redis

from bench import fleet, stage
from bench.ground import Ground
from bench.ground import client as ground_client
from bench.peers.contenders import Peer
from bench.processes import STOP_SECONDS, Measured, Process, finish, raise_ended, stopping, stopwatch
from shared.streams.inspect import ledger

PYTHON = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"
PROGRAMS = Path(__file__).parent / "programs"
#: A run that shows no new result for so long has failed.
PATIENCE_SECONDS = 60
#: Counting the rows of a table costs: not too often.
_LOOK_SECONDS = 0.1

Count = Callable[[], int]


class Watched(NamedTuple):
    """So many events in this time."""

    events: int
    measured: Measured


def peer(ground: Ground, contender: Peer, job: str) -> Watched:
    """The rate of one worker process of a peer; raises RuntimeError unless every event has its one result."""
    log = ground.folder / f"{contender.program}.log"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(ground.folder),
        "REDIS_URL": ground.redis_url,
        "DATABASE_URL": ground.database_url,
        "BYTEWAX_RECOVERY_DIRECTORY": str(_empty_folder(ground.folder / "recovery")),
    }
    messages = min(contender.events, ground.events) // contender.message_events
    events = messages * contender.message_events
    with _program((contender.program, job, str(ground.clicks), str(events)), environment, log) as feeder:
        finish(feeder, log)
    worker = contender.worker.format(job=job).split()
    with _results(ground, contender, job) as count, _program(worker, environment, log) as process:
        return _watch(count, events, process, log)


def ours(ground: Ground, job: str) -> Watched:
    """The rate of Bargeline by the same rule: raw is filled, then a transform starts, for which the others wait."""
    stage.fill(ground, stage.LIGHT)
    others, result = (["loader-1", "janitor-1"], "loaded") if job == "to_table" else ([], "clean.added")
    with fleet.fleet(ground, {}, others, stage.LIGHT) as found, ground_client(ground) as client:
        fleet.start(found, "transform-1")
        process, log = found.processes["transform-1"], found.log("transform-1")
        return _watch(lambda: ledger(client).get(result, 0), ground.events, process, log)


def ours_from_file(ground: Ground) -> Watched:
    """The rate of Bargeline with ingest, as `make bench` measures it."""
    return Watched(ground.events, fleet.measure(ground))


def _empty_folder(parent: Path) -> Path:
    folder = parent / str(time.monotonic_ns())
    folder.mkdir(parents=True)
    return folder


@contextmanager
def _program(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[Process]:
    """Run a module in the peers' environment, in a session of its own: its children end with it."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [PYTHON, "-m", *arguments],
            cwd=PROGRAMS,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    with stopping(process, _stop):
        yield process


def _stop(process: Process) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, SIGKILL)
    process.wait()


@contextmanager
def _results(ground: Ground, contender: Peer, job: str) -> Iterator[Count]:
    """How many results there are, asked over a connection that stays."""
    if job == "to_table":
        with psycopg.connect(ground.database_url, autocommit=True) as connection:
            yield lambda: _rows(connection)
    else:
        with redis.Redis.from_url(ground.redis_url) as client:
            yield lambda: _length(client, contender.clean) * contender.message_events


def _rows(connection: psycopg.Connection) -> int:
    found = connection.execute("SELECT count(*) FROM clicks").fetchone()
    assert found is not None
    return int(found[0])


def _length(client: redis.Redis, key: str) -> int:
    kind = client.type(key)
    if kind == b"none":
        return 0  # and a moment later it may be either
    return int((client.xlen if kind == b"stream" else client.llen)(key))


def _watch(count: Count, events: int, process: Process, log: Path) -> Watched:
    first = _await(count, 1, process, log)
    measured = stopwatch()
    last = _await(count, events, process, log)
    if last != events or first == last:
        raise RuntimeError(f"{log.stem}: {events} events, but {last} results after {first}")
    return Watched(events - first, measured())


def _await(count: Count, wanted: int, process: Process, log: Path) -> int:
    """Wait until there are so many results; return how many there are."""
    seen, deadline = -1, 0.0
    while (found := count()) < wanted:
        if process.poll() is not None:
            raise_ended(process, log)
        if found != seen:
            seen, deadline = found, time.monotonic() + PATIENCE_SECONDS
        elif time.monotonic() > deadline:
            raise RuntimeError(f"{log.stem}: {found} of {wanted} results, and none for {PATIENCE_SECONDS} s")
        time.sleep(_LOOK_SECONDS)
    return found
