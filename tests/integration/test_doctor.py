"""`bargeline doctor` on real servers: each finding provoked, and none where all is well."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, LiteralString

import msgspec
import psycopg
import pytest
import redis

from bargeline.doctor import books, examine, streams
from bargeline.embedded import throwaway
from shared import verdicts
from shared.accounting import balance
from shared.database import migrate
from shared.entries import Entry
from shared.pipeline import Pipeline, load_pipeline
from shared.sampling import observe
from shared.streams import Client, Outcome, ensure_group
from shared.streams.breaker import close_breaker, open_breaker
from shared.streams.inspect import figures
from shared.topology import GROUP_OF_STAGE, Topology
from tests import workers
from tests.conftest import _database, _namespace
from tests.integration import protocol
from tests.wait import until

Findings = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey as it should be, whatever the tests' common one is."""
    process, url = throwaway.start_valkey(tmp_path_factory.mktemp("valkey"))
    yield url
    throwaway.stop(process)


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL with its defaults: the tests' common one runs without fsync."""
    process, url = throwaway.start_postgres(tmp_path_factory.mktemp("postgres"))
    yield url
    throwaway.stop(process)


@pytest.fixture
def name(own_redis: str) -> Iterator[str]:
    with redis.Redis.from_url(own_redis) as client:
        yield from _namespace(client)


@pytest.fixture
def folder(tmp_path: Path, name: str) -> Path:
    return workers.make_pipeline(tmp_path / "p", name)


@pytest.fixture
def pipeline(folder: Path) -> Pipeline:
    return load_pipeline(str(folder))


@pytest.fixture
def database(own_postgres: str, pipeline: Pipeline) -> Iterator[str]:
    for url in _database(own_postgres, "template0"):
        migrate(url, pipeline)
        yield url


@pytest.fixture
def client(own_redis: str, name: str) -> Iterator[Client]:
    made = Client(own_redis, Topology(name))
    for stage, group in GROUP_OF_STAGE.items():
        ensure_group(made, stage, group)
    yield made
    made.close()


@pytest.fixture
def look(own_redis: str, pipeline: Pipeline) -> Callable[..., Findings]:
    """Runs doctor in this process; returns its findings by code."""

    def run(redis_url: str = own_redis, database_url: str = "postgresql://127.0.0.1:1/x", **given: Any) -> Findings:
        patient = examine.patient_of(given.pop("pipeline", pipeline), redis_url, database_url, **given)
        try:
            report = examine.examine(patient)
        finally:
            patient.close()
        found: Findings = {one.code: msgspec.to_builtins(one) for one in report.findings}
        if database_url.endswith(":1/x"):
            assert found.pop("postgres_unreachable")
        return found

    return run


def test_nothing_is_found_where_all_is_well(own_redis: str, database: str, folder: Path, client: Client) -> None:
    given: dict[str, Any] = {"redis_url": own_redis, "database_url": database, "pipeline_folder": folder}
    shutil.copy(folder / "sample.ndjson", folder / "in.ndjson")
    with workers.running("transform", "loader", "janitor", **given) as running:
        assert not any(worker.records(action="server") for worker in running)
        ingest = workers.start("ingest", **given, INGEST_PATH=folder / "in.ndjson")
        assert ingest.wait() == 0

        def settled() -> bool:
            found = balance(client.topology.partition, figures(client))
            return bool(found.loaded and not found.in_flight)

        until(settled, what="the sample to be loaded")
        ran = workers.bargeline("doctor", "--json", **given)
        report = msgspec.json.decode(ran.out)
        assert (ran.code, report["findings"]) == (0, [])
        assert {one["outcome"] for one in report["checks"]} == {"ok"}
        assert [one["name"] for one in report["checks"]] == [name for _, name, _ in examine.CHECKS]
    ran = workers.bargeline("doctor", **given)
    assert ran.code == 0
    assert "ok: redis version: Valkey" in ran.out
    assert ran.out.endswith(f": 0 findings, {len(examine.CHECKS)} checks\n")


def _warnings(redis_url: str, folder: Path) -> set[str]:
    """What a worker says of the server when it starts."""
    given: dict[str, Any] = {"redis_url": redis_url, "database_url": "postgresql://127.0.0.1:1/x"}
    with workers.running("transform", pipeline_folder=folder, **given) as (worker,):
        said = worker.records(action="server", level="warning")
        assert all("`bargeline doctor`" in one["event"] for one in said)
        return {one["problem"] for one in said}


def test_a_server_that_loses_streams(tmp_path: Path, folder: Path, look: Callable[..., Findings]) -> None:
    wrong = {"appendonly": "no", "maxmemory": "100mb", "maxmemory-policy": "allkeys-lru", "dbfilename": "folder.rdb"}
    options = [part for name, value in wrong.items() for part in (f"--{name}", value)]
    process, url = throwaway.start_valkey(tmp_path, *options)
    try:
        with redis.Redis.from_url(url) as client:
            found = look(url)
            assert found.keys() == {"appendonly_off", "eviction_policy"}
            assert found["eviction_policy"]["figures"]["maxmemory_policy"] == "allkeys-lru"
            used: Any = client.info("memory")
            assert _warnings(url, folder) == {
                "maxmemory-policy allkeys-lru lets the server delete streams; set it to noeviction",
                "appendonly no: accepted events are lost when the server ends; set appendonly yes",
            }
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", int(used["used_memory"] * 1.05))
            client.config_set("appendonly", "yes")
            client.config_set("appendfsync", "no")
            found = look(url)
            assert found.keys() == {"appendfsync_no", "memory_low"}
            # A dump cannot replace a folder.
            data: Any = client.config_get("dir")
            (Path(data["dir"]) / "folder.rdb").mkdir()
            client.config_set("maxmemory", 0)
            client.config_set("appendfsync", "always")
            client.bgsave()
            until(lambda: look(url).keys() == {"redis_write_failed"}, what="the dump to fail")
    finally:
        # It refuses to end in good order while it writes its first append-only file.
        process.kill()
        process.wait()


def test_rights_that_the_redis_user_lacks(own_redis: str, name: str, look: Callable[..., Findings]) -> None:
    user = name.replace("-", "")
    url = own_redis.replace("redis://", f"redis://{user}:pw@")
    with redis.Redis.from_url(own_redis) as admin:
        try:
            admin.execute_command("ACL", "SETUSER", user, "on", ">pw", f"~{{{name}}}:*", "+@all", "-xtrim")
            found = look(url)
            assert found.keys() == {"redis_rights"}
            assert len(found["redis_rights"]["figures"]["denied"]) == 1
            assert "XTRIM" in found["redis_rights"]["what"]
            assert look(url, reader=True) == {}
            admin.execute_command("ACL", "SETUSER", user, "resetkeys", "~other:*", "+xtrim")
            assert "XADD" in look(url)["redis_rights"]["what"]
            admin.execute_command("ACL", "SETUSER", user, f"~{{{name}}}:*", "-acl|dryrun", "-config|get", "-time")
            found = look(url)
            assert found.keys() >= {"redis_rights_unknown", "appendfsync_unknown", "redis_clock_unknown"}
            assert {one["severity"] for one in found.values()} == {"unknown"}
        finally:
            admin.acl_deluser(user)


@pytest.fixture
def as_role(database: str, name: str) -> Iterator[tuple[psycopg.Connection[Any], str, str]]:
    """The owner's connection, the name of another role, and the URL for that role."""
    role = name.replace("-", "_")
    info = psycopg.conninfo.conninfo_to_dict(database)
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pw'".encode())
        yield owner, role, f"postgresql://{role}:pw@{info['host']}:{info['port']}/{info['dbname']}"
        owner.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_rights_that_the_postgresql_role_lacks(
    as_role: tuple[psycopg.Connection[Any], str, str], look: Callable[..., Findings]
) -> None:
    owner, role, url = as_role
    owner.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}".encode())
    assert look(database_url=url) == {}
    owner.execute(f"REVOKE UPDATE, SELECT ON mobile_users_by_timezone FROM {role}".encode())
    owner.execute(f"REVOKE INSERT ON clicks FROM {role}; GRANT INSERT (event_id) ON clicks TO {role}".encode())
    owner.execute("DO $$BEGIN EXECUTE format('REVOKE TEMP ON DATABASE %I FROM PUBLIC', current_database()); END$$")
    missing = look(database_url=url)["postgres_rights"]["figures"]["missing"]
    assert {"TEMPORARY on the database", "SELECT on mobile_users_by_timezone"} < set(missing)
    assert "UPDATE on column events of mobile_users_by_timezone" in missing
    assert "INSERT on column os_name of clicks" in missing
    assert "INSERT on column event_id of clicks" not in missing
    assert look(database_url=url, reader=True) == {}
    owner.execute(f"REVOKE SELECT ON load_totals, bargeline_migrations FROM {role}".encode())
    found = look(database_url=url, reader=True)
    assert found.keys() == {"postgres_rights", "migrations_unknown"}


def test_a_role_whose_commits_may_be_lost_or_refused(
    as_role: tuple[psycopg.Connection[Any], str, str], look: Callable[..., Findings]
) -> None:
    owner, role, url = as_role
    owner.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}".encode())
    owner.execute(f"ALTER ROLE {role} SET synchronous_commit = off".encode())
    owner.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on".encode())
    assert look(database_url=url).keys() == {"postgres_synchronous_commit_off", "postgres_read_only"}
    owner.execute(f"ALTER ROLE {role} RESET ALL".encode())
    owner.execute("ALTER TABLE clicks ENABLE ROW LEVEL SECURITY")
    assert "row-level security" in look(database_url=url)["postgres_rights"]["what"]


def test_migrations_that_are_missing_or_were_changed(
    database: str, folder: Path, own_postgres: str, look: Callable[..., Findings]
) -> None:
    (folder / "migrations" / "0002_more.sql").write_text("SELECT 1;")
    first = folder / "migrations" / "0001_clicks.sql"
    first.write_text(first.read_text() + "-- changed\n")
    found = look(database_url=database)
    assert found.keys() == {"migrations_missing", "migrations_changed"}
    assert found["migrations_missing"]["figures"]["missing"] == [f"{load_pipeline(str(folder)).name}/0002_more.sql"]
    for empty in _database(own_postgres, "template0"):
        assert look(database_url=empty).keys() == {"migrations_missing", "table_missing"}


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("ALTER TABLE clicks DROP CONSTRAINT clicks_pkey", "unique_missing"),
        (
            "ALTER TABLE clicks DROP CONSTRAINT clicks_pkey, ADD UNIQUE (event_id) DEFERRABLE",
            "unique_missing",
        ),
        ("ALTER TABLE clicks DROP os_name", "column_missing"),
        ("ALTER TABLE mobile_users_by_timezone DROP CONSTRAINT mobile_users_by_timezone_pkey", "rollup_key_missing"),
        ("ALTER TABLE clicks SET UNLOGGED", "table_unlogged"),
        ("ALTER TABLE clicks ADD region text NOT NULL", "column_unfilled"),
        ("ALTER TABLE clicks ALTER payload TYPE integer USING 0", "column_type"),
        ("ALTER TABLE clicks ALTER event_id TYPE bigint USING 0", "column_type"),
        ("ALTER TABLE mobile_users_by_timezone ALTER events TYPE text", "column_type"),
        (
            "ALTER TABLE clicks DROP os_name, ADD os_name text GENERATED ALWAYS AS (click_id) STORED",
            "column_generated",
        ),
        ("ALTER TABLE clicks RENAME TO old; CREATE VIEW clicks AS SELECT * FROM old", "not_a_table"),
    ],
)
def test_tables_that_do_not_match(
    database: str, look: Callable[..., Findings], statement: LiteralString, code: str
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(statement)
    assert code in look(database_url=database)


def test_columns_that_postgresql_fills_are_no_finding(database: str, look: Callable[..., Findings]) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE DOMAIN label AS text CHECK (value <> '')")
        connection.execute(
            "ALTER TABLE clicks ADD seen timestamptz NOT NULL DEFAULT now(), ADD number bigint NOT NULL GENERATED "
            "ALWAYS AS IDENTITY, ADD twice text GENERATED ALWAYS AS (click_id || click_id) STORED, "
            "ALTER event_id TYPE label USING event_id::text, ALTER os_name DROP NOT NULL"
        )
    assert look(database_url=database) == {}


def test_a_foreign_group_that_blocks_trimming_is_named_with_what_retires_it(
    client: Client, folder: Path, name: str, look: Callable[..., Findings]
) -> None:
    group, key = "o'ld \x1b group", client.topology.stream("raw")
    kept = workers.make_pipeline(folder, name, edits={"[ingest]": "retention_seconds = 0\n\n[ingest]"})
    pipeline = load_pipeline(str(kept))
    for number in range(3):
        protocol.added(client, number)
    ids = [entry.id for entry in protocol.read(client)]
    client.call("XGROUP", "CREATE", key, group, ids[0])
    assert look(pipeline=pipeline).keys() == {"no_worker"}  # what it needs, ours needs too
    _settle_all(client)
    found = look(pipeline=pipeline)
    blocked = found["trim_blocked"]
    assert blocked["figures"] == {
        "stream": key,
        "group": group,
        "needed_id": f"{ids[0].partition('-')[0]}-{int(ids[0].partition('-')[2]) + 1}",
        "kept_entries": 2,
        "pending_entries": 0,
    }
    assert f"XGROUP DESTROY '{key}' 'o'\"'\"'ld \x1b group'" in blocked["fix"]
    client.call("XGROUP", "SETID", key, group, "$")
    assert "trim_blocked" not in look(pipeline=pipeline)
    client.call("XGROUP", "SETID", key, group, "0")
    assert "trim_blocked" in look(pipeline=pipeline)
    assert "trim_blocked" not in look()  # within the retention everything is kept anyhow
    client.call("XGROUP", "DESTROY", key, group)
    assert "trim_blocked" not in look(pipeline=pipeline)


def test_a_foreign_group_beyond_the_retention_in_events(
    client: Client, folder: Path, name: str, look: Callable[..., Findings]
) -> None:
    workers.make_pipeline(folder, name, edits={"[ingest]": "retention_events = 4\n\n[ingest]"})
    client.call("XGROUP", "CREATE", client.topology.stream("raw"), "foreign", "0")
    protocol.added(client, 1, 2, 3)
    _settle_all(client)
    assert "trim_blocked" not in look(pipeline=load_pipeline(str(folder)))
    protocol.added(client, 4, 5, 6)
    _settle_all(client)
    assert "trim_blocked" in look(pipeline=load_pipeline(str(folder)))


def _settle_all(client: Client) -> None:
    held = protocol.pending(client)
    entries = protocol.read(client)
    for entry_id in held:
        protocol.to_pool(client, entry_id)
        entries.append(protocol.take(client))
    for entry in entries:
        assert protocol.settle_raw(client, protocol.mapped(entry)) == [True]


def test_a_group_that_is_missing(client: Client, look: Callable[..., Findings]) -> None:
    protocol.added(client, 1)
    client.call("XGROUP", "DESTROY", client.topology.stream("raw"), "transform")
    found = look()
    assert found.keys() == {"group_missing"}
    assert found["group_missing"]["figures"]["group"] == "transform"


def test_work_without_a_worker_and_its_leases(client: Client, look: Callable[..., Findings]) -> None:
    protocol.added(client, 1, 2)
    found = look()
    assert found["no_worker"]["figures"] == {"kind": "transform"}
    assert "2 events" in found["no_worker"]["what"]
    lease = protocol.hold_lease(client, "raw", "one")
    assert look()["no_worker"]["figures"] == {"kind": "janitor"}
    lease.release()


def _make_old(client: Client, entry: Entry, seconds: float, stage: str = "raw", name: str = "one") -> None:
    client.call(
        *("XCLAIM", client.topology.stream(stage), GROUP_OF_STAGE[stage], name, 0, entry.id),
        *("IDLE", int(seconds * 1000), "JUSTID"),
    )


def test_a_consumer_that_is_gone_and_still_holds(client: Client, look: Callable[..., Findings]) -> None:
    protocol.added(client, 1)
    (entry,) = protocol.read(client)
    protocol.end(client, "raw", "one")
    assert "dead_consumer" not in look()
    _make_old(client, entry, streams.DEAD_HOLDS_SECONDS + 1)
    found = look()["dead_consumer"]
    assert (found["figures"]["consumer"], found["figures"]["entries"]) == ("one", 1)
    assert found["figures"]["oldest_id"] == entry.id


def test_a_foreign_consumer_may_hold_for_as_long_as_the_janitor_lets_it(
    client: Client, look: Callable[..., Findings]
) -> None:
    protocol.added(client, 1)
    (entry,) = protocol.read(client, name="stranger")
    _make_old(client, entry, streams.DEAD_HOLDS_SECONDS + 200, name="stranger")
    assert "dead_consumer" not in look(foreign_idle_seconds=300)
    assert "dead_consumer" in look(foreign_idle_seconds=100)


def test_a_consumer_that_lives_and_makes_no_progress(client: Client, look: Callable[..., Findings]) -> None:
    protocol.added(client, 1)
    (entry,) = protocol.read(client)
    lease = protocol.hold_lease(client, "raw", "one")
    assert look().keys() == {"no_worker"}
    _make_old(client, entry, streams.LIVE_HOLDS_SECONDS + 1)
    assert look()["stalled_consumer"]["figures"]["consumer"] == "one"
    _make_old(client, entry, streams.LIVE_HOLDS_SECONDS + 1, name="~reclaimed")
    assert look()["reclaimed_waiting"]["figures"]["entries"] == 1
    lease.release()


def test_old_entries_while_nothing_is_settled(
    client: Client, look: Callable[..., Findings], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: Any = client.call("TIME")
    old = (int(seconds[0]) - verdicts.OLD_SECONDS - 5) * 1000
    for number in range(2):
        client.call("XADD", client.topology.stream("raw"), f"{old}-{number + 1}", "n", 1)
    assert look().keys() == {"no_worker"}, "without a worker it is stopped, not stalled"
    lease = protocol.hold_lease(client, "raw", "one")
    figures = look()["stalled"]["figures"]
    assert (figures["unsettled_events"], figures["out_per_second"]) == (2, 0)
    assert figures["oldest_seconds"] > verdicts.OLD_SECONDS
    (first, _) = protocol.read(client)

    def settling(asking: Client, stage: str) -> verdicts.Observation:
        seen = observe(asking, stage)
        protocol.settle_raw(client, protocol.mapped(first))
        return seen

    monkeypatch.setattr("bargeline.verdicts.observe", settling)
    assert look().keys() == {"slow", "no_worker"}, "late, but something is settled while doctor watches"
    lease.release()


def test_retries_that_nobody_moves(client: Client, look: Callable[..., Findings]) -> None:
    protocol.added(client, 1, 2)
    (entry,) = protocol.read(client)
    server_now: Any = client.call("TIME")
    now_ms = int(server_now[0]) * 1000
    overdue = now_ms - (books.RETRY_OVERDUE_SECONDS + 1) * 1000
    outcome = Outcome(entry, retries=[protocol.retry(1, overdue), protocol.retry(2, now_ms)])
    assert protocol.settle_raw(client, outcome) == [True]
    found = look()
    assert found["retry_overdue"]["figures"] == {"waiting": 2, "overdue": 1}
    assert found["no_worker"]["figures"] == {"kind": "janitor"}


def test_dead_letters_and_a_ledger_that_does_not_add_up(client: Client, look: Callable[..., Findings]) -> None:
    protocol.added(client, *range(30))
    (entry,) = protocol.read(client)
    outcome = Outcome(entry, dead=[protocol.letter() for _ in range(30)])
    assert protocol.settle_raw(client, outcome) == [True]
    found = look()
    assert found.keys() == {"dead_letters"}
    assert found["dead_letters"]["figures"]["reasons"] == {"invalid": 30}
    assert found["dead_letters"]["figures"]["newest"].endswith("Z")
    client.call("XTRIM", client.topology.dead, "MAXLEN", 29)
    found = look()
    assert found.keys() == {"dead_letters", "imbalance"}
    assert found["imbalance"]["figures"]["imbalance"] == 1
    assert "length of dead: 29 is not 30" in found["imbalance"]["what"]


def test_a_stage_at_its_mark(client: Client, folder: Path, name: str, look: Callable[..., Findings]) -> None:
    workers.make_pipeline(folder, name, edits={"[ingest]": "high_water_events = 2\n\n[ingest]"})
    protocol.added(client, 1)
    assert "high_water" not in look(pipeline=load_pipeline(str(folder)))
    protocol.added(client, 2)
    assert look(pipeline=load_pipeline(str(folder)))["high_water"]["figures"] == {
        "stage": "raw",
        "unsettled_events": 2,
        "high_water_events": 2,
    }


def test_a_stage_that_its_breaker_stopped(client: Client, look: Callable[..., Findings]) -> None:
    open_breaker(client, "raw", "noon: 9 of 10 events")
    assert look()["breaker_open"]["figures"] == {"kind": "transform", "why": "noon: 9 of 10 events"}
    close_breaker(client, "raw")
    assert "breaker_open" not in look()


def test_a_server_that_is_away_does_not_stop_the_checks_of_the_other(
    own_redis: str, database: str, folder: Path
) -> None:
    given: dict[str, Any] = {"pipeline_folder": folder}
    away = workers.bargeline("doctor", "--json", redis_url="redis://:pw@127.0.0.1:1/0", database_url=database, **given)
    report = msgspec.json.decode(away.out)
    assert (away.code, [one["code"] for one in report["findings"]]) == (4, ["redis_unreachable"])
    outcomes = {one["name"]: one["outcome"] for one in report["checks"]}
    assert (outcomes["tables"], outcomes["ledger"]) == ("ok", "unknown")
    wrong = database.replace("bargeline:", "bargeline:wrong", 1)
    refused = workers.bargeline("doctor", redis_url=own_redis, database_url=wrong, **given)
    assert refused.code == 2
    assert "[postgres_refused]" in refused.out
    assert "ok: ledger" in refused.out


def test_a_finding_that_is_known_can_be_ignored(own_redis: str, database: str, folder: Path) -> None:
    given: dict[str, Any] = {"redis_url": own_redis, "database_url": database, "pipeline_folder": folder}
    with psycopg.connect(database) as connection:
        connection.execute("ALTER TABLE clicks SET UNLOGGED")
    assert workers.bargeline("doctor", **given).code == 1
    ran = workers.bargeline("doctor", "--ignore", "table_unlogged", **given)
    assert (ran.code, "warning" in ran.out) == (0, False), ran.out
