"""The janitor's sweep on real servers."""

import faulthandler
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
import pytest
from prometheus_client import generate_latest

from bargeline.embedded.ports import choose_port
from shared.database.load import DeadRow
from shared.pipeline import Pipeline, load_pipeline
from shared.run import Runtime
from shared.settings import load_settings
from shared.streams import Client, Outcome, own_lease, settle_clean
from shared.streams.inspect import figures
from shared.topology import RECLAIMED
from tests import conftest
from tests.integration import protocol
from workers.janitor import __main__ as janitor
from workers.janitor.__main__ import Janitor

LONG = 3_600


class Kept:
    """A janitor, its pipeline's partition and its database."""

    def __init__(self, redis_url: str, database_url: str, client: Client) -> None:
        self.client = client
        self.database_url = database_url
        self._redis_url = redis_url
        self._janitors: list[Janitor] = []

    def janitor(self, *, seconds: float = LONG, events: int = 1_000_000, database_url: str | None = None) -> Janitor:
        """A janitor that retains so many seconds and events."""
        environment = {
            "REDIS_URL": self._redis_url,
            "DATABASE_URL": database_url or self.database_url,
            "CONSUMER_NAME": "janitor",
            "JANITOR_REPAIR_SECONDS": "0.000001",
            "JANITOR_SWEEP_SECONDS": "0.001",
        }
        pipeline = _pipeline(self.client.topology.partition, seconds, events)
        runtime = Runtime("janitor", load_settings(environment), pipeline)
        runtime.instance = "test"
        self._janitors.append(Janitor(runtime))
        return self._janitors[-1]

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def known(self, entry_id: str, **columns: Any) -> None:
        """A row of the load ledger: this clean entry was committed."""
        names = {"events": 0, "loaded": 0, "duplicates": 0, "unrouted": 0, "dead": "[]", **columns}
        milliseconds, sequence = entry_id.split("-")
        self.sql(
            f"INSERT INTO load_ledger (stream, entry_ms, entry_seq, digest, {', '.join(names)}) "
            f"VALUES (%s, %s, %s, 'x', {', '.join(['%s'] * len(names))})",
            self.client.topology.stream("clean"),
            milliseconds,
            sequence,
            *names.values(),
        )

    def close(self) -> None:
        for one in self._janitors:
            one._client.close()
            if one._connection is not None:
                one._connection.close()


def _pipeline(name: str, seconds: float, events: int) -> Pipeline:
    shipped = load_pipeline("clickstream")
    changes = {"name": name, "retention_seconds": seconds, "retention_events": events}
    section = shipped.file.pipeline.model_copy(update=changes)
    return shipped.model_copy(update={"file": shipped.file.model_copy(update={"pipeline": section})})


@pytest.fixture(scope="module")
def database_url(database_server_url: str, migrated_template: str) -> Iterator[str]:
    """One database for all of these tests: its rows name the stream, which is each test's own."""
    yield from conftest._database(database_server_url, migrated_template)


@pytest.fixture
def kept(redis_url: str, database_url: str, pipeline_name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    """What is repaired has to be a while old; here everything is."""
    monkeypatch.setattr(janitor, "TTL_MS", -LONG * 1000)
    with protocol.partition(redis_url, pipeline_name) as client:
        one = Kept(redis_url, database_url, client)
        try:
            yield one
        finally:
            one.close()
            faulthandler.cancel_dump_traceback_later()  # the run loop would have gone on re-arming it


def metric(keeper: Janitor, line: str) -> float:
    """Value of the metric whose line begins so, 0 where there is none."""
    text = generate_latest(keeper._runtime.metrics.registry).decode()
    return sum(float(found.rpartition(" ")[2]) for found in text.splitlines() if found.startswith(line))


def incidents(keeper: Janitor, kind: str) -> float:
    partition = keeper._client.topology.partition
    return metric(keeper, f'bargeline_incidents_total{{kind="{kind}",pipeline="{partition}"}}')


def settled(client: Client, count: int) -> list[str]:
    ids = [protocol.added(client, number) for number in range(count)]
    outcomes = [protocol.mapped(entry) for entry in protocol.read(client)]
    if outcomes:
        protocol.settle_raw(client, *outcomes)
    return ids


def clean(client: Client, *sizes: int) -> list[str]:
    """Clean entries of these sizes in the hands of the loader `one`."""
    for size in sizes:
        protocol.added(client, *range(size))
        protocol.settle_raw(client, *[protocol.mapped(entry) for entry in protocol.read(client)])
    return [entry.id for entry in protocol.read(client, "clean")]


def raw_left(client: Client) -> list[str]:
    return protocol.entry_ids(client, client.topology.stream("raw"))


def test_retried_events_that_are_due_go_back(kept: Kept) -> None:
    protocol.added(kept.client, 1, 2)
    (entry,) = protocol.read(kept.client)
    later = 10**15
    protocol.settle_raw(kept.client, Outcome(entry, retries=[protocol.retry(1, due_ms=1), protocol.retry(2, later)]))
    kept.janitor()._sweep()
    assert [protocol.numbers(one.fields) for one in protocol.read(kept.client)] == [[1]]
    assert figures(kept.client).retry == 1


def test_entries_of_consumers_that_are_gone_go_to_the_pool_of_their_stage(kept: Kept) -> None:
    (cleaned,) = clean(kept.client, 2)
    raw = protocol.added(kept.client, 3)
    protocol.read(kept.client)
    for stage in ("raw", "clean"):
        protocol.end(kept.client, stage, "one")
    keeper = kept.janitor()
    keeper._sweep()
    assert protocol.pending(kept.client) == {raw: (RECLAIMED, 1)}
    assert protocol.pending(kept.client, "clean") == {cleaned: (RECLAIMED, 1)}
    assert metric(keeper, "bargeline_reclaimed_entries_total") == 2


def test_more_than_one_call_can_move_is_reclaimed_in_one_sweep(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "_MOST_RECLAIMED", 10)
    ids = [protocol.added(kept.client, number) for number in range(35)]
    protocol.read(kept.client)
    protocol.end(kept.client, "raw", "one")
    kept.janitor()._sweep()
    assert protocol.pending(kept.client) == dict.fromkeys(ids, (RECLAIMED, 1))


def test_a_raw_entry_whose_body_is_gone_is_lost_and_said_so(kept: Kept) -> None:
    gone = protocol.added(kept.client, 1, 2, 3)
    kept.client.call("XDEL", kept.client.topology.stream("raw"), gone)
    keeper = kept.janitor()
    keeper._sweep()
    keeper._sweep()
    assert protocol.assert_law(kept.client).lost == 3
    assert incidents(keeper, "lost") == 1


@pytest.mark.parametrize("how", ["reclaimed", "repaired"])
def test_a_clean_entry_whose_body_is_gone_is_settled_as_it_was_committed(kept: Kept, how: str) -> None:
    committed, lost = clean(kept.client, 10, 4)
    dead = msgspec.json.encode([DeadRow(3, "bad_row", "why")]).decode()
    kept.known(committed, events=10, loaded=6, duplicates=2, unrouted=1, dead=dead)
    kept.client.call("XDEL", kept.client.topology.stream("clean"), committed, lost)
    if how == "reclaimed":
        protocol.end(kept.client, "clean", "one")
    else:
        kept.client.call("XGROUP", "DELCONSUMER", kept.client.topology.stream("clean"), "loader", "one")
    keeper = kept.janitor()
    keeper._sweep()
    found = protocol.assert_law(kept.client)
    assert (found.loaded, found.duplicates, found.unrouted, found.dead, found.lost) == (6, 2, 1, 1, 4)
    assert (found.in_flight, incidents(keeper, "lost")) == (0, 1)


def test_what_no_consumer_holds_is_repaired(kept: Kept) -> None:
    skipped = protocol.added(kept.client, 1)
    kept.client.call("XGROUP", "SETID", kept.client.topology.stream("raw"), "transform", "$")
    keeper = kept.janitor()
    keeper._sweep()
    assert protocol.pending(kept.client) == {skipped: (RECLAIMED, 0)}
    assert incidents(keeper, "repaired") == 1


def test_young_entries_are_not_repaired(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "TTL_MS", LONG * 1000)
    protocol.added(kept.client, 1)
    kept.client.call("XGROUP", "SETID", kept.client.topology.stream("raw"), "transform", "$")
    kept.janitor()._sweep()
    assert protocol.pending(kept.client) == {}


def test_repairing_is_done_now_and_then(kept: Kept) -> None:
    keeper = kept.janitor()
    keeper._sweep()
    keeper._runtime.settings = keeper._runtime.settings.model_copy(update={"janitor_repair_seconds": LONG})
    protocol.added(kept.client, 1)
    kept.client.call("XGROUP", "SETID", kept.client.topology.stream("raw"), "transform", "$")
    keeper._sweep()
    assert protocol.pending(kept.client) == {}


@pytest.mark.parametrize(("seconds", "left"), [(LONG, 6), (0, 0)])
def test_settled_entries_are_retained_for_a_time(kept: Kept, seconds: float, left: int) -> None:
    settled(kept.client, 6)
    keeper = kept.janitor(seconds=seconds)
    keeper._sweep()
    keeper._sweep()
    assert len(raw_left(kept.client)) == left


def test_settled_entries_are_retained_up_to_a_number_of_events(kept: Kept) -> None:
    keeper = kept.janitor(events=10)
    ids = []
    for _ in range(5):
        ids += settled(kept.client, 4)
        keeper._sweep()
    left = raw_left(kept.client)
    assert left == ids[-len(left) :]
    assert 10 <= len(left) <= 14


def test_a_new_epoch_begins_its_retention_anew(kept: Kept) -> None:
    keeper = kept.janitor(events=10)
    settled(kept.client, 9)
    keeper._sweep()
    kept.client.call("DEL", *kept.client.topology.script_keys())
    keeper._sweep()
    ids = settled(kept.client, 8)
    keeper._sweep()
    assert raw_left(kept.client) == ids
    ids += settled(kept.client, 11)
    keeper._sweep()
    assert raw_left(kept.client) == ids[7:]


def test_what_is_not_settled_is_never_trimmed(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even while no consumer holds it and the group is past it."""
    monkeypatch.setattr(janitor, "TTL_MS", LONG * 1000)
    settled(kept.client, 2)
    skipped = protocol.added(kept.client, 9)
    kept.client.call("XGROUP", "SETID", kept.client.topology.stream("raw"), "transform", "$")
    settled(kept.client, 2)
    keeper = kept.janitor(seconds=0, events=0)
    keeper._sweep()
    assert raw_left(kept.client)[0] == skipped
    assert len(raw_left(kept.client)) == 3


def test_one_call_trims_a_part_of_a_long_stream(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = kept.client.topology.stream("clean")
    for entry_id in ("1000-0", "2000-0", "3000-0", "9000-0"):
        kept.client.call("XADD", stream, entry_id, "x", "1")
    keeper = kept.janitor()
    assert keeper._bounded(stream, "1000-0", "5000-0") == "5000-0"
    monkeypatch.setattr(janitor, "_MOST_TRIMMED", 1)
    assert keeper._bounded(stream, "1000-0", "5000-0") == "2000-0"
    assert keeper._bounded(stream, "1000-0", "1001-0") == "1001-0"
    kept.client.call("DEL", stream)


def test_a_foreign_group_that_blocks_trimming_is_named_until_it_does_no_more(kept: Kept) -> None:
    stream = kept.client.topology.stream("raw")
    ids = settled(kept.client, 3)
    kept.client.call("XGROUP", "CREATE", stream, "auditors", "0")
    keeper = kept.janitor(seconds=0)
    keeper._sweep()
    assert raw_left(kept.client) == ids
    name = f'bargeline_trim_blocked_seconds{{group="auditors",pipeline="{kept.client.topology.partition}"}}'
    exported = generate_latest(keeper._runtime.metrics.registry).decode()
    assert name in exported
    since = keeper._blocked["raw"]
    keeper._sweep()
    assert keeper._blocked["raw"] == since
    kept.client.call("XGROUP", "DESTROY", stream, "auditors")
    keeper._sweep()
    assert raw_left(kept.client) == []
    assert "auditors" not in generate_latest(keeper._runtime.metrics.registry).decode()


def test_our_own_lag_is_no_blocker(kept: Kept) -> None:
    protocol.added(kept.client, 1)
    keeper = kept.janitor(seconds=0)
    keeper._sweep()
    assert "trim_blocked" not in generate_latest(keeper._runtime.metrics.registry).decode()


def test_consumers_that_are_gone_are_forgotten_after_a_while(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(kept.client, 1)
    protocol.added(kept.client, 1)
    protocol.read(kept.client, name="busy")
    stream = kept.client.topology.stream("raw")
    for name in ("live", RECLAIMED):
        kept.client.call("XGROUP", "CREATECONSUMER", stream, "transform", name)
    protocol.hold_lease(kept.client, "raw", "live")

    def names() -> set[str]:
        return {one[1].decode() for one in kept.client.call("XINFO", "CONSUMERS", stream, "transform")}

    keeper = kept.janitor()
    keeper._sweep()
    assert names() == {"one", "busy", "live", RECLAIMED}
    monkeypatch.setattr(janitor, "_FORGET_AFTER_MS", 0)
    keeper._sweep()
    assert names() == {"busy", "live", RECLAIMED}


def test_a_group_that_is_missing_is_made_from_the_beginning(kept: Kept) -> None:
    protocol.added(kept.client, 1)
    protocol.settle_raw(kept.client, Outcome(protocol.read(kept.client)[0], filtered=1))
    protocol.added(kept.client, 2)
    kept.client.call("XGROUP", "DESTROY", kept.client.topology.stream("raw"), "transform")
    keeper = kept.janitor(seconds=0)
    keeper._sweep()
    assert protocol.numbers(protocol.read(kept.client)[-1].fields) == [2]
    assert incidents(keeper, "group_missing") == 1


def test_a_group_that_never_settled_anything_is_made_and_was_not_missing(kept: Kept) -> None:
    kept.client.call("DEL", kept.client.topology.stream("raw"))
    protocol.added(kept.client, 1)
    keeper = kept.janitor(seconds=0)
    keeper._sweep()
    assert [protocol.numbers(entry.fields) for entry in protocol.read(kept.client)] == [[1]]
    assert incidents(keeper, "group_missing") == 0


def ledger_ids(kept: Kept, stream: str = "") -> list[str]:
    statement = "SELECT entry_ms, entry_seq FROM load_ledger WHERE stream = %s ORDER BY 1, 2"
    return [f"{row[0]}-{row[1]}" for row in kept.sql(statement, stream or kept.client.topology.stream("clean"))]


def test_the_load_ledger_is_pruned_below_what_can_still_be_delivered(kept: Kept) -> None:
    ids = clean(kept.client, 2, 3, 4)
    for entry_id, loaded in zip(ids, (2, 3, 4), strict=True):
        kept.known(entry_id, loaded=loaded)
    stream = kept.client.topology.stream("clean")
    another = f"{stream}-of-another"
    kept.sql("INSERT INTO load_ledger VALUES (%s, 1, 0, 'x', 7, 7, 0, 0)", another)
    kept.janitor()._sweep()
    assert ledger_ids(kept) == ids
    for _ in range(2):
        settle_clean(kept.client, [protocol.all_loaded(protocol.take(kept.client, "clean"))])
    kept.janitor(seconds=0)._sweep()
    assert ledger_ids(kept) == ids[2:]
    assert kept.sql("SELECT entries, loaded FROM load_totals WHERE stream = %s", stream) == [(2, 5)]
    assert ledger_ids(kept, another) == ["1-0"]


def test_the_row_of_an_unsettled_entry_is_kept_although_its_body_is_gone(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader committed it and holds it still; should it end now, its row says so."""
    monkeypatch.setattr(janitor, "TTL_MS", LONG * 1000)
    (entry_id,) = clean(kept.client, 5)
    held = protocol.hold_lease(kept.client, "clean", "one")
    kept.known(entry_id, events=5, loaded=5)
    later = clean(kept.client, 1)
    kept.client.call("XDEL", kept.client.topology.stream("clean"), entry_id)
    keeper = kept.janitor()
    keeper._sweep()
    assert ledger_ids(kept) == [entry_id]
    held.release()
    keeper._sweep()
    found = protocol.assert_law(kept.client)
    assert (found.loaded, found.lost, found.in_clean) == (5, 0, 1)
    assert later


def test_redis_is_kept_in_order_while_postgresql_is_away(kept: Kept) -> None:
    raw = protocol.added(kept.client, 1)
    protocol.read(kept.client)
    protocol.end(kept.client, "raw", "one")
    keeper = kept.janitor(database_url=f"postgresql://nobody@127.0.0.1:{choose_port(set())}/none")
    keeper._sweep()
    assert protocol.pending(kept.client) == {raw: (RECLAIMED, 1)}


def test_a_step_lists_the_live_workers_for_prometheus(kept: Kept) -> None:
    keeper = kept.janitor()
    keeper.step()
    assert keeper.targets == b"[]"
    lease = own_lease("loader", "one", "127.0.0.1:4321")
    kept.client.script("lease", "take", "loader", "one", msgspec.json.encode(lease), 10_000, "")
    keeper.step()
    pipeline = kept.client.topology.partition
    labels = {"pipeline": pipeline, "kind": "loader", "worker": "one", "host": lease.host}
    assert msgspec.json.decode(keeper.targets) == [{"targets": ["127.0.0.1:4321"], "labels": labels}]


def test_two_janitors_do_no_harm(kept: Kept) -> None:
    protocol.added(kept.client, *range(200))
    (entry,) = protocol.read(kept.client)
    retries = [protocol.retry(number, due_ms=1) for number in range(200)]
    protocol.settle_raw(kept.client, Outcome(entry, retries=retries))
    gone = [protocol.added(kept.client, 1, 2) for _ in range(20)]
    there = [protocol.added(kept.client, 3) for _ in range(20)]
    protocol.read(kept.client)
    protocol.end(kept.client, "raw", "one")
    kept.client.call("XDEL", kept.client.topology.stream("raw"), *gone)
    start = threading.Barrier(2)

    def sweep(keeper: Janitor) -> None:
        start.wait()
        for _ in range(3):
            keeper._sweep()

    both = [threading.Thread(target=sweep, args=(kept.janitor(seconds=0),)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    found = protocol.assert_law(kept.client)
    assert (found.lost, found.in_raw, found.in_retry) == (40, 220, 0)
    assert list(protocol.pending(kept.client)) == there
