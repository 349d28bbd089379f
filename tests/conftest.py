"""Fixtures: real servers, a key namespace and a database of its own for every test."""

import os
import secrets
import signal
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from psycopg import sql

from shared.database import migrate
from shared.pipeline import load_pipeline
from shared.settings import OWN_PREFIXES, SHARED_PREFIXES, VARIABLES
from tests import programs, servers

_given = pytest.StashKey[Mapping[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep what the environment gives for the servers, and let nothing of it reach the tests."""
    # Started in the background a shell has Ctrl-C ignored, which every command that a test starts would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ours = {name for name in os.environ if name in VARIABLES or name.startswith((*OWN_PREFIXES, *SHARED_PREFIXES))}
    given = {name: os.environ.pop(name) for name in ours}
    # Side by side, the process that hands out the tests has taken the variables from the environment already.
    config.stash[_given] = getattr(config, "workerinput", {}).get("given", given)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process that runs tests what the environment gave."""
    node.workerinput["given"] = dict(node.config.stash[_given])


def pytest_report_header(config: pytest.Config) -> str:
    return servers.describe(config.stash[_given])


def pytest_runtest_setup(item: pytest.Item) -> None:
    programs.skip_without_programs(item)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if lines := programs.summary_lines(terminalreporter.getreports("skipped")):
        terminalreporter.section("Debian packages that are missing (tests/apt.txt)")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def redis_url(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Redis or Valkey that the whole run shares: keep to ``pipeline_name``'s keys."""
    given = pytestconfig.stash[_given].get("REDIS_URL")
    with servers.redis_server(given, tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A plain client, to look at and disturb what is tested."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def pipeline_name(redis_client: redis.Redis) -> Iterator[str]:
    """A pipeline name that no other test has; its keys are deleted afterwards."""
    yield from _namespace(redis_client)


def _namespace(client: redis.Redis) -> Iterator[str]:
    name = f"test-{secrets.token_hex(6)}"
    yield name
    if keys := list(client.scan_iter(match=f"{{{name}*", count=1_000)):
        client.unlink(*keys)


@pytest.fixture(scope="session")
def database_server_url(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real PostgreSQL that the whole run shares."""
    given = pytestconfig.stash[_given].get("DATABASE_URL")
    with servers.database_server(given, tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_template(database_server_url: str) -> Iterator[str]:
    """Name of a database with the core's tables and those of the clickstream pipeline."""
    for url in _database(database_server_url, template="template0"):
        migrate(url, load_pipeline("clickstream"))
        yield urlsplit(url).path.removeprefix("/")


@pytest.fixture
def database_url(database_server_url: str, migrated_template: str) -> Iterator[str]:
    """URL of this test's own database, with the core's tables and those of clickstream, all empty."""
    yield from _database(database_server_url, migrated_template)


@pytest.fixture
def empty_database_url(database_server_url: str) -> Iterator[str]:
    """URL of this test's own database, with no table at all."""
    yield from _database(database_server_url, template="template0")


def _database(server_url: str, template: str) -> Iterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
    yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
