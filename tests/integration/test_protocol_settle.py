"""SETTLE: the fence, then outputs, retries and dead letters of the first settlement only."""

import threading
from collections.abc import Iterator

import pytest

from shared.entries import Entry
from shared.errors import BargelineError
from shared.streams import Client, Full, Outcome
from shared.streams.client import pairs
from shared.streams.inspect import entries, figures
from tests.integration import protocol


@pytest.fixture
def client(redis_url: str, pipeline_name: str) -> Iterator[Client]:
    with protocol.partition(redis_url, pipeline_name) as one:
        yield one


def test_every_kind_of_outcome_is_written_and_counted(client: Client) -> None:
    entry_id = protocol.added(client, 1, 2, 3, 4, 5)
    (entry,) = protocol.read(client)
    outcome = Outcome(
        entry,
        mapped=2,
        filtered=1,
        segments=[(2, protocol.body([1, 2]))],
        retries=[protocol.retry(4, due_ms=1)],
        dead=[protocol.letter(text=b"5")],
    )
    assert protocol.settle_raw(client, outcome) == [True]
    assert protocol.contents(client, "clean") == [[1, 2]]
    assert list(protocol.is_open(client, "clean").values()) == [2]
    assert entry_id not in protocol.is_open(client, "raw")
    assert protocol.pending(client) == {}
    found = protocol.assert_law(client)
    assert (found.in_raw, found.in_clean, found.in_retry, found.filtered, found.dead) == (0, 2, 1, 1, 1)
    assert protocol.counters(client).items() >= {"mapped": 2, "filtered": 1, "retry.added": 1}.items()


def test_fanned_out_events_are_counted(client: Client) -> None:
    protocol.added(client, 1, 2)
    (entry,) = protocol.read(client)
    protocol.settle_raw(client, protocol.mapped(entry, outputs=[10, 11, 20, 21, 22]))
    assert protocol.contents(client, "clean") == [[10, 11, 20, 21, 22]]
    assert protocol.counters(client)["fanout"] == 3
    assert protocol.assert_law(client).in_clean == 5


def test_a_zombies_settlement_is_dropped(client: Client) -> None:
    entry_id = protocol.added(client, 1, 2)
    (held_by_zombie,) = protocol.read(client, name="zombie")
    protocol.to_pool(client, entry_id)
    taken = protocol.take(client, "raw", "heir")
    assert protocol.settle_raw(client, protocol.mapped(taken)) == [True]
    before = protocol.counters(client)
    late = Outcome(held_by_zombie, mapped=1, segments=[(1, b"9\n")], dead=[protocol.letter()])
    assert protocol.settle_raw(client, late) == [False]
    assert protocol.contents(client, "clean") == [[1, 2]]
    assert protocol.counters(client) == before


def test_the_first_to_settle_wins_although_the_entry_is_pending_for_another(client: Client) -> None:
    entry_id = protocol.added(client, 1)
    (held_by_zombie,) = protocol.read(client, name="zombie")
    protocol.to_pool(client, entry_id)
    taken = protocol.take(client, "raw", "heir")
    assert protocol.settle_raw(client, protocol.mapped(held_by_zombie)) == [True]
    assert protocol.settle_raw(client, protocol.mapped(taken)) == [False]
    assert protocol.contents(client, "clean") == [[1]]
    assert protocol.pending(client) == {}


def test_of_settlements_that_race_exactly_one_is_first(redis_url: str, client: Client) -> None:
    for number in range(40):
        protocol.added(client, number)
    outcomes = [protocol.mapped(entry) for entry in protocol.read(client)]
    start = threading.Barrier(3)
    settled: list[int] = []

    def race() -> None:
        mine = Client(redis_url, client.topology)
        start.wait()
        for index, outcome in enumerate(outcomes):
            if protocol.settle_raw(mine, outcome) == [True]:
                settled.append(index)
        mine.close()

    racers = [threading.Thread(target=race) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(settled) == list(range(40))
    assert sorted(protocol.contents(client, "clean")) == [[number] for number in range(40)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"mapped": 1, "segments": [(1, b"1\n")]},
        {"mapped": 3, "segments": [(3, b"1\n2\n3\n")]},
        {"mapped": 2, "segments": [(1, b"1\n")]},
        {"filtered": 2, "dead": [["stage", "transform"]]},
    ],
    ids=["too few", "too many", "a parent without an output", "a letter too many"],
)
def test_outcomes_that_do_not_add_up_are_refused_and_nothing_is_written(
    client: Client, wrong: dict[str, object]
) -> None:
    protocol.added(client, 0)
    protocol.added(client, 1, 2)
    good, bad = protocol.read(client)
    before = protocol.snapshot(client)
    outcome = Outcome(bad, **wrong)  # type: ignore[arg-type]
    with pytest.raises(BargelineError, match=f"UNBALANCED {bad.id}"):
        protocol.settle_raw(client, protocol.mapped(good), outcome)
    assert protocol.snapshot(client) == before


def test_a_full_clean_stage_refuses_before_the_fence(client: Client) -> None:
    protocol.added(client, 1, 2, 3)
    protocol.added(client, 4)
    first, second = protocol.read(client)
    assert protocol.settle_raw(client, protocol.mapped(first)) == [True]
    before = protocol.snapshot(client)
    assert protocol.settle_raw(client, protocol.mapped(second), high_water=3) == Full(3)
    assert protocol.snapshot(client) == before
    assert protocol.settle_raw(client, protocol.mapped(second), high_water=4) == [True]
    assert protocol.contents(client, "clean") == [[1, 2, 3], [4]]


@pytest.mark.parametrize(
    ("sizes", "most_events", "most_bytes", "expected"),
    [
        ([3] * 5, 7, 10_000, [6, 6, 3]),
        ([100] * 12, 500, 262_144, [500, 500, 200]),
        ([2, 2, 2, 2], 500, 9, [4, 4]),  # an event is 2 bytes long
        ([9, 1, 1], 5, 10_000, [9, 2]),
    ],
    ids=["events", "500 events", "bytes", "one larger than the limit"],
)
def test_outputs_of_several_entries_share_clean_entries(
    client: Client, sizes: list[int], most_events: int, most_bytes: int, expected: list[int]
) -> None:
    for size in sizes:
        protocol.added(client, *[1] * size)
    outcomes = [protocol.mapped(entry) for entry in protocol.read(client)]
    first = protocol.settle_raw(client, *outcomes, most_events=most_events, most_bytes=most_bytes)
    assert first == [True] * len(sizes)
    assert [len(batch) for batch in protocol.contents(client, "clean")] == expected
    assert list(protocol.is_open(client, "clean").values()) == expected


def test_a_clean_entry_is_as_old_as_its_oldest_event(client: Client) -> None:
    found = []
    for accepted_ms in (7_000, 5_000, 6_000):
        client.script("add", protocol.HIGH_WATER, "", "", "", 1, 8, *_fields(accepted_ms), 0)
    for entry in protocol.read(client):
        found.append(entry.accepted_ms)  # noqa: PERF401 - the point is the order
    assert found == [7_000, 5_000, 6_000]
    protocol.make_group_anew(client)
    protocol.settle_raw(client, *[protocol.mapped(entry) for entry in protocol.read(client)])
    (stored,) = [Entry(*entry) for entry in entries(client, client.topology.stream("clean"), "-", 10)]
    assert (stored.accepted_ms, stored.events, stored.fields[b"c"]) == (5_000, 3, b"json")


def _fields(accepted_ms: int) -> list[object]:
    return ["n", 1, "v", 1, "d", b"1\n", "t", accepted_ms]


def test_of_several_entries_only_the_outputs_of_a_settled_one_are_missing(client: Client) -> None:
    for number in range(3):
        protocol.added(client, number)
    outcomes = [protocol.mapped(entry) for entry in protocol.read(client)]
    assert protocol.settle_raw(client, outcomes[1]) == [True]
    assert protocol.settle_raw(client, *outcomes) == [True, False, True]
    assert protocol.contents(client, "clean") == [[1], [0, 2]]


def test_an_entry_that_is_in_a_call_twice_counts_once(client: Client) -> None:
    protocol.added(client, 1, 2)
    (entry,) = protocol.read(client)
    assert protocol.settle_raw(client, protocol.mapped(entry), protocol.mapped(entry)) == [True, False]
    assert protocol.contents(client, "clean") == [[1, 2]]


def test_a_foreign_entry_is_deleted_at_its_settlement_which_is_its_fence(client: Client) -> None:
    entry_id = protocol.add_foreign(client)
    assert protocol.assert_law(client).in_raw == 1
    (entry,) = protocol.read(client)
    assert entry.foreign
    assert protocol.settle_raw(client, protocol.mapped(entry, outputs=[7])) == [True]
    assert entry_id not in protocol.entry_ids(client, client.topology.stream("raw"))
    assert protocol.settle_raw(client, protocol.mapped(entry, outputs=[7])) == [False]
    assert protocol.contents(client, "clean") == [[7]]
    assert protocol.pending(client) == {}
    found = protocol.assert_law(client)
    assert (found.foreign, found.in_raw, found.in_clean) == (1, 0, 1)


def test_a_foreign_entry_may_use_our_field_names(client: Client) -> None:
    client.call("XADD", client.topology.stream("raw"), "*", "k", "key", "v", "value")
    (entry,) = protocol.read(client)
    assert (entry.foreign, entry.events) == (True, 1)
    assert protocol.settle_raw(client, protocol.mapped(entry, outputs=[7])) == [True]
    assert protocol.contents(client, "clean") == [[7]]
    assert protocol.assert_law(client).in_raw == 0


def test_foreign_and_own_entries_share_a_clean_entry(client: Client) -> None:
    protocol.added(client, 1)
    protocol.add_foreign(client)
    own, foreign = protocol.read(client)
    first = protocol.settle_raw(client, protocol.mapped(own), protocol.mapped(foreign, outputs=[2]))
    assert first == [True, True]
    assert protocol.contents(client, "clean") == [[1, 2]]


def test_settled_entries_that_a_new_group_delivers_again_are_dropped(client: Client) -> None:
    protocol.added(client, 1, 2)
    protocol.settle_raw(client, *[protocol.mapped(entry) for entry in protocol.read(client)])
    protocol.added(client, 3)
    protocol.make_group_anew(client)
    again = protocol.read(client)
    assert len(again) == 2
    assert protocol.settle_raw(client, *[protocol.mapped(entry) for entry in again]) == [False, True]
    assert protocol.contents(client, "clean") == [[1, 2], [3]]
    assert protocol.pending(client) == {}


def test_a_holder_may_settle_after_its_consumer_was_deleted(client: Client) -> None:
    """The only rightful XACK returns 0 then."""
    protocol.added(client, 1)
    (entry,) = protocol.read(client)
    client.call("XGROUP", "DELCONSUMER", client.topology.stream("raw"), "transform", "one")
    assert protocol.settle_raw(client, protocol.mapped(entry)) == [True]
    assert protocol.contents(client, "clean") == [[1]]


def test_a_holder_may_settle_while_the_group_is_missing(client: Client) -> None:
    protocol.added(client, 1)
    (entry,) = protocol.read(client)
    client.call("XGROUP", "DESTROY", client.topology.stream("raw"), "transform")
    assert protocol.settle_raw(client, protocol.mapped(entry)) == [True]
    assert protocol.settle_raw(client, protocol.mapped(entry)) == [False]
    assert protocol.contents(client, "clean") == [[1]]


def test_a_holder_may_settle_after_the_body_was_deleted(client: Client) -> None:
    entry_id = protocol.added(client, 1)
    (entry,) = protocol.read(client)
    client.call("XDEL", client.topology.stream("raw"), entry_id)
    assert protocol.settle_raw(client, protocol.mapped(entry)) == [True]
    assert protocol.contents(client, "clean") == [[1]]


def test_dead_letters_and_retries_keep_all_their_fields(client: Client) -> None:
    protocol.added(client, 1, 2)
    (entry,) = protocol.read(client)
    dead, again = protocol.letter(text=b"1"), protocol.retry(2, due_ms=77)
    protocol.settle_raw(client, Outcome(entry, retries=[again], dead=[dead]))
    for key, fields in ((client.topology.dead, dead), (client.topology.retry, again)):
        ((_, stored),) = client.call("XRANGE", key, "-", "+")
        assert pairs(stored) == pairs([part if isinstance(part, bytes) else str(part).encode() for part in fields])
    assert (figures(client).dead, figures(client).retry) == (1, 1)
