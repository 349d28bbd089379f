"""Changes of a database through kills, outages, pressure and losses: each is told, and once."""

import psycopg
import pytest

from shared.database.replication import lsn_number
from shared.errors import Refused
from tests.changes import SILENCE_SECONDS, Cdc, SourceDatabase, catch_up, is_reading, make_items, rebuilt
from tests.integration.stored import Stored
from tests.wait import until


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
def test_a_snapshot_that_was_cut_off_goes_on_and_misses_nothing(
    source: SourceDatabase, stored: Stored, cdc: Cdc, key: str
) -> None:
    """Of three tables the first was read, the second was in hand, and the third was not begun."""
    source.run(f"""
        CREATE TABLE before_it (id int PRIMARY KEY);
        CREATE TABLE items (id int {key}, n int);
        CREATE TABLE not_begun (id int);
        INSERT INTO before_it VALUES (1);
        INSERT INTO items SELECT g, 0 FROM generate_series(1, 2000) g;
        INSERT INTO not_begun VALUES (1), (1);
    """)
    cdc.create("before_it", "items", "not_begun")
    stored.leave_room(1_500)
    worker = cdc.start(INGEST_BATCH_EVENTS=5)
    until(lambda: stored.counter("accepted") > 300, what="a part of the table")
    worker.kill()
    worker.wait()
    assert stored.counter("accepted") < 2_000, "it has to be killed in the middle for this test to say anything"
    stored.make_room()
    # Rows that were told of change and go while nobody looks; and others that were not told of yet.
    source.run("INSERT INTO before_it VALUES (2); INSERT INTO items VALUES (9000, 1); INSERT INTO not_begun VALUES (2)")
    if key:
        source.run("UPDATE items SET n = 1 WHERE id % 2 = 0; DELETE FROM items WHERE id % 3 = 0")
    worker = cdc.start()
    until(lambda: is_reading(worker), what="the rest")
    source.run("INSERT INTO before_it VALUES (3); INSERT INTO not_begun VALUES (2)")
    catch_up(source, stored)
    found = stored.events()
    for table in ("before_it", "not_begun"):
        assert rebuilt(found, table) == source.table(table)
    assert [one["key"] for one in found if one["type"] == "before_it.created"] == ["1", "2", "3"]
    if key:
        # What did not change was told again with the same ids.
        same = [one["id"] for one in found if one["data"]["table"] == "items" and int(one["key"]) % 6 == 1]
        assert len(same) > len(set(same)) == 334
        assert not [one for one in found if one["type"] == "items.truncated"]
    else:
        assert [one["data"].get("snapshot") for one in found if one["type"] == "items.truncated"] == [True]


def test_a_large_transaction_goes_on_in_its_middle(source: SourceDatabase, stored: Stored, cdc: Cdc) -> None:
    make_items(source, 0)
    cdc.create("items")
    worker = cdc.start(INGEST_BATCH_EVENTS=5)
    until(lambda: is_reading(worker), what="the snapshot")
    stored.leave_room(2_000)
    source.run("INSERT INTO items SELECT g, 0 FROM generate_series(1, 3000) g")
    until(lambda: stored.counter("accepted") > 1_000, what="a part of it")
    worker.kill()
    worker.wait()
    stored.make_room()
    place = next(iter(stored.checkpoints().values()))
    assert 0 < place["index"] == stored.counter("accepted") < 3_000
    cdc.start()
    catch_up(source, stored)
    found = stored.events()
    assert stored.counter("accepted") == len(found) == len({one["id"] for one in found}) == 3_001
    assert [one["data"]["index"] for one in found] == [*range(3_000), 0]


def test_another_process_takes_over(source: SourceDatabase, stored: Stored, cdc: Cdc) -> None:
    make_items(source, 100)
    cdc.create("items")
    first = cdc.start()
    until(lambda: is_reading(first), what="the first")
    second = cdc.start()
    until(lambda: "waiting to take over" in second.log_text(), what="the second to wait")
    assert second.get("/readyz")[0] == 503
    assert isinstance(cdc.command("cdc", "drop").exception, Refused), "it is being read"
    source.run("UPDATE items SET n = 1")
    until(lambda: stored.counter("accepted") == 200, what="the changes")
    first.kill()
    source.run("UPDATE items SET n = 2")
    until(lambda: is_reading(second), what="the second to read")
    catch_up(source, stored)
    assert stored.counter("accepted") == len(stored.ids()) == 301
    assert second.get("/readyz")[0] == 200
    assert second.stop() == 0


def test_the_server_gets_its_answers_while_the_stream_is_full(source: SourceDatabase, stored: Stored, cdc: Cdc) -> None:
    """More is waiting than the process takes in: it does not read, so it sees no request for an answer either."""
    path = cdc.folder / "pipeline.toml"
    path.write_text(path.read_text().replace("[ingest]", "high_water_events = 100\n[ingest]"))
    source.run("CREATE TABLE items (id int PRIMARY KEY, body text)")
    cdc.create("items")
    worker = cdc.start()
    until(lambda: is_reading(worker), what="the snapshot")
    source.run("INSERT INTO items SELECT g, repeat('x', 100000) FROM generate_series(1, 300) g")
    until(lambda: worker.records(action="pressure"), what="pressure")
    since = source.value("SELECT extract(epoch FROM clock_timestamp())::float8")
    # Of the very connection that it had before.
    pid = source.slot("active_pid")
    sent = f"SELECT extract(epoch FROM reply_time)::float8 FROM pg_stat_replication WHERE pid = {pid}"
    until(lambda: source.value(sent) > since + 1.2 * SILENCE_SECONDS, what="answers")
    assert not worker.records(event="the source is away")
    assert 100 <= stored.counter("accepted") < 110
    # Nothing of a transaction that is not in Redis as a whole may be forgotten.
    place = next(iter(stored.checkpoints().values()))
    assert place["index"] == stored.counter("accepted")
    assert lsn_number(source.slot("confirmed_flush_lsn")) <= place["lsn"]
    assert worker.stop() == 0


def test_writes_that_redis_lost_are_read_again(source: SourceDatabase, stored: Stored, cdc: Cdc) -> None:
    """Like a failover to a replica that lacks the last moment; the server was not told yet that it may forget."""
    make_items(source, 0)
    cdc.create("items")
    worker = cdc.start()
    until(lambda: is_reading(worker), what="the snapshot")
    source.run("INSERT INTO items VALUES (1, 0)")
    until(lambda: stored.counter("accepted") == 1, what="the first")
    before = stored.client.hgetall(stored.key("checkpoint"))
    source.run("INSERT INTO items VALUES (2, 0)")
    until(lambda: stored.counter("accepted") == 2, what="the second")
    lost = stored.events()[1]
    since = source.value("SELECT clock_timestamp()")
    replied = f"SELECT reply_time FROM pg_stat_replication WHERE pid = {source.slot('active_pid')}"
    until(lambda: source.value(replied) > since, what="the server to hear of it")
    stored.client.xdel(stored.key("raw"), stored.entries()[1].id)
    stored.client.hset(stored.key("checkpoint"), mapping=before)
    source.run("INSERT INTO items VALUES (3, 0)")
    until(lambda: len(stored.events()) == 3, what="the second and the third")
    assert stored.events()[1] == lost
    assert [one["key"] for one in stored.events()] == ["1", "2", "3"]
    assert not worker.records(action="snapshot", event="reading the tables")[1:]


def test_a_lost_checkpoint_lets_the_tables_be_read_again(source: SourceDatabase, stored: Stored, cdc: Cdc) -> None:
    make_items(source, 10)
    cdc.create("items")
    worker = cdc.start()
    until(lambda: is_reading(worker), what="the snapshot")
    source.run("DELETE FROM items WHERE id = 1")
    until(lambda: stored.counter("accepted") == 11, what="the deletion")
    taken = stored.events()[:10]
    stored.client.unlink(*map(stored.key, ("raw", "open:raw", "ledger", "checkpoint")))
    source.run("UPDATE items SET n = 1 WHERE id = 2")
    until(lambda: len(worker.records(event="reading changes")) == 2, what="the tables to be read again")
    source.run("INSERT INTO items VALUES (-1, 0)")
    until(lambda: stored.events()[-1]["key"] == "-1", what="the last change")
    # The deletion is told again: the slot had not forgotten it.
    assert rebuilt([*taken, *stored.events()], "items") == source.table("items")
    assert 'bargeline_incidents_total{kind="checkpoint_lost"' in worker.get("/metrics")[1]
    assert worker.records(level="error")[0]["event"].startswith("Redis lost the checkpoint")


def test_a_slot_that_was_made_anew_means_a_gap(source: SourceDatabase, stored: Stored, cdc: Cdc) -> None:
    make_items(source, 10)
    source.run("CREATE TABLE noted (n int); INSERT INTO noted VALUES (1), (1)")
    cdc.create("items", "noted")
    worker = cdc.start()
    until(lambda: is_reading(worker), what="the snapshot")
    assert worker.stop() == 0
    source.run(f"SELECT pg_drop_replication_slot('{source.names}')")
    source.run("UPDATE items SET n = 5 WHERE id > 3; INSERT INTO noted VALUES (1)")
    cdc.create("items", "noted")
    source.run("UPDATE items SET n = 6 WHERE id > 4; INSERT INTO noted VALUES (2)")
    worker = cdc.start()
    until(lambda: is_reading(worker), what="the snapshot again")
    catch_up(source, stored)
    # It has no key: what was told of it before is void.
    assert rebuilt(stored.events(), "noted") == source.table("noted")
    assert [one["data"]["snapshot"] for one in stored.events() if one["type"] == "noted.truncated"] == [True]
    counted = f'bargeline_incidents_total{{kind="source_gap",pipeline="{stored.name}"}} 1.0'
    assert counted in worker.get("/metrics")[1]


def test_an_open_transaction_is_waited_for_without_harm(source: SourceDatabase, stored: Stored, cdc: Cdc) -> None:
    """A snapshot can be taken when it has ended; until then the process is alive, and can be asked to stop."""
    make_items(source, 10)
    cdc.create("items")
    with psycopg.connect(source.url) as connection:
        connection.execute("INSERT INTO items VALUES (11, 0)")
        worker = cdc.start(STALL_SECONDS=3)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND backend_type = 'walsender'"
        until(lambda: source.value(waiting) == 1, what="it to wait")
        since = "SELECT now() - query_start > interval '4 s' FROM pg_stat_activity WHERE backend_type = 'walsender'"
        until(lambda: source.value(since), what="it to wait for longer than a stall")
        assert worker.stop() == 0
        assert stored.counter("accepted") == 0
    worker = cdc.start()
    until(lambda: stored.counter("accepted") == 11, what="all rows")
