"""How safe a batch has to be before it counts as accepted: in memory, on the server's disk, or on replicas."""

import time

import structlog

from shared.errors import ConfigurationError, TransientError
from shared.streams.client import Client, info, translated
from shared.urls import without_password

log = structlog.get_logger()
#: Longest wait of one call; well below the socket's time-out.
_WAIT_MS = 2_000
#: Pause between two writes to the disk under `appendfsync everysec`.
_FSYNC_SECONDS = 1


def check_durability(client: Client, durability: str) -> None:
    """Raise ConfigurationError if the server can never do what INGEST_DURABILITY asks for.

    Fewer replicas than asked for are only warned of: they may come, and until then ingest waits.
    """
    setting = f"INGEST_DURABILITY={durability}"
    server = f"Redis at {without_password(client.url)}"
    if durability == "aof":
        _check_aof(client, f"{setting}: {server}")
    elif durability != "memory":
        connected = int(info(client, "replication").get("connected_slaves", 0))
        if connected < _replicas(durability):
            log.warning(
                "fewer replicas than asked for; waiting for them", action="durability", setting=setting, now=connected
            )


def _check_aof(client: Client, context: str) -> None:
    remedy = "or INGEST_DURABILITY=memory."
    if client.call("COMMAND", "INFO", "WAITAOF")[0] is None:
        raise ConfigurationError(f"{context} has no WAITAOF; Redis 7.2 or Valkey 7.2 is needed, {remedy}")
    if info(client, "persistence").get("aof_enabled") != "1":
        raise ConfigurationError(f"{context} keeps no append-only file. Set `appendonly yes` there, {remedy}")
    policy = client.call("CONFIG", "GET", "appendfsync")[1]
    if policy == b"no":
        raise ConfigurationError(
            f"{context} leaves writing to the disk to its system. Set `appendfsync always` there, {remedy}"
        )
    if policy == b"everysec" and not _waits_for_the_disk(client):
        raise ConfigurationError(
            f"{context} answers WAITAOF before it has written to the disk, as some versions do under `appendfsync "
            f"everysec`. Set `appendfsync always` there, use another version, {remedy}"
        )


def _waits_for_the_disk(client: Client) -> bool:
    """Whether WAITAOF can be believed under `appendfsync everysec`.

    Right after one wait, which ends with a write to the disk, the next write to it is a second away. Servers with
    the defect (Redis 7.4.0 to 7.4.2, Valkey 9.1 at least) answer at once: github.com/redis/redis/pull/13793.
    """
    took = 0.0
    with translated(client.url), client.redis.client() as connection:  # type: ignore[no-untyped-call]
        for _ in range(2):
            connection.execute_command("HINCRBY", client.topology.ledger, "accepted", 0)
            began = time.monotonic()
            connection.execute_command("WAITAOF", 1, 0, _WAIT_MS)
            took = time.monotonic() - began
    return took > _FSYNC_SECONDS / 2


def confirm(client: Client, durability: str, source: str) -> str:
    """Wait until all that was written is as safe as ``durability`` says; returns the checkpoint that is.

    Raises TransientError if that takes longer than a moment. WAIT speaks of what its own connection wrote, and
    connections come and go: so a write that changes nothing goes first, on the same connection. It
    comes after everything the server has, and the checkpoint tells whether that is what was added.
    """
    names = client.topology
    wait = ("WAITAOF", 1, 0, _WAIT_MS) if durability == "aof" else ("WAIT", _replicas(durability), _WAIT_MS)
    with translated(client.url):
        pipe = client.redis.pipeline(transaction=False)
        pipe.execute_command("HGET", names.checkpoint, source)  # type: ignore[no-untyped-call]
        pipe.execute_command("HINCRBY", names.ledger, "accepted", 0)  # type: ignore[no-untyped-call]
        pipe.execute_command(*wait)  # type: ignore[no-untyped-call]
        found, _, reached = pipe.execute()
    if durability == "aof" and reached[0] < 1:
        raise TransientError(f"Redis at {without_password(client.url)}: not yet on its disk (INGEST_DURABILITY=aof).")
    if durability != "aof" and reached < _replicas(durability):
        raise TransientError(
            f"Redis at {without_password(client.url)}: {reached} of {_replicas(durability)} replicas have the batch "
            f"(INGEST_DURABILITY={durability})."
        )
    return found.decode() if found else ""


def _replicas(durability: str) -> int:
    return int(durability.partition(":")[2])
