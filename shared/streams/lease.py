"""Leases: a consumer is alive while its lease is, however slow it may be.

Safety never depends on a lease (the fence does that), only the speed of a hand-over.
"""

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
import structlog

from shared.errors import Refused
from shared.events import now, rfc3339, uuid7
from shared.stopping import Stop
from shared.streams.client import Client

TTL_MS = 10_000
RENEW_SECONDS = 3.0
#: A holder that is alive has renewed by then.
TAKEOVER_SECONDS = TTL_MS / 1000 + 2
log = structlog.get_logger()


class Lease(msgspec.Struct, frozen=True):
    """Who holds a consumer name; ``boot`` tells whether two pids may be compared."""

    kind: str
    name: str
    instance: str
    host: str
    pid: int
    started: str
    boot: str
    metrics: str
    pid_started: float = 0.0

    @property
    def group(self) -> str:
        """The consumer group: each kind of worker is one."""
        return self.kind


def own_lease(kind: str, name: str, metrics: str) -> Lease:
    """The lease of this process; ``metrics`` is the address of its HTTP server."""
    pid = os.getpid()
    return Lease(
        kind=kind,
        name=name,
        instance=uuid7(),
        host=socket.gethostname(),
        pid=pid,
        started=rfc3339(now()),
        boot=boot_id(),
        metrics=metrics,
        pid_started=psutil.Process(pid).create_time(),
    )


def boot_id() -> str:
    """Equal for processes that can see each other's pids: same boot, same pid namespace."""
    try:
        namespace = Path("/proc/self/ns/pid").readlink()
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {namespace}"
    except OSError:
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def holder_is_gone(holder: Lease) -> bool:
    """Whether the holder's process certainly ended: known only on the same boot."""
    if holder.boot != boot_id():
        return False
    try:
        return bool(abs(psutil.Process(holder.pid).create_time() - holder.pid_started) > 1)
    except psutil.NoSuchProcess:
        return True


@dataclass
class HeldLease:
    """A lease that this process holds; renewed by a thread of the run loop."""

    client: Client
    lease: Lease
    value: bytes

    def renew(self) -> bool:
        """Renew it. False if it lapsed and somebody else took the name; a lapsed one is taken again."""
        renewed, *held = _call(self.client, "renew", self.lease, self.value)
        if not renewed and not held[0]:
            renewed = _call(self.client, "take", self.lease, self.value)[0]
        return bool(renewed)

    def release(self) -> None:
        """Give the name back."""
        _call(self.client, "release", self.lease, self.value)


def acquire(client: Client, lease: Lease, stopped: Stop) -> HeldLease | None:
    """Take the name, waiting for a former holder's lease to lapse.

    Raises Refused if the holder renews it meanwhile; returns None if asked to stop.
    """
    value = msgspec.json.encode(lease)
    deadline = time.monotonic() + TAKEOVER_SECONDS
    gone = b""
    waiting = False
    while True:
        reply = _call(client, "take", lease, value, gone)
        if reply[0] == 1:
            return HeldLease(client, lease, value)
        holder = msgspec.json.decode(reply[1], type=Lease)
        if holder_is_gone(holder):
            gone = reply[1]
            log.info(
                "taking over the lease of a process that is gone",
                action="lease",
                name=lease.name,
                pid=holder.pid,
            )
            continue
        if time.monotonic() >= deadline:
            raise Refused(
                f"CONSUMER_NAME={lease.name}: process {holder.pid} on {holder.host} holds this name in group "
                f"{lease.group} and keeps renewing its lease. Choose another name, or stop that process."
            )
        if not waiting:
            waiting = True
            log.warning(
                "name is held, waiting for its lease to lapse",
                action="lease",
                name=lease.name,
                pid=holder.pid,
            )
        if stopped.wait(0.5):
            return None


def live_workers(client: Client) -> list[Lease]:
    """The leases that are held now, by kind and name."""
    keys: list[bytes] = []
    cursor = b"0"
    while True:
        cursor, found = client.call(
            "SCAN", cursor, "MATCH", f"{_literal(client.topology.lease_prefix)}*", "COUNT", 1_000
        )
        keys += found
        if int(cursor) == 0:
            break
    values = client.call("MGET", *sorted(set(keys))) if keys else []
    leases = [msgspec.json.decode(value, type=Lease) for value in values if value]
    return sorted(leases, key=lambda lease: (lease.kind, lease.name))


def _literal(prefix: str) -> str:
    return "".join(f"\\{character}" if character in "[]*?\\" else character for character in prefix)


def _call(client: Client, action: str, lease: Lease, value: bytes, gone: bytes = b"") -> list[Any]:
    reply: list[Any] = client.script("lease", action, lease.group, lease.name, value, TTL_MS, gone)
    return reply
