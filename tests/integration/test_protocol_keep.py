"""RECLAIM, REPAIR and LOST: what others left, what nobody holds, and what is gone."""

from collections.abc import Iterator

import pytest

from shared.streams import Client
from shared.streams.keeper import Swept, lost, open_ids, reclaim, repair
from shared.topology import GROUP_OF_STAGE, RECLAIMED
from tests.integration import protocol

NEVER_MS = 3_600_000


@pytest.fixture
def client(redis_url: str, pipeline_name: str) -> Iterator[Client]:
    with protocol.partition(redis_url, pipeline_name) as one:
        yield one


def in_hand(client: Client, *sizes: int, name: str = "one") -> list[str]:
    """Raw entries of these sizes that a consumer has."""
    ids = [protocol.added(client, *range(size)) for size in sizes]
    protocol.read(client, name=name)
    return ids


def repair_all(client: Client, stage: str = "raw") -> Swept:
    (ids,) = list(open_ids(client, stage)) or [[]]
    return repair(client, stage, ids)


def test_entries_of_a_consumer_whose_lease_is_gone_go_to_the_pool(client: Client) -> None:
    (entry_id,) = in_hand(client, 3)
    client.call("XCLAIM", client.topology.stream("raw"), "transform", "one", 0, entry_id, "RETRYCOUNT", 4, "JUSTID")
    protocol.end(client, "raw", "one")
    assert reclaim(client, "raw", NEVER_MS) == Swept(1, [])
    assert protocol.pending(client) == {entry_id: (RECLAIMED, 4)}
    assert reclaim(client, "raw", 0) == Swept(0, [])


def test_a_living_consumer_is_never_robbed_however_idle(client: Client) -> None:
    (entry_id,) = in_hand(client, 1)
    held = protocol.hold_lease(client, "raw", "one")
    long_ago = ("IDLE", 10**9, "JUSTID")
    client.call("XCLAIM", client.topology.stream("raw"), "transform", "one", 0, entry_id, *long_ago)
    assert reclaim(client, "raw", 0) == Swept(0, [])
    assert protocol.pending(client) == {entry_id: ("one", 1)}
    held.release()
    assert reclaim(client, "raw", NEVER_MS) == Swept(1, [])


def test_a_lease_in_one_group_does_not_protect_the_same_name_in_another(client: Client) -> None:
    in_hand(client, 1)
    protocol.end(client, "raw", "one")
    protocol.hold_lease(client, "clean", "one")
    assert reclaim(client, "raw", NEVER_MS) == Swept(1, [])


def test_a_foreign_consumer_is_judged_by_its_idle_time(client: Client) -> None:
    (entry_id,) = in_hand(client, 1, name="foreign")
    assert reclaim(client, "raw", NEVER_MS) == Swept(0, [])
    assert reclaim(client, "raw", 0) == Swept(1, [])
    assert protocol.pending(client) == {entry_id: (RECLAIMED, 1)}


def test_settled_entries_are_acked_and_the_others_moved(client: Client) -> None:
    in_hand(client, 1, 2)
    protocol.make_group_anew(client)
    first, second = protocol.read(client)
    assert protocol.settle_raw(client, protocol.mapped(first)) == [True]
    protocol.make_group_anew(client)
    protocol.read(client)
    protocol.end(client, "raw", "one")
    assert reclaim(client, "raw", NEVER_MS) == Swept(1, [])
    assert protocol.pending(client) == {second.id: (RECLAIMED, 1)}


@pytest.mark.parametrize("stage", ["raw", "clean"])
def test_foreign_entries_are_moved_never_acked_away(client: Client, stage: str) -> None:
    entry_id = protocol.add_foreign(client, stage)
    client.call("XADD", client.topology.stream(stage), "*", "k", "1", "v", "1")
    protocol.read(client, stage)
    protocol.end(client, stage, "one")
    assert reclaim(client, stage, NEVER_MS) == Swept(2, [])
    assert protocol.take(client, stage, "two").id == entry_id


@pytest.mark.parametrize(
    "fields",
    ["k 1 v 1", "v 1 n 1", "v 1 d x", "n 1 d x", "v a n 1 d x", "v 1 n a d x", "v 0 n 1 d x", "v 1 n 100000 d x"],
)
def test_scripts_and_workers_agree_on_what_is_foreign(client: Client, fields: str) -> None:
    client.call("XADD", client.topology.stream("raw"), "*", *fields.split())
    protocol.read(client)
    protocol.end(client, "raw", "one")
    assert reclaim(client, "raw", NEVER_MS) == Swept(1, [])
    entry = protocol.take(client, name="two")
    assert entry.foreign
    assert protocol.settle_raw(client, protocol.mapped(entry, outputs=[5])) == [True]


def test_unsettled_entries_without_a_body_are_reported(client: Client) -> None:
    gone, there = in_hand(client, 5, 1)
    protocol.end(client, "raw", "one")
    client.call("XDEL", client.topology.stream("raw"), gone)
    assert reclaim(client, "raw", NEVER_MS) == Swept(1, [gone])
    assert protocol.is_open(client, "raw") == {gone: 5, there: 1}
    assert reclaim(client, "raw", NEVER_MS) == Swept(0, [gone])
    assert lost(client, "raw", gone) == 5
    assert reclaim(client, "raw", NEVER_MS) == Swept(0, [])


def test_a_sweep_is_bounded_and_another_goes_on(client: Client) -> None:
    ids = in_hand(client, *[1] * 5)
    protocol.end(client, "raw", "one")
    assert [reclaim(client, "raw", NEVER_MS, most=2).moved for _ in range(4)] == [2, 2, 1, 0]
    assert protocol.pending(client) == dict.fromkeys(ids, (RECLAIMED, 1))


def test_there_is_nothing_to_reclaim_where_there_is_no_stream(client: Client) -> None:
    client.call("DEL", client.topology.stream("raw"))
    assert reclaim(client, "raw", 0) == Swept(0, [])


def test_entries_that_a_moved_group_skips_are_repaired_and_nobody_is_blamed(client: Client) -> None:
    ids = [protocol.added(client, number) for number in (1, 2)]
    client.call("XGROUP", "SETID", client.topology.stream("raw"), "transform", "$")
    assert protocol.read(client) == []
    assert repair_all(client) == Swept(2, [])
    assert list(protocol.pending(client)) == ids
    assert protocol.take(client).deliveries == 1
    assert repair_all(client) == Swept(0, [])


def test_entries_of_a_deleted_consumer_are_repaired(client: Client) -> None:
    (entry_id,) = in_hand(client, 2)
    client.call("XGROUP", "DELCONSUMER", client.topology.stream("raw"), "transform", "one")
    assert repair_all(client) == Swept(1, [])
    assert protocol.pending(client) == {entry_id: (RECLAIMED, 0)}


@pytest.mark.parametrize("delivered", [False, True])
def test_unsettled_entries_without_a_body_that_nobody_holds_are_reported(client: Client, delivered: bool) -> None:
    gone = protocol.added(client, 1, 2)
    protocol.added(client, 3)
    if delivered:
        protocol.read(client)
        client.call("XGROUP", "DELCONSUMER", client.topology.stream("raw"), "transform", "one")
    client.call("XDEL", client.topology.stream("raw"), gone)
    assert repair_all(client) == Swept(int(delivered), [gone])
    assert lost(client, "raw", gone) == 2


def test_entries_that_wait_are_in_hand_or_are_settled_are_left_alone(client: Client) -> None:
    settled = protocol.added(client, 1)
    (entry,) = protocol.read(client)
    protocol.settle_raw(client, protocol.mapped(entry))
    (held,) = in_hand(client, 1)
    waiting = protocol.added(client, 3)
    assert repair(client, "raw", [settled, held, waiting, "5-5"]) == Swept(0, [])
    assert protocol.pending(client) == {held: ("one", 1)}
    assert [entry.id for entry in protocol.read(client, name="two")] == [waiting]


def test_without_its_group_nothing_is_repaired(client: Client) -> None:
    (entry_id,) = in_hand(client, 1)
    client.call("XDEL", client.topology.stream("raw"), entry_id)
    client.call("XGROUP", "DESTROY", client.topology.stream("raw"), "transform")
    assert repair(client, "raw", [entry_id]) == Swept(0, [])
    client.call("DEL", client.topology.stream("clean"))
    assert repair(client, "clean", ["1-1"]) == Swept(0, [])


@pytest.mark.parametrize("stage", ["raw", "clean"])
def test_an_entry_is_lost_once_and_only_when_its_body_is_gone(client: Client, stage: str) -> None:
    (entry_id,) = in_hand(client, 4)
    if stage == "clean":
        protocol.settle_raw(client, protocol.mapped(protocol.take(client)))
        (entry_id,) = protocol.is_open(client, "clean")
    assert lost(client, stage, entry_id) == 0
    client.call("XDEL", client.topology.stream(stage), entry_id)
    assert [lost(client, stage, entry_id) for _ in range(2)] == [4, 0]
    assert protocol.counters(client)[f"lost.{stage}"] == 4
    found = protocol.assert_law(client)
    assert (found.lost, found.in_flight) == (4, 0)


def test_open_entries_are_listed_in_chunks(client: Client) -> None:
    ids = {protocol.added(client, 1) for _ in range(1_200)}
    chunks = list(open_ids(client, "raw"))
    assert {entry_id for chunk in chunks for entry_id in chunk} == ids
    assert len(chunks) > 1
    assert list(open_ids(client, "clean")) == []


def test_the_groups_are_those_of_the_topology(client: Client) -> None:
    """The scripts name them, too (prelude.lua)."""
    for stage, group in GROUP_OF_STAGE.items():
        info = client.call("XINFO", "GROUPS", client.topology.stream(stage))
        assert [one[1].decode() for one in info] == [group]
        assert repair_all(client, stage) == Swept(0, [])
