"""The users and roles of `deploy/` suffice for a whole pipeline, and for nothing else."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import urlsplit

import msgspec
import psycopg
import pytest
import redis

from bargeline.embedded import throwaway
from shared.generate import write_clicks
from shared.streams import Client
from shared.streams.inspect import figures
from shared.streams.keeper import delete_consumer
from shared.streams.server import reader_commands, rights, worker_commands
from shared.topology import Topology
from tests import workers
from tests.conftest import _database
from tests.wait import until

DEPLOY = workers.ROOT / "deploy"
NAME = "clickstream"
ROLES = ("owner", "loader", "reporter")
EVENTS = 300
TRANSFORM = """
import os
from pathlib import Path

from bargeline import Event, InvalidEvent


def treacherous(event: Event[dict]) -> Event[dict]:
    name = event.data["click_id"]
    if name in ("heals", "kills"):
        marker = Path(__file__).with_name(name)
        if not marker.exists():
            marker.touch()
            if name == "kills":
                os._exit(1)
            raise RuntimeError("not yet")
    if name == "invalid":
        raise InvalidEvent("not this one")
    return event
"""


@pytest.fixture(scope="module")
def redis_urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """URLs of the users of redis-users.acl (and of an administrator) on a server that loaded that very file."""
    directory = tmp_path_factory.mktemp("valkey")
    process, url = throwaway.start_valkey(directory)
    with redis.Redis.from_url(url) as client:
        data: Any = client.config_get("dir")
    throwaway.stop(process)
    users = Path(data["dir"]) / "users.acl"
    users.write_text("")
    process, url = throwaway.start_valkey(directory, "--aclfile", "users.acl")
    try:
        text = (DEPLOY / "redis-users.acl").read_text()
        for kind in ("worker", "reader"):
            text = text.replace(f"SHA256_OF_THE_{kind.upper()}_PASSWORD", hashlib.sha256(b"p@ss").hexdigest())
        users.write_text(text + "user admin on >p@ss ~* &* +@all\n")
        with redis.Redis.from_url(url) as client:
            client.acl_load()
        names = {"worker": "bargeline-worker", "reader": "bargeline-reader", "admin": "admin"}
        yield {
            "nobody": url,
            **{kind: url.replace("://", f"://{name}:p%40ss@") for kind, name in names.items()},
        }
    finally:
        throwaway.stop(process)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process, url = throwaway.start_postgres(tmp_path_factory.mktemp("postgres"))
    yield url
    throwaway.stop(process)


@pytest.fixture(scope="module")
def database_urls(server: str) -> Iterator[dict[str, str]]:
    """URLs of the roles of the two SQL files (and of the superuser) in a database that they were applied to."""
    for url in _database(server, "template0"):
        port = urlsplit(url).port
        urls = {role: f"postgresql://bargeline_{role}:pw@127.0.0.1:{port}{urlsplit(url).path}" for role in ROLES}
        with psycopg.connect(url, autocommit=True) as connection:
            for _ in range(2):
                connection.execute((DEPLOY / "postgresql-roles.sql").read_text().encode())
            for role in ROLES:
                connection.execute(f"ALTER ROLE bargeline_{role} PASSWORD 'pw'".encode())
            connection.execute("CREATE TABLE salaries (amount int)")
        given: dict[str, Any] = {"redis_url": "redis://127.0.0.1:1/0", "pipeline_folder": Path(NAME)}
        ran = workers.bargeline("migrate", database_url=urls["owner"], **given, BARGELINE_VAR="/nonexistent")
        assert ran.code == 0, ran
        with psycopg.connect(urls["owner"], autocommit=True) as connection:
            connection.execute((DEPLOY / "postgresql-grants.sql").read_text().encode())
        yield {**urls, "superuser": url}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    edits = {
        "[ingest]": "retry_delays_seconds = [0.1]\nretention_seconds = 0\n\n[ingest]",
        "transform:enrich": "transform:treacherous",
        'model = "transform:Click"': "#",
    }
    return workers.make_pipeline(tmp_path / "p", NAME, transform=TRANSFORM, edits=edits)


def test_the_whole_pipeline_runs_with_the_least_rights(
    redis_urls: dict[str, str], database_urls: dict[str, str], folder: Path
) -> None:
    write_clicks(folder / "in.ndjson", seed=8, count=EVENTS)
    clicks = [json.loads(line) for line in (folder / "in.ndjson").read_text().splitlines()]
    for place, click_id in {20: "kills", 40: "heals", 60: "invalid"}.items():
        clicks[place]["click_id"] = click_id
    (folder / "in.ndjson").write_text("".join(json.dumps(click) + "\n" for click in clicks))
    given: dict[str, Any] = {
        "redis_url": redis_urls["worker"],
        "database_url": database_urls["loader"],
        "pipeline_folder": folder,
    }
    client = Client(redis_urls["worker"], Topology(NAME))
    admin = redis.Redis.from_url(redis_urls["admin"])
    quick: dict[str, Any] = {"JANITOR_SWEEP_SECONDS": 0.1, "JANITOR_REPAIR_SECONDS": 0.2}
    with workers.running("transform", "loader", "janitor", **given, **quick) as (transform, loader, janitor):
        assert workers.start("ingest", **given, INGEST_PATH=folder / "in.ndjson").wait() == 0
        assert transform.wait() == 1  # killed by the event; its batch is reclaimed and split
        admin.delete(client.topology.lease("transform", transform.name))  # instead of waiting for it to lapse
        with workers.running("transform", **given) as (second,):

            def counted() -> bool:
                found = figures(client)
                return found.counters.get("loaded", 0) == EVENTS - 1 and not found.open_clean

            until(counted, what="all but the invalid one to be loaded")
            assert second.records(action="split")
        counters = figures(client).counters
        assert (counters["retry.moved"], counters["dead.transform"], counters["split"]) == (1, 1, EVENTS)
        until(lambda: admin.xlen(client.topology.stream("raw")) == 0, what="the janitor to trim")
        with psycopg.connect(database_urls["reporter"], autocommit=True) as connection:
            pruned: LiteralString = "SELECT count(*) FROM load_totals WHERE loaded > 0"
            until(lambda: connection.execute(pruned).fetchone() == (1,), what="the janitor to prune")
            assert connection.execute("SELECT count(*) FROM clicks").fetchone() == (EVENTS - 1,)
        assert delete_consumer(client, "raw", transform.name, 0)
        for worker in (second, loader, janitor):
            assert not worker.records(level="error"), worker.log_text()
        _look(given, redis_urls, database_urls)
    client.close()
    admin.close()


def _look(given: dict[str, Any], redis_urls: dict[str, str], database_urls: dict[str, str]) -> None:
    """What the operator may see as a worker, and as a reader."""
    reader = given | {"redis_url": redis_urls["reader"], "database_url": database_urls["reporter"]}
    for users, options in ((given, ()), (reader, ("--reader",))):
        ran = workers.bargeline("doctor", "--json", *options, **users)
        report = msgspec.json.decode(ran.out)
        assert [one["code"] for one in report["findings"]] == ["appendfsync_unknown", "dead_letters"], report
        assert ran.code == 1
        assert workers.bargeline("reconcile", **users).code == 0
        assert "not this one" in workers.bargeline("tail", "dead", **users).out
    ran = workers.bargeline("doctor", "--json", **reader)
    codes = [one["code"] for one in msgspec.json.decode(ran.out)["findings"]]
    assert {"redis_rights", "postgres_rights"} <= set(codes)


def test_doctor_s_lists_of_commands_are_those_of_the_file(redis_urls: dict[str, str]) -> None:
    names = Topology(NAME)
    needs = (
        ("worker", worker_commands(names)),
        ("worker", worker_commands(names, "replicas:1")),
        ("reader", reader_commands(names)),
    )
    for kind, commands in needs:
        client = Client(redis_urls[kind], names)
        found = rights(client, commands)
        assert (found.user, found.denied, found.refused) == (f"bargeline-{kind}", [], None)
        client.close()
    denied = rights(reader := Client(redis_urls["reader"], names), worker_commands(names)).denied
    assert any(one.startswith("XADD") for one in denied)
    reader.close()
    # CONFIG GET shows passwords: only whoever asks for `aof` grants it.
    extra = rights(worker := Client(redis_urls["worker"], names), worker_commands(names, "aof")).denied
    assert [one.partition(" (")[0] for one in extra] == ["CONFIG GET"]
    worker.close()


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("nobody", "PING"),
        ("worker", "FLUSHALL"),
        ("worker", "FLUSHDB"),
        ("worker", "CONFIG SET maxmemory 1"),
        ("worker", "CONFIG GET requirepass"),
        ("worker", "ACL SETUSER x on"),
        ("worker", "KEYS *"),
        ("worker", "SHUTDOWN"),
        ("worker", "XGROUP DESTROY {clickstream}:raw transform"),
        ("worker", "GET another"),
        ("worker", "XADD {clickstreams}:raw * a b"),
        ("worker", "SET {clickstream} x"),
        ("worker", "EVAL return(redis.call('set','another','x')) 0"),
        ("worker", "PUBLISH news x"),
        ("reader", "XGROUP DESTROY {clickstream}:raw transform"),
        ("reader", "XADD {clickstream}:raw * a b"),
        ("reader", "XACK {clickstream}:raw transform 0-1"),
        ("reader", "DEL {clickstream}:ledger"),
        ("reader", "EVAL return(1) 0"),
        ("reader", "XLEN {another}:raw"),
        ("reader", "CONFIG GET requirepass"),
    ],
)
def test_redis_refuses_everything_else(redis_urls: dict[str, str], kind: str, command: str) -> None:
    with (
        redis.Redis.from_url(redis_urls[kind]) as client,
        pytest.raises((redis.AuthenticationError, redis.ResponseError), match=r"(?i)permission|authenticated|ACL"),
    ):
        client.execute_command(*command.split(" "))


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("loader", "DROP TABLE clicks"),
        ("loader", "TRUNCATE clicks"),
        ("loader", "DELETE FROM clicks"),
        ("loader", "UPDATE clicks SET os_name = ''"),
        ("loader", "ALTER TABLE clicks ADD x int"),
        ("loader", "CREATE TABLE mine (x int)"),
        ("loader", "SELECT * FROM salaries"),
        ("loader", "DELETE FROM load_totals"),
        ("loader", "DELETE FROM bargeline_migrations"),
        ("loader", "COPY clicks TO '/tmp/x'"),
        ("loader", "COPY clicks FROM PROGRAM 'true'"),
        ("loader", "SET ROLE bargeline_owner"),
        ("reporter", "INSERT INTO load_totals VALUES ('x', 1, 1)"),
        ("reporter", "CREATE TEMPORARY TABLE mine (x int)"),
        ("reporter", "SELECT * FROM salaries"),
        ("owner", "SELECT * FROM salaries"),
        ("owner", "CREATE ROLE another"),
    ],
)
def test_postgresql_refuses_everything_else(database_urls: dict[str, str], role: str, statement: LiteralString) -> None:
    with (
        psycopg.connect(database_urls[role], autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)
