"""What `bargeline doctor` asks of the streams beyond what is sampled: every group, what is stuck, what piles up."""

from collections import Counter
from typing import Any

import msgspec

from shared.streams import keeper
from shared.streams.client import Client, GroupMissing, pairs
from shared.streams.inspect import entries
from shared.topology import GROUP_OF_STAGE

_MOST_STUCK = 100
#: Dead letters hold whole events, and one may have 16 MB: the newest tell what goes wrong now.
_MOST_LETTERS = 100
_LETTERS_PER_PAGE = 10


class Group(msgspec.Struct, frozen=True):
    """A consumer group, ours or foreign; ``kept_entries`` is what it has yet to settle, None where unknown."""

    name: str
    needed_id: str
    last_delivered: str
    pending_entries: int
    kept_entries: int | None


class Stream(msgspec.Struct, frozen=True):
    """A stream and all of its groups; ``first_id`` is its oldest entry."""

    stage: str
    key: str
    entries: int
    first_id: str | None
    groups: list[Group]


class Stuck(msgspec.Struct, frozen=True):
    """Entries that a consumer has held for longer than was asked for; ``entries`` is counted up to 100."""

    consumer: str
    entries: int
    oldest_id: str
    idle_seconds: float


class Letters(msgspec.Struct, frozen=True):
    """Dead letters: how many, and the reasons of the newest ``looked_at``."""

    total: int
    looked_at: int
    reasons: dict[str, int]
    newest: str | None


def stream(client: Client, stage: str) -> Stream | None:
    """A stream with its groups; None where there is no stream."""
    key = client.topology.stream(stage)
    try:
        found = client.call("XINFO", "GROUPS", key)
    except GroupMissing:
        return None
    first = entries(client, key, "-", 1)
    groups = [_group(client, key, pairs(one)) for one in found]
    return Stream(stage, key, int(client.call("XLEN", key)), first[0][0] if first else None, groups)


def _group(client: Client, key: str, found: dict[bytes, Any]) -> Group:
    last_delivered = found[b"last-delivered-id"].decode()
    milliseconds, sequence = keeper.id_order(last_delivered)
    needed = f"{milliseconds}-{sequence + 1}"
    pending = client.call("XPENDING", key, found[b"name"])
    if pending[0]:
        needed = min(needed, pending[1].decode(), key=keeper.id_order)
    lag = found.get(b"lag")
    return Group(
        name=found[b"name"].decode(errors="backslashreplace"),
        needed_id=needed,
        last_delivered=last_delivered,
        pending_entries=int(pending[0]),
        kept_entries=None if lag is None else int(lag) + int(pending[0]),
    )


def stuck(client: Client, stage: str, consumer: str, idle_ms: int) -> Stuck | None:
    """What a consumer has held for at least so long since it was delivered; None where there is nothing."""
    page = client.call(
        *("XPENDING", client.topology.stream(stage), GROUP_OF_STAGE[stage]),
        *("IDLE", idle_ms, "-", "+", _MOST_STUCK, consumer),
    )
    if not page:
        return None
    return Stuck(consumer, len(page), page[0][0].decode(), max(int(row[2]) for row in page) / 1000)


def was_leased(client: Client, stage: str, consumer: str) -> bool:
    """Whether the consumer ever held a lease: one that did not is foreign."""
    return bool(client.call("SISMEMBER", client.topology.leased(GROUP_OF_STAGE[stage]), consumer))


def letters(client: Client) -> Letters:
    """Dead letters by reason."""
    key = client.topology.dead
    total, looked_at, newest, end = int(client.call("XLEN", key)), 0, None, "+"
    reasons: Counter[str] = Counter()
    while looked_at < _MOST_LETTERS:
        page = client.call("XREVRANGE", key, end, "-", "COUNT", _LETTERS_PER_PAGE)
        for entry_id, fields in page:
            newest = newest or entry_id.decode()
            reasons[pairs(fields).get(b"reason", b"?").decode(errors="backslashreplace")] += 1
            end = f"({entry_id.decode()}"
        looked_at += len(page)
        if len(page) < _LETTERS_PER_PAGE:
            break
    return Letters(total, looked_at, dict(reasons.most_common()), newest)
