"""No password in anything that is written or shown: logs, errors, metrics, leases, process titles, files."""

import os
import stat
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psutil
import psycopg
import pytest
import redis

from bargeline import cli
from bargeline.embedded import throwaway
from shared.database import connect
from shared.errors import BargelineError, ConfigurationError
from shared.generate import write_clicks
from shared.streams import Client
from shared.topology import Topology
from shared.urls import is_ambiguous
from tests import workers
from tests.acceptance.fleet import Fleet
from tests.wait import until

#: Both halves are looked for, so that a part of it is found too, and its escaped form.
HALVES = ("Zq7wmXhunter", "Kv9tRbotter")
PASSWORD = f"{HALVES[0]}/@:#%&?'{HALVES[1]}"
WRONG = PASSWORD + "x"


def _assert_silent(what: str, text: str) -> None:
    found = [half for half in HALVES if half in text]
    assert not found, f"{what} shows {found}: {text[-2_000:]}"


@pytest.fixture(scope="module")
def locked_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``host:port`` of a Valkey that asks for the password."""
    process, url = throwaway.start_valkey(tmp_path_factory.mktemp("valkey"))
    with redis.Redis.from_url(url) as client:
        client.config_set("requirepass", PASSWORD)
    yield urlsplit(url).netloc
    throwaway.stop(process)


@pytest.fixture
def redis_with_password(locked_redis: str) -> str:
    return f"redis://:{quote(PASSWORD, safe='')}@{locked_redis}/0"


@pytest.fixture
def database_with_password(database_url: str, pipeline_name: str) -> Iterator[str]:
    """The test's database, for a role with the password."""
    role = pipeline_name.replace("-", "_")
    with psycopg.connect(database_url, autocommit=True) as connection:
        quoted = psycopg.sql.Literal(PASSWORD).as_string(connection)
        connection.execute(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD {quoted}".encode())
        parts = urlsplit(database_url)
        host = parts.netloc.rpartition("@")[2]
        yield f"postgresql://{role}:{quote(PASSWORD, safe='')}@{host}{parts.path}"
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


@pytest.fixture
def folder(tmp_path: Path, pipeline_name: str) -> Path:
    return workers.make_pipeline(tmp_path / "p", pipeline_name)


def _titles(pid: int) -> str:
    process = psutil.Process(pid)
    return " ".join([*process.cmdline(), process.name(), Path(f"/proc/{pid}/comm").read_text()])


@pytest.fixture
def given(redis_with_password: str, database_with_password: str, folder: Path) -> dict[str, Any]:
    return {"redis_url": redis_with_password, "database_url": database_with_password, "pipeline_folder": folder}


def test_workers_that_work(given: dict[str, Any], pipeline_name: str) -> None:
    folder = given["pipeline_folder"]
    write_clicks(folder / "in.ndjson", seed=5, count=50)
    given |= {"LOG_LEVEL": "debug", "LOG_FORMAT": "console"}
    running = [workers.start(kind, **given) for kind in ("transform", "loader", "janitor")]
    ingest = workers.start("ingest", **given, INGEST_PATH=folder / "in.ndjson")
    client = Client(given["redis_url"], Topology(pipeline_name))
    try:
        _look_at_redis(client, len(running))
        assert ingest.wait() == 0, ingest.log_text()
        for lease in _leases(client):
            for path in ("/metrics", "/healthz", "/readyz", "/targets", "/"):
                _assert_silent(f"{lease['kind']}{path}", running[0].get(path, lease["metrics"])[1])
        for worker in running:
            _assert_silent(f"title of {worker}", _titles(worker.pid))
        client.call("FLUSHALL")  # groups are made again, which is logged
        assert [worker.stop() for worker in running] == [0, 0, 0]
    finally:
        client.close()
        workers.end(ingest, *running)
    for worker in (ingest, *running):
        _assert_silent(f"log of {worker}", worker.log_text())


def _leases(client: Client) -> list[dict[str, Any]]:
    from msgspec.structs import asdict

    from shared.streams import live_workers

    return [asdict(lease) for lease in live_workers(client)]


def _look_at_redis(client: Client, count: int) -> None:
    until(lambda: len(_leases(client)) >= count, what="the workers' leases")
    for lease in _leases(client):
        _assert_silent("a lease", repr(lease))
    _assert_silent("the list of clients", client.call("CLIENT", "LIST").decode())


def _wrong_urls(locked_redis: str, database_url: str) -> list[tuple[str, str]]:
    """Servers that are away, passwords that are wrong, URLs that are mistyped: with the password in each."""
    good = quote(PASSWORD, safe="")
    there = urlsplit(database_url).netloc.rpartition("@")[2]
    user = urlsplit(database_url).username
    redis_urls = [
        f"redis://:{quote(WRONG, safe='')}@{locked_redis}/0",
        f"redis://:{good}@127.0.0.1:1/0",
        f"redis://:{PASSWORD}@{locked_redis}/0",
        f"redis://:12/34{good}@{locked_redis}/0",
        f"rediss://:{good}@127.0.0.1:1/0",
        f"redis://:{good}@{locked_redis}/0?no_such=1",
        f"rediss://127.0.0.1:1/0?ssl_password={good}",
        f"http://:{good}@{locked_redis}/0",
        f":{good}@{locked_redis}",
        f"redis://:{good}@{locked_redis.partition(':')[0]}:port/0",
    ]
    database_urls = [
        f"postgresql://{user}:{quote(WRONG, safe='')}@{there}/postgres",
        f"postgresql://{user}:{good}@127.0.0.1:1/postgres",
        f"postgresql://{user}:{PASSWORD}@{there}/postgres",
        f"postgresql://{user}:a@{HALVES[0]}@{there}/postgres",
        f"postgresql://{user}:12/{HALVES[0]}@{there}/postgres",
        f"postgresql://{user}:{good}@{there}/postgres?sslmode=verify-full",
        f"postgresql://{user}:{good}@{there}/postgres?no_such=1",
        f"postgresql://{there}/postgres?user={user}&password={good}&sslmode=never",
        f"host=127.0.0.1 port=1 user={user} password={HALVES[0]}",
        f"{user}:{good}@{there}/postgres",
        f"mysql://{user}:{good}@{there}/postgres",
    ]
    return [("redis", url) for url in redis_urls] + [("postgres", url) for url in database_urls]


def test_errors_of_wrong_urls(locked_redis: str, database_url: str) -> None:
    def connect_redis(url: str) -> None:
        Client(url, Topology("p")).call("PING")

    def connect_database(url: str) -> None:
        connect(url, "test").close()

    kinds: dict[str, Callable[[str], None]] = {"redis": connect_redis, "postgres": connect_database}
    for kind, url in _wrong_urls(locked_redis, database_url):
        with pytest.raises(BargelineError) as raised:
            kinds[kind](url)
        assert raised.type is ConfigurationError or not is_ambiguous(url)
        _assert_silent(f"error of {url}", str(raised.value))
        _assert_silent(f"traceback of {url}", "".join(traceback.format_exception(raised.value)))


def test_commands_with_wrong_urls(
    given: dict[str, Any],
    locked_redis: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in workers.environment(**given).items():
        monkeypatch.setenv(name, value)
    for kind, url in [("redis", given["redis_url"]), *_wrong_urls(locked_redis, database_url)]:
        monkeypatch.setenv("REDIS_URL", url if kind == "redis" else given["redis_url"])
        monkeypatch.setenv("DATABASE_URL", url if kind == "postgres" else given["database_url"])
        for command in ["doctor", "doctor --json", "tail raw"] if kind == "redis" else ["doctor", "migrate"]:
            with suppress(SystemExit):
                cli.main(command.split())
                assert url == given["redis_url"], f"{command} took {url}"
            out, err = capfd.readouterr()
            _assert_silent(f"{command} with {url}", out + err)


def test_workers_with_wrong_urls(given: dict[str, Any], locked_redis: str, database_url: str) -> None:
    wrong = _wrong_urls(locked_redis, database_url)
    names = {"redis": "redis_url", "postgres": "database_url"}
    refused = {names[kind]: url for kind, url in wrong if quote(WRONG, safe="") in url}
    given["LOG_LEVEL"] = "debug"
    assert refused.keys() == {"redis_url", "database_url"}
    ending = [workers.start("loader", **(given | {name: url})) for name, url in refused.items()]
    away = workers.start("loader", **(given | {"redis_url": wrong[1][1]}))
    for worker in ending:
        assert worker.wait() == ConfigurationError.exit_code
        _assert_silent("log", worker.log_text())
    until(lambda: away.records(action="hold"), what="the worker to wait")
    away.stop()
    _assert_silent("log", away.log_text())


def test_a_fleet_keeps_the_passwords_in_files_of_its_owner(
    redis_with_password: str, database_with_password: str, tmp_path: Path
) -> None:
    environment = {"REDIS_URL": redis_with_password, "DATABASE_URL": database_with_password, "PIPELINE": "clickstream"}
    fleet = Fleet(tmp_path / "var", environment)
    try:
        said = fleet.run("up", "--ingest", "0", "--transform", "0")
        status = fleet.run("status", "--json")
        for done in (said, status, fleet.run("logs")):
            _assert_silent("output", done.stdout + done.stderr)
        supervisor = psutil.Process(fleet.pid("janitor-01")).parent()
        assert supervisor is not None
        for process in (supervisor, *supervisor.children(recursive=True)):
            _assert_silent("title", _titles(process.pid))
    finally:
        fleet.run("down")
    holders = []
    for path in (tmp_path / "var").rglob("*"):
        if path.is_file() and any(half.encode() in path.read_bytes() for half in HALVES):
            holders.append(path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
            assert path.stat().st_uid == os.geteuid()
            assert path.suffix != ".log", path
    assert holders  # supervisord has to be told


def test_the_embedded_postgresql_does_not_show_its_password(tmp_path: Path) -> None:
    process, url = throwaway.start_postgres(tmp_path)
    try:
        password = urlsplit(url).password
        assert password
        server = psutil.Process(process.pid)
        for one in (server, *server.children(recursive=True)):
            assert password not in _titles(one.pid)
    finally:
        throwaway.stop(process)
