"""TAKE, RELEASE and HOLD: suspects alone, own leftovers first, and nobody blamed for a server that is away."""

from collections.abc import Iterator

import pytest

from bargeline.embedded.ports import choose_port
from shared.streams import Client, Consumer
from shared.streams.keeper import lost, reclaim
from shared.topology import RECLAIMED
from tests.integration import protocol


@pytest.fixture
def client(redis_url: str, pipeline_name: str) -> Iterator[Client]:
    with protocol.partition(redis_url, pipeline_name) as one:
        yield one


@pytest.fixture
def one(client: Client) -> Consumer:
    return Consumer(client, "raw", "one")


def test_nothing_to_take(client: Client, one: Consumer) -> None:
    protocol.added(client, 1)  # not delivered yet
    protocol.added(client, 2)
    Consumer(client, "raw", "two").read(1, protocol.AT_ONCE)
    assert one.take() is None
    assert [name for name, _ in protocol.pending(client).values()] == ["two"]


def test_own_leftovers_come_first_one_at_a_time_and_are_not_blamed(client: Client, one: Consumer) -> None:
    pooled = protocol.added(client, 1)
    protocol.read(client, name="gone")
    protocol.to_pool(client, pooled)
    ids = {number: protocol.added(client, number) for number in (2, 3)}
    one.read(10, protocol.AT_ONCE)
    for number, expected in ids.items():
        assert protocol.take(client).id == expected  # its reply gets lost, too
        entry = protocol.take(client)
        assert (entry.id, entry.deliveries, entry.reclaimed) == (expected, 1, False)
        assert protocol.numbers(entry.fields) == [number]
        assert protocol.settle_raw(client, protocol.mapped(entry)) == [True]
    last = protocol.take(client)
    assert (last.id, last.reclaimed) == (pooled, True)


def test_a_reclaimed_entry_is_taken_oldest_first_with_one_delivery_more(client: Client) -> None:
    ids = [protocol.added(client, number) for number in (1, 2)]
    protocol.read(client, name="gone")
    for entry_id in reversed(ids):
        protocol.to_pool(client, entry_id)
    entry = protocol.take(client)
    assert (entry.id, entry.deliveries, entry.reclaimed) == (ids[0], 2, True)
    assert protocol.numbers(entry.fields) == [1]
    assert protocol.pending(client) == {ids[0]: ("one", 2), ids[1]: (RECLAIMED, 1)}


def test_deliveries_count_the_processes_that_ended_with_it(client: Client) -> None:
    entry_id = protocol.added(client, 1)
    protocol.read(client, name="w0")
    for crashes in range(1, 5):
        protocol.end(client, "raw", f"w{crashes - 1}")
        reclaim(client, "raw", 300_000)
        entry = protocol.take(client, "raw", f"w{crashes}")
        assert (entry.id, entry.deliveries) == (entry_id, crashes + 1)


@pytest.mark.parametrize("pooled", [False, True], ids=["own", "reclaimed"])
def test_settled_entries_are_acked_away(client: Client, one: Consumer, pooled: bool) -> None:
    settled = [protocol.added(client, number) for number in (1, 2)]
    protocol.settle_raw(client, *[protocol.mapped(entry) for entry in protocol.read(client)])
    unsettled = protocol.added(client, 3)
    protocol.make_group_anew(client)
    one.read(10, protocol.AT_ONCE)
    if pooled:
        for entry_id in [*settled, unsettled]:
            protocol.to_pool(client, entry_id)
    entry = protocol.take(client)
    assert entry.id == unsettled
    assert list(protocol.pending(client)) == [unsettled]


def test_nothing_but_settled_entries(client: Client, one: Consumer) -> None:
    protocol.added(client, 1)
    protocol.settle_raw(client, *[protocol.mapped(entry) for entry in protocol.read(client)])
    protocol.make_group_anew(client)
    one.read(10, protocol.AT_ONCE)
    assert one.take() is None
    assert protocol.pending(client) == {}


@pytest.mark.parametrize("pooled", [False, True], ids=["own", "reclaimed"])
def test_an_entry_whose_body_is_gone_comes_without_fields(client: Client, one: Consumer, pooled: bool) -> None:
    entry_id = protocol.added(client, 1, 2, 3)
    one.read(10, protocol.AT_ONCE)
    if pooled:
        protocol.to_pool(client, entry_id)
    client.call("XDEL", one.stream, entry_id)
    entry = protocol.take(client)
    assert (entry.id, entry.fields, entry.reclaimed) == (entry_id, {}, pooled)
    assert one.lost(entry_id) == 3
    assert one.take() is None
    assert protocol.assert_law(client).lost == 3


@pytest.mark.parametrize("pooled", [False, True], ids=["own", "reclaimed"])
@pytest.mark.parametrize("stage", ["raw", "clean"])
def test_foreign_entries_are_taken_never_acked_away(client: Client, stage: str, pooled: bool) -> None:
    entry_id = protocol.add_foreign(client, stage, value=7)
    protocol.read(client, stage)
    if pooled:
        protocol.to_pool(client, entry_id, stage)
    entry = protocol.take(client, stage, "one")
    assert (entry.id, entry.fields, entry.deliveries) == (entry_id, {b"click": b"7"}, 2 if pooled else 1)


def test_a_foreign_entry_that_was_settled_is_acked_away(client: Client, one: Consumer) -> None:
    entry_id = protocol.add_foreign(client)
    (entry,) = one.read(10, protocol.AT_ONCE)
    assert protocol.settle_raw(client, protocol.mapped(entry)) == [True]
    late = protocol.add_foreign(client)
    (held,) = protocol.read(client, name="zombie")
    protocol.to_pool(client, late)
    taken = protocol.take(client)
    assert protocol.settle_raw(client, protocol.mapped(held)) == [True]
    assert one.take() is None
    assert protocol.pending(client) == {}
    assert protocol.settle_raw(client, protocol.mapped(taken)) == [False]
    assert protocol.entry_ids(client, one.stream) == []
    assert entry_id != late


def test_who_joins_gives_what_its_name_held_to_the_pool(client: Client, one: Consumer) -> None:
    mine, others = protocol.added(client, 1), protocol.added(client, 2)
    one.read(1, protocol.AT_ONCE)
    protocol.read(client, name="two")
    assert one.join() is False
    assert protocol.pending(client) == {mine: (RECLAIMED, 1), others: ("two", 1)}
    entry = protocol.take(client)
    assert (entry.deliveries, entry.reclaimed) == (2, True)


def test_who_joins_gives_all_of_it_although_some_bodies_are_gone(client: Client, one: Consumer) -> None:
    ids = [protocol.added(client, number) for number in range(1_100)]
    one.read(2_000, protocol.AT_ONCE)
    client.call("XDEL", one.stream, ids[3], ids[700])
    one.join()
    held = protocol.pending(client)
    assert {name for name, _ in held.values()} == {RECLAIMED}
    assert len(held) >= 1_098
    for entry_id in (ids[3], ids[700]):
        assert lost(client, "raw", entry_id) == 1


def test_who_joins_makes_stream_and_group(client: Client, one: Consumer) -> None:
    client.call("DEL", one.stream)
    assert one.join() is True
    entry_id = protocol.added(client, 1)
    assert [entry.id for entry in one.read(10, protocol.AT_ONCE)] == [entry_id]


def test_a_group_is_made_from_the_beginning(client: Client, one: Consumer) -> None:
    client.call("XGROUP", "DESTROY", one.stream, "transform")
    entry_id = protocol.added(client, 1)
    assert one.join() is True
    assert [entry.id for entry in one.read(10, protocol.AT_ONCE)] == [entry_id]


def test_dying_while_holding_blames_nobody(client: Client) -> None:
    protocol.added(client, 1)
    for name in ("a", "b", "c"):
        consumer = Consumer(client, "raw", name)
        entry = consumer.take() or consumer.read(1, protocol.AT_ONCE)[0]
        assert entry.deliveries == 1
        for _ in range(3):  # a hold says so before each of its pauses
            consumer.hold([entry])
        assert list(protocol.pending(client).values()) == [(name, 0)]
        protocol.end(client, "raw", name)
        reclaim(client, "raw", 300_000)
    last = protocol.take(client)
    assert last.deliveries == 1


def test_holding_takes_back_one_delivery_and_no_more(client: Client, one: Consumer) -> None:
    ids = [protocol.added(client, number) for number in (1, 2)]
    protocol.read(client, name="gone")
    protocol.to_pool(client, ids[0])
    suspect = protocol.take(client)
    assert suspect.deliveries == 2
    for _ in range(3):
        one.hold([suspect])
    assert protocol.pending(client)[ids[0]] == ("one", 1)


def test_holding_leaves_alone_what_went_to_another_was_settled_or_has_no_body(client: Client, one: Consumer) -> None:
    gone, settled, deleted, kept = (protocol.added(client, number) for number in range(4))
    entries = one.read(10, protocol.AT_ONCE)
    client.call("XCLAIM", one.stream, "transform", "two", 0, gone, "RETRYCOUNT", 5, "JUSTID")
    assert protocol.settle_raw(client, protocol.mapped(entries[1])) == [True]
    client.call("XDEL", one.stream, deleted)
    one.hold(entries)
    assert protocol.pending(client) == {gone: ("two", 5), deleted: ("one", 1), kept: ("one", 0)}
    assert settled not in protocol.is_open(client, "raw")
    assert one.lost(deleted) == 1


def test_holding_while_redis_itself_is_away_does_nothing(client: Client, one: Consumer) -> None:
    protocol.added(client, 1)
    entries = one.read(10, protocol.AT_ONCE)
    nowhere = Client(f"redis://127.0.0.1:{choose_port(set())}", client.topology)
    Consumer(nowhere, "raw", "one").hold(entries)
    assert list(protocol.pending(client).values()) == [("one", 1)]
    nowhere.close()
