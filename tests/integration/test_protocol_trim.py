"""TRIM and DELCONSUMER: nothing that anybody still needs is deleted."""

from collections.abc import Iterator

import pytest

from shared.streams import Client
from shared.streams.inspect import last_id
from shared.streams.keeper import Trimmed, delete_consumer, repair_foreign_from, smallest_open, trim
from shared.topology import GROUP_OF_STAGE, RECLAIMED
from tests.integration import protocol

EVERYTHING = "99999999999999-0"


@pytest.fixture
def client(redis_url: str, pipeline_name: str) -> Iterator[Client]:
    with protocol.partition(redis_url, pipeline_name) as one:
        yield one


def settled(client: Client, count: int) -> list[str]:
    """Raw entries that are settled and retained."""
    ids = [protocol.added(client, number) for number in range(count)]
    protocol.settle_raw(client, *[protocol.mapped(entry) for entry in protocol.read(client)])
    return ids


def left(client: Client, stage: str = "raw") -> list[str]:
    return protocol.entry_ids(client, client.topology.stream(stage))


def after(entry_id: str) -> str:
    milliseconds, sequence = entry_id.split("-")
    return f"{milliseconds}-{int(sequence) + 1}"


def test_settled_entries_below_the_limit_are_trimmed(client: Client) -> None:
    ids = settled(client, 5)
    assert trim(client, "raw", ids[3]) == Trimmed(3, "", ids[3])
    assert left(client) == ids[3:]
    assert trim(client, "raw", ids[3]) == Trimmed(0, "", ids[3])


def test_what_is_in_hand_stays(client: Client) -> None:
    ids = settled(client, 3)
    held = protocol.added(client, 9)
    protocol.read(client)
    settled(client, 2)
    assert trim(client, "raw", EVERYTHING) == Trimmed(3, "transform", held)
    assert left(client)[0] == held
    assert len(left(client)) == 3
    assert ids[0] != held


def test_what_is_in_the_pool_stays(client: Client) -> None:
    held = protocol.added(client, 9)
    protocol.read(client)
    protocol.to_pool(client, held)
    settled(client, 2)
    assert trim(client, "raw", EVERYTHING) == Trimmed(0, "transform", held)


def test_what_was_not_delivered_stays(client: Client) -> None:
    ids = settled(client, 3)
    waiting = protocol.added(client, 9)
    assert trim(client, "raw", EVERYTHING) == Trimmed(3, "transform", after(ids[-1]))
    assert left(client) == [waiting]


def test_a_new_group_needs_everything(client: Client) -> None:
    ids = settled(client, 3)
    protocol.make_group_anew(client)
    assert trim(client, "raw", EVERYTHING) == Trimmed(0, "transform", "0-1")
    assert left(client) == ids


def test_a_group_of_others_blocks_and_is_named(client: Client) -> None:
    ids = settled(client, 4)
    stream = client.topology.stream("raw")
    client.call("XGROUP", "CREATE", stream, "auditors", ids[0])
    assert trim(client, "raw", ids[3]) == Trimmed(1, "auditors", after(ids[0]))
    assert left(client) == ids[1:]
    client.call("XREADGROUP", "GROUP", "auditors", "a", "COUNT", 2, "STREAMS", stream, ">")
    client.call("XACK", stream, "auditors", ids[1])
    assert trim(client, "raw", ids[3]) == Trimmed(1, "auditors", ids[2])
    client.call("XGROUP", "DESTROY", stream, "auditors")
    assert trim(client, "raw", ids[3]) == Trimmed(1, "", ids[3])


def test_a_group_that_needs_more_than_the_limit_keeps_is_no_blocker(client: Client) -> None:
    ids = settled(client, 4)
    client.call("XGROUP", "CREATE", client.topology.stream("raw"), "auditors", ids[2])
    assert trim(client, "raw", ids[1]) == Trimmed(1, "", ids[1])


def test_a_group_that_was_moved_back_needs_what_it_reads_again(client: Client) -> None:
    ids = settled(client, 4)
    stream = client.topology.stream("raw")
    client.call("XGROUP", "CREATE", stream, "auditors", ids[1])
    client.call("XREADGROUP", "GROUP", "auditors", "a", "STREAMS", stream, ">")
    client.call("XGROUP", "SETID", stream, "auditors", ids[0])
    assert trim(client, "raw", ids[3]) == Trimmed(1, "auditors", after(ids[0]))
    assert left(client) == ids[1:]


def test_ids_are_compared_as_numbers(client: Client) -> None:
    """As text, 9-9 is above 9-10 and 10-1."""
    stream = client.topology.stream("clean")
    for entry_id in ("9-1", "9-9", "9-10", "10-1"):
        client.call("XADD", stream, entry_id, "v", "1", "n", "1", "d", "shaped like a settled one of ours")
    client.call("XGROUP", "SETID", stream, "loader", "9-9")
    assert trim(client, "clean", "9-9") == Trimmed(1, "", "9-9")
    assert trim(client, "clean", "10-1") == Trimmed(1, "loader", "9-10")
    assert left(client, "clean") == ["9-10", "10-1"]
    client.call("DEL", stream)


def test_nothing_is_trimmed_while_the_expected_group_is_missing(client: Client) -> None:
    ids = settled(client, 2)
    waiting = protocol.added(client, 9)
    stream = client.topology.stream("raw")
    client.call("XGROUP", "CREATE", stream, "auditors", "$")
    client.call("XGROUP", "DESTROY", stream, "transform")
    assert trim(client, "raw", EVERYTHING).entries == 0
    assert left(client) == [*ids, waiting]


def test_there_is_nothing_to_trim_where_there_is_no_stream(client: Client) -> None:
    client.call("DEL", client.topology.stream("clean"))
    assert trim(client, "clean", EVERYTHING).entries == 0


def test_foreign_entries_that_wait_stay(client: Client) -> None:
    settled(client, 2)
    in_hand = protocol.add_foreign(client)
    protocol.read(client)
    waiting = protocol.add_foreign(client)
    assert trim(client, "raw", EVERYTHING) == Trimmed(2, "transform", in_hand)
    assert left(client) == [in_hand, waiting]
    assert protocol.assert_law(client).in_raw == 2


def test_each_stage_is_trimmed_by_its_own_group(client: Client) -> None:
    settled(client, 3)
    assert trim(client, "clean", EVERYTHING) == Trimmed(0, "loader", "0-1")
    assert trim(client, "raw", EVERYTHING).entries == 3
    assert (len(left(client)), len(left(client, "clean"))) == (0, 1)


def test_the_oldest_unsettled_entry(client: Client) -> None:
    assert smallest_open(client, "raw") is None
    settled(client, 2)
    assert smallest_open(client, "raw") is None
    ids = [protocol.added(client, number) for number in range(30)]
    assert smallest_open(client, "raw") == ids[0]
    assert smallest_open(client, "clean") == last_id(client, client.topology.stream("clean"))


def test_a_consumer_that_holds_nothing_and_has_no_lease_is_deleted(client: Client) -> None:
    settled(client, 1)
    assert delete_consumer(client, "raw", "one", 0) is True
    assert consumers(client) == []
    assert delete_consumer(client, "raw", "one", 0) is False


def test_a_consumer_that_holds_something_is_not_deleted(client: Client) -> None:
    held = protocol.added(client, 1)
    protocol.read(client)
    assert delete_consumer(client, "raw", "one", 0) is False
    assert protocol.pending(client) == {held: ("one", 1)}


def test_a_consumer_with_a_lease_is_not_deleted(client: Client) -> None:
    settled(client, 1)
    lease = protocol.hold_lease(client, "raw", "one")
    assert delete_consumer(client, "raw", "one", 0) is False
    lease.release()
    assert delete_consumer(client, "raw", "one", 3_600_000) is False  # it may come back at once
    assert consumers(client) == ["one"]
    assert delete_consumer(client, "raw", "one", 0) is True


def test_a_name_that_was_forgotten_is_foreign_when_it_comes_again(client: Client) -> None:
    settled(client, 1)
    protocol.end(client, "raw", "one")
    leased = client.topology.leased("transform")
    assert client.call("SISMEMBER", leased, "one") == 1
    assert delete_consumer(client, "raw", "one", 0) is True
    assert client.call("SISMEMBER", leased, "one") == 0


def test_the_pool_is_never_deleted(client: Client) -> None:
    client.call("XGROUP", "CREATECONSUMER", client.topology.stream("raw"), "transform", RECLAIMED)
    assert delete_consumer(client, "raw", RECLAIMED, 0) is False
    assert consumers(client) == [RECLAIMED]


def consumers(client: Client) -> list[str]:
    found = client.call("XINFO", "CONSUMERS", client.topology.stream("raw"), "transform")
    return [one[1].decode() for one in found]


@pytest.mark.parametrize("stage", ["raw", "clean"])
def test_a_foreign_entry_that_nobody_holds_any_more_stays_and_is_handed_over(client: Client, stage: str) -> None:
    """XGROUP DELCONSUMER drops its pending entries; in no `open`, they would look as if nobody needed them."""
    group = GROUP_OF_STAGE[stage]
    entry_id = protocol.add_foreign(client, stage)
    assert [entry.id for entry in protocol.read(client, stage)] == [entry_id]
    client.call("XGROUP", "DELCONSUMER", client.topology.stream(stage), group, "one")
    trimmed = trim(client, stage, EVERYTHING)
    assert (trimmed.entries, trimmed.blocker, trimmed.needed) == (0, group, entry_id)
    assert repair_foreign_from(client, stage, trimmed.needed) == 1
    assert protocol.pending(client, stage) == {entry_id: (RECLAIMED, 0)}
    assert repair_foreign_from(client, stage, trimmed.needed) == 0, "it is held now"


def test_foreign_entries_that_are_held_or_were_not_read_are_not_handed_over(client: Client) -> None:
    held = protocol.add_foreign(client)
    protocol.read(client)
    protocol.add_foreign(client)
    assert repair_foreign_from(client, "raw", held) == 0
    assert protocol.pending(client) == {held: ("one", 1)}
