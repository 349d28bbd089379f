"""Names from the pipeline file are quoted, data reaches no interpreter and no terminal, metrics stay on loopback."""

import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from psycopg import sql

from bargeline import cli
from shared import logs
from shared.streams import Client, live_workers
from shared.streams.inspect import figures
from shared.text import printable
from shared.topology import Topology
from tests import workers
from tests.wait import until

TABLE = """t"; DROP TABLE victim; -- 'x' %s {0} $1"""
ROLLUP = """r"); DELETE FROM victim; -- %(a)s {}"""
ID, TEXT, DATA = 'i"d', "te;xt %s 100%", "{da ta}"
BY, COUNT, SUM = """b'y"%s""", "count(*)", "%(su m)s {x}"
CONSUMER = """w "ö rker'; {1} %s *?[a]\x1b[2J"""
HOSTILE = [
    "'; DROP TABLE victim; --",
    '"); DELETE FROM victim; --',
    "$$; SELECT pg_sleep(9); $$",
    "\\.",
    "\\N",
    "a\tb\\nc\\",
    "') redis.call('FLUSHALL') --",
    "]] .. redis.call('DEL', KEYS[1]) .. [[",
    "$(touch {marker}); `touch {marker}`; | touch {marker}",
    "{0.__class__.__mro__} %(x)s %n %s ${jndi:ldap://x}",
    "\x1b]0;title\x07\x1b[2J\x9b31m\x7f\u202e\u2028",
    "*1\r\n$8\r\nFLUSHALL\r\n",
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
]
TRANSFORM = """
from bargeline import Event, InvalidEvent


def judge(event: Event[dict]) -> Event[dict]:
    if event.data["bad"]:
        raise InvalidEvent(event.data["te"])
    print(event.data["te"])
    return event
"""
FILE = f"""
[pipeline]
name = "NAME"

[ingest]
type = "it"

[transform]
function = "transform:judge"

[[table]]
name = {json.dumps(TABLE)}
event_types = ["it"]
columns = {{ {json.dumps(ID)} = "$id", {json.dumps(TEXT)} = "te", {json.dumps(DATA)} = "$data" }}

[[rollup]]
table = {json.dumps(ROLLUP)}
window = "1d"
by = [{json.dumps(BY)}]
aggregates = {{ {json.dumps(COUNT)} = "count", {json.dumps(SUM)} = "sum(n)" }}
"""


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.fixture
def given(redis_url: str, empty_database_url: str, pipeline_name: str, tmp_path: Path) -> dict[str, Any]:
    folder = workers.make_pipeline(tmp_path / "p", pipeline_name, transform=TRANSFORM)
    (folder / "pipeline.toml").write_text(FILE.replace("NAME", pipeline_name))
    (folder / "migrations" / "0001_clicks.sql").write_text(
        f"CREATE TABLE victim (x int); INSERT INTO victim VALUES (1);"
        f"CREATE TABLE {_quoted(TABLE)} ({_quoted(ID)} uuid PRIMARY KEY, {_quoted(TEXT)} text, {_quoted(DATA)} jsonb);"
        f"CREATE TABLE {_quoted(ROLLUP)} (window_start timestamptz, {_quoted(BY)} text, {_quoted(COUNT)} bigint, "
        f"{_quoted(SUM)} numeric, PRIMARY KEY (window_start, {_quoted(BY)}));"
    )
    made: dict[str, Any] = {"redis_url": redis_url, "database_url": empty_database_url, "pipeline_folder": folder}
    assert workers.bargeline("migrate", **made).code == 0
    return made


@pytest.fixture
def shell(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """Runs the operator's command in this process; returns what it printed."""
    for name, value in workers.environment(**given).items():
        monkeypatch.setenv(name, value)

    def run(command: str) -> str:
        with suppress(SystemExit):
            cli.main(command.split())
        out, err = capfd.readouterr()
        assert out
        assert err == ""
        return out

    return run


def _write(path: Path, events: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events))
    return path


def test_hostile_names_and_data_go_through_as_they_are(
    given: dict[str, Any], pipeline_name: str, tmp_path: Path, shell: Callable[[str], str]
) -> None:
    marker = tmp_path / "executed"
    texts = [text.replace("{marker}", str(marker)) for text in HOSTILE]
    good = [{"te": text, "bad": False, BY: text, "n": place, text: text} for place, text in enumerate(texts)]
    bad = [{"te": text, "bad": True} for text in texts]
    path = _write(given["pipeline_folder"] / "in.ndjson", good + bad)
    client = Client(given["redis_url"], Topology(pipeline_name))
    names = {"transform": CONSUMER, "loader": CONSUMER, "janitor": CONSUMER}
    log_format: dict[str, Any] = {"LOG_FORMAT": "console", "LOG_LEVEL": "debug"}
    running = [workers.start(kind, **given, **log_format, CONSUMER_NAME=name) for kind, name in names.items()]
    open_one = workers.start("janitor", **given, METRICS_HOST="0.0.0.0")
    ingest = workers.start("ingest", **given, INGEST_PATH=path)
    try:
        assert ingest.wait() == 0, ingest.log_text()
        settled = len(texts)
        until(lambda: figures(client).counters.get("loaded") == settled, what="the events to be loaded")
        pids = {worker.pid for worker in (*running, open_one)}
        until(lambda: pids <= {lease.pid for lease in live_workers(client)}, what="all leases")
        leases = {lease.pid: lease for lease in live_workers(client)}
        assert {leases[worker.pid].name for worker in running} == {CONSUMER}
        for worker in running:
            assert _listens_on(worker.pid) == {"127.0.0.1"}
            assert _consumers_in(worker.get("/metrics", leases[worker.pid].metrics)[1]) <= {CONSUMER}
        until(lambda: _listens_on(open_one.pid) == {"0.0.0.0"}, what="the janitor that is told to listen everywhere")
        for command in ("tail raw", "tail clean", "tail dead", "doctor", "doctor --json", "reconcile"):
            out = shell(command)
            assert out == printable(out, lines=True), command
        dead = [json.loads(line) for line in shell("tail dead").splitlines()]
        assert [one["error"]["message"] for one in dead] == texts
        assert [worker.stop() for worker in (*running, open_one)] == [0, 0, 0, 0]
    finally:
        client.close()
        workers.end(ingest, open_one, *running)
    _assert_landed(given["database_url"], texts)
    assert not marker.exists()
    for worker in running:
        if worker.kind != "transform":  # whose user code prints what it likes
            assert worker.log_text() == printable(worker.log_text(), lines=True)


def _consumers_in(exposition: str) -> set[str]:
    """Consumers that Prometheus would read."""
    families = text_string_to_metric_families(exposition)
    return {one.labels["consumer"] for family in families for one in family.samples if "consumer" in one.labels}


def _listens_on(pid: int) -> set[str]:
    connections = psutil.Process(pid).net_connections(kind="inet")
    return {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}


def _assert_landed(database_url: str, texts: list[str]) -> None:
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT x FROM victim").fetchall() == [(1,)]
        columns = [sql.Identifier(name) for name in (TEXT, DATA)]
        rows = connection.execute(
            sql.SQL("SELECT {}, {} FROM {}").format(*columns, sql.Identifier(TABLE)),
        ).fetchall()
        assert {row[0] for row in rows} == set(texts)
        assert all(row[1]["te"] == row[0] == row[1][row[0]] for row in rows)
        columns = [sql.Identifier(name) for name in (BY, COUNT, SUM)]
        sums = connection.execute(sql.SQL("SELECT {}, {}, {} FROM {}").format(*columns, sql.Identifier(ROLLUP)))
        assert sorted(sums.fetchall()) == sorted((text, 1, place) for place, text in enumerate(texts))


def test_rows_that_come_again_go_the_staged_way_under_hostile_names(given: dict[str, Any], pipeline_name: str) -> None:
    events = [{"te": text, "bad": False, BY: text, "n": place} for place, text in enumerate(HOSTILE)]
    path = _write(given["pipeline_folder"] / "in.ndjson", events)
    client = Client(given["redis_url"], Topology(pipeline_name))
    with workers.running("transform", "loader", **given):
        for again in (1, 2):
            ingest = workers.start("ingest", **given, INGEST_PATH=path)
            assert ingest.wait() == 0, ingest.log_text()
            client.call("DEL", client.topology.checkpoint)

            def loaded(times: int = again) -> bool:
                counters = figures(client).counters
                return (counters.get("loaded"), counters.get("duplicates", 0)) == (
                    len(HOSTILE),
                    (times - 1) * len(HOSTILE),
                )

            until(loaded, what="the events, or that they are known")
    client.close()


def test_logs_for_people_hold_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    import structlog

    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    try:
        logs.configure("info", "console", name=CONSUMER)
        structlog.get_logger().warning("a\x9b name", group="evil\x1b[2J", what="a\nforged line")
        try:
            password = "hunter2"
            raise RuntimeError(len(password))
        except RuntimeError:
            structlog.get_logger().exception("a bug")
    finally:
        structlog.reset_defaults()
    first, rest = written.getvalue().split("\n", 1)
    assert first == printable(first)
    assert "forged line" in first
    assert "Traceback" in rest
    assert "'hunter2'" not in rest  # values of variables
