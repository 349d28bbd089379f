"""The source http under load: how many requests a second, and how long each takes, its write to Redis included."""

import subprocess
from pathlib import Path

import msgspec

from bargeline.embedded.ports import choose_port
from bench.fleet import PIPELINES, fleet
from bench.ground import Ground, client
from bench.http_load import Load
from bench.latency import percentile
from bench.processes import finish, python
from shared.streams.inspect import ledger

CONNECTIONS = 64
SECONDS = 10.0
_WARM_UP_SECONDS = 2.0
#: Has a high-water mark that is never met.
_PIPELINE = str(PIPELINES / "light")


class Http(msgspec.Struct, frozen=True):
    """`POST /events` of one event each, over so many connections at the same time; from its sending to its answer."""

    connections: int
    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float


def measure(ground: Ground, seconds: float = SECONDS) -> Http:
    """Load one ingest process, with nothing else of a fleet beside it."""
    port = choose_port(set())
    source = {"INGEST_SOURCE": "http", "INGEST_HTTP_PORT": str(port)}
    log = ground.folder / "http_load.log"
    arguments = (f"127.0.0.1:{port}", str(ground.clicks), str(CONNECTIONS), str(_WARM_UP_SECONDS), str(seconds))
    with (
        fleet(ground, source, ["ingest-1"], _PIPELINE),
        python("bench.http_load", *arguments, log=log) as clients,
        client(ground) as found,
    ):
        load = _load(clients, log)
        accepted = ledger(found)["accepted"]
    if accepted != load.accepted:
        raise RuntimeError(f"{load.accepted:,} requests were answered 202, but {accepted:,} events are in Redis")
    times = load.milliseconds
    rate = len(times) / load.seconds
    return Http(CONNECTIONS, len(times), rate, percentile(times, 0.5), percentile(times, 0.99))


def _load(clients: "subprocess.Popen[bytes]", log: Path) -> Load:
    assert clients.stdout is not None
    told = clients.stdout.read()
    finish(clients, log)
    return msgspec.json.decode(told, type=Load)
