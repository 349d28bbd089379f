"""The operator's commands that look at streams and carry files, as their users call them."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import redis

from shared import events
from shared.entries import batch_fields, dead_letter
from shared.errors import InvalidEvent
from shared.events import Event, SourceIds
from shared.generate import write_clicks
from shared.streams import Client, add
from tests import workers
from tests.wait import until
from tests.workers import Ran

IDS = SourceIds("s")


def _add(client: Client, first: int, count: int, dead: int = 0) -> str:
    made = [Event(IDS.id(n, b""), "click", "s", events.now(), {"n": n}) for n in range(first, first + count)]
    origin = {"stream": None, "address": None, "source": "s", "place": {"offset": 0, "line": 1}}
    letter = dead_letter("ingest", InvalidEvent("no", "not_json"), raw=b"\xffx", origin=origin, consumer="in-1")
    fields = batch_fields(events.encode_lines(made), count, 5, "zstd")
    place: Any = {"source": "", "expected": "", "new": ""}
    added: Any = add(client, high_water=10**6, events=count, fields=fields, dead=[letter] * dead, **place)
    return str(added.entry_id)


def _numbers(ran: Ran) -> list[int]:
    assert ran.code == 0, ran
    return [msgspec.json.decode(line)["data"]["n"] for line in ran.out.splitlines()]


def test_tail_shows_events_from_an_id_or_a_time(given: dict[str, Any], client: Client) -> None:
    _add(client, 0, 3)
    second = _add(client, 3, 2)
    assert _numbers(workers.bargeline("tail", "raw", "--from", second, **given)) == [3, 4]
    assert _numbers(workers.bargeline("tail", "raw", "--from", "2020-01-01T00:00", "-n", "4", **given)) == [0, 1, 2, 3]
    assert _numbers(workers.bargeline("tail", "raw", "--from", "2100-01-01", **given)) == []


def test_tail_shows_dead_letters(given: dict[str, Any], client: Client) -> None:
    _add(client, 0, 1, dead=2)
    ran = workers.bargeline("tail", "dead", **given)
    assert ran.code == 0
    letters = [msgspec.json.decode(line) for line in ran.out.splitlines()]
    assert [(one["stage"], one["reason"], one["bytes"]) for one in letters] == [("ingest", "not_json", "\\xffx")] * 2
    assert letters[0]["origin"]["place"] == {"offset": 0, "line": 1}
    assert letters[0]["error"]["message"] == "no"


def test_tail_follows_what_is_added(given: dict[str, Any], client: Client, redis_client: redis.Redis) -> None:
    _add(client, 0, 3)
    environment = workers.environment(**given)
    command = [sys.executable, "-m", "bargeline.cli", "tail", "raw", "--follow", "-n", "4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=workers.ROOT, env=environment, text=True) as process:

        def reading() -> bool:
            clients: Any = redis_client.client_list()
            return any(one["name"] == "bargeline-command" and one["cmd"] == "xrange" for one in clients)

        until(reading, what="the command to follow")
        _add(client, 3, 2)
        _add(client, 5, 2)
        out, _ = process.communicate(timeout=30)
    assert [msgspec.json.decode(line)["data"]["n"] for line in out.splitlines()] == [3, 4, 5, 6]
    assert process.returncode == 0


def test_tail_refuses_what_it_does_not_understand(given: dict[str, Any]) -> None:
    ran = workers.bargeline("tail", "raw", "--from", "yesterday", **given)
    assert (ran.code, ran.out) == (2, "")
    assert "--from yesterday: neither an entry id (1795239604176-0) nor a time" in ran.err
    assert "Traceback" not in ran.err


def test_reconcile_balances_and_finds_what_is_missing(
    given: dict[str, Any], client: Client, redis_client: redis.Redis
) -> None:
    _add(client, 0, 5, dead=2)
    ran = workers.bargeline("reconcile", "--json", **given)
    found = msgspec.json.decode(ran.out)
    assert ran.code == 0
    names = ["accepted", "fanned_out", "filtered", "dead", "in_flight", "loaded", "duplicates", "imbalance"]
    assert [found[name] for name in names] == [7, 0, 0, 2, 5, 0, 0, 0]
    assert abs(int(found["epoch"]) / 1000 - time.time()) < 60
    redis_client.xtrim(client.topology.dead, maxlen=1, approximate=False)
    ran = workers.bargeline("reconcile", **given)
    assert ran.code == 1
    assert "IMBALANCE OF 1 EVENTS" in ran.out
    assert "does not hold: length of dead: 1 is not 2" in ran.out


def test_commands_without_a_server_end_with_4(given: dict[str, Any]) -> None:
    ran = workers.bargeline("reconcile", **(given | {"redis_url": "redis://:secret@127.0.0.1:1/0"}))
    assert (ran.code, ran.out) == (4, "")
    assert "redis://:***@127.0.0.1:1/0" in ran.err
    assert "bargeline up" in ran.err


def test_ingest_without_a_fleet_or_file_says_so(given: dict[str, Any], tmp_path: Path) -> None:
    missing = workers.bargeline("ingest", str(tmp_path / "missing"), **given)
    assert (missing.code, "does not exist" in missing.err) == (2, True)
    (tmp_path / "there").write_text("{}")
    nobody = workers.bargeline("ingest", str(tmp_path / "there"), **given)
    assert nobody.code == 4
    assert "No transform and no loader is running" in nobody.err


def test_ingest_waits_until_everything_is_settled(given: dict[str, Any], tmp_path: Path) -> None:
    path, again = tmp_path / "with space [1].ndjson", tmp_path / "other.ndjson"
    write_clicks(path, seed=4, count=3_000)
    with path.open("ab") as file:
        file.write(b"not json\n" + b'{"click_id":"no click"}\n')
    write_clicks(again, seed=5, count=500)
    with workers.running("transform", "loader", "janitor", **given):
        first = workers.bargeline("ingest", str(path), "--wait", **given)
        with psycopg.connect(given["database_url"]) as connection:
            assert connection.execute("SELECT count(*) FROM clicks").fetchall() == [(3_000,)]
        assert first.code == 1
        assert "3,002 events accepted; all settled" in first.out
        assert "2 dead-lettered; look at them with `bargeline tail dead`" in first.err
        second = workers.bargeline("ingest", str(path), str(again), "--wait", **given)
        assert second.code == 0
        assert "500 events accepted, 3,002 lines were read before; all settled" in second.out
        with psycopg.connect(given["database_url"]) as connection:
            assert connection.execute("SELECT count(*) FROM clicks").fetchall() == [(3_500,)]
    ran = workers.bargeline("reconcile", "--json", **given)
    found = msgspec.json.decode(ran.out)
    assert (ran.code, found["loaded"], found["dead"], found["in_flight"]) == (0, 3_500, 2, 0)
