"""Entries that somebody adds with a plain XADD reach PostgreSQL, each once, also after they were redelivered."""

from typing import Any

import msgspec
import psycopg
import redis

from shared.accounting import Balance, balance
from shared.events import id_from_value
from shared.streams import Client, ensure_group
from shared.streams.inspect import figures
from tests import workers
from tests.integration import protocol
from tests.wait import until

CLICK = {
    "os": "iPhone",
    "os_name": "iOS",
    "os_timezone": "Europe/Paris",
    "device_type": "Mobile",
    "user_custom_id": "a@example.com",
    "user_domain_id": "d",
}


def _flat(click_id: str, **more: str) -> dict[Any, Any]:
    return {**CLICK, "click_id": click_id, "device_is_mobile": "true", **more}


def _named(click_id: str, **more: str) -> dict[Any, Any]:
    payload = msgspec.json.encode({**CLICK, "click_id": click_id, "device_is_mobile": False}).decode()
    return {"event_type": "click", "event_id": click_id, "timestamp": "1795255200", "payload": payload, **more}


def _until_settled(client: Client, count: int) -> None:
    """``count`` foreign entries came, and nothing is on its way."""

    def settled() -> bool:
        now = balance("p", figures(client))
        return now.foreign == count and now.in_flight == 0

    until(settled, what=f"{count} foreign entries to be settled")
    found = balance("p", figures(client))
    assert (found.imbalance, found.findings) == (0, [])


def test_plain_entries_reach_postgresql_each_once(
    given: dict[str, Any], redis_client: redis.Redis, pipeline_name: str, client: Client
) -> None:
    raw = f"{{{pipeline_name}}}:raw"
    # Read by a worker that is gone before it settled anything: those are redelivered.
    for number in range(20):
        redis_client.xadd(raw, _flat(f"flat-{number}") if number % 2 else _named(f"named-{number}"))
    redis_client.xgroup_create(raw, "transform", id="0")
    redis_client.xreadgroup("transform", "gone", {raw: ">"}, count=10)
    redis_client.sadd(f"{{{pipeline_name}}}:leased:transform", "gone")
    with workers.running("transform", "loader", "janitor", JANITOR_SWEEP_SECONDS=0.1, **given):
        _until_settled(client, 20)
        redis_client.xadd(raw, _named("named-0"))
        redis_client.xadd(raw, _flat("fields named like ours", v="2", n="many", t="x", a="y", h="z", c="w", d="u"))
        redis_client.xadd(raw, _flat("bad", device_is_mobile="perhaps"))
        redis_client.xadd(raw, {"event_type": "purchase", "payload": "{}"})
        redis_client.xadd(raw, {"payload": "no json"})
        redis_client.xadd(raw, {b"\xff": b"\xfe"})
        _until_settled(client, 26)
    with psycopg.connect(given["database_url"]) as connection:
        rows = connection.execute("SELECT click_id, event_id::text, device_is_mobile, payload FROM clicks").fetchall()
        rollup = connection.execute(
            "SELECT sum(events), sum(num_mobile_users) FROM mobile_users_by_timezone"
        ).fetchall()
    found = {row[0]: row[1:] for row in rows}
    assert len(rows) == len(found) == 21
    assert found.keys() == {
        *(f"flat-{n}" for n in range(1, 20, 2)),
        *(f"named-{n}" for n in range(0, 20, 2)),
        "fields named like ours",
    }
    assert found["named-4"][:2] == (id_from_value(f"redis:{raw}", "named-4"), False)
    assert found["flat-3"][1] is True
    assert rollup == [(21, 11)]
    now = balance("p", figures(client))
    assert (now.loaded, now.duplicates, now.dead) == (21, 1, 4)
    letters: Any = redis_client.xrange(f"{{{pipeline_name}}}:dead")
    assert sorted(fields[b"reason"] for _, fields in letters) == [b"not_json", b"not_text", b"schema", b"schema"]
    assert any(fields.get(b"bytes") == b"\xff=\xfe\n" for _, fields in letters)
    assert redis_client.xlen(raw) == 0


def test_plain_entries_in_the_clean_stream_are_loaded_too(
    given: dict[str, Any], redis_client: redis.Redis, pipeline_name: str, client: Client
) -> None:
    clean = f"{{{pipeline_name}}}:clean"
    for number in range(10):
        redis_client.xadd(clean, _named(f"named-{number}"))
    redis_client.xadd(clean, {"event_type": "purchase", "payload": "{}"})
    redis_client.xadd(clean, {"payload": "no json"})
    with workers.running("loader", **given):
        _until_settled(client, 12)
    with psycopg.connect(given["database_url"]) as connection:
        assert connection.execute("SELECT count(*) FROM clicks").fetchall() == [(10,)]
    letters: Any = redis_client.xrange(f"{{{pipeline_name}}}:dead")
    assert sorted(fields[b"reason"] for _, fields in letters) == [b"no_table", b"not_json"]


def test_foreign_entries_that_look_like_newer_batches_stop_nobody(
    given: dict[str, Any], redis_client: redis.Redis, client: Client
) -> None:
    shapes: list[dict[Any, Any]] = [{"v": 2, "n": 1, "d": "{}"}, {"v": 1, "n": 1, "c": "lz4", "d": "{}"}]
    for stage in ("raw", "clean"):
        for fields in shapes:
            redis_client.xadd(client.topology.stream(stage), fields)
    with workers.running("transform", "loader", **given):
        _until_settled(client, 4)


def test_a_newer_batch_of_ours_stops_the_worker_and_stays(
    given: dict[str, Any], redis_client: redis.Redis, client: Client
) -> None:
    entry_id = protocol.added(client, 1)
    redis_client.xdel(client.topology.stream("raw"), entry_id)
    newer = redis_client.xadd(client.topology.stream("raw"), {"v": 2, "n": 1, "d": "{}"})
    redis_client.delete(client.topology.open("raw"))
    redis_client.hset(client.topology.open("raw"), newer, 1)
    worker = workers.start("transform", **given)
    assert worker.wait() == 2
    assert "has format version 2" in worker.log_text().splitlines()[-1]
    assert redis_client.hlen(client.topology.open("raw")) == redis_client.xlen(client.topology.stream("raw")) == 1


def test_foreign_entries_that_nobody_can_settle_are_accounted_for(
    given: dict[str, Any], redis_client: redis.Redis, client: Client
) -> None:
    """Skipped by a moved group: handed over. Deleted, or shaped like ours and not ours: lost, and said so."""
    raw = client.topology.stream("raw")
    quick: Any = {"JANITOR_SWEEP_SECONDS": 0.05, "JANITOR_REPAIR_SECONDS": 0.1}
    ensure_group(client, "raw", "transform")
    redis_client.xadd(raw, _flat("skipped"))
    redis_client.xgroup_setid(raw, "transform", "$")
    with workers.running("transform", "loader", "janitor", **given, **quick) as (*_, janitor):
        _until_settled(client, 1)
        redis_client.xadd(raw, {"v": 1, "n": 1, "d": '{"shaped": "like ours"}'})
        until(lambda: balance("p", figures(client)).lost == 1, what="the loss to be counted")
        with redis_client.pipeline(transaction=True) as pipe:
            pipe.xadd(raw, _flat("deleted at once"), maxlen=0, approximate=False)
            pipe.execute()
        until(lambda: balance("p", figures(client)).lost == 2, what="the loss to be counted")
        _until_settled(client, 3)
        assert len(janitor.records(action="lost", entry="foreign")) == 2


def test_a_stream_that_was_deleted_under_the_fleet_costs_what_was_in_it_and_no_more(
    given: dict[str, Any], redis_client: redis.Redis, client: Client
) -> None:
    quick: Any = {"JANITOR_SWEEP_SECONDS": 0.05, "JANITOR_REPAIR_SECONDS": 0.1}
    protocol.added(client, 1, 2, 3)
    redis_client.delete(client.topology.stream("raw"))
    with workers.running("transform", "loader", "janitor", **given, **quick):
        redis_client.xadd(client.topology.stream("raw"), _flat("later"))
        until(lambda: _balanced(client).loaded == 1, what="the later one to be loaded")
        until(lambda: _balanced(client).in_flight == 0, 40, what="the deleted ones to be counted")
    assert _balanced(client).lost == 3


def _balanced(client: Client) -> Balance:
    found = balance("p", figures(client))
    assert found.imbalance == 0
    return found
