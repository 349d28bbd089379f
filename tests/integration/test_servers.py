"""The fixtures: real servers, and nothing of one test is left for the next."""

import os

import psycopg
import pytest
import redis

from shared.settings import VARIABLES
from tests import conftest, servers


def test_redis_is_real_and_has_what_streams_need(redis_client: redis.Redis, pipeline_name: str) -> None:
    key = f"{{{pipeline_name}}}:raw"
    redis_client.xadd(key, {"n": "1"})
    redis_client.xgroup_create(key, "transform", id="0")
    assert redis_client.xinfo_groups(key)[0]["lag"] == 1


def test_keys_of_a_pipeline_are_deleted_and_no_others(redis_client: redis.Redis) -> None:
    names = conftest._namespace(redis_client)
    name = next(names)
    mine, neighbour = f"{{{name}.1}}:open:raw", f"{{other-{name}}}:raw"
    redis_client.mset({mine: "1", neighbour: "1"})
    assert next(names, None) is None
    assert redis_client.exists(mine) == 0
    assert redis_client.delete(neighbour) == 1


def _tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {name for (name,) in rows}


def test_every_test_has_a_database_of_its_own(database_url: str, empty_database_url: str) -> None:
    assert {"load_ledger", "clicks", "mobile_users_by_timezone"} <= _tables(database_url)
    assert not _tables(empty_database_url)


def test_a_database_is_dropped_although_somebody_is_connected(database_server_url: str) -> None:
    databases = conftest._database(database_server_url, template="template0")
    connection = psycopg.connect(next(databases))
    name = connection.info.dbname
    assert next(databases, None) is None
    connection.close()
    with psycopg.connect(database_server_url) as server:
        assert server.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None


def test_the_environment_of_the_caller_does_not_leak() -> None:
    assert not [name for name in VARIABLES if name in os.environ]


@pytest.mark.parametrize(
    ("url", "engine", "origin"),
    [("redis://elsewhere", True, "environment"), (None, True, "container"), ("", False, "embedded")],
)
def test_order_of_choice(monkeypatch: pytest.MonkeyPatch, url: str | None, engine: bool, origin: str) -> None:
    monkeypatch.setattr(servers, "docker_answers", lambda: engine)
    assert servers.choose(url) == origin
