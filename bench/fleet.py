"""This fleet: one process of each kind, as a supervisor would start them, from a file into the table."""

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from bench.ground import PIPELINE, Ground
from bench.processes import Measured, Process, poll, python, raise_ended, stopwatch
from shared.database import connect
from shared.database.load import total_loaded
from shared.settings import OWN_PREFIXES, SHARED_PREFIXES, VARIABLES
from shared.streams import Client, live_workers
from shared.topology import KINDS, Topology

READY_SECONDS = 30
LOADED_SECONDS = 120
_WATCH_SECONDS = 0.02


def measure(ground: Ground) -> Measured:
    """Seconds from the appearance of the file to the commit of its last row."""
    inbox = ground.folder / "inbox"
    inbox.mkdir(exist_ok=True)
    arrived = inbox / ground.clicks.name
    with ExitStack() as stack:
        logs = {kind: ground.folder / f"{kind}.log" for kind in KINDS}
        source = {
            "INGEST_PATH": str(inbox / "*.ndjson"),
            "INGEST_WATCH": "true",
            "INGEST_WATCH_SECONDS": str(_WATCH_SECONDS),
        }
        workers = {
            kind: stack.enter_context(
                python(
                    f"workers.{kind}", environment=worker_environment(ground, f"bench-{kind}", source), log=logs[kind]
                )
            )
            for kind in KINDS
        }
        stack.callback(arrived.unlink, missing_ok=True)
        poll(lambda: all_ready(ground, workers, logs), READY_SECONDS, "all workers ready")
        connection = stack.enter_context(connect(ground.database_url, "bench"))
        connection.autocommit = True
        stream = Topology(PIPELINE).stream("clean")
        measured = stopwatch()
        arrived.hardlink_to(ground.clicks)
        poll(lambda: total_loaded(connection, stream) >= ground.events, LOADED_SECONDS, "all events loaded")
        return measured()


def worker_environment(ground: Ground, consumer: str, source: Mapping[str, str]) -> dict[str, str]:
    """Environment of a worker: the ground's servers, a name, what ingest reads, and nothing of ours from outside."""
    ours = (*OWN_PREFIXES, *SHARED_PREFIXES)
    inherited = {
        name: value for name, value in os.environ.items() if name not in VARIABLES and not name.startswith(ours)
    }
    return inherited | {
        "REDIS_URL": ground.redis_url,
        "DATABASE_URL": ground.database_url,
        "PIPELINE": PIPELINE,
        "CONSUMER_NAME": consumer,
        **source,
        "LOG_LEVEL": "warning",
        "BARGELINE_VAR": str(ground.folder / "var"),
    }


def all_ready(ground: Ground, workers: Mapping[str, Process], logs: Mapping[str, Path]) -> bool:
    """Whether each worker holds its lease and says that it is ready; raises RuntimeError when one ended."""
    for kind, process in workers.items():
        if process.poll() is not None:
            raise_ended(process, logs[kind])
    client = Client(ground.redis_url, Topology(PIPELINE), "bench")
    try:
        leases = live_workers(client)
    finally:
        client.close()
    return len(leases) == len(workers) and all(_ready(lease.metrics) for lease in leases)


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError:
        return False
