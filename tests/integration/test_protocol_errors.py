"""Servers that refuse: a missing group, a script cache that was emptied, no memory, a key of somebody else."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest

from bargeline.embedded import throwaway
from shared.entries import Entry
from shared.errors import ConfigurationError, TransientError
from shared.streams import (
    Added,
    Client,
    Consumer,
    GroupMissing,
    Outcome,
    checkpoint,
    ensure_group,
    settle_clean,
    split,
)
from shared.streams.inspect import group_state
from shared.streams.keeper import delete_consumer, lost, move, reclaim, repair, trim
from shared.topology import RECLAIMED
from tests.integration import protocol


@pytest.fixture
def client(redis_url: str, pipeline_name: str) -> Iterator[Client]:
    with protocol.partition(redis_url, pipeline_name) as one:
        yield one


@pytest.fixture(scope="module")
def own_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of our own: its settings may be changed and its scripts forgotten."""
    process, url = throwaway.start_valkey(tmp_path_factory.mktemp("own"), "--maxmemory-policy", "noeviction")
    try:
        yield url
    finally:
        throwaway.stop(process)


@pytest.fixture
def own(own_redis_url: str, request: pytest.FixtureRequest) -> Iterator[Client]:
    with protocol.partition(own_redis_url, f"own-{abs(hash(request.node.name))}") as one:
        yield one
        one.call("CONFIG", "SET", "maxmemory", 0)


def fill(client: Client) -> None:
    """From here on the server has more in memory than it may."""
    client.call("CONFIG", "SET", "maxmemory", 1)


@pytest.mark.parametrize(
    "operation",
    [
        lambda client: Consumer(client, "raw", "one").read(1, protocol.AT_ONCE),
        lambda client: Consumer(client, "raw", "one").take(),
        lambda client: reclaim(client, "raw", 0),
        lambda client: delete_consumer(client, "raw", "one", 0),
        lambda client: group_state(client, "raw"),
    ],
    ids=["read", "take", "reclaim", "delete_consumer", "group_state"],
)
@pytest.mark.parametrize("missing", ["group", "stream"])
def test_a_missing_group_is_told(client: Client, operation: Callable[[Client], object], missing: str) -> None:
    if missing == "group":
        client.call("XGROUP", "DESTROY", client.topology.stream("raw"), "transform")
        with pytest.raises(GroupMissing):
            operation(client)
        return
    client.call("DEL", client.topology.stream("raw"))
    with suppress(GroupMissing):  # some have nothing to do then
        operation(client)
    assert ensure_group(client, "raw", "transform") is True
    operation(client)


def test_a_group_is_made_once(client: Client) -> None:
    protocol.added(client, 1)
    assert ensure_group(client, "raw", "transform") is False
    client.call("XGROUP", "DESTROY", client.topology.stream("raw"), "transform")
    assert ensure_group(client, "raw", "transform") is True
    assert [protocol.numbers(entry.fields) for entry in protocol.read(client)] == [[1]]


def test_scripts_are_loaded_again_when_the_server_forgot_them(own: Client) -> None:
    protocol.added(own, 1)
    (entry,) = protocol.read(own)
    own.call("SCRIPT", "FLUSH", "SYNC")
    assert protocol.settle_raw(own, protocol.mapped(entry)) == [True]
    own.call("SCRIPT", "FLUSH", "SYNC")
    assert isinstance(protocol.try_add(own, [2]), Added)


def test_at_maxmemory_nothing_is_added_and_nothing_of_it_written(own: Client) -> None:
    protocol.try_add(own, [1], source="file", new="1")
    before = protocol.snapshot(own)
    fill(own)
    dead = [protocol.letter("ingest")]
    for batch, letters in (([2], dead), ([2], []), ([], dead), ([], [])):
        with pytest.raises(TransientError, match="maxmemory"):
            protocol.try_add(own, batch, source="file", expected="1", new="2", dead=letters)
    assert protocol.snapshot(own) == before
    own.call("CONFIG", "SET", "maxmemory", 0)
    assert isinstance(protocol.try_add(own, [2], source="file", expected="1", new="2"), Added)
    assert checkpoint(own, "file") == "2"


def test_at_maxmemory_the_very_first_add_is_refused_whole(own: Client) -> None:
    fill(own)
    before = protocol.snapshot(own)
    with pytest.raises(TransientError, match="maxmemory"):
        protocol.try_add(own, [1], source="file", new="1")
    assert protocol.snapshot(own) == before


def test_at_maxmemory_everything_drains(own: Client) -> None:
    for number in range(4):
        protocol.added(own, number, number)
    foreign = protocol.add_foreign(own)
    fill(own)
    first, second, third, fourth, fifth = protocol.read(own)
    again = Outcome(second, retries=[protocol.retry(1, due_ms=1)], dead=[protocol.letter()])
    assert protocol.settle_raw(own, protocol.mapped(first), again) == [True, True]
    assert protocol.settle_raw(own, protocol.mapped(third)) == [True]
    assert split(own, fourth, [["v", 1, "n", 1, "c", "json", "d", "3\n", "t", 1]] * 2) is True
    assert fifth.id == foreign
    assert protocol.settle_raw(own, protocol.mapped(fifth, outputs=[9])) == [True]
    assert move(own, 5, protocol.entry_ids(own, own.topology.retry)) == 1
    for entry in protocol.read(own):
        assert protocol.settle_raw(own, protocol.mapped(entry)) == [True]
    loaded = [protocol.all_loaded(entry) for entry in protocol.read(own, "clean")]
    loaded[0].loaded -= 1
    loaded[0].dead.append(protocol.letter("loader"))
    assert settle_clean(own, loaded) == [True] * len(loaded)
    assert trim(own, "raw", "99999999999999-0").entries > 0
    found = protocol.assert_law(own)
    assert (found.loaded, found.dead, found.in_flight) == (7, 2, 0)


def test_at_maxmemory_suspects_are_reclaimed_repaired_taken_held_and_lost(own: Client) -> None:
    ids = [protocol.added(own, number) for number in range(3)]
    protocol.read(own)
    protocol.end(own, "raw", "one")
    fill(own)
    assert reclaim(own, "raw", 0).moved == 3
    own.call("XGROUP", "DELCONSUMER", own.topology.stream("raw"), "transform", RECLAIMED)
    own.call("XDEL", own.topology.stream("raw"), ids[0])
    swept = repair(own, "raw", ids)
    assert (swept.moved, swept.missing) == (2, ids[:1])
    assert lost(own, "raw", ids[0]) == 1
    taken = protocol.take(own, name="heir")
    Consumer(own, "raw", "heir").hold([taken])
    assert protocol.pending(own) == {ids[1]: ("heir", 0), ids[2]: (RECLAIMED, 0)}
    Consumer(own, "raw", "heir").join()
    assert {name for name, _ in protocol.pending(own).values()} == {RECLAIMED}


def test_at_maxmemory_a_worker_can_start_and_keeps_its_lease(own: Client) -> None:
    """Or a full server could never be drained by a loader that was restarted."""
    fill(own)
    held = protocol.hold_lease(own, "clean", "one")
    own.call("PEXPIRE", own.topology.lease("loader", "one"), 1_000)
    assert held.renew() is True
    assert own.call("PTTL", own.topology.lease("loader", "one")) > 5_000
    with pytest.raises(TransientError, match="maxmemory"):  # why the renewal is none
        own.call("SET", own.topology.lease("loader", "one"), "x")
    held.release()
    assert own.call("EXISTS", own.topology.lease("loader", "one")) == 0


@dataclass
class Scene:
    """Entries in hand, one whose body is gone, and one event that waits for another attempt."""

    client: Client
    raw: Entry
    clean: Entry
    gone: str

    @classmethod
    def prepare(cls, client: Client) -> "Scene":
        protocol.added(client, 1, 2)
        (entry,) = protocol.read(client)
        outcome = Outcome(entry, mapped=1, segments=[(1, b"1\n")], retries=[protocol.retry(2, due_ms=1)])
        protocol.settle_raw(client, outcome)
        (clean,) = protocol.read(client, "clean")
        protocol.added(client, 3, 4, 5)
        gone = protocol.added(client, 6)
        raw, _ = protocol.read(client)
        client.call("XDEL", client.topology.stream("raw"), gone)
        return cls(client, raw, clean, gone)

    def add(self) -> object:
        return protocol.try_add(self.client, [7], source="file", new="1", dead=[protocol.letter("ingest")])

    def settle(self) -> object:
        outcome = Outcome(self.raw, mapped=1, segments=[(1, b"3\n")], dead=[protocol.letter()])
        outcome.retries = [protocol.retry(4, due_ms=1)]
        return protocol.settle_raw(self.client, outcome)

    def settle_clean(self) -> object:
        result = replace(protocol.all_loaded(self.clean), loaded=0, dead=[protocol.letter("loader")])
        return settle_clean(self.client, [result])

    def split(self) -> object:
        return split(self.client, self.raw, [["v", 1, "n", 1, "c", "json", "d", "3\n", "t", 1]] * 3)

    def lost(self) -> object:
        return lost(self.client, "raw", self.gone)

    def move(self) -> object:
        return move(self.client, 5, protocol.entry_ids(self.client, self.client.topology.retry))


@pytest.mark.parametrize(
    ("operation", "suffix"),
    [
        (Scene.add, "raw"),
        (Scene.add, "dead"),
        (Scene.add, "open:raw"),
        (Scene.add, "checkpoint"),
        (Scene.add, "retry"),
        (Scene.add, "ledger"),
        (Scene.settle, "raw"),
        (Scene.settle, "open:raw"),
        (Scene.settle, "ledger"),
        (Scene.settle, "clean"),
        (Scene.settle, "retry"),
        (Scene.settle, "dead"),
        (Scene.settle, "open:clean"),
        (Scene.settle_clean, "clean"),
        (Scene.settle_clean, "open:clean"),
        (Scene.settle_clean, "dead"),
        (Scene.settle_clean, "ledger"),
        (Scene.split, "raw"),
        (Scene.split, "open:raw"),
        (Scene.split, "ledger"),
        (Scene.lost, "ledger"),
        (Scene.move, "raw"),
        (Scene.move, "retry"),
        (Scene.move, "ledger"),
        (Scene.move, "open:raw"),
    ],
)
def test_a_key_of_another_program_is_an_error_and_nothing_is_half_written(
    client: Client, operation: Callable[[Scene], object], suffix: str
) -> None:
    """A script that fails in its middle keeps what it wrote until then."""
    scene = Scene.prepare(client)
    key = f"{{{client.topology.partition}}}:{suffix}"
    saved = client.call("DUMP", key)
    client.call("SET", key, "of another program")
    try:
        before = protocol.snapshot(client)
        with pytest.raises(ConfigurationError, match="WRONGTYPE"):
            operation(scene)
        assert protocol.snapshot(client) == before
    finally:
        client.call("DEL", key)
        if saved is not None:
            client.call("RESTORE", key, 0, saved)
