"""Carrying files into a running fleet from the command line: an ingest process, and following what it added."""

import contextlib
import glob
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bargeline.target import Target
from shared.errors import ConfigurationError, Refused, Unreachable
from shared.settings import environment_for
from shared.streams import live_workers
from shared.streams.inspect import checkpoints, figures, last_id, ledger
from shared.streams.keeper import id_order, smallest_open
from shared.topology import GROUP_OF_STAGE, STAGES

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Progress:
    """How far the files are: bytes of the files themselves, and events of the whole pipeline."""

    read_bytes: int
    total_bytes: int
    accepted: int
    loaded: int
    lag: int


@dataclass(frozen=True)
class Carried:
    """What became of the files: events that were new, and dead letters that came of them."""

    new_events: int
    already_read: int
    dead: int


Show = Callable[[Progress], None]


def require_files(paths: Sequence[Path]) -> list[Path]:
    """Absolute paths of files that can be read; raises ConfigurationError that names the first that cannot."""
    for path in paths:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise ConfigurationError(f"{path}: {what}; name a file.")
        if not os.access(path, os.R_OK):
            raise ConfigurationError(f"{path}: may not be read by this user.")
    return [path.absolute() for path in paths]


def require_workers(target: Target) -> None:
    """Raise Unreachable unless somebody transforms and somebody loads."""
    kinds = {lease.kind for lease in live_workers(target.client)}
    missing = [kind for kind in GROUP_OF_STAGE.values() if kind not in kinds]
    if missing:
        raise Unreachable(f"No {' and no '.join(missing)} is running. Start the fleet with `bargeline up`.")


def carry(target: Target, files: Sequence[Path], *, wait: bool, show: Show) -> Carried:
    """Ingest files in a process of their own; with ``wait`` return when every event of them is settled.

    Raises Refused when the ingest process fails. When interrupted it stops after the batch in hand; the
    checkpoint in Redis says where the next run goes on.
    """
    before = _lines(target, files)
    start = ledger(target.client)
    dead_from = last_id(target.client, target.client.topology.dead)
    with _ingest(target, files) as process:
        while process.poll() is None:
            show(_progress(target, files, start))
            time.sleep(_POLL_SECONDS)
    if process.returncode != 0:
        raise Refused(f"The ingest process ended with exit code {process.returncode}; its log is above.")
    if wait:
        _wait_until_settled(target, files, lambda: show(_progress(target, files, start)))
    show(_progress(target, files, start))
    lines = _lines(target, files)
    new = ledger(target.client).get("accepted", 0) - start.get("accepted", 0)
    return Carried(new, sum(min(before.get(name, 0), lines[name]) for name in lines), _dead(target, files, dead_from))


def _lines(target: Target, files: Sequence[Path]) -> dict[str, int]:
    """Lines of each file up to its checkpoint."""
    known = checkpoints(target.client)
    return {str(path): int(known.get(str(path), {}).get("lines", 0)) for path in files}


@contextlib.contextmanager
def _ingest(target: Target, files: Sequence[Path]) -> Iterator[subprocess.Popen[bytes]]:
    environment = environment_for(
        {
            "REDIS_URL": target.redis_url,
            "PIPELINE": str(target.pipeline.folder),
            "CONSUMER_NAME": f"command-{os.getpid()}",
            "METRICS_PORT": "0",
            "INGEST_SOURCE": "file",
            "INGEST_PATH": "\n".join([*(_escape(path) for path in files), ""]),
            "LOG_LEVEL": "warning",
        }
    )
    # Its own session: a Ctrl-C reaches this process, which then stops the other one gently.
    process = subprocess.Popen([sys.executable, "-m", "workers.ingest"], env=environment, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _escape(path: Path) -> str:
    return glob.escape(str(path))


def _progress(target: Target, files: Sequence[Path], start: dict[str, int]) -> Progress:
    known = checkpoints(target.client)
    counters = ledger(target.client)
    in_flight = sum(counters.get(f"{stage}.added", 0) - counters.get(f"{stage}.settled", 0) for stage in STAGES)
    return Progress(
        read_bytes=sum(int(known.get(str(path), {}).get("read", 0)) for path in files),
        total_bytes=sum(path.stat().st_size for path in files),
        accepted=counters.get("accepted", 0) - start.get("accepted", 0),
        loaded=counters.get("loaded", 0) - start.get("loaded", 0),
        lag=in_flight,
    )


def _wait_until_settled(target: Target, files: Sequence[Path], tick: Callable[[], None]) -> None:
    """Wait until nothing that is in the pipeline now is left in it.

    Retries and splits give events new entries; so when any happened while raw was waited for, it is
    waited for once more, up to the newest entry.
    """
    while True:
        moved = _moved(target)
        _wait_below(target, "raw", tick)
        while _retrying(target, files):
            tick()
            time.sleep(_POLL_SECONDS)
        if _moved(target) == moved:
            break
    _wait_below(target, "clean", tick)


def _moved(target: Target) -> list[int]:
    counters = ledger(target.client)
    return [counters.get(name, 0) for name in ("retry.added", "retry.moved", "split")]


def _wait_below(target: Target, stage: str, tick: Callable[[], None]) -> None:
    newest = id_order(last_id(target.client, target.client.topology.stream(stage)))
    while True:
        oldest = smallest_open(target.client, stage)
        if oldest is None or id_order(oldest) > newest:
            return
        tick()
        time.sleep(_POLL_SECONDS)


def _retrying(target: Target, files: Sequence[Path]) -> bool:
    """Whether an event of these files waits for another attempt."""
    if figures(target.client).retry == 0:
        return False
    from shared.events import source_of
    from shared.streams.inspect import entries

    sources = {str(path) for path in files}
    page = entries(target.client, target.client.topology.retry, "-", 10_000)
    return any(source_of(fields[b"d"]) in sources for _, fields in page)


def _dead(target: Target, files: Sequence[Path], after: str) -> int:
    """Dead letters that came of these files since ``after``."""
    from shared.streams.inspect import entries

    sources = {str(path) for path in files}
    found = 0
    while page := entries(target.client, target.client.topology.dead, f"({after}", 500):
        after = page[-1][0]
        found += sum(msgspec.json.decode(fields[b"origin"]).get("source") in sources for _, fields in page)
    return found
