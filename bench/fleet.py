"""This fleet: its processes as a supervisor would start them, from a source into the table."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import TimeoutExpired

from bench.cpu import peak_bytes
from bench.ground import PIPELINE, Ground, client
from bench.processes import STOP_SECONDS, Measured, Process, poll, python, raise_ended, stopwatch
from shared.probe import probe
from shared.settings import OWN_PREFIXES, SHARED_PREFIXES, VARIABLES
from shared.streams import live_workers
from shared.streams.inspect import ledger
from shared.topology import KINDS

PIPELINES = Path(__file__).parent / "pipelines"
READY_SECONDS = 30
_WATCH_SECONDS = 0.02
#: Slower than this and something is broken.
_LEAST_RATE = 2_000


@dataclass(frozen=True)
class Fleet:
    """Running workers under their names, such as ``loader-2``."""

    ground: Ground
    source: Mapping[str, str]
    pipeline: str
    stack: ExitStack
    processes: dict[str, Process] = field(default_factory=dict)

    def log(self, name: str) -> Path:
        """Where a worker writes what it logs."""
        return self.ground.folder / f"{name}.log"


@contextmanager
def fleet(ground: Ground, source: Mapping[str, str], names: Sequence[str], pipeline: str = PIPELINE) -> Iterator[Fleet]:
    """Run the named workers; yields when all are ready. ``source`` says what ingest reads."""
    with ExitStack() as stack:
        found = Fleet(ground, source, pipeline, stack)
        try:
            for name in names:
                start(found, name)
            until_ready(found)
            yield found
        finally:
            _end_all(found)


def _end_all(fleet: Fleet) -> None:
    """Ask all at once; the stack sees to those that do not end."""
    for process in fleet.processes.values():
        process.terminate()
    for process in fleet.processes.values():
        with suppress(TimeoutExpired):
            process.wait(STOP_SECONDS)


def worker_names(**numbers: int) -> list[str]:
    """One worker of each kind, or as many as asked for: ``worker_names(loader=2)``."""
    return [f"{kind}-{number}" for kind in KINDS for number in range(1, numbers.get(kind, 1) + 1)]


def start(fleet: Fleet, name: str) -> None:
    """Start a worker, or start it again after it has ended."""
    environment = _worker_environment(fleet.ground, f"bench-{name}", fleet.source) | {"PIPELINE": fleet.pipeline}
    kind = name.partition("-")[0]
    process = fleet.stack.enter_context(python(f"workers.{kind}", environment=environment, log=fleet.log(name)))
    fleet.processes[name] = process


def until_ready(fleet: Fleet) -> None:
    """Wait until each worker holds its lease and says that it is ready; raises RuntimeError when one ended."""
    poll(lambda: _all_ready(fleet), READY_SECONDS, "all workers ready")


def until_loaded(ground: Ground, events: int) -> None:
    """Wait until so many events are committed and settled."""
    with client(ground) as found:
        poll(lambda: ledger(found).get("loaded", 0) >= events, patience(events), f"{events:,} events loaded")


def patience(events: int) -> float:
    """Seconds after which so many events are given up."""
    return 60 + events / _LEAST_RATE


def measure(ground: Ground, *, loaders: int = 1, pipeline: str = PIPELINE) -> Measured:
    """Seconds from the appearance of the file until its last row is committed, and settled in Redis."""
    inbox = ground.folder / "inbox"
    inbox.mkdir(exist_ok=True)
    arrived = inbox / ground.clicks.name
    source = {
        "INGEST_PATH": str(inbox / "*.ndjson"),
        "INGEST_WATCH": "true",
        "INGEST_WATCH_SECONDS": str(_WATCH_SECONDS),
    }
    with fleet(ground, source, worker_names(loader=loaders), pipeline) as found:
        found.stack.callback(arrived.unlink, missing_ok=True)
        measured = stopwatch()
        arrived.hardlink_to(ground.clicks)
        until_loaded(ground, ground.events)
        return measured(peaks(found))


def peaks(fleet: Fleet) -> dict[str, int]:
    """The most memory that each worker has had, in bytes resident."""
    return {name: peak_bytes(process.pid) for name, process in fleet.processes.items()}


def _worker_environment(ground: Ground, consumer: str, source: Mapping[str, str]) -> dict[str, str]:
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


def _all_ready(fleet: Fleet) -> bool:
    for name, process in fleet.processes.items():
        if process.poll() is not None:
            raise_ended(process, fleet.log(name))
    with client(fleet.ground) as found:
        leases = live_workers(found)
    return len(leases) == len(fleet.processes) and all(_ready(lease.metrics) for lease in leases)


def _ready(address: str) -> bool:
    return probe(int(address.rpartition(":")[2]), "/readyz")[0]
