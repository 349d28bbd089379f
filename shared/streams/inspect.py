"""Reading the state of a partition: figures of the law, groups, consumers, checkpoints."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import redis

from shared.accounting import Figures
from shared.errors import BargelineError
from shared.streams.client import Client, GroupMissing, info, pairs, translated
from shared.streams.lease import live_workers
from shared.topology import GROUP_OF_STAGE, RECLAIMED

_PENDING_PAGE = 1_000
_MOST_PENDING = 20_000
IDLE_CONSUMER_MS = 60_000


class ConsumerState(msgspec.Struct, frozen=True):
    """One consumer of a group; ``state`` is live, idle, dead or pool."""

    name: str
    state: str
    pending_entries: int
    idle_seconds: float


class GroupState(msgspec.Struct, frozen=True):
    """One group: lag is what no consumer has yet, pending what one has in hand.

    ``added_events`` and ``settled_events`` count from the beginning of the epoch. ``lag_seconds`` is the age of the
    oldest unsettled entry; None is unknown, never 0. ``workers`` hold a lease, whether they have read or not.
    """

    stage: str
    group: str
    stream_entries: int
    added_events: int
    settled_events: int
    lag_events: int | None
    lag_entries: int | None
    lag_seconds: float | None
    pending_entries: int
    pending_events: int | None
    workers: list[str]
    consumers: list[ConsumerState]

    @property
    def unsettled_events(self) -> int:
        """Events that are undelivered or in hand."""
        return self.added_events - self.settled_events


def figures(client: Client) -> Figures:
    """Everything the law needs, read in one transaction."""
    names = client.topology
    replies = _atomically(
        client,
        ("HGETALL", names.ledger),
        ("HVALS", names.open("raw")),
        ("HVALS", names.open("clean")),
        ("XLEN", names.retry),
        ("XLEN", names.dead),
        ("XINFO", "STREAM", names.stream("raw")),
        ("XINFO", "STREAM", names.stream("clean")),
    )
    ledger = {name.decode(): value for name, value in pairs(replies[0]).items()}
    epoch = ledger.pop("epoch", None)
    return Figures(
        epoch=epoch.decode() if epoch else None,
        counters={name: int(value) for name, value in ledger.items()},
        open_raw=sum(map(int, replies[1])),
        open_clean=sum(map(int, replies[2])),
        retry=replies[3],
        dead=replies[4],
        raw_entries_added=_entries_added(replies[5]),
        clean_entries_added=_entries_added(replies[6]),
    )


def current_epoch(client: Client) -> str | None:
    """Name of the epoch, None where there is no ledger."""
    found = client.call("HGET", client.topology.ledger, "epoch")
    return found.decode() if found else None


def _atomically(client: Client, *commands: tuple[Any, ...]) -> list[Any]:
    """Run several commands as one transaction; a stream that is not there yet is a None."""
    with translated(client.url):
        pipe = client.redis.pipeline(transaction=True)
        for command in commands:
            pipe.execute_command(*command)  # type: ignore[no-untyped-call]
        replies = list(pipe.execute(raise_on_error=False))
    for index, reply in enumerate(replies):
        if isinstance(reply, redis.ResponseError) and "no such key" in str(reply):
            replies[index] = None
        elif isinstance(reply, Exception):
            with translated(client.url):
                raise reply
    return replies


def _entries_added(stream: list[Any] | None) -> int:
    return int(pairs(stream).get(b"entries-added", 0))


def ledger(client: Client) -> dict[str, int]:
    """The counters of the current epoch, without the epoch's name."""
    found = client.call("HGETALL", client.topology.ledger)
    return {name.decode(): int(value) for name, value in pairs(found).items() if name != b"epoch"}


def checkpoints(client: Client, source_prefix: str = "") -> dict[str, dict[str, Any]]:
    """Position of each source that has one."""
    found = client.call("HGETALL", client.topology.checkpoint)
    decoded = {name.decode(errors="replace"): msgspec.json.decode(value) for name, value in pairs(found).items()}
    return {name: value for name, value in sorted(decoded.items()) if name.startswith(source_prefix)}


def group_state(client: Client, stage: str) -> GroupState:
    """Lag, pending and consumers of the group of a stage. Raises GroupMissing."""
    names, group = client.topology, GROUP_OF_STAGE[stage]
    stream = names.stream(stage)
    counted = [f"{stage}.{name}" for name in ("added", "settled", "entries", "foreign")]
    # At one moment: the count of foreign entries is a difference, and must not waver.
    state, groups, counters, open_entries = _atomically(
        client,
        ("XINFO", "STREAM", stream),
        ("XINFO", "GROUPS", stream),
        ("HMGET", names.ledger, *counted),
        ("HLEN", names.open(stage)),
    )
    own = next((found for found in map(pairs, groups or []) if found[b"name"] == group.encode()), None)
    if own is None:
        raise GroupMissing(f"Group {group} of {stream} is missing.")
    pending = int(own[b"pending"])
    added, settled, entries_of_ours, foreign_settled = (int(count or 0) for count in counters)
    foreign_added = _entries_added(state) - entries_of_ours
    foreign = foreign_added - foreign_settled
    unsettled = added - settled + foreign
    pending_events, pending_foreign = _pending(client, stage, pending)
    pending_ours = pending - (pending_foreign or 0)
    workers = [lease.name for lease in live_workers(client) if lease.group == group]
    return GroupState(
        stage=stage,
        group=group,
        stream_entries=int(pairs(state)[b"length"]),
        added_events=added + foreign_added,
        settled_events=settled + foreign_settled,
        lag_events=None if pending_events is None else max(unsettled - pending_events, 0),
        lag_entries=None
        if pending_foreign is None
        else max(open_entries + foreign - pending_ours - pending_foreign, 0),
        lag_seconds=_age_of_oldest(client, stage, own[b"last-delivered-id"].decode()),
        pending_entries=pending,
        pending_events=pending_events,
        workers=workers,
        consumers=_consumers(client, stream, group, workers),
    )


def foreign_waiting(client: Client, stage: str) -> int:
    """Foreign entries that were added and not settled; below 0 where the stream was deleted and made anew."""
    names = client.topology
    stream, ours = _atomically(
        client,
        ("XINFO", "STREAM", names.stream(stage)),
        ("HMGET", names.ledger, f"{stage}.entries", f"{stage}.foreign"),
    )
    return _entries_added(stream) - sum(int(count or 0) for count in ours)


def _pending(client: Client, stage: str, entries: int) -> tuple[int | None, int | None]:
    """Events in hand, and how many of the entries are foreign; unknown when there are too many to ask."""
    if entries > _MOST_PENDING:
        return None, None
    events = foreign = 0
    for ids in pending_ids(client, stage):
        for count in client.call("HMGET", client.topology.open(stage), *ids):
            events += int(count or 1)
            foreign += count is None
    return events, foreign


def pending_ids(client: Client, stage: str) -> Iterator[list[str]]:
    """Ids of a group's pending entries, in chunks."""
    start = "-"
    while True:
        page = client.call("XPENDING", client.topology.stream(stage), GROUP_OF_STAGE[stage], start, "+", _PENDING_PAGE)
        ids = [row[0].decode() for row in page]
        if ids:
            yield ids
        if len(ids) < _PENDING_PAGE:
            return
        start = f"({ids[-1]}"


def _age_of_oldest(client: Client, stage: str, last_delivered: str) -> float | None:
    stream = client.topology.stream(stage)
    next_one = client.call("XRANGE", stream, f"({last_delivered}", "+", "COUNT", 1)
    ids = [next_one[0][0].decode()] if next_one else []
    for page in pending_ids(client, stage):
        ids.append(page[0])
        break
    if not ids:
        return 0.0
    seconds, microseconds = client.call("TIME")
    oldest_ms = min(int(entry_id.partition("-")[0]) for entry_id in ids)
    return float(max(int(seconds) + int(microseconds) / 1e6 - oldest_ms / 1000, 0.0))


def _consumers(client: Client, stream: str, group: str, live: Sequence[str]) -> list[ConsumerState]:
    states = []
    for consumer in map(pairs, client.call("XINFO", "CONSUMERS", stream, group)):
        name = consumer[b"name"].decode(errors="replace")
        idle = consumer[b"idle"] >= IDLE_CONSUMER_MS
        state = "pool" if name == RECLAIMED else "dead" if name not in live else "idle" if idle else "live"
        states.append(ConsumerState(name, state, consumer[b"pending"], consumer[b"idle"] / 1000))
    return states


def stream_bytes(client: Client, stage: str) -> int | None:
    """Memory of a stream, estimated by the server; None where it will not say."""
    with contextlib.suppress(BargelineError):
        found = client.call("MEMORY", "USAGE", client.topology.stream(stage), "SAMPLES", 5)
        return None if found is None else int(found)
    return None


def memory_ratio(client: Client) -> float | None:
    """Used memory as a share of `maxmemory`; None where there is no limit."""
    found = info(client, "memory")
    limit = int(found.get("maxmemory", 0))
    return int(found["used_memory"]) / limit if limit else None


def last_id(client: Client, key: str) -> str:
    """Id of the newest entry ever added to a stream, `0-0` where there is none."""
    stream = pairs(_atomically(client, ("XINFO", "STREAM", key))[0])
    found: bytes = stream.get(b"last-generated-id", b"0-0")
    return found.decode()


def entries(client: Client, key: str, start: str, count: int) -> list[tuple[str, dict[bytes, bytes]]]:
    """Up to ``count`` entries of a stream from an id (``(id`` excludes it)."""
    page = client.call("XRANGE", key, start, "+", "COUNT", count)
    return [(entry_id.decode(), pairs(fields)) for entry_id, fields in page]
