"""Hostile input through a whole fleet: every event ends loaded or dead with a reason, and no worker ends."""

import random
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import redis

from shared.accounting import balance
from shared.entries import batch_fields
from shared.streams import Client, add
from shared.streams.inspect import figures
from tests import workers
from tests.wait import until

PASS = "def enrich(event): return event\n"
#: Too large for an index, whichever way it is compressed.
LONG_KEY = "".join(chr(0x4E00 + random.Random(n).randrange(20_000)) for n in range(4_000))
CLICK = {
    "click_id": "c",
    "os": "iPhone",
    "os_name": "iOS",
    "os_timezone": "Europe/Paris",
    "device_type": "Mobile",
    "device_is_mobile": True,
    "user_custom_id": "a@example.com",
    "user_domain_id": "d",
}
LOADED: list[dict[str, Any]] = [
    {},
    {"extra": 10**300},
    {"extra": -1.5e308},
    {"extra": "x" * 3_000_000},
    {"extra": {"a": [[[[[[]]]]]]}},
    {"extra": "\u2028\u0085\x0b\x1c tabs\t and \\N and \\. and newlines\n\r"},
    {"os_name": "\\.", "os": "\\N"},
    {"os_name": "😀\U0010ffff"},
    {"os_name": ["a", {"list": 1}]},
    {"os_name": 7.5},
    {"os_timezone": ""},
    {"$id": "no id of ours", "id": "neither", "": "an empty name"},
    {"'; DROP TABLE clicks; --": "'; DROP TABLE clicks; --"},
]
DEAD: list[dict[str, Any]] = [
    {"os_name": None},
    {"os_name": "nul \0 here"},
    {"extra": "nul \0 in the payload"},
    {"nul \0 in a name": 1},
    {"device_is_mobile": "perhaps"},
    {"device_is_mobile": "yes"},
    {"device_is_mobile": [True]},
    {"os_timezone": LONG_KEY},
]
NOT_JSON = [
    b"[1]", b"7", b"null", b'"x"', b"{", b"}", b"\x00\x01\x02", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"{}{}", b"{'a':1}",
    b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":1e999}', b'{"a":01}', b'{"a":"\xff"}', b'{"a":"\\ud800"}',
    b'{"a":' + b"9" * 10_000 + b"}", b'{"a":' + b"[" * 450_000 + b"]" * 450_000 + b"}", b'{"a":"\t"}',
]  # fmt: skip
VALID = msgspec.json.encode(CLICK)
RAW_LOADED = [
    b" \t" + VALID + b" \r",
    VALID[:-1] + b',"os_name":"twice","os_name":"thrice"}',
    VALID[:-1] + b',"n":' + b"9" * 300 + b"}",
    VALID[:-1] + b',"a":' + b"[" * 400 + b"]" * 400 + b"}",
    VALID[:-1] + b',"a":"\\ud83d\\ude00\\u00e4"}',
    VALID[:1] + b"\t" + VALID[1:-1] + b"\t}",
]
FOREIGN_DEAD: list[dict[Any, Any]] = [
    {"payload": "[1]"},
    {"payload": b"\xff"},
    {b"\xff\xfe": b"\x00"},
    {"payload": "{}", "timestamp": "infinity"},
    {"payload": "{}", "timestamp": "9" * 5_000},
    {"payload": "{}", "event_type": "no such type"},
    {"payload": "{}"},
    {"v": "1", "n": "0", "d": ""},
    {"v": "1", "n": "many", "d": "{}"},
    {"v": "one", "a": "x", "t": "y", "h": "z"},
    {"": ""},
    {f"field {n}": "x" for n in range(3_000)},
]


@pytest.fixture
def given(redis_url: str, database_url: str, pipeline_name: str, tmp_path: Path) -> dict[str, Any]:
    edits = {'model = "transform:Click"': ""}
    folder = workers.make_pipeline(tmp_path / "p", pipeline_name, transform=PASS, edits=edits)
    return {"redis_url": redis_url, "database_url": database_url, "pipeline_folder": folder}


def _add_broken_batches(client: Client) -> int:
    bodies = [(b"no zstd", 3, "zstd"), (b"{}\n", 4, "json"), (b"garbage\n", 1, "json"), (b'{"id":"x"}\n{\n', 2, "json")]
    for body, count, codec in bodies:
        fields = batch_fields(body, count, 5)
        fields[fields.index("c") + 1] = codec
        add(client, high_water=10**6, source="", expected="", new="", events=count, fields=fields)
    return sum(count for _, count, _ in bodies)


def test_every_event_ends_loaded_or_dead_with_a_reason(
    given: dict[str, Any], client: Client, redis_client: redis.Redis, tmp_path: Path
) -> None:
    marked = [CLICK | change | {"click_id": f"good-{n}"} for n, change in enumerate(LOADED)]
    bad = [CLICK | {"click_id": f"bad-{n}"} | change for n, change in enumerate(DEAD)]
    lines = [*map(msgspec.json.encode, marked + bad), *RAW_LOADED, *NOT_JSON, b'{"only":"this"}', b"{}"]
    random.Random(1).shuffle(lines)
    path = tmp_path / "hostile.ndjson"
    path.write_bytes(b"\n".join(lines))
    raw: Any = client.topology.stream("raw")
    env: dict[str, Any] = {"INGEST_PATH": path, "INGEST_WATCH": "true", "JANITOR_SWEEP_SECONDS": 0.2}
    with workers.running("transform", "loader", "janitor", "ingest", **given, **env) as fleet:
        broken = _add_broken_batches(client)
        for fields in FOREIGN_DEAD:
            redis_client.xadd(raw, fields)
        accepted = len(lines) + broken

        def settled() -> bool:
            now = balance("p", figures(client))
            return (now.accepted, now.foreign, now.in_flight) == (accepted, len(FOREIGN_DEAD), 0)

        until(settled, seconds=60, what="everything to be settled")
        assert all(worker.alive for worker in fleet)
    now = balance("p", figures(client))
    good = len(LOADED) + len(RAW_LOADED)
    assert (now.imbalance, now.findings, now.duplicates, now.filtered, now.lost) == (0, [], 0, 0, 0)
    with psycopg.connect(given["database_url"]) as connection:
        rows = connection.execute("SELECT click_id, os_name, payload FROM clicks").fetchall()
        rollup = connection.execute("SELECT sum(events) FROM mobile_users_by_timezone").fetchall()
    assert sorted(row[0] for row in rows if row[0] != "c") == sorted(f"good-{n}" for n in range(len(LOADED)))
    assert (len(rows), now.loaded, rollup) == (good, good, [(good,)])
    payloads = {row[0]: row[2] for row in rows}
    assert payloads["good-5"]["extra"] == LOADED[5]["extra"]
    assert payloads["good-7"]["os_name"] == LOADED[7]["os_name"]
    assert [row[1] for row in rows if row[0] == "good-6"] == ["\\."]
    assert "thrice" in {row[1] for row in rows}

    letters: Any = redis_client.xrange(client.topology.dead)
    assert now.dead == len(letters) == accepted + len(FOREIGN_DEAD) - good
    by_reason: dict[bytes, int] = {}
    for _, fields in letters:
        by_reason[fields[b"reason"]] = by_reason.get(fields[b"reason"], 0) + 1
        assert msgspec.json.decode(fields[b"error"])["message"]
        assert b"event" in fields or b"bytes" in fields
    bad_rows = len(DEAD) + 2 + len([one for one in FOREIGN_DEAD if one == {"payload": "{}"}])
    flat = [one for one in FOREIGN_DEAD if "payload" not in one and b"\xff\xfe" not in one]
    assert by_reason == {
        b"not_json": len(NOT_JSON) + 2,
        b"bad_row": bad_rows + len(flat),
        b"bad_time": 2,
        b"not_text": 1,
        b"no_table": 1,
        b"malformed": 7,
        b"schema": 3,
    }
    not_json = {fields[b"bytes"] for _, fields in letters if fields[b"reason"] == b"not_json"}
    assert {line.strip() for line in NOT_JSON} <= not_json
