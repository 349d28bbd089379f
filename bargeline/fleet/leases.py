"""What Redis knows of a fleet: the leases of its workers, how its groups do, the checkpoints of its sources."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bargeline.verdicts import group_verdicts
from shared.streams import Client, Lease, check_server, checkpoints, live_workers
from shared.topology import Topology
from shared.verdicts import GroupVerdict


def check_redis(redis_url: str, pipeline: str) -> str:
    """Name and version of the server; raises TransientError if it is away, ConfigurationError if too old."""
    with _client(redis_url, pipeline) as client:
        return check_server(client)


def read_leases(redis_url: str, pipeline: str) -> dict[str, Lease]:
    """Leases of a pipeline's live workers by consumer name."""
    with _client(redis_url, pipeline) as client:
        return {lease.name: lease for lease in live_workers(client)}


def read_checkpoints(redis_url: str, pipeline: str) -> dict[str, dict[str, Any]]:
    """Checkpoints of a pipeline by source."""
    with _client(redis_url, pipeline) as client:
        return checkpoints(client)


def read_verdicts(redis_url: str, pipeline: str) -> list[GroupVerdict]:
    """How each group of a pipeline does; takes up to some seconds where events wait."""
    with _client(redis_url, pipeline) as client:
        return group_verdicts(client)


@contextmanager
def _client(redis_url: str, pipeline: str) -> Iterator[Client]:
    client = Client(redis_url, Topology(pipeline), "bargeline-fleet")
    try:
        yield client
    finally:
        client.close()
