"""ADD_ALL: several batches and the checkpoint of their source, or nothing at all."""

from collections.abc import Iterator, Sequence

import pytest

from shared.entries import batch_fields
from shared.errors import ConfigurationError
from shared.streams import Added, Client, Full, Stale, checkpoint
from shared.streams.together import add_all, forget
from tests.integration import protocol


@pytest.fixture
def client(redis_url: str, pipeline_name: str) -> Iterator[Client]:
    with protocol.partition(redis_url, pipeline_name) as one:
        yield one


def _add(
    client: Client, *batches: Sequence[int], expected: str = "", new: str = "1", high_water: int = protocol.HIGH_WATER
) -> Added | Stale | Full:
    fields = [(len(one), batch_fields(protocol.body(one), len(one), protocol.ACCEPTED_MS)) for one in batches]
    return add_all(client, high_water=high_water, source="http", expected=expected, new=new, batches=fields)


def test_all_batches_and_the_checkpoint_are_written_together(client: Client) -> None:
    assert _add(client, [1, 2, 3], [4], [5, 6]) == Added("", 6)
    assert protocol.contents(client, "raw") == [[1, 2, 3], [4], [5, 6]]
    assert sorted(protocol.is_open(client, "raw").values()) == [1, 2, 3]
    assert checkpoint(client, "http") == "1"
    assert protocol.counters(client) == {"accepted": 6, "raw.added": 6, "raw.entries": 3}
    assert protocol.assert_law(client).in_raw == 6


def test_a_call_sent_again_after_a_lost_reply_writes_nothing(client: Client) -> None:
    _add(client, [1], [2])
    before = protocol.snapshot(client)
    assert _add(client, [1], [2]) == Stale("1")
    assert protocol.snapshot(client) == before
    assert _add(client, [3], expected="1", new="2") == Added("", 3)


def test_a_full_stage_takes_none_of_them(client: Client) -> None:
    assert _add(client, [1, 2], [3], high_water=1) == Added("", 3)
    before = protocol.snapshot(client)
    assert _add(client, [4], [5], expected="1", new="2", high_water=3) == Full(3)
    assert protocol.snapshot(client) == before


def test_a_key_of_another_program_fails_before_the_first_write(client: Client) -> None:
    client.call("SET", client.topology.open("raw"), "something else")
    with pytest.raises(ConfigurationError, match="WRONGTYPE"):
        _add(client, [1], [2])
    assert protocol.contents(client, "raw") == []
    client.call("DEL", client.topology.open("raw"))


def test_a_checkpoint_that_is_forgotten(client: Client) -> None:
    _add(client, [1])
    forget(client, "http")
    assert checkpoint(client, "http") == ""
    assert _add(client, [2]) == Added("", 2)
