"""SPLIT and MOVE: suspects in single events, and retried events back when they are due."""

from collections.abc import Iterator

import pytest

from shared.entries import Entry, Fields, batch_fields
from shared.errors import BargelineError
from shared.streams import Client, Outcome, split
from shared.streams.inspect import figures
from shared.streams.keeper import due_retries, move
from tests.integration import protocol


@pytest.fixture
def client(redis_url: str, pipeline_name: str) -> Iterator[Client]:
    with protocol.partition(redis_url, pipeline_name) as one:
        yield one


def singles(entry: Entry) -> list[Fields]:
    return [batch_fields(protocol.body([number]), 1, entry.accepted_ms) for number in protocol.numbers(entry.fields)]


def suspect(client: Client, *batch: int) -> Entry:
    protocol.added(client, *batch)
    return protocol.read(client)[-1]


def retried(client: Client, *due_ms: int) -> list[str]:
    """Events 0, 1, 2… that wait until then; returns their ids."""
    entry = suspect(client, *range(len(due_ms)))
    retries = [protocol.retry(number, due) for number, due in enumerate(due_ms)]
    assert protocol.settle_raw(client, Outcome(entry, retries=retries)) == [True]
    return protocol.entry_ids(client, client.topology.retry)


def test_a_suspect_batch_becomes_entries_of_one_event(client: Client) -> None:
    entry = suspect(client, 1, 2, 3)
    assert split(client, entry, singles(entry)) is True
    assert protocol.pending(client) == {}
    found = protocol.read(client)
    assert [protocol.numbers(one.fields) for one in found] == [[1], [2], [3]]
    assert [(one.events, one.accepted_ms, one.deliveries) for one in found] == [(1, protocol.ACCEPTED_MS, 1)] * 3
    assert protocol.is_open(client, "raw") == dict.fromkeys([one.id for one in found], 1)
    assert protocol.counters(client).items() >= {"split": 3, "raw.settled": 3, "raw.added": 6}.items()


def test_a_batch_is_split_once(client: Client) -> None:
    entry = suspect(client, 1, 2)
    assert [split(client, entry, singles(entry)) for _ in range(2)] == [True, False]
    assert len(protocol.is_open(client, "raw")) == 2


def test_a_batch_is_split_or_settled_never_both(client: Client) -> None:
    first, second = suspect(client, 1, 2), suspect(client, 3, 4)
    assert protocol.settle_raw(client, protocol.mapped(first)) == [True]
    assert split(client, first, singles(first)) is False
    assert split(client, second, singles(second)) is True
    assert protocol.settle_raw(client, protocol.mapped(second)) == [False]
    assert protocol.contents(client, "clean") == [[1, 2]]
    assert [protocol.numbers(one.fields) for one in protocol.read(client)] == [[3], [4]]


def test_a_split_that_does_not_add_up_is_refused_and_nothing_is_written(client: Client) -> None:
    entry = suspect(client, 1, 2, 3)
    before = protocol.snapshot(client)
    with pytest.raises(BargelineError, match="UNBALANCED"):
        split(client, entry, singles(entry)[:2])
    assert protocol.snapshot(client) == before


def test_a_batch_of_500_can_be_split(client: Client) -> None:
    entry = suspect(client, *range(500))
    assert split(client, entry, singles(entry)) is True
    assert len(protocol.is_open(client, "raw")) == 500


def test_events_come_back_when_they_are_due_with_all_they_carry(client: Client) -> None:
    ids = retried(client, 1_000, 2_000, 3_000)
    assert due_retries(client, 999) == []
    assert due_retries(client, 2_000) == ids[:2]
    assert move(client, 2_000, ids) == 2
    assert protocol.entry_ids(client, client.topology.retry) == ids[2:]
    back = protocol.read(client)
    assert [protocol.numbers(one.fields) for one in back] == [[0], [1]]
    assert [(one.foreign, one.events, one.attempt, one.accepted_ms) for one in back] == [
        (False, 1, 1, protocol.ACCEPTED_MS)
    ] * 2
    assert back[0].history == [{"at": "then"}]
    assert protocol.is_open(client, "raw") == dict.fromkeys([one.id for one in back], 1)
    assert protocol.counters(client)["retry.moved"] == 2


def test_an_event_whose_values_may_be_text_comes_back_as_one(client: Client) -> None:
    entry = suspect(client, 0, 1)
    retries = [[*protocol.retry(0, 1), "x", 1], protocol.retry(1, 1)]
    assert protocol.settle_raw(client, Outcome(entry, retries=retries)) == [True]
    assert move(client, 5, protocol.entry_ids(client, client.topology.retry)) == 2
    assert [one.text for one in protocol.read(client)] == [True, False]


def test_of_two_janitors_one_moves(client: Client) -> None:
    ids = retried(client, 1, 1)
    assert [move(client, 5, ids) for _ in range(2)] == [2, 0]
    assert move(client, 5, [*ids, "7-7"]) == 0
    assert len(protocol.read(client)) == 2


def test_many_due_events_are_found_and_moved(client: Client) -> None:
    late = 10**15
    retried(client, *[1] * 450)
    retried(client, *[late] * 100, *[2] * 300)
    ids = retried(client, *[2] * 300)
    due = due_retries(client, 10)
    assert len(ids) == 1_150
    assert due == [*ids[:450], *ids[550:]]
    assert due_retries(client, 10, most=3)[:3] == ids[:3]
    assert move(client, 10, due) == 1_050
    assert figures(client).retry == 100
    assert len(protocol.is_open(client, "raw")) == 1_050
