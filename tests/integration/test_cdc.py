"""Changes of a PostgreSQL database as events, from a real source server, through kills and outages."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import psycopg
import pytest

from shared.database.replication import lsn_number
from tests.changes import Cdc, SourceDatabase, catch_up, is_reading, make_items
from tests.integration.stored import Stored
from tests.wait import until

TYPED = """
    CREATE TYPE mood AS ENUM ('fine');
    CREATE TABLE items (
        id bigint PRIMARY KEY, small smallint, exact numeric, half float4, big float8, bad float8, ok boolean,
        note text, doc json, docb jsonb, deep json, list int[], at timestamptz, day date, span interval, raw bytea,
        uid uuid, how mood, twice bigint GENERATED ALWAYS AS (id * 2) STORED
    )
"""
TYPED_ROW = r"""
    INSERT INTO items VALUES (
        %s, -3, 12345678901234567890.12345678900, 0.1, 1e300, '-Infinity', true, E'tab\t \u00fc "q"',
        E'{"a":\n [1, 2.50],\r\n "a": "\\n"}', '{"n": 1e3}', (repeat('[', 2000) || repeat(']', 2000))::json, '{1,NULL}',
        '2026-11-21 10:00:00.123456+02', '2026-11-21', '1 day 02:00', '\x00ff',
        '6ba7b810-9dad-11d1-80b4-00c04fd430c8', 'fine'
    )
"""
DEEP = "[" * 2_000 + "]" * 2_000


def _as_read(text: str) -> Any:
    """What is deeper than the readers of events take stays text: from 1,000 levels on with Python 3.11."""
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        return text


AS_JSON = {
    "small": -3,
    # JSON's readers would make a float of it.
    "exact": "12345678901234567890.12345678900",
    "half": 0.1,
    "big": 1e300,
    "bad": "-Infinity",
    "ok": True,
    "note": 'tab\t ü "q"',
    "doc": {"a": "\n"},
    "docb": {"n": 1000},
    "deep": _as_read(DEEP),
    "list": "{1,NULL}",
    "at": "2026-11-21 08:00:00.123456+00",
    "day": "2026-11-21",
    "span": "1 day 02:00:00",
    "raw": "\\x00ff",
    "uid": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    "how": "fine",
}


def test_rows_are_the_same_json_in_the_snapshot_and_in_changes(
    source: SourceDatabase, stored: Stored, cdc: Cdc
) -> None:
    source.run(TYPED)
    source.connection.execute(TYPED_ROW, (9007199254740993,))
    # The database's settings must not change what is read.
    source.run(f"ALTER DATABASE {source.connection.info.dbname} SET datestyle = 'SQL, DMY'")
    cdc.create("items")
    worker = cdc.start()
    until(lambda: is_reading(worker), what="the snapshot")
    source.connection.execute(TYPED_ROW, (9007199254740995,))
    source.run("INSERT INTO items (id) VALUES (1)")
    until(lambda: stored.counter("accepted") == 3, what="three events")
    first, second, empty = stored.events()
    assert first["data"]["new"] == {"id": 9007199254740993, **AS_JSON}
    assert second["data"]["new"] == {"id": 9007199254740995, **AS_JSON}
    assert empty["data"]["new"] == {"id": 1} | dict.fromkeys(AS_JSON)
    assert first["data"]["snapshot"] is True
    assert "snapshot" not in second["data"]
    assert [event["key"] for event in stored.events()] == ["9007199254740993", "9007199254740995", "1"]


def test_what_each_kind_of_change_tells(source: SourceDatabase, stored: Stored, cdc: Cdc) -> None:
    source.run("""
        CREATE SCHEMA shop;
        CREATE TABLE shop.lines (sku text, line int, note text, PRIMARY KEY (line, sku) INCLUDE (note));
        CREATE TABLE pages (id int PRIMARY KEY, title text, body text);
        CREATE TABLE wholes (id int PRIMARY KEY, title text, body text);
        ALTER TABLE pages ALTER body SET STORAGE EXTERNAL;
        ALTER TABLE wholes ALTER body SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
        CREATE TABLE named (a int NOT NULL, b int UNIQUE NOT NULL);
        ALTER TABLE named REPLICA IDENTITY USING INDEX named_b_key;
        CREATE TABLE parts (id int PRIMARY KEY, day date) PARTITION BY RANGE (id);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
    """)
    cdc.create()
    worker = cdc.start()
    until(lambda: is_reading(worker), what="the snapshot")
    large = "x" * 50_000
    source.run(f"INSERT INTO pages VALUES (1, 'a', '{large}')")
    source.run("UPDATE pages SET title = 'b'")
    source.run("UPDATE pages SET id = 2")
    source.run("DELETE FROM pages")
    source.run(f"INSERT INTO wholes VALUES (1, 'a', '{large}')")
    source.run("UPDATE wholes SET title = 'b'")
    source.run("DELETE FROM wholes")
    source.run("INSERT INTO shop.lines VALUES ('s', 1)")
    source.run("INSERT INTO named VALUES (1, 2); UPDATE named SET b = 3")
    source.run("INSERT INTO parts VALUES (1, NULL)")
    before = source.value("SELECT clock_timestamp()")
    source.run("TRUNCATE pages, shop.lines")
    until(lambda: stored.counter("accepted") == 13, what="every event")
    found = stored.events()
    told = [(one["type"], one.get("key"), {**one["data"]}) for one in found]
    for _, _, data in told:
        assert data.pop("schema") in ("public", "shop")
        assert isinstance(data.pop("xid"), int)
        assert lsn_number(data.pop("lsn")) > 0
        assert data.pop("table") in ("pages", "wholes", "lines", "named", "parts")
    assert told == [
        ("pages.created", "1", {"index": 0, "new": {"id": 1, "title": "a", "body": large}}),
        ("pages.updated", "1", {"index": 0, "new": {"id": 1, "title": "b"}, "unchanged": ["body"]}),
        (
            "pages.updated",
            "2",
            {"index": 0, "new": {"id": 2, "title": "b"}, "unchanged": ["body"], "old": {"id": 1}},
        ),
        ("pages.deleted", "2", {"index": 0, "old": {"id": 2}}),
        ("wholes.created", "1", {"index": 0, "new": {"id": 1, "title": "a", "body": large}}),
        (
            "wholes.updated",
            "1",
            {
                "index": 0,
                "new": {"id": 1, "title": "b", "body": large},
                "old": {"id": 1, "title": "a", "body": large},
            },
        ),
        ("wholes.deleted", "1", {"index": 0, "old": {"id": 1, "title": "b", "body": large}}),
        ("shop.lines.created", '["s","1"]', {"index": 0, "new": {"sku": "s", "line": 1, "note": None}}),
        # One transaction: told apart by the index.
        ("named.created", "2", {"index": 0, "new": {"a": 1, "b": 2}}),
        ("named.updated", "3", {"index": 1, "new": {"a": 1, "b": 3}, "old": {"b": 2}}),
        ("parts.created", "1", {"index": 0, "new": {"id": 1, "day": None}}),
        ("pages.truncated", None, {"index": 0}),
        ("shop.lines.truncated", None, {"index": 1}),
    ]
    assert found[8]["data"]["xid"] == found[9]["data"]["xid"] != found[7]["data"]["xid"]
    assert len({one["id"] for one in found}) == len(found)
    # They rise, as a b-tree likes it.
    assert [one["id"] for one in found] == sorted(one["id"] for one in found)
    assert found[-1]["time"] > before.isoformat()
    assert found[-1]["time"][-1] == "Z"


def test_rows_of_one_copy_have_ids_of_their_own(source: SourceDatabase, stored: Stored, cdc: Cdc) -> None:
    """Hundreds of them share one record of the WAL, and so its LSN, and here their content as well."""
    source.run("CREATE TABLE items (n int); ALTER TABLE items REPLICA IDENTITY FULL")
    cdc.create("items")
    worker = cdc.start()
    until(lambda: is_reading(worker), what="the snapshot")
    with source.connection.cursor().copy("COPY items FROM STDIN") as copy:
        copy.write("7\n" * 3_000)
    until(lambda: stored.counter("accepted") == 3_000, what="every row")
    assert len(stored.ids()) == 3_000


def _write(url: str, seed: int, stopped: threading.Event, rounds: list[int]) -> None:
    """Change items until told to stop: some transactions stay open for a while, some are rolled back."""
    with psycopg.connect(url) as connection:
        step = 0
        while not stopped.is_set():
            step += 1
            base = 1_000_000 * seed + step
            connection.execute("INSERT INTO items VALUES (%s, %s)", (base, step))
            connection.execute("UPDATE items SET n = n + 1 WHERE id = %s", (step % 500 + 1,))
            connection.execute("DELETE FROM items WHERE id = %s", (base - 7,))
            if step % 5 == 0:
                connection.rollback()
            else:
                connection.commit()
            rounds[seed] = step


@pytest.fixture
def writers(source: SourceDatabase) -> Iterator[tuple[Callable[[], None], list[int]]]:
    """Two threads that change the table items, what stops them, and how far each is."""
    stopped, rounds = threading.Event(), [0] * 3
    make_items(source, 2_000)
    threads = [threading.Thread(target=_write, args=(source.url, seed, stopped, rounds)) for seed in (1, 2)]
    for thread in threads:
        thread.start()

    def stop() -> None:
        stopped.set()
        for thread in threads:
            thread.join()

    yield stop, rounds
    stop()


def test_the_tables_are_handed_over_to_the_stream_while_they_are_written_to(
    source: SourceDatabase, stored: Stored, cdc: Cdc, writers: tuple[Callable[[], None], list[int]]
) -> None:
    stop, rounds = writers
    until(lambda: min(rounds[1:]) > 20, what="writers")
    cdc.create("items")
    worker = cdc.start(INGEST_BATCH_EVENTS=50)
    until(lambda: is_reading(worker), what="the snapshot")
    mark = max(rounds)
    until(lambda: min(rounds[1:]) > mark + 50, what="more changes")
    stop()
    catch_up(source, stored)
    found = stored.events()
    assert len({one["id"] for one in found}) == len(found)
    # Nothing is told by both: every key is created once, unless it was deleted before.
    created = [one["key"] for one in found if one["type"] == "items.created"]
    assert len(created) == len(set(created))
    snapshot = [one for one in found if one["data"].get("snapshot")]
    changes = [one for one in found if not one["data"].get("snapshot")]
    assert max(one["time"] for one in snapshot) <= min(one["time"] for one in changes)
    assert {one["data"]["lsn"] for one in snapshot} == {snapshot[0]["data"]["lsn"]}
    order = [(lsn_number(one["data"]["lsn"]), one["data"]["index"]) for one in changes]
    assert order == sorted(order)
    assert lsn_number(snapshot[0]["data"]["lsn"]) <= order[0][0]


def test_the_slot_follows_what_is_in_redis_and_is_never_ahead(source: SourceDatabase, stored: Stored, cdc: Cdc) -> None:
    make_items(source, 10)
    source.run("CREATE TABLE others (id int)")
    cdc.create("items")
    worker = cdc.start()
    until(lambda: is_reading(worker), what="the snapshot")

    def confirmed_after(lsn: int) -> bool:
        confirmed = lsn_number(source.slot("confirmed_flush_lsn"))
        assert confirmed <= next(iter(stored.checkpoints().values()))["lsn"]
        return confirmed >= lsn

    source.run("UPDATE items SET n = 1")
    until(lambda: stored.counter("accepted") == 20 and confirmed_after(0), what="the changes")
    # Changes that concern nobody have to be forgotten as well.
    source.run("INSERT INTO others SELECT g FROM generate_series(1, 1000) g")
    end = lsn_number(source.value("SELECT pg_current_wal_lsn()"))
    until(lambda: confirmed_after(end), what="the slot to follow")
    labels = f'{{pipeline="{stored.name}",slot="{source.names}"}}'
    until(lambda: f"bargeline_cdc_behind_seconds{labels} 0.0" in worker.get("/metrics")[1], what="the gauges")
    assert f"bargeline_cdc_slot_retained_bytes{labels}" in worker.get("/metrics")[1]
    # A server that shuts down waits for its readers: this one must not hold it up.
    flushed = f"SELECT flush_lsn IS NULL FROM pg_stat_replication WHERE pid = {source.slot('active_pid')}"
    until(lambda: source.value(flushed), what="it to say nothing of flushing")


def test_a_role_with_the_least_rights_reads_all(
    source: SourceDatabase, stored: Stored, cdc: Cdc, pipeline_name: str
) -> None:
    make_items(source, 10)
    cdc.create("items")
    role = pipeline_name.replace("-", "_")
    source.run(f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'p'; GRANT SELECT ON items TO {role}")
    worker = cdc.start(INGEST_CDC_URL=f"postgresql://{role}:p@{source.url.rpartition('@')[2]}")
    until(lambda: is_reading(worker), what="the snapshot")
    source.run("UPDATE items SET n = 1")
    catch_up(source, stored)
    until(lambda: "bargeline_cdc_slot_retained_bytes{" in worker.get("/metrics")[1], what="the gauge")
    assert worker.stop() == 0
    source.run(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_without_a_snapshot_only_changes_are_read(source: SourceDatabase, stored: Stored, cdc: Cdc) -> None:
    make_items(source, 10)
    cdc.create("items")
    source.run("UPDATE items SET n = 1 WHERE id = 4")
    worker = cdc.start(INGEST_CDC_SNAPSHOT="false")
    until(lambda: stored.counter("accepted") == 1, what="the change since the slot was made")
    assert [(one["type"], one["key"]) for one in stored.events()] == [("items.updated", "4")]
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ("", "has no slot"),
        ("bargeline:s3cret@", "INGEST_CDC_URL"),
    ],
)
def test_what_is_missing_or_wrong_is_said(source: SourceDatabase, cdc: Cdc, user: str, text: str) -> None:
    url = source.url if not user else f"postgresql://{user}{source.url.rpartition('@')[2]}"
    worker = cdc.start(INGEST_CDC_URL=url)
    assert worker.wait() == 2
    assert text in worker.log_text()
    assert "Traceback" not in worker.log_text()
    assert "s3cret" not in worker.log_text()


def test_the_commands_make_and_drop_what_is_read(source: SourceDatabase, cdc: Cdc) -> None:
    source.run("CREATE TABLE items (id int PRIMARY KEY); CREATE TABLE noted (n int); CREATE SCHEMA shop")
    source.run('CREATE TABLE shop."Odd name" (id int PRIMARY KEY)')
    made = cdc.command("cdc", "create", "items")
    assert made.stdout.splitlines() == [
        f"created publication {source.names} for items",
        f"created slot {source.names}",
    ]
    again = cdc.command("cdc", "create", "items", "noted", 'shop."Odd name"')
    assert again.stdout.splitlines() == [
        f'added noted, shop."Odd name" to publication {source.names}',
        f"slot {source.names} is there",
    ]
    assert "warning: noted has no primary key" in again.stderr
    assert cdc.command("cdc", "create", "noted").stdout.splitlines()[0] == f"publication {source.names} is there"
    tables = f"SELECT string_agg(tablename, ',') FROM pg_publication_tables WHERE pubname = '{source.names}'"
    assert sorted(source.value(tables).split(",")) == ["Odd name", "items", "noted"]
    for arguments, text in (
        (("create",), "Name the tables, or --all."),
        (("create", "--all"), "for some tables only"),
        (("create", "nowhere"), "There is no table nowhere"),
    ):
        refused = cdc.command("cdc", *arguments)
        assert refused.exit_code, arguments
        assert text in f"{refused.exception} {refused.stderr}"
    findings = msgspec.json.decode(cdc.command("doctor", "--json").stdout)["findings"]
    assert {"cdc_slot_inactive", "cdc_no_identity"} <= {one["code"] for one in findings}
    dropped = cdc.command("cdc", "drop")
    assert dropped.stdout.splitlines() == [f"dropped slot {source.names}", f"dropped publication {source.names}"]
    assert cdc.command("cdc", "drop").exit_code == 0
    assert source.value("SELECT count(*) FROM pg_publication") == 0
    assert cdc.command("cdc", "create", "--all").exit_code == 0
    assert source.value("SELECT puballtables FROM pg_publication") is True
