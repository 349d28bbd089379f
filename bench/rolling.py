"""A rolling restart under a steady load: every worker in turn, by SIGTERM, and how long nothing was loaded.

What is lost or loaded twice on the way would show in the table, which must hold exactly the lines that were written.
"""

import itertools
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import msgspec

from bench.fleet import READY_SECONDS, all_ready, worker_environment
from bench.ground import PIPELINE, Ground, rows
from bench.processes import STOP_SECONDS, Process, poll, python
from shared.database import connect
from shared.database.load import total_loaded
from shared.topology import KINDS, Topology

EVENTS_PER_SECOND = 2_000
_PAUSE_SECONDS = 0.01
_LOOK_SECONDS = 0.002
_SETTLED_SECONDS = 60
#: Before the first restart and after the last, to see the flow itself.
_CALM_SECONDS = 1


class Rolling(msgspec.Struct, frozen=True):
    """One rolling restart of so many workers a kind (one janitor); the longest time without a loaded event."""

    workers: int
    restarts: int
    events: int
    calm_pause_seconds: float
    longest_pause_seconds: float


class _Load(threading.Thread):
    """Appends lines to a log at a steady rate until it is told to stop."""

    def __init__(self, clicks: Path, log: Path) -> None:
        super().__init__(name="load", daemon=True)
        #: Over and over again: a line has another id at another place.
        self._lines = itertools.cycle(clicks.read_bytes().splitlines(keepends=True))
        self._log = log
        self._ended = threading.Event()
        self.written = 0

    def run(self) -> None:
        began = time.perf_counter()
        with self._log.open("ab", buffering=0) as log:
            while not self._ended.wait(_PAUSE_SECONDS):
                due = int((time.perf_counter() - began) * EVENTS_PER_SECOND) - self.written
                log.write(b"".join(itertools.islice(self._lines, due)))
                self.written += due

    def stop(self) -> int:
        """Write no more; returns how many lines were written."""
        self._ended.set()
        self.join()
        return self.written


class _Watch(threading.Thread):
    """Notes the longest time in which the count of loaded events stood still."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(name="watch", daemon=True)
        self._url = ground.database_url
        self._ended = threading.Event()
        self.loaded = 0
        self.longest_seconds = 0.0

    def run(self) -> None:
        stream = Topology(PIPELINE).stream("clean")
        with connect(self._url, "bench") as connection:
            connection.autocommit = True
            changed_at = time.perf_counter()
            while not self._ended.wait(_LOOK_SECONDS):
                loaded, now = total_loaded(connection, stream), time.perf_counter()
                if self.loaded:
                    self.longest_seconds = max(self.longest_seconds, now - changed_at)
                if loaded != self.loaded:
                    self.loaded, changed_at = loaded, now

    def lap(self) -> float:
        """The longest pause since the last lap."""
        longest, self.longest_seconds = self.longest_seconds, 0.0
        return longest

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self.join()


def measure(ground: Ground, workers: int) -> Rolling:
    """Restart each of ``workers`` of a kind, one after the other, while events flow from a growing log."""
    log = ground.folder / "rolling.log"
    log.unlink(missing_ok=True)
    log.touch()
    names = [f"{kind}-{number}" for kind in KINDS for number in range(1, (1 if kind == "janitor" else workers) + 1)]
    with ExitStack() as stack:
        running = {name: stack.enter_context(_worker(ground, name, log)) for name in names}
        _until_ready(ground, running)
        load, watch = _Load(ground.clicks, log), _Watch(ground)
        load.start()
        watch.start()
        stack.callback(watch.stop)
        poll(lambda: watch.loaded > 0, READY_SECONDS, "events to flow")
        calm = _calm_pause(watch)
        for name in names:
            _end(running[name])
            running[name] = stack.enter_context(_worker(ground, name, log))
            _until_ready(ground, running)
        time.sleep(_CALM_SECONDS)
        written, longest = load.stop(), watch.lap()
        poll(lambda: watch.loaded >= written, _SETTLED_SECONDS, "all events loaded")
    if rows(ground) != written:
        raise RuntimeError(f"rolling restart: {written:,} events, but {rows(ground):,} rows in the table")
    return Rolling(workers, len(names), written, calm, longest)


def _calm_pause(watch: _Watch) -> float:
    watch.lap()
    time.sleep(_CALM_SECONDS)
    return watch.lap()


def _worker(ground: Ground, name: str, log: Path) -> AbstractContextManager[Process]:
    kind = name.partition("-")[0]
    source = {"INGEST_PATH": str(log), "INGEST_FOLLOW": "true", "INGEST_WATCH_SECONDS": "0.02"}
    environment = worker_environment(ground, f"rolling-{name}", source)
    return python(f"workers.{kind}", environment=environment, log=ground.folder / f"rolling-{name}.log")


def _until_ready(ground: Ground, running: Mapping[str, Process]) -> None:
    logs = {name: ground.folder / f"rolling-{name}.log" for name in running}
    poll(lambda: all_ready(ground, running, logs), READY_SECONDS, "all workers ready")


def _end(process: Process) -> None:
    process.terminate()
    code = process.wait(STOP_SECONDS)
    if code != 0:
        raise RuntimeError(f"a worker that was asked to stop ended with {code}")
