"""What the Redis or Valkey server is, keeps and allows: facts for `bargeline doctor` and for a worker's start."""

import contextlib
import time
from collections.abc import Iterable
from typing import Any

import msgspec
import redis

from shared.errors import BargelineError, TransientError
from shared.streams.client import Client, info, pairs, translated
from shared.topology import RECLAIMED, Topology

#: A clock is read so often, and the quickest answer counts.
_CLOCK_READINGS = 3
#: What INFO says of writes to disk, and is not "ok" after a failure.
_WRITE_STATUS = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")


class ServerFacts(msgspec.Struct, frozen=True):
    """What INFO, and CONFIG where it is allowed, say; bytes; None is unknown."""

    name: str
    version: tuple[int, ...]
    role: str
    replicas: int
    waitaof: bool | None
    maxmemory_policy: str | None
    maxmemory: int | None
    used_memory: int | None
    system_memory: int | None
    aof_enabled: bool | None
    appendfsync: str | None
    failed_writes: dict[str, str]


class Clock(msgspec.Struct, frozen=True):
    """A server's clock less this machine's; the truth lies within ``uncertainty_seconds`` of it."""

    offset_seconds: float
    uncertainty_seconds: float


class Rights(msgspec.Struct, frozen=True):
    """Commands that the user may not run; ``refused`` says why that could not be asked, else None."""

    user: str
    denied: list[str]
    refused: str | None = None


def read_facts(client: Client) -> ServerFacts:
    """Ask the server about itself. Raises TransientError when it is away, ConfigurationError without INFO's right."""
    server, memory = info(client, "server"), info(client, "memory")
    persistence, replication = info(client, "persistence"), info(client, "replication")
    valkey = server.get("valkey_version")
    return ServerFacts(
        name="Valkey" if valkey else "Redis",
        version=version_of(valkey or server.get("redis_version", "0")),
        role=replication.get("role", ""),
        replicas=int(replication.get("connected_slaves", 0)),
        waitaof=_knows(client, "WAITAOF"),
        maxmemory_policy=memory.get("maxmemory_policy"),
        maxmemory=_number(memory, "maxmemory"),
        used_memory=_number(memory, "used_memory"),
        system_memory=_number(memory, "total_system_memory"),
        aof_enabled=None if "aof_enabled" not in persistence else persistence["aof_enabled"] == "1",
        appendfsync=_configured(client, "appendfsync"),
        failed_writes={name: persistence[name] for name in _WRITE_STATUS if persistence.get(name, "ok") != "ok"},
    )


def version_of(text: str) -> tuple[int, ...]:
    """``7.2.4`` as numbers; what follows them (``-rc1``) does not count."""
    return tuple(int(part) for part in text.partition("-")[0].split(".") if part.isdigit())


def unsafe_settings(client: Client) -> list[str]:
    """What a worker warns of when it starts: settings of the server that lose streams. No right for CONFIG needed."""
    policy = info(client, "memory").get("maxmemory_policy")
    aof = info(client, "persistence").get("aof_enabled")
    found = []
    if policy not in (None, "noeviction"):
        found.append(f"maxmemory-policy {policy} lets the server delete streams; set it to noeviction")
    if aof not in (None, "1"):
        found.append("appendonly no: accepted events are lost when the server ends; set appendonly yes")
    return found


def clock(client: Client) -> Clock:
    """The server's clock, by the quickest of a few answers."""

    def ask() -> float:
        seconds, microseconds = client.call("TIME")
        return int(seconds) + int(microseconds) / 1e6

    return read_clock(ask)


def read_clock(ask: Any) -> Clock:
    """Compare a clock with this machine's: the server read it somewhere between question and answer."""
    readings = []
    for _ in range(_CLOCK_READINGS):
        began, waited = time.time(), time.monotonic()
        there = ask()
        half = (time.monotonic() - waited) / 2
        readings.append(Clock(there - (began + half), half))
    return min(readings, key=lambda one: one.uncertainty_seconds)


def rights(client: Client, commands: Iterable[tuple[Any, ...]]) -> Rights:
    """Which of the commands the user of this connection may not run. None of them is run."""
    user = "this user"
    try:
        user = client.call("ACL", "WHOAMI").decode(errors="replace")
        denied = []
        for command in commands:
            answer = client.call("ACL", "DRYRUN", user, *command)
            if answer != b"OK":
                denied.append(f"{_shown(command)} ({answer.decode(errors='replace')})")
    except TransientError:
        raise
    except BargelineError as error:
        return Rights(user, [], str(error))
    return Rights(user, denied)


def _shown(command: tuple[Any, ...]) -> str:
    return " ".join(map(str, command[:2] if command[0] in _CONTAINERS else command[:1]))


_CONTAINERS = ("XGROUP", "XINFO", "MEMORY", "ACL", "SCRIPT", "CLIENT", "CONFIG", "COMMAND")


def reader_commands(names: Topology) -> list[tuple[Any, ...]]:
    """What the operator's commands that only look need, as calls on this pipeline's keys."""
    raw, open_raw, ledger = names.stream("raw"), names.open("raw"), names.ledger
    return [
        ("PING",),
        ("INFO",),
        ("TIME",),
        ("MULTI",),
        ("EXEC",),
        ("SCAN", "0"),
        ("MGET", names.lease("transform", "x")),
        ("SISMEMBER", names.leased("transform"), "x"),
        ("HGET", names.breaker, "raw"),
        ("HGETALL", ledger),
        ("HVALS", open_raw),
        ("HLEN", open_raw),
        ("HMGET", open_raw, "0-1"),
        ("HSCAN", open_raw, "0"),
        ("XLEN", raw),
        ("XRANGE", raw, "-", "+"),
        ("XREVRANGE", raw, "+", "-"),
        ("XPENDING", raw, "transform"),
        ("XINFO", "STREAM", raw),
        ("XINFO", "GROUPS", raw),
        ("XINFO", "CONSUMERS", raw, "transform"),
        ("MEMORY", "USAGE", raw),
    ]


def worker_commands(names: Topology, durability: str = "memory") -> list[tuple[Any, ...]]:
    """What the workers and their scripts need, as calls on this pipeline's keys; ``durability`` as ingest has it."""
    asked = [("COMMAND", "INFO", "WAITAOF"), ("CONFIG", "GET", "appendfsync")]
    waits = {"memory": [], "aof": [*asked, ("WAITAOF", "0", "0", "0")]}
    raw, open_raw, ledger = names.stream("raw"), names.open("raw"), names.ledger
    lease = names.lease("transform", "x")
    return [
        *reader_commands(names),
        ("CLIENT", "SETNAME", "x"),
        ("EVAL", "return 1", "1", raw),
        ("EVALSHA", "0" * 40, "1", raw),
        ("SCRIPT", "LOAD", "return 1"),
        ("EXISTS", raw),
        ("GET", lease),
        ("SET", lease, "x"),
        ("PEXPIRE", lease, "1"),
        ("DEL", lease),
        ("SADD", names.leased("transform"), "x"),
        ("SREM", names.leased("transform"), "x"),
        ("HSET", open_raw, "0-1", "1"),
        ("HDEL", open_raw, "0-1"),
        ("HEXISTS", open_raw, "0-1"),
        ("HINCRBY", ledger, "accepted", "1"),
        ("XADD", raw, "*", "v", "1"),
        ("XDEL", raw, "0-1"),
        ("XTRIM", raw, "MINID", "0-1"),
        ("XREADGROUP", "GROUP", "transform", "x", "STREAMS", raw, ">"),
        ("XACK", raw, "transform", "0-1"),
        ("XCLAIM", raw, "transform", RECLAIMED, "0", "0-1"),
        ("XGROUP", "CREATE", raw, "transform", "0", "MKSTREAM"),
        ("XGROUP", "DELCONSUMER", raw, "transform", "x"),
        *waits.get(durability, [("WAIT", "0", "0")]),
    ]


def _knows(client: Client, command: str) -> bool | None:
    with contextlib.suppress(BargelineError):
        found = client.call("COMMAND", "INFO", command)
        return bool(found and found[0])
    return None


def _configured(client: Client, name: str) -> str | None:
    """A setting, where this user may ask for it: managed servers refuse CONFIG."""
    try:
        with translated(client.url):
            found = pairs(client.redis.execute_command("CONFIG", "GET", name))  # type: ignore[no-untyped-call]
    except TransientError:
        raise
    except (BargelineError, redis.RedisError):
        return None
    value: bytes | None = found.get(name.encode())
    return value.decode() if value is not None else None


def _number(found: dict[str, str], name: str) -> int | None:
    return int(found[name]) if name in found else None
