"""ADD: a batch, its dead letters and the checkpoint of its source, or nothing at all."""

import threading
from collections.abc import Iterator

import pytest

from shared.streams import Added, Client, Full, Outcome, Stale, checkpoint
from shared.streams.client import pairs
from shared.streams.inspect import figures
from shared.streams.keeper import server_ms
from tests.integration import protocol
from tests.wait import until


@pytest.fixture
def client(redis_url: str, pipeline_name: str) -> Iterator[Client]:
    with protocol.partition(redis_url, pipeline_name) as one:
        yield one


def test_batch_dead_letters_and_checkpoint_are_written_together(client: Client) -> None:
    dead = [protocol.letter("ingest", b"x"), protocol.letter("ingest", b"y")]
    result = protocol.try_add(client, [1, 2, 3], source="file", new="10", dead=dead)
    assert isinstance(result, Added)
    assert protocol.contents(client, "raw") == [[1, 2, 3]]
    assert protocol.is_open(client, "raw") == {result.entry_id: 3}
    assert checkpoint(client, "file") == "10"
    letters = client.call("XRANGE", client.topology.dead, "-", "+")
    assert [pairs(fields)[b"event"] for _, fields in letters] == [b"x", b"y"]
    assert protocol.counters(client) == {"accepted": 5, "dead.ingest": 2, "raw.added": 3, "raw.entries": 1}
    assert protocol.assert_law(client).in_raw == 3


@pytest.mark.parametrize("letters", [0, 2], ids=["blank lines", "dead letters only"])
def test_without_events_no_entry_is_added_and_the_checkpoint_moves(client: Client, letters: int) -> None:
    result = protocol.try_add(client, source="file", new="7", dead=[protocol.letter("ingest")] * letters)
    assert result == Added("", 0)
    assert protocol.contents(client, "raw") == []
    assert checkpoint(client, "file") == "7"
    assert figures(client).dead == letters


def test_a_call_sent_again_after_a_lost_reply_is_stale_and_writes_nothing(client: Client) -> None:
    protocol.try_add(client, [1, 2], source="file", new="5", dead=[protocol.letter("ingest")])
    before = protocol.snapshot(client)
    again = protocol.try_add(client, [1, 2], source="file", new="5", dead=[protocol.letter("ingest")])
    assert again == Stale("5")
    assert protocol.snapshot(client) == before


def test_a_source_goes_on_from_its_own_checkpoint(client: Client) -> None:
    protocol.try_add(client, [1], source="a", new="1")
    assert protocol.try_add(client, [2], source="b", expected="1", new="2") == Stale("")
    assert isinstance(protocol.try_add(client, [3], source="b", new="9"), Added)
    assert isinstance(protocol.try_add(client, [4], source="a", expected="1", new="2"), Added)
    assert (checkpoint(client, "a"), checkpoint(client, "b")) == ("2", "9")
    assert protocol.contents(client, "raw") == [[1], [3], [4]]


def test_two_producers_on_one_source_add_every_position_once(redis_url: str, client: Client) -> None:
    last = 60
    start = threading.Barrier(2)
    results: list[type] = []

    def produce() -> None:
        mine = Client(redis_url, client.topology)
        start.wait()
        position = 0
        while position < last:
            expected = str(position) if position else ""
            result = protocol.try_add(mine, [position], source="file", expected=expected, new=str(position + 1))
            results.append(type(result))
            position = int(checkpoint(mine, "file"))
        mine.close()

    producers = [threading.Thread(target=produce) for _ in range(2)]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()
    assert protocol.contents(client, "raw") == [[position] for position in range(last)]
    assert results.count(Added) == last


def test_without_a_source_there_is_no_checkpoint(client: Client) -> None:
    for number in (1, 2):
        assert isinstance(protocol.try_add(client, [number], new="5"), Added)
    assert protocol.contents(client, "raw") == [[1], [2]]
    assert client.call("EXISTS", client.topology.checkpoint) == 0


def test_a_full_stage_refuses_and_nothing_is_written(client: Client) -> None:
    assert isinstance(protocol.try_add(client, [1, 2, 3], high_water=2), Added)
    before = protocol.snapshot(client)
    dead = [protocol.letter("ingest")]
    assert protocol.try_add(client, [4], source="file", new="1", dead=dead, high_water=3) == Full(3)
    assert protocol.snapshot(client) == before
    assert isinstance(protocol.try_add(client, [4], source="file", new="1", high_water=4), Added)


def test_a_checkpoint_without_events_needs_no_room(client: Client) -> None:
    """Else an ingest whose file exactly fills the stage would wait at its end for somebody to read it."""
    protocol.try_add(client, [1, 2], source="file", new="1", high_water=2)
    assert protocol.try_add(client, [], source="file", expected="1", new="2", high_water=2) == Added("", 2)
    assert checkpoint(client, "file") == "2"


def test_full_counts_what_is_in_flight_never_what_is_retained_or_in_hand(client: Client) -> None:
    protocol.added(client, *range(10))
    (entry,) = protocol.read(client)
    assert protocol.try_add(client, [10], high_water=10) == Full(10)
    protocol.settle_raw(client, protocol.mapped(entry))
    assert len(protocol.contents(client, "raw")) == 1
    assert isinstance(protocol.try_add(client, [10], high_water=1), Added)


def test_what_waits_for_another_attempt_is_in_flight_too(client: Client) -> None:
    protocol.added(client, 1, 2)
    (entry,) = protocol.read(client)
    retries = [protocol.retry(number, due_ms=1) for number in (1, 2)]
    protocol.settle_raw(client, Outcome(entry, retries=retries))
    assert protocol.try_add(client, [3], high_water=2) == Full(2)
    assert isinstance(protocol.try_add(client, [3], high_water=3), Added)


def test_a_lost_reply_is_told_even_when_the_stage_is_full(client: Client) -> None:
    protocol.try_add(client, [1], source="file", new="1")
    assert protocol.try_add(client, [1], source="file", new="1", high_water=1) == Stale("1")


def test_an_epoch_lasts_as_long_as_its_ledger(client: Client) -> None:
    protocol.added(client, 1)
    epoch = figures(client).epoch
    assert epoch is not None
    until(lambda: server_ms(client) > int(epoch), what="another millisecond")
    protocol.added(client, 2)
    assert figures(client).epoch == epoch
    client.call("DEL", *client.topology.script_keys())
    protocol.added(client, 3)
    after = figures(client).epoch
    assert after is not None
    assert int(after) > int(epoch)
