"""What the janitor does to the streams: every call is idempotent, so that two janitors do no harm."""

from collections.abc import Iterator
from dataclasses import dataclass

from shared.entries import Entry
from shared.streams.client import Client, GroupMissing, pairs
from shared.streams.inspect import entries, foreign_waiting, group_state
from shared.topology import STAGES

_SCAN_COUNT = 500
_PAGE = 50


@dataclass(frozen=True)
class Swept:
    """Entries moved to the pool of reclaimed ones, and unsettled entries whose body is gone."""

    moved: int
    missing: list[str]


@dataclass(frozen=True)
class Foreign:
    """Foreign entries moved to the pool, lost, and entries that went with a deleted stream."""

    moved: int
    lost: int
    forgotten: int


@dataclass(frozen=True)
class Trimmed:
    """Entries trimmed, and the group that needs the oldest one left (empty: none but the retention)."""

    entries: int
    blocker: str
    needed: str


def server_ms(client: Client) -> int:
    """The server's clock, in milliseconds since 1970."""
    seconds, microseconds = client.call("TIME")
    return int(seconds) * 1000 + int(microseconds) // 1000


def reclaim(client: Client, stage: str, foreign_idle_ms: int, most: int = 200) -> Swept:
    """Move up to ``most`` entries of each consumer that is gone to the pool."""
    return _swept(client.script("reclaim", stage, foreign_idle_ms, most))


def repair(client: Client, stage: str, ids: list[str]) -> Swept:
    """Move those of the unsettled ``ids`` that were delivered and that no consumer holds to the pool."""
    return _swept(client.script("repair", stage, *ids))


def repair_foreign(client: Client, stage: str) -> Foreign:
    """Account for foreign entries that nobody will settle: hand over, count as lost, or forget with their stream.

    Cheap while none waits, and while the group has something to do.
    """
    if not _foreign_rest(client, stage):
        return Foreign(0, 0, 0)
    return Foreign(*map(int, client.script("foreign", stage, 1, *_foreign_ids(client, stage))))


def repair_foreign_from(client: Client, stage: str, entry_id: str) -> int:
    """Hand over foreign entries that nobody holds, from this one on: it keeps the stream from being trimmed."""
    page = entries(client, client.topology.stream(stage), entry_id, _SCAN_COUNT)
    ids = [one for one, fields in page if Entry(one, fields).foreign]
    return int(client.script("foreign", stage, 0, *ids)[0]) if ids else 0


def _foreign_rest(client: Client, stage: str) -> bool:
    """Whether foreign entries wait although the group is at rest, or more were settled than added."""
    waiting = foreign_waiting(client, stage)
    if waiting <= 0:
        return waiting < 0
    try:
        return group_state(client, stage).pending_entries == 0
    except GroupMissing:
        return False


def _foreign_ids(client: Client, stage: str) -> list[str]:
    stream = client.topology.stream(stage)
    found: list[str] = []
    start = "-"
    while page := entries(client, stream, start, _PAGE):
        found += [entry_id for entry_id, fields in page if Entry(entry_id, fields).foreign]
        if len(found) >= _SCAN_COUNT:
            break
        start = f"({page[-1][0]}"
    return found


def _swept(reply: list[bytes | int]) -> Swept:
    return Swept(int(reply[0]), [entry_id.decode() for entry_id in reply[1:] if isinstance(entry_id, bytes)])


def open_ids(client: Client, stage: str) -> Iterator[list[str]]:
    """Ids of the unsettled entries of a stage, in chunks; an id may come twice."""
    cursor = b"0"
    while True:
        cursor, chunk = client.call("HSCAN", client.topology.open(stage), cursor, "COUNT", _SCAN_COUNT)
        if chunk:
            yield [entry_id.decode() for entry_id in chunk[::2]]
        if int(cursor) == 0:
            return


def id_order(entry_id: str) -> tuple[int, int]:
    """Sort key of an entry id."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def smallest_open(client: Client, stage: str) -> str | None:
    """The oldest unsettled entry. Entries added meanwhile have higher ids, so it stays a lower bound."""
    ids = [entry_id for chunk in open_ids(client, stage) for entry_id in chunk]
    return min(ids, key=id_order) if ids else None


def due_retries(client: Client, now_ms: int, most: int = 10_000) -> list[str]:
    """Ids of the retried events whose time has come."""
    due: list[str] = []
    start = "-"
    while len(due) < most:
        page = client.call("XRANGE", client.topology.retry, start, "+", "COUNT", _SCAN_COUNT)
        for entry_id, fields in page:
            when = pairs(fields).get(b"due", b"")
            # An entry without it is not ours: it stays, and shows as an imbalance.
            if when.isdigit() and int(when) <= now_ms:
                due.append(entry_id.decode())
        if len(page) < _SCAN_COUNT:
            break
        start = f"({page[-1][0].decode()}"
    return due


def move(client: Client, now_ms: int, ids: list[str]) -> int:
    """Put retried events that are due back into the raw stream; returns how many."""
    return sum(
        int(client.script("move", now_ms, *ids[first : first + _SCAN_COUNT]))
        for first in range(0, len(ids), _SCAN_COUNT)
    )


def trim(client: Client, stage: str, limit_id: str) -> Trimmed:
    """Trim below ``limit_id``, but never what any group still needs."""
    entries, blocker, needed = client.script("trim", stage, limit_id)
    return Trimmed(int(entries), blocker.decode(), needed.decode())


def delete_consumer(client: Client, stage: str, name: str, min_idle_ms: int) -> bool:
    """Forget a consumer that holds nothing, has no lease and was idle for so long."""
    return bool(client.script("delconsumer", stage, name, min_idle_ms) == 1)


def lost(client: Client, stage: str, entry_id: str) -> int:
    """Settle an unsettled entry whose body is gone; returns the number of events lost."""
    assert stage in STAGES
    return int(client.script("lost", stage, entry_id))


def end_epoch(client: Client, epoch: str) -> bool:
    """Begin another epoch in the ledger that is there; False if somebody else did."""
    return bool(client.script("epoch", epoch) == 1)
