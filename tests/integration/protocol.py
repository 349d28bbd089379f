"""What the tests of the protocol share: a partition under the law, batches, outcomes, and looks inside."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from shared.accounting import Balance, balance
from shared.entries import Entry, Fields, batch_fields, dead_letter
from shared.errors import InvalidEvent
from shared.stopping import Stop
from shared.streams import (
    Added,
    Client,
    Consumer,
    Full,
    HeldLease,
    Loaded,
    Outcome,
    Stale,
    acquire,
    add,
    ensure_group,
    own_lease,
    settle,
)
from shared.streams.client import pairs
from shared.streams.inspect import figures
from shared.topology import GROUP_OF_STAGE, RECLAIMED, STAGES, Topology

HIGH_WATER = 1_000_000
ACCEPTED_MS = 1_700_000_000_000
AT_ONCE = 1  # milliseconds that a read may block: what it waits for is there already


@contextmanager
def partition(url: str, name: str) -> Iterator[Client]:
    """A partition with both groups; when the test is done, the law must hold."""
    client = Client(url, Topology(name))
    try:
        for stage, group in GROUP_OF_STAGE.items():
            ensure_group(client, stage, group)
        yield client
        assert_law(client)
    finally:
        client.close()


def assert_law(client: Client) -> Balance:
    """Every accepted event is in exactly one place."""
    found = balance(client.topology.partition, figures(client))
    assert not found.findings, found.findings
    assert found.imbalance == 0
    return found


def body(numbers: Sequence[int]) -> bytes:
    """NDJSON of events that are just numbers."""
    return b"".join(b"%d\n" % number for number in numbers)


def numbers(fields: dict[bytes, bytes]) -> list[int]:
    """The numbers in a batch."""
    return [int(line) for line in fields[b"d"].splitlines()]


def try_add(
    client: Client,
    batch: Sequence[int] = (),
    *,
    source: str = "",
    expected: str = "",
    new: str = "",
    dead: Sequence[Fields] = (),
    high_water: int = HIGH_WATER,
) -> Added | Stale | Full:
    return add(
        client,
        high_water=high_water,
        source=source,
        expected=expected,
        new=new,
        events=len(batch),
        fields=batch_fields(body(batch), len(batch), ACCEPTED_MS),
        dead=dead,
    )


def added(client: Client, *batch: int) -> str:
    """Add a batch of numbers; returns its entry id."""
    result = try_add(client, batch)
    assert isinstance(result, Added)
    return result.entry_id


def add_foreign(client: Client, stage: str = "raw", value: object = 1) -> str:
    """An entry that somebody else adds with plain XADD."""
    entry_id: bytes = client.call("XADD", client.topology.stream(stage), "*", "click", value)
    return entry_id.decode()


def letter(stage: str = "transform", text: bytes = b"0") -> Fields:
    return dead_letter(stage, InvalidEvent("bad"), event=text, origin={"stream": "here"}, consumer="somebody")


def retry(number: int, due_ms: int) -> Fields:
    """Fields of one event that waits for another attempt."""
    event = body([number])
    return ["due", due_ms, "v", 1, "c", "json", "d", event, "t", ACCEPTED_MS, "a", 1, "h", b'[{"at":"then"}]']


def mapped(entry: Entry, outputs: Sequence[int] | None = None) -> Outcome:
    """Every event of the entry gave one output; ``outputs`` to fan out."""
    found = [0] if entry.foreign else numbers(entry.fields)
    sent = found if outputs is None else outputs
    return Outcome(entry, mapped=len(found), segments=[(len(sent), body(sent))])


def settle_raw(
    client: Client,
    *outcomes: Outcome,
    high_water: int = HIGH_WATER,
    most_events: int = 500,
    most_bytes: int = 262_144,
) -> list[bool] | Full:
    settled = settle(
        client, outcomes, high_water=high_water, codec="json", most_events=most_events, most_bytes=most_bytes
    )
    return settled if isinstance(settled, Full) else settled.first


def all_loaded(entry: Entry) -> Loaded:
    return Loaded(entry.id, entry.foreign, entry.events, loaded=entry.events, duplicates=0, unrouted=0)


def read(client: Client, stage: str = "raw", name: str = "one", count: int = 1_000) -> list[Entry]:
    return Consumer(client, stage, name).read(count, AT_ONCE)


def take(client: Client, stage: str = "raw", name: str = "one") -> Entry:
    """The suspect that there must be."""
    entry = Consumer(client, stage, name).take()
    assert entry is not None
    return entry


def hold_lease(client: Client, stage: str, name: str) -> HeldLease:
    held = acquire(client, own_lease(GROUP_OF_STAGE[stage], name, ""), Stop())
    assert held is not None
    return held


def end(client: Client, stage: str, name: str) -> None:
    """Make it look as if the process with this name had ended: it had a lease, which is gone."""
    hold_lease(client, stage, name).release()


def contents(client: Client, stage: str) -> list[list[int]]:
    """The numbers in each entry of a stream, settled or not."""
    page = client.call("XRANGE", client.topology.stream(stage), "-", "+")
    return [numbers(pairs(fields)) for _, fields in page]


def entry_ids(client: Client, key: str) -> list[str]:
    return [entry_id.decode() for entry_id, _ in client.call("XRANGE", key, "-", "+")]


def is_open(client: Client, stage: str) -> dict[str, int]:
    found = pairs(client.call("HGETALL", client.topology.open(stage)))
    return {entry_id.decode(): int(events) for entry_id, events in found.items()}


def pending(client: Client, stage: str = "raw") -> dict[str, tuple[str, int]]:
    """Entry id → who has it, and how often it was delivered."""
    page = client.call("XPENDING", client.topology.stream(stage), GROUP_OF_STAGE[stage], "-", "+", 10_000)
    return {entry_id.decode(): (name.decode(), deliveries) for entry_id, name, _, deliveries in page}


def counters(client: Client) -> dict[str, int]:
    """The ledger without its zeros."""
    return {name: value for name, value in figures(client).counters.items() if value}


def make_group_anew(client: Client, stage: str = "raw") -> None:
    """A foreign XGROUP DESTROY, then the group again from the beginning."""
    client.call("XGROUP", "DESTROY", client.topology.stream(stage), GROUP_OF_STAGE[stage])
    assert ensure_group(client, stage, GROUP_OF_STAGE[stage])


def to_pool(client: Client, entry_id: str, stage: str = "raw") -> None:
    """Put a pending entry where the janitor puts what it reclaims."""
    client.call("XCLAIM", client.topology.stream(stage), GROUP_OF_STAGE[stage], RECLAIMED, 0, entry_id, "JUSTID")


def snapshot(client: Client) -> dict[str, Any]:
    """All that is stored, to show that a call wrote nothing."""
    names = client.topology
    keys = [*names.script_keys(), *(names.stream(stage) for stage in STAGES)]
    return {key: client.call("DUMP", key) for key in keys}


def history(client: Client, stage: str = "raw") -> list[list[dict[str, str]]]:
    """The earlier attempts that the entries of a stream remember."""
    page = client.call("XRANGE", client.topology.stream(stage), "-", "+")
    return [msgspec.json.decode(pairs(fields).get(b"h", b"[]")) for _, fields in page]
